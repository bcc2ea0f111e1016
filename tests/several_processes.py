"""What tests/test_processes.py lets one, two or three processes do; run by torchrun with a folder and what to do."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import alignzoo
import alignzoo_tiny
from alignzoo import Batch, Forward, Prompt
from alignzoo.columns import REFERENCE
from alignzoo.runs.api import Interrupted
from alignzoo.testing import ToyPolicy
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF
from late_processes import late
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


def held(folder: Path) -> None:
    """How many times the bytes of a model's weights a process holds: of a policy and its reference, and of one with an
    adapter, all of whose weights are read to be spread."""
    assets = Path(alignzoo_tiny.__file__).parent / "assets"
    spec = HF(model=str(assets / "sft"), device="cpu", shard="fsdp")
    found = []
    for rank in (0, 2):
        before = _alive()
        policy = HFPolicy(replace(spec, lora_rank=rank), frozenset({"logprobs", "ref_logprobs"}), {})
        assert policy.info().collective and (rank or policy.roles[REFERENCE].model is not policy.lm)
        weights = sum(each.numel() * each.element_size() for each in policy.lm.parameters())
        found.append((_alive() - before) / weights)
        del policy
    (folder / f"held-{RANK}.json").write_text(json.dumps(found))


def _alive() -> int:
    """Bytes of all tensors of this process that live now, whoever knows of them."""
    gc.collect()
    found = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    known = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in found}
    return sum(known.values())


def sharded(folder: Path) -> None:
    """The same, all of them with weights that are spread over the processes."""
    methods(folder, sharded=(*SHOP, *SORT))


def methods(folder: Path, *, sharded: Sequence[str] = ("dpo", "ppo")) -> None:
    """Two steps of five prompts of each kind of method, which no number of processes but one divides."""
    evaluate = {"prompts": 5, "best_of": 2}
    for name in SHOP + SORT:
        task = "shop" if name in SHOP else "sort"
        schedule = {"steps": 2, "prompts": 5, "samples_every": 1}
        policy = {"max_new_tokens": 12, "shard": "fsdp" if name in sharded else "none"} | (
            {"device": "cpu"} if name == "grpo" else {}
        )
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
        for name in ("grpo", "ppo"):
            policy, asked = Counting(), 0

            def reward(completions: list[Any], **columns: Any) -> list[float]:
                nonlocal asked
                asked += len(completions)
                return [float(len(completion) % 7) for completion in completions]

            data = [Prompt(f"prompt {i}") for i in range(9)]
            alignzoo.run(
                name,
                policy=policy,
                data=data,
                reward=reward,
                out=folder / f"counts-{name}-{prompts}",
                schedule={"steps": 2, "prompts": prompts, "micro_batch": 2},
                evaluate={"prompts": 4, "best_of": 2},
                sampler={"n": 3},
            )
            told[f"{name} {prompts}"] = {**policy.calls, "asked": asked}
    (folder / f"counts-{RANK}.json").write_text(json.dumps(told))


def interrupted(folder: Path) -> None:
    """Process 1 alone is interrupted in its second step, as by the terminal of its machine."""

    def reward(completions: list[Any], **columns: Any) -> list[float]:
        asked.append(len(completions))
        if RANK == 1 and len(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return [float(len(completion) % 7) for completion in completions]

    asked: list[int] = []
    try:
        _toy_run("grpo", reward, folder / "interrupted")
    except Interrupted as stopped:
        (folder / f"interrupted-{RANK}").write_text(str(stopped))


def failing(folder: Path) -> None:
    """A reward fails in process 1 alone."""

    def reward(completions: list[Any], **columns: Any) -> list[float]:
        if RANK == 1:
            raise alignzoo.RewardError("the server of the reward is down")
        return [float(len(completion) % 7) for completion in completions]

    try:
        _toy_run("grpo", reward, folder / "failing")
    except alignzoo.AlignzooError as error:
        (folder / f"failing-{RANK}").write_text(str(error))
        raise


def _toy_run(name: str, reward: Any, out: Path) -> None:
    data = [Prompt(f"prompt {i}") for i in range(9)]
    schedule = {"steps": 9, "prompts": 4, "save_every": 0}
    evaluate = {"prompts": 0}
    sampler = {"n": 3}
    alignzoo.run(
        name,
        policy=Counting(),
        data=data,
        reward=reward,
        out=out,
        schedule=schedule,
        evaluate=evaluate,
        sampler=sampler,
        progress=lambda label, *told: (out / f"progress-{RANK}").touch(),
    )


if __name__ == "__main__":
    where = Path(sys.argv[1])
    where.mkdir(exist_ok=True)
    for word in sys.argv[2:]:
        chosen = {
            "float64": in_float64,
            "methods": methods,
            "sharded": sharded,
            "held": held,
            "counts": counts,
            "late": late,
            "interrupted": interrupted,
            "failing": failing,
        }
        chosen[word](where)
