"""`alignzoo choose`, the filters of `list`, and the nearest relative: what fits, and that its command is a recipe."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from alignzoo.cli import fitting, relatives
from alignzoo.cli.listing import _declaring
from alignzoo.recipe import load
from alignzoo.registry import Registry

ZOO = Registry()


def fits(shape: str, *scorers: str, **more) -> dict[str, fitting.Fit]:
    return {each.listed.name: each for each in fitting.fitting(ZOO, fitting.Have(shape, scorers, **more))}


@pytest.mark.parametrize(
    ("shape", "scorers", "made", "also", "never"),
    [
        ("pairs", (), {"dpo", "simpo", "reward-model", "ipo"}, {"kto", "sft", "selm"}, {"grpo", "ppo", "gkd", "tpo"}),
        ("demonstrations", (), {"sft", "dft"}, set(), {"dpo", "kto", "grpo", "reward-model"}),
        ("labels", (), {"kto", "bco", "outcome-reward-model"}, {"sft"}, {"dpo", "reward-model", "ppo"}),
        ("rankings", (), {"pl-dpo", "plackett-luce", "dpo", "tpo"}, {"sft"}, {"grpo"}),
        ("scores", (), {"regression-reward-model", "odpo", "awr"}, {"sft"}, {"grpo"}),
        ("prompts", ("checker",), {"grpo", "ppo", "rloo", "dno"}, {"dpo", "sft"}, {"reward-model", "gkd", "kto"}),
        ("prompts", (), set(), set(), {"grpo", "dpo", "gkd"}),
    ],
)
def test_what_fits(shape: str, scorers: tuple[str, ...], made: set[str], also: set[str], never: set[str]) -> None:
    found = fits(shape, *scorers)
    assert {name for name in made if name in found and found[name].grade == "made"} == made
    assert {name for name in also if name in found and found[name].grade == "also"} == also
    assert not never & found.keys()


def test_a_teacher_is_for_those_that_need_one() -> None:
    found = fits("prompts", teacher=True)
    assert {"gkd", "on-policy-distillation"} <= found.keys()
    assert "forward-kd" not in found and "forward-kd" in fits("demonstrations", teacher=True)
    assert all(fitting.teachers(fitting._needs(each.optimizer)) for each in found.values())


@pytest.mark.parametrize(
    ("shape", "scorers", "teacher"),
    [("pairs", (), False), ("labels", (), False), ("prompts", ("checker",), True), ("demonstrations", (), True)],
)
def test_every_command_is_a_recipe(shape: str, scorers: tuple[str, ...], teacher: bool) -> None:
    have = fitting.Have(shape, scorers, teacher, data="rows.jsonl", model="MODEL")
    found = fitting.fitting(ZOO, have)
    kinds = {(fit.extra, fit.base == fit.listed.name, fit.grade, fit.recipe, fit.traits.trains): fit for fit in found}
    own = [fit for fit in found if fit.recipe]
    for fit in [*kinds.values(), *own]:
        words = shlex.split(" ".join(fitting.command(have, fit)))
        assert words[:2] == ["alignzoo", "run"]
        recipe = load(words[2], words[3:], registry=ZOO)
        last = recipe.resolved["stage"][-1]
        assert last["optimizer"]["name"].rpartition("/")[2] == fit.listed.name


def test_memory_is_plans_arithmetic() -> None:
    shape = fitting.size_of(ZOO, "1B")
    # weights, gradients, two moments: 16 bytes a weight; a frozen copy in bf16: 2; a critic as much as the policy
    assert fitting.memory(shape, {"logprobs"}, adapted=False) == 16e9
    assert fitting.memory(shape, {"logprobs", "ref_logprobs"}, adapted=False) == 18e9
    assert fitting.memory(shape, {"logprobs", "values", "old_values"}, adapted=False) == 32e9
    assert fitting.memory(shape, {"teacher_jsd:0.5"}, adapted=False) == 18e9
    # an adapter of a hundredth: 16 bytes of each of its weights, 2 of the others, and no reference
    assert fitting.memory(shape, {"logprobs", "ref_logprobs"}, adapted=True) == 0.01 * 16e9 + 0.99 * 2e9
    assert fitting.memory(None, {"logprobs"}, adapted=False) == 0
    few = fits("pairs", model_shape=shape, memory=17e9)
    assert "policy.lora_rank=16" in fitting.command(fitting.Have("pairs", memory=17e9), few["dpo"])
    assert "policy.lora_rank=16" not in fitting.command(fitting.Have("pairs", memory=17e9), few["simpo"])
    assert not list(fitting.within(list(few.values()), 1e9))


@pytest.mark.parametrize(
    ("rows", "shape", "answer"),
    [
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}], "pairs", ""),
        ([{"prompt": "a", "completion": "b"}], "demonstrations", ""),
        ([{"prompt": "a", "completion": "b", "label": each} for each in (True, False)], "labels", ""),
        ([{"prompt": "a", "completions": ["b", "c", "d"], "ranks": [1, 2, 3]}], "rankings", ""),
        ([{"prompt": "a", "completions": ["b", "c", "d"], "scores": [0.5, 2, 1]}], "scores", ""),
        ([{"prompt": "a", "solution": "4"}], "prompts", "solution"),
        ([{"prompt": "a"}], "prompts", ""),
    ],
)  # fmt: skip
def test_a_file_is_looked_at(rows: list[dict[str, object]], shape: str, answer: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert fitting.looked_at(str(path), "auto", {})[:2] == (shape, answer)


@pytest.mark.parametrize(
    ("answers", "reward"),
    [
        (["He has 2 + 3 = 5.\n#### 5", "#### 1,200"], 'name="match", mode="numeric"'),
        (["7", "-2.5", "$40"], 'name="match", mode="numeric"'),
        (["\\frac{1}{2}", "3"], 'name="match", mode="math"'),
        (["Paris", "in 1987"], 'name="match"'),
    ],
)
def test_a_right_answer_is_held_as_what_it_is(answers: list[str], reward: str, alignzoo, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{i}", "answer": each}) + "\n" for i, each in enumerate(answers)))
    assert f"reward='{{{reward}}}'" in alignzoo("choose", "--data", path).out


def test_it_says_what_it_has_understood_on_eighty_columns(alignzoo, tmp_path: Path) -> None:
    path = tmp_path / "maths.jsonl"
    path.write_text('{"question": "1+1", "solution": "2"}\n', encoding="utf-8")
    said = alignzoo("choose", "--data", path, "--column", "prompt=question", "--model", "0.5B", "--memory", "10GB")
    assert said.code == 0, said.err
    assert "the column 'solution' looks like the right answer" in said.out
    assert "$ alignzoo run grpo" in said.out and 'answer="solution"' in said.out and "and " in said.out
    assert max(map(len, (line for line in said.out.splitlines() if str(tmp_path) not in line))) <= 80
    listed = json.loads(alignzoo("choose", "--data", "pairs", "--json").out)
    dpo = next(each for each in listed["methods"] if each["name"] == "dpo")
    assert dpo["passes"] == "4 F" and dpo["models"] == ["policy", "reference"] and dpo["recipe"]
    assert dpo["command"] == ["alignzoo", "run", "dpo", "data.path=FILE"]


def test_what_is_not_said_is_asked_for(alignzoo) -> None:
    assert "say what you have: --data FILE" in alignzoo("choose").err
    assert "neither a file nor a shape of data. Did you mean 'pairs'" in alignzoo("choose", "--data", "pair").err
    assert "give --model" in alignzoo("choose", "--data", "pairs", "--memory", "1GB").err
    sized = ("choose", "--data", "pairs", "--model", "1B", "--memory", "x")
    assert "--memory: found 'x', expected a size" in alignzoo(*sized).err
    assert "Nothing scores what a policy generates" in alignzoo("choose", "--data", "prompts").out


def test_lists_are_filtered_by_what_is_declared(alignzoo) -> None:
    every = ZOO.list("optimizer")

    def named(*given) -> set[str]:
        return {each.name for each in _declaring(ZOO, every, *given)}

    assert {"ppo", "dro-v"} <= named(["values"], None, None)
    assert named(["values"], False, None) == {"awr", "dro-v"} & {each.name for each in every}
    assert "gkd" in named(["teacher"], True, None) and "forward-kd" not in named(["teacher"], True, None)
    assert "dpo" in named([], None, "pairs") and not {"kto", "grpo"} & named([], None, "pairs")
    assert "Did you mean 'values'" in alignzoo("list", "--needs", "valuess").err
    assert "  kto " in alignzoo("list", "--data", "labels", "--needs", "ref").out


def test_the_nearest_relative_and_what_differs() -> None:
    def of(name: str) -> dict[str, object]:
        return relatives.nearest(ZOO, ZOO.registration("optimizer", name))

    assert of("cdpo") == {
        "name": "dpo",
        "how": "a variant of it",
        "differs": ["label_smoothing is 0.1 by default, not 0.0"],
    }
    assert "level is 'sequence' by default, not 'token'" in of("gspo")["differs"]
    assert of("kto")["differs"]
    for each in ZOO.list("optimizer"):
        assert of(each.name)["differs"] if each.family else True, each.name


def test_a_printed_command_reads_the_file_as_it_was_looked_at(alignzoo, tmp_path: Path) -> None:
    """Its columns, its format, and a name that a shell would take apart."""
    file = tmp_path / "my rows.jsonl"
    file.write_text('{"the question": "2+2?", "good": "4", "bad": "5"}\n')
    renamed = ("--column", "prompt=the question", "--column", "chosen=good", "--column", "rejected=bad")
    said = alignzoo("choose", "--data", file, *renamed, "--format", "preference", "--json")
    assert said.code == 0, said.err
    words = shlex.split(" ".join(json.loads(said.out)["methods"][0]["command"]))
    stage = load(words[2], words[3:], registry=ZOO).resolved["stage"][-1]
    assert stage["data"]["path"] == str(file) and stage["data"]["format"] == "preference"
    assert stage["data"]["columns"] == {"prompt": "the question", "chosen": "good", "rejected": "bad"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data", "pairs", "--column", "prompt=question"], "--column and --format say how a file is read"),
        (["--data", "pairs", "--format", "preference"], "--column and --format say how a file is read"),
        (["--data", "rows.jsonl", "--column", "question"], "--column question: expected OURS=THEIRS"),
        (["--data", "pairs", "--model", "0B"], "a model has parameters"),
        (["--data", "pairs", "--model", "1B", "--memory", "much"], "--memory: found 'much', expected a size"),
        (["--data", "pairs", "--model", "1B", "--memory", "0GB"], "--memory: found '0GB', expected a size"),
    ],
)
def test_what_would_have_no_effect_or_is_no_size_is_refused(alignzoo, arguments: list[str], told: str) -> None:
    said = alignzoo("choose", *arguments)
    assert said.code == 1 and told in said.err


def test_memory_is_read_as_plan_reads_it(alignzoo) -> None:
    """A GiB is no GB, but 7 % more."""
    found = fits("pairs", model_shape=fitting.size_of(ZOO, "1B"))
    size = found["sft"].adapter / 1e9
    asked = ("choose", "--data", "pairs", "--model", "1B", "--json", "--memory")
    gibi, giga = (alignzoo(*asked, f"{size * 0.95:.6f}{unit}") for unit in ("GiB", "GB"))
    assert "sft" in gibi.out and "sft" not in {each["name"] for each in json.loads(giga.out)["methods"]}
