"""Evaluations in proportion: how many prompts, how large an error, and what of it is shown."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alignzoo import Batch, report
from alignzoo.cli.progress import told, wrapped
from alignzoo.evaluation import heldout
from alignzoo.recipe import Stage, load
from alignzoo.registry import Registry
from alignzoo.runs.api import Result, StageResult
from alignzoo.runs.sizing import amount


@pytest.fixture(scope="module")
def stage() -> Any:
    registry = Registry()
    registry.load_all()

    def loaded(name: str, *overrides: str) -> Stage:
        own = ["policy.model=any", "data.path=rows.jsonl"]
        return load(name, [*own, *overrides], registry=registry).stages[0]

    return loaded


@pytest.mark.parametrize(
    ("name", "overrides", "prompts", "rows", "answers", "read"),
    [
        # 20 steps of 16 prompts with 8 answers: 2,560; half of it allows 1,280 / (2 evaluations of 2) = 320, 64 at most
        ("grpo", ["schedule.steps=20", "reward=length"], 64, 0, 256, 0),
        # 2 steps of 4 prompts with 8 answers: 64; half of it allows 32 / 4 = 8
        ("grpo", ["schedule.steps=2", "schedule.prompts=4", "reward=length"], 8, 0, 32, 0),
        # 10 steps of 32 pairs: half of 640 completions is 320 / 4 = 80: 64 to answer, and 80 pairs to read, twice
        ("dpo", ["schedule.steps=10"], 64, 80, 256, 320),
        # a reward model generates nothing: 128 steps of 32 pairs would allow more than the 256 that are read at most
        ("reward-model", ["schedule.steps=128"], 0, 256, 0, 1024),
        # what is asked for is done, and a third evaluation after step 5 of 10
        ("sft", ["schedule.steps=10", "schedule.eval_every=5", "evaluate.prompts=100"], 100, 100, 600, 300),
        ("sft", ["schedule.steps=10", "evaluate.prompts=0"], 0, 0, 0, 0),
    ],
)
def test_an_evaluation_is_as_large_as_the_run_is_worth(
    stage: Any, name: str, overrides: list[str], prompts: int, rows: int, answers: int, read: int
) -> None:
    found = amount(stage(name, *overrides), 1000, 500, 500)
    assert (found.prompts, found.rows, found.answers, found.read) == (prompts, rows, answers, read)


def test_what_is_held_out_bounds_it_and_it_is_said(stage: Any) -> None:
    found = amount(stage("grpo", "schedule.steps=20", "reward=length"), 1000, 10, 0)
    assert str(found) == "evaluation: 40 answers to 10 held-out prompts, 2 times; training: 2,560 completions"


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        # 6 pairs of 4 answers in both orders, 10 steps of 16 prompts; one sampled answer alone is compared with nothing
        ("principles_per_comparison=1", 10 * 16 * 6 * 2),
        ("principles_per_comparison=0", 10 * 16 * 6 * 2 * 5),
        ("principles_per_comparison=0, orders='one', pairs=3", 10 * 16 * 3 * 5),
        # by itself each of 4 answers; in 2 evaluations of 10 prompts one that is sampled, and the greedy one
        ("mode='pointwise'", (10 * 16 * 4 + 2 * 10 * 2) * 5),
    ],
)
def test_what_a_judge_will_be_asked_is_said(stage: Any, settings: str, asked: int) -> None:
    reward = f"reward={{name='constitution', constitution='safe', judge='rules', {settings}}}"
    found = amount(stage("rlaif-dpo", "schedule.steps=10", "sampler.n=4", reward), 1000, 10, 0)
    assert found.questions == asked and str(found).endswith(f"; {asked:,} questions to a judge")


def rows(values: list[float], groups: list[int]) -> tuple[torch.Tensor, Batch]:
    n = len(values)
    batch = Batch(
        tokens=torch.zeros(n, 3, dtype=torch.long),
        attend=torch.ones(n, 3, dtype=torch.bool),
        mask=torch.tensor([[False, True, True]] * n),
        group=torch.tensor(groups),
        rewards=torch.zeros(n),
        weights=torch.ones(n),
    )
    return torch.tensor(values), batch


def test_the_error_of_a_figure_is_over_groups() -> None:
    column, batch = rows([1.0, 1.0, 2.0, 2.0, 6.0, 6.0], [0, 0, 1, 1, 2, 2])
    # pairs of 1, 2 and 6: mean 3, sd √7, over √3 pairs; both rows of a pair say the same and count once
    assert heldout._error(column, batch, 3.0) == pytest.approx(math.sqrt(7 / 3))
    # a token's mean, rows of 2 and 1 tokens with the values 1 and 4: (1+1+4)/3 = 2; residuals -2 and 2, of weights 2/3
    by_token, batch = torch.tensor([[0.0, 1.0, 1.0], [0.0, 4.0, 9.0]]), rows([0, 0], [0, 1])[1]
    mask = torch.tensor([[False, True, True], [False, True, False]])
    batch = replace(batch, mask=mask, weights=mask * 2 / 3)
    assert heldout._error(by_token, batch, 2.0) == pytest.approx(math.sqrt(2 * (4 / 3) ** 2) / 2 * math.sqrt(2))


def shown(before: dict[str, float], after: dict[str, float], width: int = 80) -> str:
    from rich.console import Console

    console = Console(width=width)
    done = StageResult("dpo", "dpo", before, after, {}, 1, "", Path("models"))
    with console.capture() as captured:
        console.print(report.table(Result(Path("."), (done,), None)))
    return captured.get()


def test_a_table_has_what_tells_something_within_80_columns() -> None:
    pairs = {"loss": 0.693, "accuracy": 0.5, "margin": 0.0, "reward_chosen": 0.0, "reward_rejected": 0.0, "n": 64.0}
    before = {f"heldout/{name}": value for name, value in pairs.items()}
    before |= {"heldout/loss_se": 0.001, "kl": 0.0, "kl_se": 0.0, "length": 20.0, "reward": 1.0, "gold": 20.0}
    text = shown(before, before | {"heldout/accuracy": 0.75, "length": 22.0, "gold": 22.0})
    # Wilson's interval of 32 and of 48 in 64
    assert "0.50 [0.38, 0.62]" in text and "0.75 [0.63, 0.84]" in text and "n = 64" in text
    assert "0.6930" in text and " KL " in text and " gold " in text
    assert "reward" not in text.split("On held-out prompts")[1].splitlines()[1]  # 1 in both rows
    assert max(map(len, text.splitlines())) <= 80


def test_errors_give_way_before_labels_and_small_changes_are_seen() -> None:
    names = ("loss", "accuracy", "margin", "reward_chosen", "reward_rejected")
    before = {f"heldout/{name}": 0.6931 for name in names} | {"heldout/n": 136.0}
    before |= {f"heldout/{name}_se": 0.0002 for name in names}
    text = shown(before, before | {"heldout/loss": 0.6925})
    assert " before " in text and " after " in text and "0.6925" in text and "±" not in text
    assert "no room for standard errors" in text and max(map(len, text.splitlines())) <= 80
    assert "0.6925 ± 0.0002" in shown(before, before | {"heldout/loss": 0.6925}, width=140)
    assert "no room for standard errors, rejected" in " ".join(shown(before, before, width=70).split())


def test_a_step_tells_speed_and_no_constants() -> None:
    figures = {"loss": 0.5, "reward/mean": 1.0, "length": 9.0, "finished": 1.0, "lr": 1e-6, "memory": 2.5e9}
    timed = {"tokens/trained": 300.0, "tokens/generated": 0.0, "seconds/update": 2.0, "seconds/fill": 1.0}
    assert told(figures | timed) == ["loss 0.5", "lr 1e-06", "100 tokens/s", "2.50 GB"]
    sampled = figures | timed | {"tokens/generated": 60.0, "reward_se": 0.25, "groups/tied": 0.5}
    assert told(sampled)[1:4] == ["reward 1 ± 0.25", "tied 50%", "finished 100%"] and "120 tokens/s" in told(sampled)
    assert wrapped(["loss 0.5", "lr 1e-06", "2.50 GB"], 20) == ["loss 0.5  lr 1e-06", "2.50 GB"]
