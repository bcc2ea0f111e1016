"""TRL 1.16 as an oracle of KTO and of unpaired APO-zero: its own loss on the log-probabilities that ours gets."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from alignzoo_unpaired.apo_zero import APOZeroUnpaired
from alignzoo_unpaired.kto import KTO
from objectives import answers, objective

pytest.importorskip("trl", reason="TRL is the oracle of these tests")

LABELS = [True, False, True, True, False]
SAID = [-1.0, -2.5, -3.0, -0.25, -4.0]
REFERENCE = [-2.0, -2.0, -1.0, -0.5, -1.0]
OTHERS, OTHERS_REFERENCE = [-2.0, -3.0, -1.5], [-2.75, -2.5, -2.0]
"""Log-probabilities of answers to other prompts; the mean of their log-ratios is 0.25."""


def theirs(loss_type: str, said: Tensor, **weights: float) -> Tensor:
    """`KTOTrainer._compute_loss` with a model that says these log-probabilities."""
    from trl import KTOTrainer

    def column(values: Any) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float64)

    n = len(said)
    ones = torch.ones(n, 2, dtype=torch.long)
    accelerator = SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator, aux_loss_enabled=False,
        precompute_ref_logps=True, calculate_KL=loss_type == "kto", loss_type=loss_type, beta=0.5,
        desirable_weight=weights.get("desirable", 1.0), undesirable_weight=weights.get("undesirable", 1.0),
        _compute_kl_logps=lambda model, batch: column(OTHERS), _metrics={"train": defaultdict(list)},
        _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    inputs = {
        "label": torch.tensor(LABELS), "input_ids": ones, "attention_mask": ones, "completion_mask": ones,
        "ref_logps": column(REFERENCE), "ref_KL_logps": column(OTHERS_REFERENCE),
    }  # fmt: skip
    rest = torch.zeros(n, 1)
    out = SimpleNamespace(log_probs=said[:, None], entropy=rest, mean_logits=rest)
    found: Tensor = KTOTrainer._compute_loss(trainer, lambda **_: out, inputs, False)
    return found


def expected(loss_type: str, **weights: float) -> tuple[float, Tensor]:
    said = torch.tensor(SAID, dtype=torch.float64, requires_grad=True)
    loss = theirs(loss_type, said, **weights)
    loss.backward()
    assert said.grad is not None
    return loss.item(), said.grad


@pytest.mark.parametrize("weights", [{}, {"desirable": 1.5, "undesirable": 0.75}])
def test_kto(weights: dict[str, float]) -> None:
    loss, gradient = expected("kto", **weights)
    rewards = [float(label) for label in LABELS] + [1.0] * len(OTHERS)
    batch = answers(rewards, range(8), mismatched=[0.0] * 5 + [1.0] * 3)
    columns = {"logprobs": SAID + OTHERS, "ref_logprobs": REFERENCE + OTHERS_REFERENCE}
    found = objective(KTO(beta=0.5, **weights), batch, **columns)
    assert float(found.metrics["baseline"][0]) == pytest.approx(0.5 * 0.25)
    assert found.loss == pytest.approx(loss, abs=1e-6)
    assert torch.allclose(found.gradient["logprobs"][:5], gradient, rtol=0, atol=1e-6)
    assert not found.gradient["logprobs"][5:].any()


def test_apo_zero_unpaired() -> None:
    loss, gradient = expected("apo_zero_unpaired")
    batch = answers([float(label) for label in LABELS], range(5))
    found = objective(APOZeroUnpaired(beta=0.5), batch, logprobs=SAID, ref_logprobs=REFERENCE)
    assert found.loss == pytest.approx(loss, abs=1e-6)
    assert torch.allclose(found.gradient["logprobs"], gradient, rtol=0, atol=1e-6)
