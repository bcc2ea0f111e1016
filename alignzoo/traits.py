"""What parts declare of themselves, read in one place and checked where a plugin registers.

A trait is a class attribute, or a property where settings decide. An attribute whose name is nearly that of a trait or
of an optional method is refused: a misspelt trait would be a trait that nobody reads.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from alignzoo import columns
from alignzoo.errors import PluginError, did_you_mean
from alignzoo.former import CHANGES

REWARD_MODEL = "reward-model"
"""What is trained where it is no policy."""

NOTHING = "nothing"
"""What a stage trains that generates and scores, and leaves data: `alignzoo.recipe.nothing`."""

SCORES = "scores"
"""The column that alignzoo 0.1 told optimizers of reward models by."""


@dataclass(frozen=True)
class Traits:
    """What an optimizer declares beside its `needs`; each has a default."""

    couples: Literal["row", "group", "minibatch"] = "group"
    """What the loss may not be split through: it reads single rows, whole groups, or (sorting, ranking) a minibatch."""
    trains: Literal["policy", "reward-model"] = "policy"
    """What is trained: a policy that generates, or a model that scores."""
    online: bool = False
    """It learns from what the policy itself generates, so that its recipe samples from the policy by default."""
    completions: int = 1
    """How many completions of a prompt it compares at least; 1: a single one teaches it something."""
    imitates: bool = False
    """It makes a group's best answer likelier whatever its score, so that an answer that the data call bad has to be
    left out."""
    reads_rewards: bool = True
    """Its loss depends on the rewards. Where it does not, as where a teacher alone says what is better, a run needs no
    reward, and completions without a score are trained on as well."""
    kl_weight: str = ""
    """The field that weighs the KL to the reference: what `alignzoo compare --frontier` varies."""
    search: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Fields worth tuning and the range of each, for `alignzoo compare --tune`."""
    columns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Columns of `Batch.extra` that it reads and a sampler of its own brings, each with the values that rows have
    there, the usual one first: `{"greedy": (0.0, 1.0)}`. `alignzoo check` makes them up."""
    laws: Mapping[str, str] = field(default_factory=dict)
    """Laws of `WAIVABLE` that do not apply to it, and of each the reason why: `{"trust_region": "the ratio only
    weighs"}`. `alignzoo check` does not hold it to them, and `alignzoo show` tells the reason."""


WAIVABLE = (
    "first_step",
    "zero_advantage",
    "critic",
    "prefers_better",
    "columns_read",
    "ratios",
    "kl_pull",
    "kl_estimate",
    "adaptive",
    "trust_region",
    "every_token",
    "ranking",
    "baseline",
    "entropy_bonus",
    "dense_rewards",
    "returns",
    "value_loss",
    "normaliser",
    "label_smoothing",
    "margin",
    "better_rises",
    "stakes",
    "other_length",
    "kl_strength",
    "centring",
    "sources",
    "right_critic",
    "discount",
    "weightless",
    "figures",
    "token_numbers",
    "column_number",
    "sides",
    "other_groups",
    "loser_falls",
    "last_reward",
    "abstained",
    "no_hindsight",
    "far_behind",
    "kl_share",
    "level",
    "dense_zero",
    "untrained_end",
    "raised_returns",
    "reach",
    "cap",
    "sampled",
    "cut_off",
    "staleness",
    "turns",
    "rates",
    "at_target",
    "carried",
    "role_point",
    "ties",
    "length_normalised",
    "nll",
    "dropped",
    "holes",
)
"""Checks of the direction, and of what an optimizer does away from its start. Sound algorithms may differ here, and
then say so by `laws`."""

OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "optimizer": (*(f.name for f in dataclasses.fields(Traits)), "prepare_reads", "next", "follow", "check", "oracle"),
    "sampler": (
        "online",
        "attempts",
        "select",
        "choose",
        "next",
        "costs",
        "open",
        "check",
        "brings",
        "brings_scores",
        "from_data",
    ),
    "reward": ("verifiable", "scores_generated", "next", "costs", "outline", "open", "check"),
    "judge": ("write", "next", "costs", "open", "check"),
    "task": ("rates", "best"),
    "policy": ("outline", "check", "disk_use"),
    "engine": ("laws", "check"),
}
"""What the runner reads of a part of each kind where it is there."""


def traits_of(optimizer: Any) -> Traits:
    """What an optimizer (or its class, as its defaults have it) declares."""
    found = {}
    for each in dataclasses.fields(Traits):
        value = inspect.getattr_static(optimizer, each.name, None)
        if value is not None:
            instance = optimizer() if isinstance(optimizer, type) and isinstance(value, property) else optimizer
            found[each.name] = getattr(instance, each.name)
    return Traits(**found)


def prepare_reads(optimizer: Any) -> frozenset[str]:
    """The filled columns that `prepare` reads: those that it declares, or all that the optimizer needs."""
    declared: frozenset[str] | None = getattr(optimizer, "prepare_reads", None)
    return columns.filled(optimizer.needs) if declared is None else declared


def check_optimizer(name: str, optimizer: Any) -> None:
    """Raise PluginError where a declared trait has a value that it cannot have."""
    traits, allowed = traits_of(optimizer), get_type_hints(Traits)
    for each in ("couples", "trains"):
        values, found = get_args(allowed[each]), getattr(traits, each)
        if found not in values:
            hint = did_you_mean(str(found), values)
            raise PluginError(f"optimizer {name!r}: {each} is {found!r}, which it cannot be. {hint}")
    if not isinstance(traits.online, bool):
        raise PluginError(f"optimizer {name!r}: online is {traits.online!r}, expected True or False")
    if not isinstance(traits.completions, int) or isinstance(traits.completions, bool) or traits.completions < 1:
        raise PluginError(f"optimizer {name!r}: completions is {traits.completions!r}, expected 1 or more")
    _check_laws(name, traits.laws)
    _check_columns(name, traits.columns)
    settings = {f.name for f in dataclasses.fields(optimizer)}
    if traits.kl_weight and traits.kl_weight not in settings:
        what = f"kl_weight is {traits.kl_weight!r}, which is no field"
        raise PluginError(f"optimizer {name!r}: {what}. {did_you_mean(traits.kl_weight, settings)}")
    for key, between in dict(traits.search).items():
        if key not in settings:
            hint = did_you_mean(key, settings)
            raise PluginError(f"optimizer {name!r}: search names {key!r}, which is no field. {hint}")
        if not (isinstance(between, tuple) and len(between) == 2 and 0 < between[0] < between[1] < math.inf):
            raise PluginError(f"optimizer {name!r}: search[{key!r}] is {between!r}, expected (low, high) above 0")


def _check_laws(name: str, laws: Any) -> None:
    """Raise PluginError where `laws` waives what there is not, or without a reason."""
    if not isinstance(laws, Mapping):
        raise PluginError(f"optimizer {name!r}: laws is {laws!r}, expected a table of laws and why they do not apply")
    for law, why in laws.items():
        if law not in WAIVABLE:
            hint = did_you_mean(str(law), WAIVABLE)
            raise PluginError(f"optimizer {name!r}: laws names {law!r}, which is no law that can be waived. {hint}")
        if not isinstance(why, str) or not why.strip():
            raise PluginError(f"optimizer {name!r}: laws[{law!r}] is {why!r}, expected why it does not apply, in words")


def _check_columns(name: str, given: Any) -> None:
    """Raise PluginError where `columns` is no table of columns and their values."""
    if not isinstance(given, Mapping):
        raise PluginError(f"optimizer {name!r}: columns is {given!r}, expected a table of columns and their values")
    for each, values in given.items():
        if not (isinstance(values, tuple) and values and all(isinstance(value, int | float) for value in values)):
            raise PluginError(f"optimizer {name!r}: columns[{each!r}] is {values!r}, expected numbers, as (0.0, 1.0)")


def check_prepare_reads(name: str, optimizer: Any, needs: frozenset[str]) -> None:
    """Raise PluginError where `prepare_reads` names what the optimizer does not need."""
    decided = isinstance(inspect.getattr_static(optimizer, "prepare_reads", None), property)
    made = optimizer() if decided and isinstance(optimizer, type) else optimizer
    reads = getattr(made, "prepare_reads", None)
    if reads is None:
        return
    if not isinstance(reads, set | frozenset):
        raise PluginError(f"optimizer {name!r}: prepare_reads is {reads!r}, expected a frozenset of column names")
    for each in sorted(reads - columns.filled(needs)):
        known = columns.filled(needs)
        raise PluginError(
            f"optimizer {name!r}: prepare_reads names {each!r}, which is not among the columns of other roles in its "
            f"needs. {did_you_mean(each, known)}"
        )


def check_trains(name: str, optimizer: Any, needs: frozenset[str]) -> None:
    """Raise PluginError for an optimizer that alignzoo 0.1 took for a reward model's by its columns alone."""
    if SCORES in needs and inspect.getattr_static(optimizer, "trains", None) is None:
        raise PluginError(
            f"optimizer {name!r} needs {SCORES!r}, by which alignzoo 0.1 knew that it trains a reward model; now it "
            f'says so: trains: ClassVar[str] = "{REWARD_MODEL}". {CHANGES}'
        )


def check_names(kind: str, name: str, part: Any, members: tuple[str, ...]) -> None:
    """Raise PluginError for an attribute that is nearly, but not quite, one that the runner reads."""
    settings = {f.name for f in dataclasses.fields(part)} if dataclasses.is_dataclass(part) else set()
    known = {*members, *OPTIONAL[kind]}
    for own in _own_names(part):
        if own in known or own in settings or own.startswith("_"):
            continue
        near = difflib.get_close_matches(own, known, n=1, cutoff=0.75)
        if near and near[0] not in _own_names(part):
            raise PluginError(
                f"{kind} {name!r}: nobody reads its attribute {own!r}. Did you mean {near[0]!r}? If not, give it "
                "a name less like that one, or an underscore in front"
            )


def _own_names(part: Any) -> list[str]:
    """What the class and its parents of other modules than typing and builtins define."""
    cls = part if isinstance(part, type) else type(part)
    return list(dict.fromkeys(_defined(cls)))


def _defined(cls: type) -> Iterator[str]:
    for parent in cls.__mro__:
        if parent.__module__ not in ("builtins", "typing"):
            yield from vars(parent)
