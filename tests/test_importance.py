"""Samples of an engine whose numbers differ: weighed as if the policy had sampled them, or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import alignzoo
from alignzoo import Completion, Decoding, Forward, Group, Prompt, RunError, Score, Terms
from alignzoo.batching import collate
from alignzoo.decoding import AS_SET
from alignzoo.testing import ToyPolicy
from alignzoo.training.importance import importance

PROMPTS = [{"prompt": f"{number}"} for number in range(12)]


def group(*logprobs: tuple[float, ...] | None) -> Group:
    written = tuple(Completion((1, 2), "", True, each) for each in logprobs)
    return Group(Prompt("?"), (7,), written, (Score(0.0),) * len(written))


def test_what_was_recorded_becomes_a_column() -> None:
    batch = collate([group((-0.5, -1.0)), replace(group((-2.0, -3.0)), prompt_tokens=(7, 8, 9))])
    assert batch.extra["sampled_logprobs"].tolist() == [[0, -0.5, -1, 0, 0], [0, 0, 0, -2, -3]]
    assert "sampled_logprobs" not in collate([group((-0.5, -1.0), None)]).extra
    assert "sampled_logprobs" not in collate([]).extra


def test_weights_are_of_the_old_policy_where_there_is_one() -> None:
    batch = collate([group((-1.0, -1.0))])
    out = Forward(logprobs=torch.tensor([[0.0, -2.0, -1.0]], requires_grad=True))
    terms = Terms(torch.zeros(1, 3))
    # e^(-2+1) = 0.3679 and e^0 = 1; of the old policy e^(-1+1) = 1 and min(e^(0+1), 1.5) = 1.5
    torch.testing.assert_close(importance(terms, batch, out, 1.5), torch.tensor([[1.0, 0.367879, 1.0]]))
    batch = replace(batch, old_logprobs=torch.tensor([[0.0, -1.0, 0.0]]))
    torch.testing.assert_close(importance(terms, batch, out, 1.5), torch.tensor([[1.0, 1.0, 1.5]]))


def test_where_there_are_no_tokens_to_weigh_it_is_an_error() -> None:
    out, terms = Forward(logprobs=torch.zeros(1, 3)), Terms(torch.zeros(1, 3))
    with pytest.raises(RunError, match=r"importance_cap is 2, but nothing has recorded .*: set it to 0"):
        importance(terms, collate([group(None)]), out, 2.0)
    for wrong in ((Terms(torch.zeros(1)), out), (terms, Forward())):
        with pytest.raises(RunError, match="does not speak of single tokens"):
            importance(wrong[0], collate([group((-1.0, -1.0))]), wrong[1], 2.0)


class Misheard(ToyPolicy):
    """Writes with an engine that finds every token less likely than the forward does, by so much."""

    less = 0.0

    def generate(
        self, prompts: Sequence[Prompt], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[Group]:
        def told(each: Completion) -> Completion:
            return replace(each, logprobs=tuple(x - self.less for x in each.logprobs or ()))

        groups = super().generate(prompts, n, seeds=seeds, decoding=decoding)
        return [replace(each, completions=tuple(map(told, each.completions))) for each in groups]


def first_step(out: Path, less: float, **schedule: Any) -> dict[str, Any]:
    policy = Misheard()
    policy.less = less
    settings = {"steps": 1, "prompts": 4, "lr": 1e-3, "save_every": 0} | schedule

    def longer(completions: Sequence[str], **columns: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    alignzoo.run(
        "grpo",
        policy=policy,
        data=PROMPTS,
        reward=longer,
        out=out,
        schedule=settings,
        evaluate={"prompts": 0},
        optimizer={"kl": 0.0},
        sampler={"n": 4},
    )
    line: dict[str, Any] = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    return line


@pytest.mark.slow
def test_a_run_weighs_by_them(tmp_path: Path) -> None:
    plain = first_step(tmp_path / "plain", math.log(1.5))
    assert "importance" not in plain
    same = first_step(tmp_path / "same", 0.0, importance_cap=2.0)
    assert same["importance"] == pytest.approx(1.0, abs=1e-5)
    assert same["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-4)
    for less, weight in ((math.log(1.5), 1.5), (5.0, 2.0)):  # the second is cut at the cap
        weighed = first_step(tmp_path / f"weighed-{weight}", less, importance_cap=2.0)
        assert weighed["importance"] == pytest.approx(weight, rel=1e-4)
        assert weighed["grad_norm"] == pytest.approx(weight * plain["grad_norm"], rel=1e-4)
