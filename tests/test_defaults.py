"""What recipes do by default: the embedded tasks' figures for these alone, and those of the docs for real models."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignzoo.errors import RecipeError
from alignzoo.recipe import Stage, load
from alignzoo.registry import Registry
from alignzoo.requirements import brings_scores

DOCS = Path(__file__).parents[1] / "docs" / "recipes.md"
RECIPES = sorted(path.stem for path in (Path(__file__).parents[1] / "alignzoo" / "recipes").glob("[!_]*.toml"))
OWN = {"model": ["policy.model=any"], "data": ["data.path=rows.jsonl"]}
REWARD = "reward=length"
"""What a method that generates is given beside data of one's own."""


@pytest.fixture(scope="module")
def zoo() -> Registry:
    registry = Registry()
    registry.load_all()
    return registry


@functools.cache
def default(zoo: Registry, name: str) -> tuple[Stage, ...]:
    """The stages of a recipe as it stands."""
    return load(name, registry=zoo).stages


def stages(zoo: Registry, name: str, *overrides: str) -> tuple[Stage, ...]:
    """The stages of a recipe; a reward is given to those that would be left without one, each round of them."""
    given = []
    for stage in default(zoo, name):
        scored = any(
            each in str(stage.resolved["reward"]) for each in ("constitution", "stage:", "labels", "human", "judge")
        )
        if scored and len(stage.resolved["reward"]) > 1 and stage.sampler.online:  # beside the reward of its task
            given.append(f"{stage.name.partition('-1')[0]}.reward.0=length")
        if stage.sampler.online and not scored and not brings_scores(stage.sampler):
            given.append(f"{stage.name.partition('-1')[0] if stage.name.endswith('-1') else stage.name}.{REWARD}")
    given = [each for each in given if not re.search(r"-\d+\.reward", each)]
    return load(name, [*given, *overrides], registry=zoo).stages


def toys(stage: Stage) -> set[str]:
    """What of a stage is the embedded tasks' alone: their judge, their constitution, and their limits and sizes."""
    parts: dict[str, Any] = stage.resolved
    found = {name for name in ("rules", "safe") if f"'{name}'" in str((parts["sampler"], parts["reward"]))}
    found |= {"max_new_tokens"} if parts["policy"]["max_new_tokens"] in (8, 40) else set()
    found |= {"evaluate"} if parts["evaluate"]["prompts"] != "auto" or parts["evaluate"]["best_of"] else set()
    found |= {"lr"} if parts["schedule"]["lr"] > 2e-4 else set()
    return found | ({"steps"} if parts["schedule"]["steps"] else set())


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("name", RECIPES)
def test_nothing_of_the_embedded_tasks_is_left_beside_data_or_a_model_of_one_s_own(
    zoo: Registry, name: str, own: str
) -> None:
    asked = {"steps"} if name.startswith("human-") else set()  # people rank a few answers a round
    assert [toys(stage) - asked for stage in stages(zoo, name, *OWN[own])] == [set()] * len(default(zoo, name))
    assert all(toys(stage) for stage in default(zoo, name))  # the control


def test_a_model_of_one_s_own_reaches_the_stages_after_it(zoo: Registry) -> None:
    first, _, last = load("rlhf", ["sft.policy.model=any"], registry=zoo).stages
    assert (first.policy.model, last.policy.model) == ("any", "stage:sft")  # type: ignore[attr-defined]
    assert toys(last) == set()


def test_overrides_win_and_an_embedded_task_keeps_its_figures_with_an_adapter(zoo: Registry) -> None:
    (full,) = load("dpo", ["policy.model=any", "data.path=x.jsonl"], registry=zoo).stages
    (adapter,) = load("dpo", ["policy.model=any", "data.path=x.jsonl", "policy.lora_rank=8"], registry=zoo).stages
    (given,) = load("dpo", ["policy.model=any", "policy.lora_rank=8", "schedule.lr=3e-5"], registry=zoo).stages
    (toy,) = load("dpo", ["policy.lora_rank=8"], registry=zoo).stages
    assert [each.schedule.lr for each in (full, adapter, given, toy)] == [1e-6, 1e-5, 3e-5, 3e-4]


WHOLE = "–"
"""In the table: no adapter, since whole models are merged."""


def rows() -> Iterator[tuple[str, str, list[str]]]:
    """The rows of the table of defaults: recipe, stage, cells."""
    text = DOCS.read_text(encoding="utf-8")
    for line in text.partition("## Defaults")[2].partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if match := re.match(r"`([\w-]+)`(?:, `([\w-]+)`)?", cells[0]):
            yield match[1], match[2] or "", cells[1:]


def test_the_docs_table_of_defaults_is_what_recipes_do(zoo: Registry) -> None:
    known = set()
    for name, stage_name, (full, adapter, rest, *_) in rows():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = {each.name: each for each in stages(zoo, name, "policy.model=any")}
            keys = ["policy.model=any"] if adapter == WHOLE else ["policy.model=any", "policy.lora_rank=8"]
            adapted = {each.name: each for each in stages(zoo, name, *keys)}
        stage_name = stage_name or list(found)[-1]
        stage = found[stage_name]
        given = full if adapter == WHOLE else adapter
        assert (float(full), float(given)) == (stage.schedule.lr, adapted[stage_name].schedule.lr), name
        assert f"{stage.schedule.prompts} prompts" in rest, name
        if kl := re.search(r"KL weight ([\d.]+)", rest):
            assert float(kl[1]) == stage.optimizer.kl, name  # type: ignore[attr-defined]
        known.add((name, stage_name))
    assert {name for name, _ in known} == set(RECIPES)


SMALL = [
    name for name in RECIPES if "[sizes.small" in (DOCS.parents[1] / "alignzoo/recipes" / f"{name}.toml").read_text()
]


@pytest.mark.parametrize("name", SMALL)
def test_a_small_first_run_differs_in_lengths_and_rates_alone(zoo: Registry, name: str) -> None:
    """Every stage ends after some twenty-five steps at most, and data, model and parts are those of the whole run."""
    whole = stages(zoo, name, *OWN["model"])
    small = stages(zoo, name, *OWN["model"], "size=small")
    for before, after in zip(whole, small, strict=True):
        assert 0 < after.schedule.total(10**6) <= 25 < before.schedule.total(10**6)
        assert after.sampler.online or after.schedule.total(1) == 1  # given answers are not gone over again and again
        assert (type(after.optimizer), type(after.sampler), after.data) == (
            type(before.optimizer),
            type(before.sampler),
            before.data,
        )


def test_the_docs_name_every_recipe_that_has_a_small_size() -> None:
    text = DOCS.read_text(encoding="utf-8").partition("## A small first run")[2].partition("\n## ")[0]
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`([\w-]+)`", " ".join(table))) == SMALL


def test_a_size_is_laid_over_the_stage_and_under_the_adapter_and_what_is_given(zoo: Registry) -> None:
    own = ["policy.model=any", REWARD]
    (small,) = load("grpo", [*own, "size=small"], registry=zoo).stages
    (adapter,) = load("grpo", [*own, "size=small", "policy.lora_rank=8"], registry=zoo).stages
    (given,) = load("grpo", [*own, "schedule.lr=3e-5", "size=small"], registry=zoo).stages
    (other,) = load("gspo", [*own, "size=small"], registry=zoo).stages  # has no recipe of its own
    assert [each.schedule.lr for each in (small, adapter, given, other)] == [2e-5, 1e-5, 3e-5, 2e-5]
    assert [each.schedule.prompts for each in (small, adapter, given, other)] == [4] * 4
    assert [each.policy.max_new_tokens for each in (small, other)] == [48, 48]  # type: ignore[attr-defined]
    first, model, last = stages(zoo, "rlhf", *OWN["model"], "size=small")
    assert [each.schedule.total(10**6) for each in (first, model, last)] == [4, 8, 8]


def test_a_size_that_a_recipe_has_not_is_refused(zoo: Registry) -> None:
    with pytest.raises(RecipeError, match=r"size=big': size: found \"big\" \(a string\), allowed: small"):
        load("grpo", ["policy.model=any", REWARD, "size=big"], registry=zoo)
    with pytest.raises(RecipeError, match=r"this recipe has no \[sizes\]; set policy\.max_new_tokens"):
        load("warp", ["policy.model=any", REWARD, "size=small"], registry=zoo)
    with pytest.raises(RecipeError, match="a model or data of your own, and this run has neither"):
        load("grpo", ["size=small"], registry=zoo)


def test_a_size_of_a_recipe_that_says_nothing_of_its_task_is_taken(zoo: Registry, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = 'task = "shop"\n[[stage]]\nname = "a"\npolicy = "hf"\ndata = {kind = "comparisons"}\noptimizer = "dpo"\n'
    path.write_text(f"{text}[sizes.tiny]\nschedule = {{steps = 2}}\n")
    assert load(path, ["size=tiny", "policy.model=task:policy"], registry=zoo).stages[0].schedule.steps == 2


def test_a_misspelt_part_of_a_size_is_refused(zoo: Registry, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'task = "shop"\n[[stage]]\nname = "a"\npolicy = {name = "hf", model = "task:policy"}\n'
        'data = {kind = "comparisons"}\noptimizer = "dpo"\n[sizes.tiny]\nschedul = {steps = 2}\n'
    )
    with pytest.raises(RecipeError, match=r"line 8: 'schedul' is no key of sizes\.tiny\. Did you mean 'schedule'"):
        load(path, ["policy.model=any"], registry=zoo)


@pytest.mark.parametrize(
    ("sizes", "found"), [("sizes = 3", "sizes: found 3"), ("[sizes]\ntiny = 3", "sizes.tiny: found 3")]
)
def test_sizes_that_are_no_tables_are_refused(zoo: Registry, tmp_path: Path, sizes: str, found: str) -> None:
    path = tmp_path / "mine.toml"
    top, table = (sizes, "") if sizes.startswith("sizes") else ("", sizes)
    path.write_text(f'{top}\ntask = "shop"\n[[stage]]\nname = "a"\npolicy = "hf"\noptimizer = "dpo"\n{table}\n')
    with pytest.raises(RecipeError, match=found):
        load(path, ["size=tiny", "policy.model=any"], registry=zoo)
