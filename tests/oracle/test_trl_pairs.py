"""TRL 1.16 as an oracle of preference losses: the same log-probabilities through its code and ours, without a model."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from alignzoo import Batch
from alignzoo_preference.alphapo import AlphaPO
from alignzoo_preference.aot import AOT
from alignzoo_preference.aot_unpaired import UnpairedAOT
from alignzoo_preference.apo_down import APODown
from alignzoo_preference.apo_zero import APOZero
from alignzoo_preference.bco import BCO
from alignzoo_preference.cpo import CPO
from alignzoo_preference.cpo_simpo import CPOSimPO
from alignzoo_preference.discopop import DiscoPOP
from alignzoo_preference.dpo import DPO
from alignzoo_preference.dpo_norm import LengthNormalisedDPO
from alignzoo_preference.exo import EXO
from alignzoo_preference.f_dpo import FDPO
from alignzoo_preference.ipo import IPO
from alignzoo_preference.ld_dpo import LDDPO
from alignzoo_preference.mpo import MPO
from alignzoo_preference.nca import NCA
from alignzoo_preference.orpo import ORPO
from alignzoo_preference.robust_dpo import RobustDPO
from alignzoo_preference.rpo import RPO
from alignzoo_preference.simpo import SimPO
from alignzoo_preference.slic import SLiC
from alignzoo_preference.sppo import SPPO
from alignzoo_preference.tr_dpo import TRDPO
from alignzoo_preference.wpo import WPO
from preference_batches import objective, random_batch

trl = pytest.importorskip("trl", reason="TRL is the oracle of these tests")

RAGGED = [4, 2, 3, 5, 6, 1, 2, 2, 1, 7]
"""Lengths of five pairs' answers, the better ones at even places."""
ALIKE = [3, 2, 3, 5, 3, 1, 3, 3]
"""As many tokens in each better answer, so that a mean over the batch's tokens is one over answers."""


def unchanged(value: Any) -> Any:
    return value


class Answers(torch.nn.Module):
    """A language model that answers with these log-probabilities of each token, (2P, T - 1)."""

    is_gradient_checkpointing = False

    def __init__(self, logprobs: Tensor, collision: Tensor) -> None:
        super().__init__()
        self.logprobs, self.collision = logprobs, collision

    def forward(self, **inputs: Any) -> SimpleNamespace:
        rest = {name: torch.zeros_like(self.logprobs) for name in ("entropy", "mean_logits")}
        told = {"log_sum_sq_probs": self.collision.log(), "is_top1": self.logprobs > 0}
        return SimpleNamespace(log_probs=self.logprobs, **rest, **told)


def trl_dpo(batch: Batch, logprobs: Tensor, collision: Tensor, **settings: Any) -> tuple[float, Tensor]:
    """The loss of TRL's DPOTrainer, and its gradient in the log-probabilities."""
    order = [*range(0, len(batch), 2), *range(1, len(batch), 2)]  # it has the better answers first, then the worse
    leaf = logprobs.clone().requires_grad_(True)
    accelerator = SimpleNamespace(device="cpu", gather_for_metrics=unchanged, gather=unchanged, unwrap_model=unchanged)
    usual = {
        "loss_types": ["sigmoid"], "loss_weights": [1.0], "beta": 0.1, "label_smoothing": 0.0, "ld_alpha": None,
        "f_divergence_type": "reverse_kl", "f_alpha_divergence_coef": 0.5, "use_weighting": False,
    }  # fmt: skip
    answers = [Answers(each[order][:, 1:], collision[order][:, 1:]) for each in (leaf * batch.mask, batch.ref_logprobs)]
    trainer = SimpleNamespace(
        **(usual | settings),
        model=answers[0],
        ref_model=answers[1],
        accelerator=accelerator,
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        args=SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {name: column[order].long() for name, column in {
        "input_ids": batch.tokens, "attention_mask": batch.attend, "completion_mask": batch.mask,
    }.items()}  # fmt: skip
    loss = trl.DPOTrainer._compute_loss(trainer, trainer.model, inputs, False)
    loss.backward()
    assert leaf.grad is not None
    return float(loss.detach()), leaf.grad


def agree(found: tuple[float, Tensor], expected: tuple[float, Tensor], tolerance: float) -> None:
    """The same loss and gradient, in proportion to their size."""
    assert float(expected[1].abs().max()) > 1e-4, "a gradient to speak of"
    assert found[0] == pytest.approx(expected[0], rel=tolerance, abs=tolerance)
    torch.testing.assert_close(found[1], expected[1], rtol=tolerance, atol=tolerance * float(expected[1].abs().max()))


def named(*names: str, **settings: Any) -> dict[str, Any]:
    return {"loss_types": list(names), "loss_weights": [1.0] * len(names), **settings}


CASES: dict[str, tuple[Any, dict[str, Any], list[int]]] = {
    "sigmoid": (DPO(beta=0.3), named("sigmoid", beta=0.3), RAGGED),
    "hinge": (SLiC(beta=0.3), named("hinge", beta=0.3), RAGGED),
    "ipo": (IPO(beta=0.3), named("ipo", beta=0.3), RAGGED),
    "exo_pair": (EXO(beta=0.3, label_smoothing=0.1), named("exo_pair", beta=0.3, label_smoothing=0.1), RAGGED),
    "nca_pair": (NCA(beta=0.3), named("nca_pair", beta=0.3), RAGGED),
    "robust": (
        RobustDPO(beta=0.3, label_smoothing=0.2), named("robust", beta=0.3, label_smoothing=0.2), RAGGED,
    ),
    "bco_pair": (BCO(beta=0.3), named("bco_pair", beta=0.3), RAGGED),
    "sppo_hard": (SPPO(beta=0.3), named("sppo_hard", beta=0.3), RAGGED),
    "aot": (AOT(beta=0.3, label_smoothing=0.1), named("aot", beta=0.3, label_smoothing=0.1), RAGGED),
    "aot_unpaired": (
        UnpairedAOT(beta=0.3, label_smoothing=0.1), named("aot_unpaired", beta=0.3, label_smoothing=0.1), RAGGED,
    ),
    "apo_zero": (APOZero(beta=0.3), named("apo_zero", beta=0.3), RAGGED),
    "apo_down": (APODown(beta=0.3), named("apo_down", beta=0.3), RAGGED),
    "discopop": (DiscoPOP(beta=0.3), named("discopop", beta=0.3), RAGGED),
    "sigmoid_norm": (LengthNormalisedDPO(beta=3.0), named("sigmoid_norm", beta=3.0), RAGGED),
    "sigmoid, sft": (RPO(beta=0.3), named("sigmoid", "sft", beta=0.3), ALIKE),
    "sigmoid, bco_pair, sft": (
        MPO(beta=0.3), named("sigmoid", "bco_pair", "sft", beta=0.3) | {"loss_weights": [0.8, 0.2, 1.0]}, ALIKE,
    ),
    "forward_kl": (FDPO(divergence="forward_kl"), named("sigmoid", f_divergence_type="forward_kl"), RAGGED),
    "js_divergence": (FDPO(divergence="js"), named("sigmoid", f_divergence_type="js_divergence"), RAGGED),
    "alpha_divergence": (
        FDPO(divergence="alpha", alpha=0.3),
        named("sigmoid", f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.7), RAGGED,
    ),
    "use_weighting": (WPO(beta=0.3), named("sigmoid", beta=0.3, use_weighting=True), RAGGED),
    "sync_ref_model": (TRDPO(beta=0.3), named("sigmoid", beta=0.3), RAGGED),
    "ld_alpha": (LDDPO(alpha=0.4), named("sigmoid", ld_alpha=0.4), RAGGED),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_losses_of_the_dpo_trainer(name: str) -> None:
    optimizer, settings, lengths = CASES[name]
    batch, logprobs = random_batch(lengths)
    collision = torch.rand(logprobs.shape, generator=torch.Generator().manual_seed(1)) + 0.01
    found = objective(optimizer, batch, logprobs, collision=collision)
    agree(found, trl_dpo(batch, logprobs, collision, **settings), 1e-5)


def trl_reference_free(trainer: Any, batch: Batch, logprobs: Tensor, *, mean: bool, nll: float) -> tuple[float, Tensor]:
    """The loss of TRL's CPOTrainer or ORPOTrainer with these log-probabilities, and its gradient in them."""
    leaf = logprobs.clone().requires_grad_(True)
    sums = (leaf * batch.mask).sum(1)
    answers = sums / batch.mask.sum(1) if mean else sums
    if isinstance(trainer, SimpleNamespace):
        losses = trl_cpo.CPOTrainer.cpo_loss(trainer, answers[0::2], answers[1::2])[0]
    else:
        losses = -trl_orpo.ORPOTrainer.odds_ratio_loss(trainer.fake, answers[0::2], answers[1::2])[0]
    better = batch.mask[0::2]
    loss = losses.mean() - nll * leaf[0::2][better].mean()
    loss.backward()
    assert leaf.grad is not None
    return float(loss.detach()), leaf.grad


trl_cpo = pytest.importorskip("trl.experimental.cpo.cpo_trainer")
trl_orpo = pytest.importorskip("trl.experimental.orpo.orpo_trainer")
CPU = SimpleNamespace(device="cpu")


class Odds:
    """What TRL's odds ratio loss reads of its trainer."""

    fake = SimpleNamespace(beta=0.3, accelerator=CPU)


def cpo(loss_type: str, **settings: Any) -> SimpleNamespace:
    """What TRL's CPO loss reads of its trainer."""
    usual = {"alpha": 0.0, "beta": 0.3, "simpo_gamma": 0.0, "label_smoothing": 0.0}
    return SimpleNamespace(loss_type=loss_type, accelerator=CPU, **(usual | settings))


REFERENCE_FREE: dict[str, tuple[Any, Any, bool, float]] = {
    "cpo": (CPO(beta=0.3, label_smoothing=0.1), cpo("sigmoid", label_smoothing=0.1), False, 1.0),
    "simpo": (SimPO(beta=2.0, gamma=0.7), cpo("simpo", beta=2.0, simpo_gamma=0.7), True, 0.0),
    "cpo-simpo": (CPOSimPO(beta=2.0, gamma=0.7), cpo("simpo", beta=2.0, simpo_gamma=0.7), True, 1.0),
    "alphapo": (AlphaPO(gamma=0.1), cpo("simpo", alpha=0.25, beta=2.5, simpo_gamma=0.1), True, 0.0),
    "alphapo, negative": (
        AlphaPO(alpha=-0.5, gamma=0.1), cpo("simpo", alpha=-0.5, beta=2.5, simpo_gamma=0.1), True, 0.0,
    ),
    "orpo": (ORPO(weight=0.3), Odds(), True, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCE_FREE)
def test_losses_without_a_reference(name: str) -> None:
    optimizer, trainer, mean, nll = REFERENCE_FREE[name]
    batch, logprobs = random_batch(ALIKE if nll else RAGGED)
    found = objective(optimizer, batch, logprobs)
    agree(found, trl_reference_free(trainer, batch, logprobs, mean=mean, nll=nll), 1e-6)
