"""TRL 1.16 as an oracle of the policy gradients: its own loss functions and ours, on the same log-probabilities."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alignzoo import Batch, Forward
from alignzoo import functional as fn
from alignzoo.testing import toy_batch
from alignzoo_policy_gradient.cispo import CISPO
from alignzoo_policy_gradient.dapo import DAPO
from alignzoo_policy_gradient.dr_grpo import DrGRPO
from alignzoo_policy_gradient.entropy_mask import EntropyMask
from alignzoo_policy_gradient.grpo import GRPO
from alignzoo_policy_gradient.gspo import GSPO
from alignzoo_policy_gradient.gspo_token import GSPOToken
from alignzoo_policy_gradient.lite_ppo import LitePPO
from alignzoo_policy_gradient.luspo import LUSPO
from alignzoo_policy_gradient.rloo import RLOO
from alignzoo_policy_gradient.sapo import SAPO
from alignzoo_policy_gradient.vespo import VESPO

grpo_trainer: Any = pytest.importorskip("trl.trainer.grpo_trainer")
rloo_trainer: Any = pytest.importorskip("trl.trainer.rloo_trainer")
LENGTHS, GROUP = [3, 1, 5, 4, 2, 6], [0, 0, 0, 1, 1, 1]
REWARDS = [1.0, 0.0, 0.3, 0.0, 2.0, 0.5]
ALONE = SimpleNamespace(
    num_processes=1,
    gather=lambda x: x,
    reduce=lambda x, reduction: x,
    pad_across_processes=lambda x, **_: x,
)
"""An accelerator of one process."""


def columns(spread: float = 0.3) -> tuple[Batch, Any]:
    """Ragged groups with old and reference log-probabilities, and the policy's, which has moved."""
    rng = torch.Generator().manual_seed(3)
    batch = toy_batch(LENGTHS, group=GROUP, rewards=REWARDS)
    drawn = [-1 + spread * torch.randn(batch.mask.shape, generator=rng) for _ in range(3)]
    old, ref, new = (torch.where(batch.mask, column, 0.0) for column in drawn)
    entropy = torch.where(batch.mask, torch.rand(batch.mask.shape, generator=rng), 0.0)
    batch = replace(batch, old_logprobs=old, ref_logprobs=ref, answers={"old_entropy": entropy})
    return batch, new


def theirs(batch: Batch, new: Any, **settings: Any) -> tuple[Any, Any]:
    """TRL's loss of the completions (the first column is the prompt's), and its gradient in the log-probabilities."""
    leaf = new[:, 1:].clone().requires_grad_(True)
    entropy = batch.answers["old_entropy"][:, 1:]
    mask = batch.mask[:, 1:].long()
    arguments = {
        "use_bias_correction_kl": settings.pop("use_bias_correction_kl", False),
        "delta": None,
        "steps_per_generation": 1,
        **{"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05},
        **{"vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0},
    }
    trainer = SimpleNamespace(
        args=SimpleNamespace(**arguments),
        model=SimpleNamespace(training=True),
        accelerator=ALONE,
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, entropy, None),
        _metrics=defaultdict(lambda: defaultdict(list)),
        get_gamma_weights=grpo_trainer.GRPOTrainer.get_gamma_weights,
        get_high_entropy_mask=partial(
            grpo_trainer.GRPOTrainer.get_high_entropy_mask, SimpleNamespace(accelerator=ALONE)
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
    loss = grpo_trainer.GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def ours(optimizer: Any, batch: Batch, new: Any) -> tuple[Any, Any]:
    leaf = new.clone().requires_grad_(True)
    terms = optimizer.loss(batch, Forward(logprobs=leaf))
    loss = fn.weigh(terms.loss, batch.weights, batch.mask) / len(batch)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0][:, 1:]


def same(mine: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    torch.testing.assert_close(mine[0], other[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine[1], other[1], rtol=1e-5, atol=1e-6)


WIDE = {"clip": 0.2, "clip_high": 0.28}
LOSSES: dict[str, Any] = {
    "grpo": GRPO(**WIDE),
    "bnpo": GRPO(reduction="token", **WIDE),
    "dr_grpo": DrGRPO(length=16, **WIDE),
    "dapo": DAPO(),
    "cispo": CISPO(cap=1.1),
    "sapo": SAPO(),
    "luspo": LUSPO(**WIDE),
    "vespo": VESPO(),
}


@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("name", LOSSES)
def test_each_loss(name: str, level: str, kl: float) -> None:
    batch, new = columns()
    leveled = {} if name == "vespo" else {"level": level}  # its ratio is the sequence's in any case
    optimizer = replace(LOSSES[name], kl=kl, **leveled)
    batch = optimizer.prepare(batch)
    cap = {"epsilon_high": 1.1} if name == "cispo" else {}
    same(
        ours(optimizer, batch, new),
        theirs(batch, new, loss_type=name, importance_sampling_level=level, beta=kl, **cap),
    )


def test_the_unbiased_kl() -> None:
    batch, new = columns()
    batch = GRPO().prepare(batch)
    settings = {"beta": 0.3, "use_bias_correction_kl": True, "importance_sampling_level": "sequence"}
    same(ours(GRPO(kl=0.3, unbiased_kl=True, level="sequence", **WIDE), batch, new), theirs(batch, new, **settings))


def test_gspo_with_its_own_narrow_clip_and_gspo_token() -> None:
    batch, new = columns()
    settings = {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4}
    for optimizer in (GSPO(), GSPOToken()):
        prepared = optimizer.prepare(batch)
        advantages = GSPO().prepare(batch).advantages
        same(ours(optimizer, prepared, new), theirs(replace(prepared, advantages=advantages), new, **settings))


def test_lite_ppo_is_the_dapo_loss_with_advantages_scaled_by_the_batch() -> None:
    batch, new = columns()
    prepared = LitePPO().prepare(batch)
    rewards = torch.tensor(REWARDS)
    means = rewards.view(2, 3).mean(1).repeat_interleave(3)
    expected = (rewards - means) / (grpo_trainer.nanstd(rewards) + 1e-4)
    torch.testing.assert_close(prepared.advantages, expected)
    same(ours(LitePPO(), prepared, new), theirs(prepared, new, loss_type="dapo", epsilon_high=0.2))


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_entropy_mask(share: float) -> None:
    batch, new = columns()
    optimizer = EntropyMask(share=share)
    prepared = optimizer.prepare(batch)
    whole = replace(prepared, advantages=DAPO().prepare(batch).advantages)
    same(ours(optimizer, prepared, new), theirs(whole, new, loss_type="dapo", top_entropy_quantile=share))


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_rloo(kl: float) -> None:
    batch, new = columns(0.1)
    optimizer = RLOO(kl=kl)
    prepared = optimizer.prepare(batch)
    leaf = new[:, 1:].clone().requires_grad_(True)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=ALONE,
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, torch.zeros_like(leaf), None),
        _metrics=defaultdict(lambda: defaultdict(list)),
        **{"aux_loss_enabled": False, "epsilon_low": 0.2, "epsilon_high": 0.2},
    )
    assert prepared.old_logprobs is not None
    inputs = {
        **{"prompt_ids": batch.tokens[:, :1], "prompt_mask": batch.attend[:, :1].long()},
        **{"completion_ids": batch.tokens[:, 1:], "completion_mask": batch.mask[:, 1:].long()},
        **{"advantages": prepared.advantages, "old_logps": prepared.old_logprobs.sum(1)},
    }
    loss = rloo_trainer.RLOOTrainer._compute_loss(trainer, trainer.model, inputs)
    same(ours(optimizer, prepared, new), (loss.detach(), torch.autograd.grad(loss, leaf)[0]))
