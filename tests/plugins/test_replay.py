"""The sampler with a buffer, by itself and in the loop."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import alignzoo
from alignzoo import Completion, Group, Prompt, Score, StepReport
from alignzoo.testing import toy_policy
from alignzoo.training.loop import Interrupted
from alignzoo_replay import ReplaySampler


def group(name: str) -> Group:
    return Group(Prompt(name, info={"key": 3}), (2,), (Completion((3,), name, logprobs=(-1.0,)),), (Score(1.0),))


def report(step: int, *groups: Group) -> StepReport:
    return StepReport(step, 9, {}, groups)


def names(sampler: ReplaySampler) -> list[tuple[Any, int | None, int | None]]:
    """The step and the version of the policy that generated each group in the buffer."""
    kept = [(each.prompt.messages, each.completions[0]) for each in sampler.buffer]
    return [(name, completion.step, completion.policy_version) for name, completion in kept]


def test_new_groups_come_in_and_the_oldest_leave() -> None:
    sampler = ReplaySampler(capacity=3).next(report(1, group("a"), group("b")))
    assert names(sampler) == [("a", 1, 0), ("b", 1, 0)]
    sampler = sampler.next(report(2, group("c"), group("d"), *sampler.buffer))  # what came from the buffer is in it
    assert names(sampler) == [("b", 1, 0), ("c", 2, 1), ("d", 2, 1)]
    assert sampler.buffer[0].scores == (Score(1.0),) and not sampler.buffer[0].prompt.info


@pytest.mark.parametrize(("replayed", "n"), [(0.0, 0), (1.0, 2), (2.0, 4), (9.0, 6)])
def test_as_many_as_asked_for_are_drawn(replayed: float, n: int) -> None:
    sampler = ReplaySampler(n=2, replayed=replayed, buffer=tuple(group(name) for name in "abc"))
    found = sampler.sample([Prompt("x"), Prompt("y")], toy_policy(), seeds=[0, 1])
    told = [each.prompt.messages for each in found]
    assert told[0] == "x" and len(told) == 2 + n
    first, second = told[1 : told.index("y")], told[told.index("y") + 1 :]
    assert all(len(set(drawn)) == len(drawn) for drawn in (first, second)) and {*first, *second} <= {*"abc"}


def test_what_a_prompt_draws_is_its_own() -> None:
    buffer = tuple(group(str(number)) for number in range(50))
    sampler = ReplaySampler(n=2, replayed=0.25, buffer=buffer)
    prompts, seeds = [Prompt(f"p{number}") for number in range(200)], range(200)
    together = sampler.sample(prompts, toy_policy(), seeds=seeds)
    alone = [sampler.sample([p], toy_policy(), seeds=[s]) for p, s in zip(prompts, seeds, strict=True)]
    assert together == [each for groups in alone for each in groups]
    assert len(together) - 200 == pytest.approx(50, abs=25)  # four standard deviations, √(200 · 1/4 · 3/4) = 6.1


SETTINGS: dict[str, Any] = {
    "schedule": {"steps": 4, "prompts": 2, "minibatch": 2, "samples_every": 1},
    "sampler": {"n": 4, "capacity": 3},
    "evaluate": {"prompts": 4, "best_of": 0, "greedy": False},
}


def test_old_groups_are_learnt_from_but_neither_written_nor_scored_again(tmp_path: Path) -> None:
    scored: list[int] = []

    def count(completions: list[Any], **_: Any) -> list[float]:
        scored.append(len(completions))
        return [float(len(scored) % 3 + i % 2) for i in range(len(completions))]

    settings = SETTINGS | {"evaluate": {"prompts": 0}}
    alignzoo.run("replay", reward=count, out=tmp_path / "run", **settings)
    assert scored == [8] * 4
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["rows"] for line in lines] == [8, 16, 16, 16]
    written = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    for step, line in enumerate(lines, 1):
        mine = [s for s in written if s["step"] == step]
        assert len(mine) == line["completions"] == line["rows"]
        whole = round(line["length"] * line["completions"])
        assert line["tokens/generated"] == whole if step == 1 else line["tokens/generated"] < 0.75 * whole
        assert "kl" in line
        assert ("staleness/max" in line) == (step > 1) and 0 <= line.get("staleness/max", 0) < step
    assert lines[0]["importance"] == pytest.approx(1.0, abs=1e-4)  # all of them are the policy's own
    assert abs(lines[-1]["importance"] - 1) > 1e-4  # an earlier policy's


def test_a_run_that_is_stopped_goes_on_with_its_buffer(tmp_path: Path) -> None:
    def stop(label: str, done: int, total: int, figures: Any) -> None:
        if ":" not in label and done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    alignzoo.run("replay", out=tmp_path / "whole", **SETTINGS)
    with pytest.raises(Interrupted):
        alignzoo.run("replay", out=tmp_path / "cut", progress=stop, **SETTINGS)
    state = json.loads(next((tmp_path / "cut").rglob("state.json")).read_text())
    assert len(state["sampler"]["buffer"]) == 3 and state["optimizer"] == {}
    alignzoo.run("replay", out=tmp_path / "cut", resume=True, **SETTINGS)
    for name in ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl", "models/replay/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_state_that_no_checkpoint_can_hold_is_an_error_and_not_lost(tmp_path: Path) -> None:
    from alignzoo.training import checkpoint

    sampler = ReplaySampler(buffer=(3,))  # type: ignore[arg-type]
    with pytest.raises(alignzoo.RunError, match=r"ReplaySampler\.buffer cannot be written to a checkpoint"):
        checkpoint.state_of(sampler)
