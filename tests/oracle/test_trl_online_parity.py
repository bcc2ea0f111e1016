"""TRL 1.16 as an oracle of RLOO and GMPO: what it wrote and scored, through its loss and through ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_trl_parity import (
    PAIRS,
    SETTINGS,
    N,
    additions,
    agree,
    datasets,
    lengths_and_first,
    move,
    offline,
    ours,
    theirs,
    tokenizer,
    transformers,
    trl,
    writer,
)

from alignzoo import Completion, Group, Prompt, Score
from alignzoo.batching import collate, fill, only
from alignzoo.interfaces import Optimizer
from alignzoo_hf.model.spec import HF
from alignzoo_policy_gradient.gmpo import GMPO
from alignzoo_policy_gradient.rloo import RLOO
from rounding import close, depth

__all__ = ["offline", "tokenizer", "writer"]  # fixtures
PROMPTS = PAIRS["prompt"]


def trainer_of(cls: Any, settings: Any, writer: str, tokenizer: Any) -> Any:
    """A trainer whose policy has moved away from its reference, in training mode."""
    trainer = cls(
        model=transformers.AutoModelForCausalLM.from_pretrained(writer),
        reward_funcs=lengths_and_first,
        args=settings,
        train_dataset=datasets.Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tokenizer,
    )
    move(trainer.model, seed=2)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def written(trainer: Any) -> dict[str, Any]:
    """What it has sampled and scored: N completions of each prompt."""
    torch.manual_seed(0)
    inputs: dict[str, Any] = trainer._generate_and_score_completions([{"prompt": p} for p in PROMPTS for _ in range(N)])
    return inputs


def groups_of(inputs: dict[str, Any]) -> list[Group]:
    """The same as our groups."""
    columns = [inputs[name] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")]
    zipped = zip(*columns, strict=True)
    rows = [(ids[mask.bool()].tolist(), said[kept.bool()].tolist()) for ids, mask, said, kept in zipped]
    groups = []
    for start in range(0, len(rows), N):
        members = rows[start : start + N]
        completions = tuple(Completion(tuple(tokens), "") for _, tokens in members)
        scores = tuple(map(Score, lengths_and_first([tokens for _, tokens in members])))
        groups.append(Group(Prompt(""), tuple(members[0][0]), completions, scores))
    return groups


def compare(trainer: Any, inputs: dict[str, Any], optimizer: Optimizer, policy: Any) -> None:
    """Advantages on the spot; loss and gradient after the policy has moved on, with ratios around 1, some clipped."""
    batch = optimizer.prepare(only(fill(collate(groups_of(inputs)), policy, optimizer.needs), optimizer.needs))
    # Rewards up to 9, less a KL that is summed over a completion, less those of the group.
    size = inputs["advantages"].abs().max() + 9
    close(batch.advantages, inputs["advantages"], depth(policy.lm.config, batch.tokens.shape[1]), size)
    move(policy.lm, seed=3)
    trainer.model.load_state_dict(policy.lm.state_dict())
    terms = optimizer.loss(batch, policy.forward(batch, frozenset({"logprobs"})))
    clipped = float(terms.metrics["clip_fraction"].mean())
    assert 0.05 < clipped < 0.95
    agree(ours(optimizer, policy.lm, policy, batch), theirs(trainer, inputs), additions(policy.lm, batch))


def policy_of(writer: str, tokenizer: Any) -> Any:
    policy: Any = HF(model=writer, tokenizer=tokenizer, device="cpu", max_new_tokens=8).load(RLOO().needs)
    move(policy.lm, seed=2)
    return policy


@pytest.mark.parametrize("kl", [0.05, 0.7])
def test_rloo(writer: str, tokenizer: Any, tmp_path: Path, dtype: torch.dtype, kl: float) -> None:
    settings = trl.RLOOConfig(
        str(tmp_path),
        beta=kl,
        num_generations=N,
        per_device_train_batch_size=N * len(PROMPTS),
        gradient_accumulation_steps=1,
        max_completion_length=8,
        **SETTINGS,
    )
    trainer = trainer_of(trl.RLOOTrainer, settings, writer, tokenizer)
    compare(trainer, written(trainer), RLOO(kl=kl), policy_of(writer, tokenizer))


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_gmpo(writer: str, tokenizer: Any, tmp_path: Path, dtype: torch.dtype, kl: float) -> None:
    from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

    settings = GMPOConfig(
        str(tmp_path),
        beta=kl,
        num_generations=N,
        per_device_train_batch_size=N * len(PROMPTS),
        gradient_accumulation_steps=1,
        max_completion_length=8,
        **SETTINGS,
    )
    trainer = trainer_of(GMPOTrainer, settings, writer, tokenizer)
    inputs = written(trainer)
    policy, optimizer = policy_of(writer, tokenizer), GMPO(kl=kl, clip=0.05)
    trainer.epsilon_low = trainer.epsilon_high = optimizer.clip
    batch = fill(collate(groups_of(inputs)), policy, GMPO(kl=1.0).needs)
    kept = inputs["completion_mask"].bool()
    old = torch.zeros(kept.shape).masked_scatter(kept, batch.old_logprobs[batch.mask])
    compare(trainer, inputs | {"old_per_token_logps": old}, optimizer, policy)
