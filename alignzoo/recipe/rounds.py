"""Rounds: a stage, or a block of stages, that a recipe repeats. Each round's are stages of the run: NAME-1, NAME-2, ...

Within rounds "last:NAME" is the output of a stage in the round before, and "first:NAME" in the first round; where there
is none, in the first round, what stands after "or" takes its place: "last:dpo or task:policy".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from alignzoo.errors import RecipeError, did_you_mean
from alignzoo.recipe.parts import build, checked, show
from alignzoo.recipe.tables import STAGE_REFERENCE, Node
from alignzoo.registry.registrar import NAME

KEYS = ("rounds", "prompts")
"""What a stage that is repeated, or a block of stages, says of its rounds."""

ROUND = "round"
"""The key by which a stage of a resolved recipe says which round it is."""

Prompts = Literal["same", "fresh"]
Count = Annotated[int, Ge(1), Le(1000)]
"""Each round is read as stages of its own; a thousand take some fifteen seconds."""

EARLIER = re.compile(rf"(last|first):({NAME.pattern})(?: or (\S.*))?")
"""A reference to another round's output."""

Override = tuple[list[str], Node]


@dataclass(frozen=True)
class Round:
    """Which round of which stage a stage of the run is."""

    stage: str
    """The stage's name in the recipe."""
    number: Count
    """From 1 on."""
    of: Count
    """How many rounds there are."""
    prompts: Prompts = "same"
    """Whether each round has all of the training prompts, or a slice of its own: with "fresh", round 2 of 3 has the
    2nd, 5th, 8th, ... of them."""


@dataclass(frozen=True)
class Placed:
    """A stage in its place in the run."""

    name: str
    table: Node
    """Its own table."""
    block: Node
    """What the block around it says for all of its stages."""
    blocks: tuple[str, ...] = ()
    """The names of the block around it."""
    round: Round | None = None

    @property
    def base(self) -> str:
        """Its name in the recipe."""
        return self.round.stage if self.round else self.name

    @property
    def called(self) -> tuple[str, ...]:
        """The names by which a recipe or an override speaks of it, the widest first."""
        return (*self.blocks, *dict.fromkeys((self.base, self.name)))


def unrolled(stages: Sequence[Node], overrides: Iterable[Override]) -> tuple[list[Placed], list[Override]]:
    """The stages of the run in their order, and the overrides that are left when those of rounds are taken out."""
    rest: list[Override] = list(overrides)
    found: list[Placed] = []
    for stage in stages:
        name, is_block = stage.value["name"].value, "stage" in stage.value
        own, rest = _taken(rest, name)
        settings = {key: stage.value[key] for key in KEYS if key in stage.value} | own
        if "rounds" not in settings:
            for key, node in settings.items():
                raise RecipeError(f"{node.where}: {name}.{key}: this stage has no rounds; give rounds=2 or more, too")
            if is_block:
                raise RecipeError(f"{stage.where}: {name}: a block of stages says how often, as in rounds = 3")
            found.append(Placed(name, stage, Node({}, stage.where), round=_resolved(stage)))
            continue
        times: int = checked(Count, settings["rounds"], f"{name}.rounds")
        prompts: Prompts = checked(Prompts, settings.get("prompts", Node("same", stage.where)), f"{name}.prompts")
        inner = stage.value["stage"].value if is_block else [stage]
        block = stage.without("name", "stage", *KEYS) if is_block else Node({}, stage.where)
        for number in range(1, times + 1):
            for each in inner:
                base = each.value["name"].value
                round = Round(base, number, times, prompts)
                blocks = (name,) if is_block else ()
                found.append(Placed(f"{base}-{number}", each, block, blocks, round))
    _check_names(found)
    return found, rest


def addressed(node: Node, here: int, placed: Sequence[Placed]) -> Node:
    """A table whose references to stages of rounds are those of the stages of the run; `here` is where it belongs."""
    return mapped(node, lambda leaf: _address(leaf, here, placed))


def _address(leaf: Node, here: int, placed: Sequence[Placed]) -> Node:
    text, own = leaf.value, placed[here]
    found = EARLIER.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return _this_round(leaf, here, placed) if leaf.is_reference else leaf
    which, base, instead = found.groups()
    if own.round is None:
        cure = f"write stage:{base}"
        if base == own.base:  # which is no earlier stage
            cure = "give it rounds=2 or more" + (f", or write {instead}" if instead else "")
        raise RecipeError(f"{leaf.where}: {text!r}: {own.name} has no rounds; {cure}")
    beside = _beside(here, placed)
    if base not in beside:
        hint = did_you_mean(base, beside)
        raise RecipeError(f"{leaf.where}: {text!r}: no stage of these rounds is called {base!r}. {hint}")
    name = f"{base}-{own.round.number - 1 if which == 'last' else 1}"
    if name in [each.name for each in placed[:here]]:
        return Node(STAGE_REFERENCE + name, leaf.where)
    if instead is None:
        raise RecipeError(
            f"{leaf.where}: {text!r}: the first round has no such output yet; say what it has instead, as in "
            f'"{which}:{base} or task:policy"'
        )
    return _address(Node(instead, leaf.where), here, placed)


def _this_round(leaf: Node, here: int, placed: Sequence[Placed]) -> Node:
    """ "stage:NAME" of a stage with rounds: this round's, or the last's where the rounds are over."""
    base = leaf.value.removeprefix(STAGE_REFERENCE)
    if base in [each.name for each in placed]:
        return leaf
    earlier = [each.name for each in placed[:here] if each.base == base]
    own = placed[here].round
    if own is None or base not in _beside(here, placed):
        return Node(STAGE_REFERENCE + earlier[-1], leaf.where) if earlier else leaf
    name = f"{base}-{own.number}"
    if name not in earlier:
        raise RecipeError(
            f"{leaf.where}: {leaf.value!r}: {base!r} comes later in the same round; the round before is "
            f'"last:{base} or ...", with what the first round has instead'
        )
    return Node(STAGE_REFERENCE + name, leaf.where)


def _beside(here: int, placed: Sequence[Placed]) -> list[str]:
    """The stages of the same rounds, by their names in the recipe."""
    own = placed[here]
    mine = (each for each in placed if each.round and (each.base == own.base or each.blocks == own.blocks != ()))
    return list(dict.fromkeys(each.base for each in mine))


def _taken(overrides: list[Override], name: str) -> tuple[dict[str, Node], list[Override]]:
    """What overrides say of the rounds of this stage or block, and the others."""
    mine: dict[str, Node] = {}
    others: list[Override] = []
    for keys, node in overrides:
        if len(keys) == 2 and keys[0] == name and keys[1] in KEYS:
            mine[keys[1]] = node
        else:
            others.append((keys, node))
    return mine, others


def _resolved(stage: Node) -> Round | None:
    """Which round a stage is, as a resolved recipe says it."""
    node, name = stage.value.get(ROUND), stage.value["name"].value
    if node is None:
        return None
    if not node.is_table:
        raise RecipeError(f"{node.where}: {name}.{ROUND}: found {show(node.plain())}, allowed: a table")
    found: Round = build(Round, node, f"{name}.{ROUND}")
    if found.number > found.of:
        raise RecipeError(f"{node.where}: {name}.{ROUND}: found round {found.number} of {found.of}")
    return found


def _check_names(placed: Sequence[Placed]) -> None:
    seen: dict[str, Node] = {}
    for each in placed:
        node = each.table.value["name"]
        if each.name in seen:
            raise RecipeError(
                f"{node.where}: a second stage is called {each.name!r}; the first is at {seen[each.name].where}"
            )
        seen[each.name] = node


def mapped(node: Node, change: Callable[[Node], Node]) -> Node:
    """A node with every value in it that is no table or list of tables changed."""
    if node.is_table:
        return Node({key: mapped(each, change) for key, each in node.value.items()}, node.where)
    if node.is_list:
        return Node([mapped(each, change) for each in node.value], node.where)
    return change(node)


def names_of(placed: Sequence[Placed]) -> Iterator[str]:
    """Every name by which a recipe or an override may speak of its stages."""
    yield from dict.fromkeys(name for each in placed for name in each.called)
