"""TRL's losses on single answers: of its KTOTrainer, and of its A2POTrainer."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from alignzoo import Batch
from alignzoo_trl.pairs import unstable


def kto(batch: Batch, logprobs: Tensor, *, loss_type: str = "kto", threshold: float = 0.5, **settings: Any) -> Any:
    """The loss of TRL's KTOTrainer; rows whose column `mismatched` is 1 answer other prompts."""
    from trl import KTOTrainer

    others = batch.extra.get("mismatched", torch.zeros(len(batch))) == 1
    sums = (logprobs * batch.mask).sum(1)
    assert batch.ref_logprobs is not None
    reference = (batch.ref_logprobs * batch.mask).sum(1)
    n = int((~others).sum())
    ones = torch.ones(n, 2, dtype=torch.long)
    trainer: Any = SimpleNamespace(
        **({"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0} | settings),
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        calculate_KL=loss_type == "kto",
        loss_type=loss_type,
        _compute_kl_logps=lambda model, inputs: sums[others],
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "label": batch.rewards[~others] > threshold, "input_ids": ones, "attention_mask": ones,
        "completion_mask": ones, "ref_logps": reference[~others], "ref_KL_logps": reference[others],
    }  # fmt: skip
    rest = torch.zeros(n, 1)
    out = SimpleNamespace(log_probs=sums[~others][:, None], entropy=rest, mean_logits=rest)
    return KTOTrainer._compute_loss(trainer, lambda **_: out, inputs, False)


def a2po(batch: Batch, logprobs: Tensor, **settings: Any) -> Any:
    """The loss of TRL's A2POTrainer: an answer for each prompt, whose optimal value is known."""
    with unstable():
        from trl.experimental.a2po.a2po_trainer import A2POTrainer

    assert batch.ref_logprobs is not None
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(**settings),
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        _get_sequence_logps=lambda *_: (logprobs * batch.mask).sum(1),
    )
    inputs = dict.fromkeys(("input_ids", "attention_mask", "logits_to_keep")) | {
        "ref_logps": (batch.ref_logprobs * batch.mask).sum(1),
        "rewards": batch.rewards,
        "v_star": batch.extra["optimal_value"],
    }
    return A2POTrainer.compute_loss(trainer, None, inputs)
