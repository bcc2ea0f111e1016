"""TRL's policy gradients over groups: of its GRPOTrainer, its GMPOTrainer and its RLOOTrainer."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from alignzoo import Batch
from alignzoo_trl.pairs import unstable

ALONE = SimpleNamespace(
    num_processes=1,
    gather=lambda x: x,
    reduce=lambda x, reduction: x,
    pad_across_processes=lambda x, **_: x,
)
"""An accelerator of one process."""


def grpo(batch: Batch, logprobs: Tensor, **settings: Any) -> Any:
    """The loss of TRL's GRPOTrainer, of the completions (the first column is the prompt's)."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    return GRPOTrainer._compute_loss(*_trainer(batch, logprobs, settings))


def gmpo(batch: Batch, logprobs: Tensor, **settings: Any) -> Any:
    """The loss of TRL's GMPOTrainer."""
    with unstable():
        from trl.experimental.gmpo.gmpo_trainer import GMPOTrainer

    return GMPOTrainer._compute_loss(*_trainer(batch, logprobs, settings))


def _trainer(batch: Batch, logprobs: Tensor, settings: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """What stands for a trainer, its model, and the inputs of a step."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    leaf, mask = logprobs[:, 1:], batch.mask[:, 1:].long()
    entropy = batch.answers.get("old_entropy", torch.zeros_like(logprobs))[:, 1:]
    arguments = {
        "use_bias_correction_kl": settings.pop("use_bias_correction_kl", False),
        "delta": None,
        "steps_per_generation": 1,
        **{"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05},
        **{"vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0},
    }
    arguments |= {name: settings.pop(name) for name in list(settings) if name in arguments}
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(**arguments),
        model=SimpleNamespace(training=True),
        accelerator=ALONE,
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, entropy, None),
        _metrics=defaultdict(lambda: defaultdict(list)),
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        get_high_entropy_mask=partial(
            GRPOTrainer.get_high_entropy_mask,
            SimpleNamespace(accelerator=ALONE),  # type: ignore[arg-type]
        ),
        **dict.fromkeys(("aux_loss_enabled", "use_vllm", "_entropy_bonus_enabled"), False),
        **{"off_policy_mask_threshold": None, "current_gradient_accumulation_steps": 1},
        **{"max_completion_length": 16, "epsilon_low": 0.2, "epsilon_high": 0.28, "top_entropy_quantile": 1.0},
        **{"importance_sampling_level": "token", "beta": 0.0, "loss_type": "grpo"},
    )
    vars(trainer).update(settings)
    inputs = {
        **{"prompt_ids": batch.tokens[:, :1], "prompt_mask": batch.attend[:, :1].long()},
        **{"completion_ids": batch.tokens[:, 1:], "completion_mask": mask},
        "advantages": batch.advantages,
        "old_per_token_logps": None if batch.old_logprobs is None else batch.old_logprobs[:, 1:],
        "ref_per_token_logps": None if batch.ref_logprobs is None else batch.ref_logprobs[:, 1:],
        "num_items_in_batch": mask.sum(),
    }
    return trainer, trainer.model, inputs


def rloo(batch: Batch, logprobs: Tensor, *, clip: float) -> Any:
    """The loss of TRL's RLOOTrainer."""
    from trl.trainer.rloo_trainer import RLOOTrainer

    leaf = logprobs[:, 1:]
    trainer: Any = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=ALONE,
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, torch.zeros_like(leaf), None),
        _metrics=defaultdict(lambda: defaultdict(list)),
        **{"aux_loss_enabled": False, "epsilon_low": clip, "epsilon_high": clip},
    )
    assert batch.old_logprobs is not None
    inputs = {
        **{"prompt_ids": batch.tokens[:, :1], "prompt_mask": batch.attend[:, :1].long()},
        **{"completion_ids": batch.tokens[:, 1:], "completion_mask": batch.mask[:, 1:].long()},
        **{"advantages": batch.advantages, "old_logps": batch.old_logprobs.sum(1)},
    }
    return RLOOTrainer._compute_loss(trainer, trainer.model, inputs)
