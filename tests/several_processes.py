"""What tests/test_processes.py lets one, two or three processes do; run by torchrun with a folder and what to do.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import alignzoo
from alignzoo import Batch, Forward, Prompt
from alignzoo.testing import ToyPolicy
from rounding import computing, seeds

RANK = int(os.environ.get("RANK", "0"))
SHOP = ["sft", "dpo", "reward-model"]
SORT = ["grpo", "ppo"]


def in_float64(folder: Path) -> None:
    """The off-line run that is compared to the last bits."""
    for seed in seeds():
        for dtype in (torch.float32, torch.float64):
            with computing(dtype):
                alignzoo.run(
                    "dpo",
                    out=folder / f"dpo-{dtype}-{seed}",
                    seed=seed,
                    schedule={"steps": 3, "prompts": 6},
                    evaluate={"prompts": 0},
                )


def methods(folder: Path) -> None:
    """Two steps of five prompts of each kind of method, which no number of processes but one divides."""
    evaluate = {"prompts": 5, "best_of": 2}
    for name in SHOP + SORT:
        task = "shop" if name in SHOP else "sort"
        schedule = {"steps": 2, "prompts": 5, "samples_every": 1}
        policy = {"max_new_tokens": 12, "device": "cpu"} if name == "grpo" else {"max_new_tokens": 12}
        alignzoo.run(name, task=task, out=folder / name, schedule=schedule, evaluate=evaluate, **_policy(policy))


def _policy(settings: dict[str, Any]) -> dict[str, Any]:
    return {f"policy.{key}": value for key, value in settings.items()}


class Counting(ToyPolicy):
    """Counts the passes that it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        self.calls["forward"] += 1
        return super().forward(batch, columns)

    def backward(self, loss: torch.Tensor) -> None:
        self.calls["backward"] += 1
        super().backward(loss)


def counts(folder: Path) -> None:
    """Passes and questions, where shares are uneven and where a process has none."""
    told = {}
    for prompts in (5, 2):
        for name in ("grpo", "ppo", "dpo"):
            policy, asked = Counting(), 0

            def reward(completions: list[Any], **columns: Any) -> list[float]:
                nonlocal asked
                asked += len(completions)
                return [float(len(completion) % 7) for completion in completions]

            data = [Prompt(f"prompt {i}", ("one", "two") if name == "dpo" else ()) for i in range(9)]
            sampler = {"sampler": "policy", "sampler.n": 3} if name == "dpo" else {"sampler.n": 3}
            alignzoo.run(
                name,
                policy=policy,
                data=data,
                reward=reward,
                out=folder / f"counts-{name}-{prompts}",
                schedule={"steps": 2, "prompts": prompts, "micro_batch": 2},
                evaluate={"prompts": 4, "best_of": 2},
                **sampler,
            )
            told[f"{name} {prompts}"] = {**policy.calls, "asked": asked}
    (folder / f"counts-{RANK}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    where = Path(sys.argv[1])
    where.mkdir(exist_ok=True)
    for word in sys.argv[2:]:
        {"float64": in_float64, "methods": methods, "counts": counts}[word](where)
