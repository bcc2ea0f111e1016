"""alignzoo's side of a comparison: `python ours.py METHOD FOLDER`, driven through `turns`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from turns import Turns, distinct, given_tokens, job

import alignzoo
from alignzoo import Batch, Completion, Group, Prompt, Score, allocator
from alignzoo.batching import answer, collate
from alignzoo.planning.estimate import plan
from alignzoo.recipe import load
from alignzoo.registry import Registry

STEPS = 1000
SCHEDULE = {"steps": STEPS, "lr": 1e-6, "warmup": 0.0, "decay": "constant", "save_every": 0, "samples_every": 0}
SCHEDULE |= {"save_minutes": 0.0}
SCHEDULE |= {"kl_every": 0}  # where the peer makes no pass of the reference to watch a KL, neither do we
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"data": "sft"},
    "reward-model": {"data": "pairs", "optimizer": {"centring": 0.0}},
    "dpo": {"data": "pairs", "optimizer": {"beta": 0.1}},
    "grpo": {"data": "prompts", "optimizer": {"kl": 0.0, "epochs": 1}},
    "rloo": {"data": "prompts", "optimizer": {"kl": 0.05, "epochs": 1}},
    "ppo": {"data": "many", "optimizer": {"kl": 0.05, "epochs": 4}, "sampler": {"n": 1}},
}


class Observer:
    """Waits before each step and tells after it."""

    def __init__(self, turns: Turns, given: int) -> None:
        self.turns, self.given = turns, given

    @alignzoo.hookimpl
    def alignzoo_run_start(self, run: Any) -> None:
        self.turns.tell(ready=True)
        self.turns.wait()

    @alignzoo.hookimpl
    def alignzoo_after_step(self, report: Any) -> None:
        metrics = report.metrics
        phases = {name.removeprefix("seconds/"): value for name, value in metrics.items() if name.startswith("seconds")}
        self.turns.done(
            tokens=metrics["tokens/generated"] or self.given,
            trained=metrics["tokens/trained"],
            loss=metrics["loss"],
            grad_norm=metrics["grad_norm"],
            length=metrics["length"],
            finished=metrics["finished"],
            phases=phases,
        )
        self.turns.wait()


def settings_of(method: str, folder: Path) -> dict[str, Any]:
    """The recipe's keys."""
    settings, asked = dict(METHODS[method]), job(folder)
    source = "scorer" if method == "reward-model" else "writer"
    dtype = "bf16" if asked["bf16"] else "fp32"
    policy = {"model": str(folder / source), "max_new_tokens": asked["cap"], "device": asked["device"], "dtype": dtype}
    if method == "ppo":
        settings["reward"] = [{"name": "model", "model": str(folder / "scorer")}]
        policy["critic_model"] = str(folder / "scorer")
    elif method in ("grpo", "rloo"):
        settings["reward"] = [{"name": "python", "function": distinct}]
        settings["sampler"] = {"n": asked["n"]}
    data = folder / f"{settings['data']}.jsonl"
    settings["data"] = {"path": str(data), "heldout": 0, "chat": asked["chat"]}
    settings["schedule"] = SCHEDULE | {"prompts": len(data.read_text().splitlines()), "minibatch": 0}
    return settings | {"policy": policy, "evaluate": {"prompts": 0}}


def run(method: str, folder: Path, turns: Turns, out: Path) -> None:
    registry = Registry()
    kind = METHODS[method]["data"]
    registry.add(Observer(turns, given_tokens(folder, kind) if kind in ("sft", "pairs") else 0), name="turns")
    alignzoo.run(method, out=out, registry=registry, **settings_of(method, folder))


def planned(method: str, folder: Path, length: int) -> dict[str, Any]:
    """What `alignzoo plan` says of the same run."""
    settings = settings_of(method, folder)
    keys = {
        f"{key}.{name}": each
        for key, value in settings.items()
        for name, each in (value.items() if isinstance(value, dict) else [])
    }
    keys |= {key: value for key, value in settings.items() if not isinstance(value, dict)}
    registry = Registry()
    registry.load_all()
    (stage,) = plan(load(method, list(keys.items()), registry=registry), length=length)
    return asdict(stage)


def logprobs(folder: Path) -> list[float]:
    """The log-probability of each demonstration's completion, summed: both sides must agree before they are timed."""
    from alignzoo_hf.model.spec import HF

    rows = [json.loads(line) for line in (folder / "sft.jsonl").read_text().splitlines()]
    policy = HF(model=str(folder / "writer"), max_new_tokens=128, device="cpu", dtype="fp32").load(frozenset())
    groups: list[Group] = []
    for row in rows:
        group = policy.encode(Prompt(row["prompt"]), [row["completion"]])
        assert isinstance(group.completions[0], Completion)
        groups.append(Group(group.prompt, group.prompt_tokens, group.completions, (Score(0.0),)))
    batch: Batch = collate(groups)
    found = answer(policy, batch, frozenset({"logprobs"}))["logprobs"]
    return [float(each) for each in found.sum(1)]


def main() -> None:
    method, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    allocator.keep_freed_memory()  # as `alignzoo run` does
    turns = Turns(torch.cuda.max_memory_allocated)
    if method.startswith("plan-"):
        turns.tell(plan=planned(method.removeprefix("plan-"), folder, int(sys.argv[4] or 0)))
        return
    if method == "logprobs":
        turns.tell(logprobs=logprobs(folder))
        return
    run(method, folder, turns, out)


if __name__ == "__main__":
    main()
