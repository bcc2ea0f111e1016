"""Families, aliases and variants: read without import, the same for a name and its aliases, and loud about a clash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from alignzoo.errors import PluginError, RecipeError
from alignzoo.recipe import load
from alignzoo.registry import Registry
from alignzoo.registry.registrar import Origin
from alignzoo.registry.source import declared

PART = """
from dataclasses import dataclass
from typing import ClassVar
import alignzoo
{top}

@dataclass(frozen=True)
class Mine:
    '''It trains nothing much.'''
    strength: float = 1.0
    epochs: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({{"logprobs"}})
    def prepare(self, batch): return batch
    def loss(self, batch, out): return None

@alignzoo.hookimpl
def alignzoo_register(zoo):
    {body}
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    """Writes a plugin of one file."""

    def write(name: str, body: str, top: str = "") -> Path:
        file = tmp_path / f"{name}.py"
        file.write_text(PART.format(body=body, top=top))
        return file

    return write


def registry(*files: Path) -> Registry:
    zoo = Registry()
    for file in files:
        zoo.add_file(file)
    return zoo


FAMILY = 'zoo.optimizer("mine", Mine, family="preference", aliases=("my-own", "own"), variant_of="dpo")'


def test_what_is_said_of_a_name_is_read_without_import(plugin: Callable[..., Path]) -> None:
    read = registry(plugin("read", FAMILY, top="raise SystemError('imported')")).list("optimizer")
    mine = next(each for each in read if each.name == "mine")
    assert (mine.family, mine.aliases, mine.variant_of) == ("preference", ("my-own", "own"), "dpo")


PARTS = """
def _first(zoo):
    '''The first half of a long list.'''
    zoo.optimizer("one", Mine, family="preference")
    _nested(zoo)

def _nested(zoo):
    zoo.optimizer("two", Mine, aliases=("deux",))

def _endless(zoo):
    _endless(zoo)

def _takes_more(zoo, more=1):
    zoo.optimizer("three", Mine)
"""


def test_a_list_told_in_parts_is_read_without_import(plugin: Callable[..., Path]) -> None:
    top = "raise SystemError('imported')" + PARTS
    read = registry(plugin("parts", "_first(zoo)\n    zoo.optimizer('mine', Mine)", top=top)).list("optimizer")
    mine = [(each.name, each.family, each.aliases) for each in read if each.owner.endswith("parts.py'")]
    assert mine == [("mine", "", ()), ("one", "preference", ()), ("two", "", ("deux",))]


@pytest.mark.parametrize(
    "call", ["_endless(zoo)", "_takes_more(zoo)", "_first(zoo, 1)", "_nowhere(zoo)", "_first('zoo')"]
)
def test_a_part_that_cannot_be_read_is_run(call: str, plugin: Callable[..., Path], tmp_path: Path) -> None:
    origin = Origin("parts", folder=tmp_path, module="parts")
    assert declared(plugin("parts", call, top=PARTS), origin)[1] is None


@pytest.mark.parametrize(
    "body",
    [
        FAMILY.replace('("my-own", "own")', '["my-own", "own"]'),
        'zoo.optimizer("mine", Mine, aliases=tuple(["my-own", "own"]), family="pref" + "erence", variant_of="dpo")',
        f"for _ in range(1): {FAMILY}",
    ],
    ids=["a list", "expressions", "a loop"],
)
def test_running_it_says_the_same(body: str, plugin: Callable[..., Path]) -> None:
    zoo = registry(plugin("ran", body))
    found = zoo.registration("optimizer", "own")
    assert (found.name, found.family, found.aliases) == ("mine", "preference", ("my-own", "own"))


def test_an_alias_works_where_the_name_does(plugin: Callable[..., Path]) -> None:
    zoo = registry(plugin("called", FAMILY))
    assert zoo.get("optimizer", "own") is zoo.get("optimizer", "called.py/own") is zoo.get("optimizer", "mine")
    assert zoo.canonical("optimizer", "called.py/own") == "called.py/mine"
    by_name = load("mine", ["task=sort", "optimizer.strength=2.0"], registry=zoo)
    by_alias = load("own", ["task=sort", "optimizer.strength=2.0"], registry=zoo)
    assert by_alias == by_name and by_alias.resolved == by_name.resolved
    inside = load("dpo", ["optimizer.name=own", "optimizer.strength=2.0"], registry=zoo)
    assert inside.resolved["stage"][-1]["optimizer"] == {"name": "mine", "strength": 2.0, "epochs": 1}
    with pytest.raises(RecipeError, match="Did you mean 'my-own'"):
        load("my-onw", registry=zoo)


def test_an_alias_of_an_optimizer_runs_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "aliased_recipe.toml").write_text('task = "sort"\n[[stage]]\nname = "s"\npolicy = "hf"\nseed = 7\n')
    (tmp_path / "owner.py").write_text(
        PART.format(top="", body='zoo.optimizer("mine", Mine, aliases=("own",))')
        + '    zoo.recipe("mine", "aliased_recipe.toml")\n'
    )
    zoo = registry(tmp_path / "owner.py")
    assert load("own", ["optimizer=mine"], registry=zoo).stages[0].seed == 7


@pytest.mark.parametrize("other", ['"own", Mine', '"third", Mine, aliases=["own"]'], ids=["a name", "an alias"])
def test_a_clash_of_an_alias_names_both_owners(other: str, plugin: Callable[..., Path]) -> None:
    zoo = registry(plugin("one", FAMILY), plugin("two", f"zoo.optimizer({other})"))
    with pytest.raises(PluginError) as raised:
        zoo.get("optimizer", "own")
    assert "is registered by plugin 'one.py' and plugin 'two.py'" in str(raised.value)
    mine = next(each for each in zoo.list("optimizer") if each.name == "mine")
    assert mine.conflicts == ("plugin 'two.py'",)
    assert zoo.get("optimizer", "mine") is zoo.get("optimizer", "one.py/own")


def test_an_alias_takes_no_name_of_the_user_or_of_alignzoo_silently(plugin: Callable[..., Path]) -> None:
    zoo = registry(plugin("taker", 'zoo.optimizer("mine", Mine, aliases=["ppo"])'))
    with pytest.raises(PluginError, match=r"plugin 'policy-gradient' \(alignzoo .*\) and plugin 'taker\.py'"):
        zoo.get("optimizer", "ppo")


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ('aliases="own"', "aliases is the string 'own'; write aliases=('own',)"),
        ('aliases=("mine",)', "optimizer 'mine' is registered twice by this plugin"),
        ('aliases=("own", "own")', "alias 'own' is registered twice by this plugin"),
        ('aliases=("my own",)', "alias 'my own': a name is a string of letters"),
        ("aliases=(3,)", "alias 3: a name is a string"),
        ("family=3", "family is 3, expected a string"),
        ("variant_of=None", "variant_of is None, expected a string"),
    ],
)
def test_what_cannot_be_said_of_a_name(keywords: str, said: str, plugin: Callable[..., Path]) -> None:
    with pytest.raises(PluginError) as raised:
        registry(plugin("wrong", f'zoo.optimizer("mine", Mine, {keywords})'))
    assert said in str(raised.value)


def test_an_alias_may_not_be_another_name_of_the_plugin(plugin: Callable[..., Path]) -> None:
    both = 'zoo.optimizer("mine", Mine, aliases=("other",))\n    zoo.optimizer("other", Mine)'
    with pytest.raises(PluginError, match="optimizer 'other' is registered twice by this plugin"):
        registry(plugin("both", both))


def test_every_first_party_optimizer_has_a_family_and_every_variant_its_optimizer() -> None:
    own = [each for each in Registry().list() if each.distribution == "alignzoo"]
    optimizers = [each for each in own if each.kind == "optimizer"]
    assert [each.name for each in optimizers if not each.family] == []
    assert [each.name for each in optimizers if len(each.summary) > 59] == []  # whole on 80 columns
    variants = {each.name: each.variant_of for each in own if each.variant_of}
    assert variants["dapo"] == "grpo"
    assert set(variants.values()) <= {each.name for each in optimizers}


def test_the_list_shows_families_and_variants_beneath_their_optimizer(alignzoo, plugin: Callable[..., Path]) -> None:
    said = alignzoo("list", "--plugin", plugin("listed", FAMILY)).out
    optimizers = said[said.index("optimizers") : said.index("\npolicies")]
    names = [line[:18].rstrip() for line in optimizers.splitlines()[1:]]
    at = names.index("    grpo")
    assert names[at : at + 3] == ["    grpo", "      dapo", "      dr-grpo"] and "      replay" in names
    assert names.index("  policy gradient") < names.index("    gmpo") < at
    assert names.index("    dpo") < names.index("      mine")
    family = alignzoo("list", "--family", "imitation").out
    assert "sft" in family and "grpo" not in family
    wrong = alignzoo("list", "--family", "imitaton")
    assert wrong.code == 1 and "Did you mean 'imitation'" in wrong.err


def test_variants_in_a_circle_are_listed_all_the_same(alignzoo, plugin: Callable[..., Path]) -> None:
    both = 'zoo.optimizer("mine", Mine, variant_of="other")\n    zoo.optimizer("other", Mine, variant_of="mine")'
    said = alignzoo("list", "--plugin", plugin("circle", both)).out
    assert "    mine" in said and "    other" in said


def test_show_tells_a_names_place(alignzoo, plugin: Callable[..., Path]) -> None:
    said = alignzoo("show", "own", "--plugin", plugin("shown", FAMILY)).out
    assert said.startswith("optimizer mine ")
    assert "family: preference; also called: my-own, own; a variant of dpo" in said
    assert "a variant of grpo" in alignzoo("show", "recipe:dapo").out
