"""Rounds: a recipe repeats a block of stages; generated data are a later stage's; a stop in any round costs nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import alignzoo
from alignzoo import Completion, Group, ModelError, Policy, Prompt, RecipeError, RunError, Score
from alignzoo.planning.estimate import plan
from alignzoo.recipe import Recipe, load
from alignzoo.recipe.changes import changes
from alignzoo.registry import Registry
from alignzoo.runs.stage_data import data_of

ITERATIVE = """
task = "shop"
policy = { name = "hf", max_new_tokens = 40 }

[[stage]]
name = "sft"
policy = { model = "task:base" }
data = { kind = "demonstrations" }
sampler = "dataset"
reward = "labels"
optimizer = "sft"

[[stage]]
name = "iterate"
rounds = 3

[[stage.stage]]
name = "sample"
policy = { model = "last:dpo or stage:sft" }
sampler = { name = "policy", n = 4 }
optimizer = "none"

[[stage.stage]]
name = "dpo"
policy = { model = "last:dpo or stage:sft" }
data = "stage:sample"
optimizer = "dpo"

[[stage]]
name = "after"
policy = { model = "stage:dpo" }
data = { kind = "comparisons" }
sampler = "dataset"
reward = "labels"
optimizer = "dpo"
"""


@pytest.fixture(scope="module")
def zoo() -> Registry:
    return Registry()


@pytest.fixture
def iterative(tmp_path: Path) -> Path:
    file = tmp_path / "iterative.toml"
    file.write_text(ITERATIVE)
    return file


def models(recipe: Recipe) -> dict[str, str]:
    return {stage.name: stage.policy.model for stage in recipe.stages}  # type: ignore[attr-defined]


# --- the recipe -------------------------------------------------------------------------------------------------------


def test_each_round_is_stages_of_its_own(iterative: Path, zoo: Registry) -> None:
    recipe = load(iterative, registry=zoo)
    assert models(recipe) == {
        "sft": "task:base",
        "sample-1": "stage:sft",
        "dpo-1": "stage:sft",
        "sample-2": "stage:dpo-1",
        "dpo-2": "stage:dpo-1",
        "sample-3": "stage:dpo-2",
        "dpo-3": "stage:dpo-2",
        "after": "stage:dpo-3",
    }
    paths = {stage.name: stage.data.path for stage in recipe.stages if stage.origin}
    assert paths == {f"dpo-{n}": f"stage:sample-{n}" for n in (1, 2, 3)}
    seeds = [stage.seed for stage in recipe.stages if stage.name.startswith("dpo")]
    assert seeds[0] == 0 and len(set(seeds)) == 3


def test_a_single_stage_may_be_repeated_and_the_first_rounds_output_stays_in_reach(
    tmp_path: Path, zoo: Registry
) -> None:
    file = tmp_path / "single.toml"
    file.write_text(
        'task = "sort"\n[[stage]]\nname = "ppo"\nrounds = 3\nsampler = "policy"\noptimizer = "ppo"\n'
        'policy = { name = "hf", model = "last:ppo or task:policy", critic_model = "first:ppo or last:ppo or ./c" }\n'
    )
    recipe = load(file, ["ppo.rounds=3"], registry=zoo)
    assert models(recipe) == {"ppo-1": "task:policy", "ppo-2": "stage:ppo-1", "ppo-3": "stage:ppo-2"}
    critics = [stage.policy.critic_model for stage in recipe.stages]  # type: ignore[attr-defined]
    assert critics == ["./c", "stage:ppo-1", "stage:ppo-1"]


def test_overrides_reach_all_rounds_or_one(iterative: Path, zoo: Registry) -> None:
    changed = ["iterate.rounds=2", "dpo.schedule.lr=0.5", "dpo-2.schedule.lr=0.25", "iterate.schedule.prompts=3"]
    found = {stage.name: stage.schedule for stage in load(iterative, changed, registry=zoo).stages}
    assert [found[name].lr for name in ("dpo-1", "dpo-2", "sample-1")] == [0.5, 0.25, 1e-5]
    assert [found[name].prompts for name in ("sample-1", "dpo-1", "sample-2", "dpo-2", "after")] == [3, 3, 3, 3, 32]
    text = ITERATIVE[: ITERATIVE.index('[[stage]]\nname = "after"')]
    iterative.write_text(text)
    ends = load(iterative, ["iterate.rounds=2", "schedule.lr=0.5", "policy.model=./mine"], registry=zoo)
    assert [stage.schedule.lr for stage in ends.stages] == [1e-5, 1e-5, 0.5, 1e-5, 0.5]
    assert list(models(ends).values()) == ["./mine", "stage:sft", "stage:sft", "stage:dpo-1", "stage:dpo-1"]


def test_every_round_has_its_share_of_the_budget(iterative: Path, zoo: Registry, tmp_path: Path) -> None:
    recipe = load(iterative, ["dpo.schedule.budget_tokens=9000", "sft.schedule.budget_tokens=500"], registry=zoo)
    found = {stage.name: stage.schedule.budget_tokens for stage in recipe.stages}
    assert [found[f"dpo-{number}"] for number in (1, 2, 3)] == [3000, 6000, 9000]  # of all that was spent until then
    assert found["sft"] == 500 and found["sample-2"] == 0
    (tmp_path / "manifest.json").write_text(json.dumps({"recipe": recipe.resolved}))
    assert load(tmp_path / "manifest.json", registry=zoo) == recipe
    fewer = load(iterative, ["dpo.schedule.budget_tokens=9000", "iterate.rounds=2"], registry=zoo).resolved
    more = load(iterative, ["dpo.schedule.budget_tokens=9000"], registry=zoo).resolved
    assert changes(fewer, more, ["sft", "sample-1", "dpo-1"]) == ["dpo-1.round.of: was 2, now 3"]
    assert not changes(fewer, more, ["sft", "sample-1"])


def test_a_round_leaves_of_the_budget_what_is_the_next_ones(tmp_path: Path) -> None:
    settings = ["sample.schedule.steps=1", "sample.schedule.prompts=4", "schedule.budget_tokens=12000"]
    more = ["learn.schedule.prompts=4", "evaluate.prompts=0", "policy.max_new_tokens=8"]
    out = tmp_path / "run"
    alignzoo.run("sppo", task="sort", out=out, overrides=[*settings, *more])
    spent: dict[str, float] = {}
    for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
        tokens = line.get("tokens/generated", 0.0) + line.get("tokens/trained", 0.0)
        spent[line["stage"]] = spent.get(line["stage"], 0.0) + tokens
    rounds = [spent[f"sample-{number}"] + spent[f"learn-{number}"] for number in (1, 2, 3)]
    assert rounds == pytest.approx([4000, 4000, 4000], rel=0.15)


def test_a_tasks_changes_reach_all_rounds_or_one(iterative: Path, zoo: Registry) -> None:
    tasks = "[tasks.shop.stage.dpo]\nschedule = { lr = 0.5 }\n[tasks.shop.stage.dpo-3]\nschedule = { lr = 0.25 }\n"
    iterative.write_text(ITERATIVE + tasks)
    found = [s.schedule.lr for s in load(iterative, registry=zoo).stages if s.name.startswith("dpo")]
    assert found == [0.5, 0.5, 0.25]


def test_what_is_resolved_reads_back_as_the_same(iterative: Path, zoo: Registry, tmp_path: Path) -> None:
    recipe = load(iterative, ["iterate.prompts=fresh"], registry=zoo)
    (tmp_path / "manifest.json").write_text(json.dumps({"recipe": recipe.resolved}))
    again = load(tmp_path / "manifest.json", registry=zoo)
    assert again == recipe and again.resolved == recipe.resolved
    assert [stage.origin.name for stage in again.stages if stage.origin] == ["sample-1", "sample-2", "sample-3"]
    assert recipe.resolved["stage"][3]["round"] == {"stage": "sample", "number": 2, "of": 3, "prompts": "fresh"}
    lr = [s.schedule.lr for s in load(tmp_path / "manifest.json", ["dpo.schedule.lr=0.5"], registry=zoo).stages]
    assert lr.count(0.5) == 3
    assert "round" not in recipe.resolved["stage"][0]


WRONG = [
    ('"last:dpo or stage:sft" }\nsampler', '"last:dpo" }\nsampler', "the first round has no such output yet"),
    ('"last:dpo or stage:sft" }\nsampler', '"last:dop or stage:sft" }\nsampler', "Did you mean 'dpo'?"),
    ('"last:dpo or stage:sft" }\nsampler', '"stage:dpo" }\nsampler', "'dpo' comes later in the same round"),
    ('"stage:dpo"', '"last:dpo or task:base"', "after has no rounds; write stage:dpo"),
    ('"stage:dpo"', '"last:after or task:base"', "after has no rounds; give it rounds=2 or more, or write task:base"),
    ("rounds = 3\n", "", "a block of stages says how often, as in rounds = 3"),
    ("rounds = 3", "rounds = 0", "iterate.rounds: found 0, allowed: an integer at least 1"),
    ("rounds = 3", 'rounds = 3\nprompts = "new"', "allowed: one of 'same', 'fresh'"),
    ('name = "after"', 'name = "dpo-2"', "a second stage is called 'dpo-2'"),
    ('data = "stage:sample"', 'data = "stage:sft"', "that stage trains a model and leaves no data"),
    ('"last:dpo or stage:sft" }\ndata', '"stage:sample" }\ndata', "that stage trains nothing"),
    ('optimizer = "none"', 'optimizer = { name = "none", beta = 1 }', "sample-1.optimizer.beta"),
    ('optimizer = "none"', 'optimizer = { name = "none", earlier = "a.jsonl" }', "an earlier stage that leaves data"),
    ('optimizer = "none"', 'optimizer = { name = "none", earlier = "stage:sft" }', "that stage trains a model"),
    (
        "n = 4",
        "n = 1",
        "sample-1 generates 1 completion of each prompt, but the optimizer of dpo-1 compares at least 2",
    ),
    ('data = "stage:sample"', 'data = { path = "stage:sample", limit = 3 }', "limit"),
]


@pytest.mark.parametrize(("old", "new", "said"), WRONG, ids=[said[:30] for *_, said in WRONG])
def test_what_is_wrong_is_told_with_its_place(old: str, new: str, said: str, iterative: Path, zoo: Registry) -> None:
    assert old in ITERATIVE
    iterative.write_text(ITERATIVE.replace(old, new, 1))
    with pytest.raises(RecipeError) as raised:
        load(iterative, registry=zoo)
    assert said in str(raised.value)


def test_no_plugin_may_call_an_optimizer_none(tmp_path: Path, zoo: Registry) -> None:
    plugin = tmp_path / "none.py"
    plugin.write_text(
        "import alignzoo\n@alignzoo.hookimpl\ndef alignzoo_register(zoo):\n    zoo.optimizer('none', 'none:Any')\n"
    )
    with pytest.raises(alignzoo.PluginError, match="'none'"):
        Registry().add_file(plugin)


def test_fresh_prompts_are_slices_that_share_nothing_and_leave_nothing_out(iterative: Path, zoo: Registry) -> None:
    def prompts(*changes: str) -> list[list[str]]:
        stages = load(iterative, changes, registry=zoo).stages
        return [[str(p.messages) for p in data_of(s)[0]] for s in stages if s.name.startswith("sample")]

    first, second, third = prompts()
    assert first == second == third
    slices = prompts("iterate.prompts=fresh")
    assert sorted(text for part in slices for text in part) == sorted(first)
    assert [len(part) for part in slices] == [len(first[n::3]) for n in range(3)]
    with pytest.raises(RunError, match="12 rounds"):
        load_data(iterative, zoo, 12)


def load_data(iterative: Path, zoo: Registry, rounds: int) -> None:
    rows = [{"prompt": f"Count to {n}: "} for n in range(9)]
    changes = {"data": rows, "iterate.rounds": rounds, "iterate.prompts": "fresh", "sample.reward": {"name": "length"}}
    only = (
        ITERATIVE[: ITERATIVE.index('[[stage]]\nname = "sft"')] + ITERATIVE[ITERATIVE.index('[[stage]]\nname = "it') :]
    )
    iterative.write_text(only.replace("stage:sft", "task:policy"))
    data_of(load(iterative, list(changes.items()), registry=zoo).stages[0])


def test_a_plan_has_every_round_before_anything_is_generated(iterative: Path, zoo: Registry) -> None:
    plans = {each.name: each for each in plan(load(iterative, ["iterate.rounds=2"], registry=zoo), timed=False)}
    assert list(plans) == ["sft", "sample-1", "dpo-1", "sample-2", "dpo-2", "after"]
    sample, dpo = plans["sample-2"], plans["dpo-2"]
    assert sample.generated == 32 * 4 * 40 and sample.trained == 0
    assert sample.bytes["adamw"] == sample.bytes["gradients"] == 0 < dpo.bytes["adamw"]
    assert "update" not in sample.operations and dpo.operations["update"] > 0


# --- the run ----------------------------------------------------------------------------------------------------------

ROWS = [{"prompt": f"Count to {number}: ", "answer": str(number)} for number in range(12)]
SMALL = """
policy = { name = "hf", max_new_tokens = 4, device = "cpu" }
evaluate = { prompts = 2 }

[[stage]]
name = "iterate"
rounds = 2

[[stage.stage]]
name = "sample"
policy = { model = "last:dpo or MODEL" }
sampler = { name = "policy", n = 3 }
reward = { name = "length", unit = "characters" }
optimizer = "none"
schedule = { prompts = 2, steps = 3, save_every = 1 }

[[stage.stage]]
name = "dpo"
policy = { model = "last:dpo or MODEL" }
data = "stage:sample"
optimizer = "dpo"
schedule = { prompts = 3, lr = 1e-3, save_every = 1 }
"""


class Killed(BaseException):
    """As sudden as a kill."""


@pytest.fixture
def small(tmp_path: Path, plain_model: Path) -> Path:
    file = tmp_path / "small.toml"
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    file.write_text(SMALL.replace("MODEL", str(plain_model)).replace("rounds = 2", f'rounds = 2\ndata = "{data}"'))
    return file


def files(out: Path) -> dict[str, bytes]:
    """All that is a pure function of recipe and seed."""
    named = ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl", "generated.jsonl", "result.json")
    weights = [*out.glob("models/*/model.safetensors"), *out.glob("data/*.jsonl")]
    return {str(p.relative_to(out)): p.read_bytes() for p in [*(out / name for name in named), *weights]}


def test_rounds_train_on_what_they_generated_and_resume_byte_for_byte(small: Path, tmp_path: Path) -> None:
    result = alignzoo.run(small, out=tmp_path / "whole")
    assert [(s.name, s.optimizer, s.round, s.steps) for s in result.stages] == [
        ("sample-1", "none", 1, 3),
        ("dpo-1", "dpo", 1, 2),
        ("sample-2", "none", 2, 3),
        ("dpo-2", "dpo", 2, 2),
    ]
    whole = files(tmp_path / "whole")
    assert whole["models/dpo-1/model.safetensors"] != whole["models/dpo-2/model.safetensors"]
    rows = [json.loads(line) for line in whole["data/sample-2.jsonl"].splitlines()]
    assert len(rows) == 6 and all(len(row["completions"]) == len(row["scores"]) == 3 for row in rows)
    assert all(row["scores"] == [len(text) for text in row["completions"]] for row in rows)
    assert whole["data/sample-1.jsonl"] != whole["data/sample-2.jsonl"]
    written = json.loads(whole["result.json"])["stages"]
    assert [(stage["round"], stage["model"]) for stage in written[:2]] == [
        (1, "data/sample-1.jsonl"),
        (1, "models/dpo-1"),
    ]

    for where in (("sample-2", 2), ("dpo-2", 1)):

        def kill(label: str, done: int, total: int, figures: Any, where: tuple[str, int] = where) -> None:
            if (label, done) == where:
                raise Killed

        out = tmp_path / where[0]
        with pytest.raises(Killed):
            alignzoo.run(small, out=out, progress=kill)
        assert not (out / "models" / "dpo-2").exists()
        alignzoo.run(small, out=out, resume=True)
        assert files(out) == whole


def test_the_data_of_all_rounds_add_up(small: Path, tmp_path: Path) -> None:
    earlier = ["sample.schedule.steps=1", 'sample.optimizer.earlier="last:sample or none"']
    planned = {each.name: each for each in load(small, earlier, registry=Registry()).stages}
    assert [len(data_of(planned[name])[0]) for name in ("dpo-1", "dpo-2")] == [2, 4]
    without = small.read_text().partition('[[stage.stage]]\nname = "dpo"')[0]  # nothing is trained
    small.write_text(without.replace("last:dpo or ", "").replace("evaluate = { prompts = 2 }", "evaluate.prompts = 0"))
    alignzoo.run(small, out=tmp_path / "run", overrides=earlier)
    first, both = ((tmp_path / "run" / "data" / f"sample-{n}.jsonl").read_text() for n in (1, 2))
    assert both.startswith(first) and len(first.splitlines()) == 2 and len(both.splitlines()) == 4


def test_a_model_of_ones_own_stands_for_the_tasks_wherever_a_recipe_names_that(tmp_path: Path, zoo: Registry) -> None:
    def references(*changes: str) -> list[str]:
        recipe = load("human-rlhf", ["again.rounds=1", *changes], registry=zoo)
        return [stage.policy.reference for stage in recipe.stages if stage.name == "ppo-again-1"]  # type: ignore[attr-defined]

    assert references() == references("policy.model=task:base") == ["task:policy"]
    assert references(f"policy.model={tmp_path}") == [str(tmp_path)]
    assert references(f"policy.model={tmp_path}", "policy.reference=task:policy") == ["task:policy"]


@pytest.mark.slow
def test_a_finished_run_is_given_more_rounds(small: Path, tmp_path: Path) -> None:
    settings = ["dpo.schedule.steps=1", "sample.schedule.steps=1", "iterate.prompts=same"]
    out = tmp_path / "more"
    alignzoo.run(small, out=out, overrides=[*settings, "iterate.rounds=1"])
    former = (out / "models" / "dpo-1" / "model.safetensors").read_bytes()
    done = alignzoo.run(small, out=out, overrides=[*settings, "iterate.rounds=2"], resume=True)
    assert [stage.name for stage in done.stages] == ["sample-1", "dpo-1", "sample-2", "dpo-2"]
    assert (out / "models" / "dpo-1" / "model.safetensors").read_bytes() == former
    with pytest.raises(RunError, match="was started with another recipe"):
        alignzoo.run(small, out=out, overrides=[*settings[:2], "iterate.prompts=fresh"], resume=True)


def test_generated_data_keep_the_prompts_columns_and_where_an_answer_was_cut_off(small: Path, tmp_path: Path) -> None:
    from alignzoo.training.generation import generated

    out = tmp_path / "cut"
    alignzoo.run(small, out=out, overrides=["iterate.rounds=1", "dpo.schedule.steps=1"])
    prompts = generated(out / "data" / "sample-1.jsonl")
    texts = {row["prompt"]: row["answer"] for row in ROWS}
    assert all(prompt.info == {"answer": texts[prompt.messages]} for prompt in prompts)  # type: ignore[index]
    assert any(not all(prompt.finished) for prompt in prompts)  # four tokens are soon over
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["stage"] == "dpo-1" and line["when"] == "training"]
    told = {(p.messages, text): end for p in prompts for text, end in zip(p.completions, p.finished, strict=True)}
    assert trained and all(line["finished"] == told[line["prompt"], line["completion"]] for line in trained)


def test_what_data_of_text_cannot_keep_is_refused() -> None:
    from alignzoo.training.generation import _row

    spoken = Completion((1, 2), "ab", True, own=(True, False))
    for group in (
        Group(Prompt("a"), (0,), (spoken,), (Score(1.0),)),
        Group(Prompt("a", media="x.png"), (0,), (replace(spoken, own=None, mask=None),), (Score(1.0),)),
    ):
        with pytest.raises(RunError, match="'a' has media, or a completion with tokens that are not trained on"):
            _row(group)


@dataclass(frozen=True)
class Silent:
    """It abstains from everything."""

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(Score(None) for _ in group.completions) for group in groups]


def test_a_stage_without_a_single_score_is_an_error(small: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="sample-1: nothing was generated that has a score"):
        alignzoo.run(small, out=tmp_path / "silent", **{"sample": {"reward": Silent()}})
    assert not (tmp_path / "silent" / "data" / "sample-1.jsonl").exists()


@pytest.mark.slow
def test_a_reference_may_stay_that_of_the_first_round(small: Path, tmp_path: Path, plain_model: Path) -> None:
    out = tmp_path / "start"
    alignzoo.run(small, out=out, overrides=[f"dpo.policy.reference={plain_model}"])
    lines = [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]
    first, second = (line["before"]["kl"] for line in lines if "before" in line)
    assert first == 0.0 != second  # the first round starts from its reference, the second does not
    with pytest.raises(ModelError, match=r"the model directory \./no does"):
        alignzoo.run(small, out=tmp_path / "none", overrides=["dpo.policy.reference=./no"])


@pytest.mark.slow
def test_iterative_dpo_learns_beyond_its_first_round(tmp_path: Path) -> None:
    """On `shop`, against the round before: the reward rises in the first round and again in the second."""
    file = tmp_path / "shop.toml"
    file.write_text(
        ITERATIVE[: ITERATIVE.index('[[stage]]\nname = "sft"')]
        + ITERATIVE[ITERATIVE.index('[[stage]]\nname = "iterate"') : ITERATIVE.index('[[stage]]\nname = "after"')]
    )
    file.write_text(file.read_text().replace("stage:sft", "task:policy").replace("rounds = 3", "rounds = 2"))
    short = {"kl_every": 0, "samples_every": 0, "save_every": 0}
    result = alignzoo.run(
        file,
        out=tmp_path / "shop",
        iterate={"prompts": "fresh"},
        sample={"schedule": {"prompts": 32, "steps": 6}},
        dpo={
            "schedule": {"prompts": 32, "steps": 12, "lr": 3e-4} | short,
            "evaluate": {"prompts": 64, "greedy": False},
        },
    )
    _, first, _, second = result.stages
    assert first.before["reward"] + 0.2 < first.after["reward"] < second.after["reward"]
    assert second.before["reward"] == first.after["reward"]  # it goes on from the model that was left
