"""What tests/test_sharded.py lets several processes do; run by torchrun with a folder and what to do.

Each check compares a policy whose weights are spread over the processes with one that has them whole on each.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import alignzoo_tiny
from alignzoo import Context, Group, Prompt, RunError, Score, processes
from alignzoo.batching import answer_jointly, collate
from alignzoo.columns import REFERENCE
from alignzoo.gathering import apart
from alignzoo.lifecycle import opened
from alignzoo.microbatch import MicroBatcher
from alignzoo.schedule import Schedule
from alignzoo.sharded import local_bytes, whole
from alignzoo.torch_optimizers import SHARDED, torch_optimizer
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF
from alignzoo_hf.reward import ModelReward

ASSETS = Path(alignzoo_tiny.__file__).parent / "assets"
ONLY = [name for name in os.environ.get("CASES", "").split(",") if name]
SPEC = HF(model=str(ASSETS / "sft"), device="cpu", max_new_tokens=8, shard="fsdp")
LOGPROBS = frozenset({"logprobs", "ref_logprobs"})
Tensors = Mapping[str, Tensor]

CASES: dict[str, tuple[HF, frozenset[str]]] = {
    "full": (SPEC, LOGPROBS),
    "recompute": (replace(SPEC, recompute=True), LOGPROBS),
    "padded": (replace(SPEC, attention="sdpa"), LOGPROBS),
    "lora": (replace(SPEC, lora_rank=3), LOGPROBS),
    "dora": (replace(SPEC, lora_rank=3, lora_dora=True), LOGPROBS),
    "critic": (SPEC, LOGPROBS | {"values"}),
    "critic on the trunk": (replace(SPEC, critic="shared"), LOGPROBS | {"values"}),
    "critic beside an adapter": (replace(SPEC, lora_rank=3), LOGPROBS | {"values"}),
    "scores": (SPEC, frozenset({"scores"})),
    "teacher": (SPEC, LOGPROBS | {"teacher_jsd:0.5", "ref_kl"}),
    "teacher beside an adapter": (replace(SPEC, lora_rank=3), LOGPROBS | {"teacher_jsd:0.5", "ref_kl"}),
    "bf16": (replace(SPEC, dtype="bf16"), LOGPROBS),
    "bf16 adapter": (replace(SPEC, dtype="bf16", lora_rank=3), LOGPROBS),
    "one copy a process": (replace(SPEC, shard_within=1), LOGPROBS),
}


def groups(policy: HFPolicy) -> list[Group]:
    """Five of them, of one to three rows, which two processes share unevenly."""
    found = []
    for number in range(5):
        texts = [f"an answer, {'long ' * (number * row)}{row}" for row in range(1 + number % 3)]
        group = policy.encode(Prompt(f"Question {number}?"), texts)
        found.append(replace(group, scores=tuple(Score(float(row)) for row in range(len(texts)))))
    return found


def loaded(spec: HF, needs: frozenset[str]) -> HFPolicy:
    teachers = any(name.startswith("teacher") for name in needs)
    teacher = replace(SPEC, model=str(ASSETS / "base"), shard="auto", dtype=spec.dtype)
    return HFPolicy(spec, needs, {"teacher": teacher} if teachers else {})


def trained(policy: HFPolicy, needs: frozenset[str], schedule: Schedule, steps: int = 2) -> dict[str, Any]:
    """A few steps on the same groups: the norms of their gradients, and what the policy answers before and after."""
    policy.optimize(partial(torch_optimizer, schedule, policy.device))
    batch = collate(groups(policy), policy.device)
    columns = frozenset(name for name in needs if name != "ref_logprobs")
    told: dict[str, Any] = {"before": answer_jointly(policy, batch, columns), "norms": []}
    if "ref_logprobs" in needs:
        with policy.answering(REFERENCE):
            told["reference"] = answer_jointly(policy, batch, frozenset({"logprobs"}))
    for _ in range(steps):
        for each in MicroBatcher(policy, rows=2).rounds(batch):
            out = policy.forward(each.batch, columns)
            loss = sum((out[name] * (1.0 + out[name].detach())).sum() for name in sorted(columns))
            policy.backward(0.0 * loss if each.idle else loss)
        told["norms"].append(policy.step(1e-3, 1.0))
    told["after"] = answer_jointly(policy, batch, columns)
    return told


def near(found: Any, expected: Any, tolerance: float, what: str) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), what
        for name in expected:
            near(found[name], expected[name], tolerance, f"{what}: {name}")
        return
    pair = [torch.as_tensor(each, dtype=torch.float64) for each in (found, expected)]
    worst = float((pair[0] - pair[1]).abs().max() / pair[1].abs().max().clamp(min=1))
    assert worst <= tolerance, f"{what} is off by {worst:.1e}"


def weights(policy: HFPolicy) -> dict[str, Tensor]:
    return {name: whole(each).clone() for name, each in policy.state().items()}


def settings(folder: Path) -> None:
    """Every kind of policy: the same answers, gradients and steps; and the bytes that a process holds."""
    held: dict[str, list[int]] = {}
    for name, (spec, needs) in CASES.items():
        if ONLY and name not in ONLY:
            continue
        tolerance = 0.05 if "bf16" in name else 2e-5
        ours = loaded(spec, needs)
        found = trained(ours, needs, Schedule())
        assert ours.info().collective, name
        theirs = loaded(replace(spec, shard="none"), needs)
        near(found, trained(theirs, needs, Schedule()), tolerance, name)
        if "bf16" in name and not spec.lora_rank:
            assert torch.equal(found["reference"]["logprobs"], found["before"]["logprobs"]), "the ratio starts at 1"
        held[name] = [_held(ours), _held(theirs)]
    (folder / f"held-{processes.index()}.json").write_text(json.dumps(held))


def _held(policy: HFPolicy) -> int:
    """Bytes of everything that is trained, of its moments, and of the frozen weights."""
    models = [each for each in (policy.lm, policy.scorer, policy.critic) if each is not None]
    models += [role.model for name, role in policy.roles.items() if name != REFERENCE]  # which may have been let go
    parameters = {id(each): each for model in models for each in model.parameters()}
    state = policy.optimizer_state()["state"].values()
    moments = [each for values in state for each in values.values() if isinstance(each, Tensor) and each.ndim]
    return local_bytes([*parameters.values(), *moments])


def close(start: Tensors, found: Tensors, expected: Tensors, what: str) -> None:
    """Whether two ways from the same start differ by a small part of their length."""
    off = sum(float((found[name] - expected[name]).square().sum()) for name in start)
    length = sum(float((expected[name] - start[name]).square().sum()) for name in start)
    assert off <= 0.05**2 * length, f"{what} is off by {math.sqrt(off / length):.3f} of its way"


def optimizers(folder: Path) -> None:
    """Every torch optimizer that a schedule can name steps as it does on whole weights, and goes on as it does."""
    for name in SHARDED:
        schedule = Schedule(optimizer=name, weight_decay=0.1)
        ours, theirs = loaded(SPEC, LOGPROBS), loaded(replace(SPEC, shard="none"), LOGPROBS)
        tolerance = 1e-4 if name == "muon" else 2e-5  # it makes matrices orthogonal in bf16
        start = weights(ours)
        near(trained(ours, LOGPROBS, schedule), trained(theirs, LOGPROBS, schedule), tolerance, name)
        if name == "muon":  # directions without a gradient become bf16's rounding, single weights a step of it
            close(start, weights(ours), weights(theirs), name)
        else:
            near(weights(ours), weights(theirs), tolerance, name)
    with pytest.raises(RunError, match="needs whole matrices"):
        trained(loaded(SPEC, LOGPROBS), LOGPROBS, Schedule(optimizer="adafactor"))


def moves(folder: Path) -> None:
    """A reference that follows: by a share, and beside an adapter by a copy. It is in the checkpoint."""
    for rank, mix in ((0, 0.25), (3, 1.0)):
        spec, found = replace(SPEC, lora_rank=rank), []
        for each in (spec, replace(spec, shard="none")):
            policy = loaded(each, LOGPROBS)
            trained(policy, LOGPROBS, Schedule(lr=1e-2))
            policy.follow(REFERENCE, mix)
            again = loaded(each, LOGPROBS)
            again.restore(policy.state())
            found.append([trained(one, LOGPROBS, Schedule(), 1)["reference"] for one in (policy, again)])
        near(found[0][0], found[1][0], 2e-5, f"rank {rank}")
        near(found[0][1], found[0][0], 0.0, f"rank {rank}, restored")


def generates(folder: Path) -> None:
    """Each process asks by itself, no two as often, for the same texts as a policy with whole weights generates."""
    for spec in (SPEC, replace(SPEC, lora_rank=3)):
        ours, theirs = loaded(spec, LOGPROBS), loaded(replace(spec, shard="none"), LOGPROBS)
        prompts = [Prompt(f"Question {i}?") for i in range(3)]
        expected = theirs.generate(prompts, 2, seeds=range(3))
        with apart(ours, generates=True):
            for _ in range(1 + processes.index()):
                found = ours.generate(prompts, 2, seeds=range(3))
                batch = collate(found, scored=False)
                with torch.no_grad():
                    ours.forward(batch, frozenset({"logprobs"}))
        assert found == expected or [_texts(each) for each in found] == [_texts(each) for each in expected]
        trained(ours, LOGPROBS, Schedule(), 1)
        trained(theirs, LOGPROBS, Schedule(), 1)
        after = [_texts(each) for each in ours.generate(prompts, 2, seeds=range(3))]
        assert after == [_texts(each) for each in theirs.generate(prompts, 2, seeds=range(3))], "with the new weights"


def _texts(group: Group) -> list[str]:
    return [each.text for each in group.completions]


def rewards(folder: Path) -> None:
    """A frozen reward model: the same scores, though the last process has nothing to score."""
    encoding = loaded(replace(SPEC, shard="none"), frozenset())
    mine = groups(encoding) if not processes.index() else []
    found = []
    for shard in ("fsdp", "none"):
        reward = ModelReward(str(ASSETS / "reward"), device="cpu", batch=2, shard=shard)
        object.__setattr__(reward, "_live", None)
        with opened(reward, Context()) as live:
            found.append([s.value for scores in live.score(mine, encoding) for s in scores])
    near(found[0], found[1], 1e-5, "rewards") if mine else None


def saves(folder: Path) -> None:
    """A directory that transformers reads as it reads one of whole weights, a file at a time; and its adapter."""
    from alignzoo_hf.model import shards

    former, shards.FILE = shards.FILE, 200_000
    for name, spec, needs in (
        ("full", SPEC, LOGPROBS),
        ("lora", replace(SPEC, lora_rank=3), LOGPROBS),
        ("scores", SPEC, frozenset({"scores"})),
    ):
        for shard in ("fsdp", "none"):
            policy = loaded(replace(spec, shard=shard), needs)
            trained(policy, needs, Schedule(lr=1e-2))
            path = folder / f"{name}-{shard}"
            if shard == "fsdp" or not processes.index():
                policy.save(path)
        processes.everyones(None)
        if not processes.index():
            kind = AutoModelForSequenceClassification if name == "scores" else AutoModelForCausalLM
            ours, theirs = (kind.from_pretrained(folder / f"{name}-{each}").state_dict() for each in ("fsdp", "none"))
            near(ours, theirs, 2e-5, name)
            assert len(list((folder / f"{name}-fsdp").glob("model-*.safetensors"))) > 1
            names = [sorted(p.name for p in (folder / f"{name}-{each}").iterdir()) for each in ("fsdp", "none")]
            assert {n for n in names[0] if not n.startswith("model")} == {
                n for n in names[1] if not n.startswith("model")
            }
            for file in ("config.json", "generation_config.json"):
                if (folder / f"{name}-none" / file).exists():
                    ours, theirs = ((folder / f"{name}-{each}" / file).read_text() for each in ("fsdp", "none"))
                    assert json.loads(ours) == json.loads(theirs), file
    shards.FILE = former


CHECKS: dict[str, Callable[[Path], None]] = {
    each.__name__: each for each in (settings, optimizers, moves, generates, rewards, saves)
}


@contextmanager
def reported(folder: Path, name: str) -> Iterator[None]:
    """What a check has come to, in a file, so that one that fails keeps no other from being made."""
    try:
        yield
        told = "as it should be"
    except AssertionError as error:
        told = str(error) or "an assertion without a message"
    (folder / f"{name}-{processes.index()}.txt").write_text(told)


if __name__ == "__main__":
    where = Path(sys.argv[1])
    where.mkdir(exist_ok=True)
    with processes.together():
        for word in sys.argv[2:] or CHECKS:
            with reported(where, word):
                CHECKS[word](where)
