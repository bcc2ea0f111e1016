"""`alignzoo show`: what a part is, read from its source."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from annotated_types import Ge

from alignzoo import testing
from alignzoo.cli import card
from alignzoo.recipe.fields import fields_of, paragraphs


@dataclass(frozen=True)
class Base:
    """A part."""

    first: Annotated[int, Ge(1)] = 3
    """Comes from
    the base."""


@dataclass(frozen=True)
class Part(Base):
    """A part with more."""

    second: str = "x"
    third: tuple[float, ...] = ()
    """The last."""


def test_fields_have_type_default_and_the_string_beneath() -> None:
    first, second, third = fields_of(Part)
    assert (first.name, first.type, first.default, first.meaning) == (
        "first",
        "an integer at least 1",
        3,
        "Comes from the base.",
    )
    assert (second.default, second.meaning) == ("x", "")
    assert (third.default, third.meaning) == ([], "The last.")


def test_indented_paragraphs_stay_as_they_are() -> None:
    assert paragraphs("One\ntwo.\n\n    a = b\n    c = d") == "One two.\n\n    a = b\n    c = d"


def test_an_algorithm_with_its_formula_source_needs_and_fields(alignzoo) -> None:
    said = alignzoo("show", "ppo").out
    assert "clip(ρ, 1±ε)" in said
    assert "arXiv:1707.06347" in said
    assert "old_logprobs" in said
    assert "Discount per token." in said
    assert "alignzoo show recipe:ppo" in said


def test_json_names_every_field(alignzoo) -> None:
    about = json.loads(alignzoo("show", "optimizer:grpo", "--json").out)
    assert about["kind"] == "optimizer"
    assert {"name", "type", "required", "default", "meaning"} == about["fields"][0].keys()
    assert all(field["meaning"] for field in about["fields"])


@pytest.mark.slow
def test_every_registered_part_can_be_shown(alignzoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "results", lambda *_, **__: [])  # tests/test_zoo.py makes the checks of each
    for each in json.loads(alignzoo("list", "--json").out)["plugins"]:
        said = alignzoo("show", f"{each['kind']}:{each['plugin']}/{each['name']}")
        assert said.code == 0, said.err


def test_a_recipe_with_its_stages(alignzoo) -> None:
    said = alignzoo("show", "rlhf").out
    assert "stages: " in said
    assert said.count("[[stage]]") == 3
    about = json.loads(alignzoo("show", "rlhf", "--json").out)
    assert [stage["optimizer"]["name"] for stage in about["stages"]] == ["sft", "reward-model", "ppo"]


def test_of_two_owners_one_must_be_said(alignzoo, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import alignzoo\nfrom alignzoo_policy_gradient.grpo import GRPO\n\n"
        "@alignzoo.hookimpl\ndef alignzoo_register(zoo):\n    zoo.optimizer('ppo', GRPO)\n"
    )
    said = alignzoo("show", "optimizer:ppo", "--plugin", file)
    assert said.code == 1 and "Write 'policy-gradient/ppo' or 'mine.py/ppo'" in said.err
    assert "clip(ρ, 1-ε, 1+ε')" in alignzoo("show", "optimizer:mine.py/ppo", "--plugin", file).out


def test_a_misspelt_name(alignzoo) -> None:
    said = alignzoo("show", "grop")
    assert said.code == 1
    assert "Did you mean 'grpo'" in said.err


def test_a_card_says_what_a_step_costs() -> None:
    ppo = card.cost({"logprobs", "entropy", "values", "old_logprobs", "ref_logprobs", "old_values"}, 4)
    assert [line["cost"] for line in ppo["step"]] == ["F", "F", "F'", "3·E·F", "3·E·F'"]
    assert ppo["total"] == "14 F + 13 F' at E = 4"  # 2 + 3·4, 1 + 3·4
    assert [line.partition(":")[0] for line in ppo["memory"]] == ["4 W", "1 W", "4 W'"]
    dpo = card.cost({"logprobs", "ref_logprobs"}, 1)
    assert dpo["total"] == "4 F at E = 1"
    sft = card.cost({"logprobs"}, 2)
    assert (sft["total"], len(sft["memory"])) == ("6 F at E = 2", 1)
    assert card.cost({"scores"}, 1)["total"] == "3 F at E = 1"
    whole = card.cost({"teacher_jsd:0.5"}, 2)  # both distributions in every update
    assert (whole["total"], whole["memory"][-1]) == ("6 F + 2 F(teacher) at E = 2", "1 W(teacher): 'teacher', frozen")
    assert card.cost({"logprobs", "teacher_logprobs"}, 1)["total"] == "3 F + 1 F(teacher) at E = 1"


def test_a_card_says_how_it_stands_with_the_laws(alignzoo, tmp_path: Path) -> None:
    about = json.loads(alignzoo("show", "optimizer:sft", "--json").out)
    assert about["conformance"]["failed"] == []
    assert about["papers"] == ["https://arxiv.org/abs/2203.02155"]
    assert about["example"].startswith("alignzoo run sft task=sort")
    file = tmp_path / "mine.py"
    source = (Path(__file__).parents[2] / "plugins" / "alignzoo_imitation" / "sft.py").read_text()
    hook = "@alignzoo.hookimpl\ndef alignzoo_register(zoo):\n    zoo.optimizer('mine', SFT)\n"
    file.write_text(source.replace("Terms(-out", "Terms(out") + "\n\nimport alignzoo\n\n\n" + hook)
    said = " ".join(alignzoo("show", "mine", "--plugin", file).out.split())
    assert re.search(r"conformance: breaks \d+ of", said) and "prefers_better (law 6)" in said, said


def test_a_card_has_the_benchmarks_that_there_are(tmp_path: Path) -> None:
    runs = [
        {"recipe": name, "task": "sort", "seconds": 10.0, "before": {"gold": 0.25}, "after": {"gold": gold, "kl": 1.0}}
        for name, gold in (("ppo", 0.5), ("ppo", 0.75), ("grpo", 0.1))
    ]
    machine = {"processor": "abacus", "gpu": "none", "date": "2026-01-01"}
    (tmp_path / "learning.json").write_text(json.dumps({"machine": machine, "runs": runs}))
    (row,) = card.benchmarks("ppo", tmp_path)
    assert (row["seeds"], row["gold_before"], row["gold_after"]) == (2, 0.25, 0.625)
    assert card.benchmarks("dpo", tmp_path) == [] == card.benchmarks("ppo", tmp_path / "none")
