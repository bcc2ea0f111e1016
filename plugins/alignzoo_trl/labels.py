"""TRL's losses on single answers that are desirable or not: of its KTOTrainer."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from alignzoo import Batch


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
