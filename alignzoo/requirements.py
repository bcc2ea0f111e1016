"""What parts require of one another, by what they declare; read here, and checked where they meet: in a recipe."""

from __future__ import annotations

from typing import Any

from alignzoo.errors import PluginError


def scores_generated(reward: Any) -> bool:
    """Whether a reward can score what a policy generates, `scores_generated: ClassVar[bool]`; True where it does not
    say."""
    return _flag(reward, "scores_generated", default=True)


def brings_scores(sampler: Any) -> bool:
    """Whether a sampler's groups come with scores, so that no reward is asked, `brings_scores: ClassVar[bool]`; False
    where it does not say."""
    return _flag(sampler, "brings_scores", default=False)


def brings(sampler: Any) -> frozenset[str]:
    """The columns of `Batch.extra` that a sampler's groups have, `brings: ClassVar[frozenset[str]]`; none where it does
    not say."""
    found: object = getattr(sampler, "brings", frozenset())
    if not isinstance(found, set | frozenset) or not all(isinstance(name, str) for name in found):
        raise PluginError(f"{_name(sampler)}.brings is {found!r}, expected names, as in frozenset({{'greedy'}})")
    return frozenset(found)


def from_data(sampler: Any) -> bool:
    """Whether a sampler's completions are those of the data and no others, `from_data: ClassVar[bool]`; False where it
    does not say."""
    return _flag(sampler, "from_data", default=False)


def generated_per_prompt(sampler: Any) -> int | None:
    """How many completions of each prompt a sampler generates: its `n`; None where it has no such field."""
    n = getattr(sampler, "n", None)
    return n if sampler.online and isinstance(n, int) else None


def _flag(part: Any, name: str, *, default: bool) -> bool:
    found = getattr(part, name, default)
    if not isinstance(found, bool):
        raise PluginError(f"{_name(part)}.{name} is {found!r}, expected True or False")
    return found


def _name(part: Any) -> str:
    return part.__name__ if isinstance(part, type) else type(part).__name__
