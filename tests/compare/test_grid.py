"""Which cells a comparison has, and what it refuses before the first of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignzoo.compare import tuning
from alignzoo.compare.cell import _reward
from alignzoo.compare.grid import Grid
from alignzoo.compare.plan import Plan, entry
from alignzoo.compare.results import CellResult
from alignzoo.errors import PluginError, RecipeError
from alignzoo.registry import Registry

ZOO = Registry()
OWN = ("policy.max_new_tokens=8",)


def grid(*algorithms: str, tasks: tuple[str, ...] = ("sort",), **changes: Any) -> Grid:
    return Grid(Plan(tuple(map(entry, algorithms)), tuple(map(entry, tasks)), **changes), ZOO)


def randomised(*algorithms: str) -> list[str]:
    cells = grid(*algorithms, seeds=2).cells({})
    return [cell.overrides[-1] for cell in cells if cell.role == "random"]


def test_a_random_reward_stands_only_where_scores_are_read_with_a_seed_each() -> None:
    assert randomised("sft") == []
    assert randomised("sft", "dpo") == ['reward=[{name="random", seed=0}]', 'reward=[{name="random", seed=1}]']
    taught = "gkd[optimizer.teacher=DIR]"
    assert randomised(taught, "sft") == []  # it learns from its own answers what a teacher thinks of them
    for other in ("dpo", taught):
        cells = grid(other, "grpo", seeds=1).cells({})
        assert [cell.algorithm for cell in cells if cell.role == "random"] == ["random reward (grpo)"]


def test_a_setting_of_the_task_that_an_algorithm_cannot_see_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"shop\[length_bias=0.15\]: grpo cannot see length_bias"):
        grid("dpo", "grpo", tasks=("shop[length_bias=0.15]",)).check()
    grid("dpo", tasks=("shop[length_bias=0.15]",)).check()  # raters are what it learns from
    grid("grpo", tasks=("shop[n_prompts=100]",)).check()
    grid("grpo", tasks=("shop[length_bias=0.0]",)).check()  # the default


def test_tuning_needs_prompts_that_the_comparison_does_not_use() -> None:
    with pytest.raises(RecipeError, match=r"sort has 400 held-out prompts.* Give --prompts 336 or less"):
        grid("dpo", trials=2, prompts=400).check()
    grid("dpo", trials=2, prompts=336).check()


def test_answers_that_nothing_scores_are_refused_and_a_measure_scores_them(tmp_path: Path) -> None:
    rows = tmp_path / "pairs.jsonl"
    rows.write_text("".join(f'{{"prompt": "p{i}", "chosen": "yes {i}", "rejected": "no"}}\n' for i in range(40)))
    own = {"tasks": (), "overrides": (f"data.path={rows}", "policy.model=task:policy", *OWN)}
    paired = grid("sft", "dpo", **own)  # held-out pairs are compared where nothing scores sampled answers
    paired.check()
    assert {(cell.preferences, cell.evaluator) for cell in paired.cells({})} == {(True, "dpo")}
    assert not any(cell.role == "best-of" for cell in paired.cells({}))  # it would have nothing to choose by
    assert not any(cell.preferences for cell in grid("grpo").cells({}))
    alone = tmp_path / "answers.jsonl"
    alone.write_text("".join(f'{{"prompt": "p{i}", "completion": "yes {i}"}}\n' for i in range(40)))
    with pytest.raises(RecipeError, match=r"nothing scores the answers .* Give --measure"):
        grid("sft", "dft", tasks=(), overrides=(f"data.path={alone}", "policy.model=task:policy", *OWN)).check()
    measured = grid("dpo", "sft", measure="length", **own)
    measured.check()
    assert {cell.scored_by for cell in measured.cells({})} == {"length"}
    assert _reward("length", ZOO).name == "length"
    with pytest.raises(PluginError, match="Did you mean 'length'"):
        grid("dpo", "sft", measure="lenght", **own).check()


def trial(number: int, reward: float, status: Any = "ok") -> CellResult:
    return CellResult(f"t/a/trial-{number}", "a", "t", 0, "trial", (), status, after={"reward": reward})


def test_the_first_trial_is_favoured_in_nothing_and_failed_ones_are_no_tuning() -> None:
    assert tuning.best([trial(0, 1.0), trial(1, 2.0), trial(2, 3.0, "failed")]) == 1
    assert tuning.best([trial(0, 3.0, "failed"), trial(1, 2.0, "over-budget")]) is None
    bounded = [
        replace(trial(n, reward), after={"reward": reward, "kl": reward}) for n, reward in enumerate((1.0, 3.0, 2.0))
    ]
    assert [tuning.best(bounded, kl) for kl in (None, 3.0, 2.5, 0.5)] == [1, 1, 2, 0]
    equal = [[trial(10 * n, 1.0), trial(10 * n + 1, 1.0), trial(10 * n + 2, 0.0)] for n in range(40)]
    chosen = [tuning.best(each) for each in equal]
    assert set(chosen) == {0, 1} and 8 <= sum(chosen) <= 32
    assert chosen == [tuning.best(each) for each in equal]


def test_a_label_calls_an_entry_and_is_no_setting() -> None:
    found = entry('grpo[label=rule, reward={name="python",function="reward.py:f"}]')
    assert found.label == "rule" and found.settings == ('reward={name="python",function="reward.py:f"}',)
    assert entry("ppo[label=gentle]").settings == () and entry("ppo[optimizer.kl=0.1]").label == "ppo[optimizer.kl=0.1]"
    for text in ("ppo[label=gentle]", "ppo", "ppo[label=a,optimizer.kl=0.1,schedule.lr=1e-4]", "ppo[optimizer.kl=0.1]"):
        assert entry(text).written == text  # as the report's command has it, which repeats the comparison
    for wrong in ("ppo[label=]", "ppo[label=a,label=b]"):
        with pytest.raises(RecipeError, match="give one label"):
            entry(wrong)
