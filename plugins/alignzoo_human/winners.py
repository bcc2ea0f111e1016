"""Whose answers people prefer, where several models, or one with several settings, answered the same prompts."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from alignzoo.judging.agreement import Estimate
from alignzoo_human.bias import share
from alignzoo_human.items import Item, written
from alignzoo_human.votes import Vote

SETTINGS = ("temperature", "top_k", "top_p", "max_new_tokens")
"""How a model's answers may differ."""

FEWEST = 10
"""Prompts without which an interval over them would say too much."""


def winners(items: Mapping[str, Item], votes: Sequence[Vote], *, seed: int = 0) -> dict[str, Estimate]:
    """For each who generated answers, how often theirs is preferred to an answer of somebody else, a tie counting half.

    It is the mean over prompts, with its interval over these. An answer that several gave alike counts for none of
    them, and neither do tests of raters and repeated questions. Empty where one alone generated everything.
    """
    names = _names(items.values())
    won: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for vote in votes:
        item = items[vote.item]
        if vote.gold or vote.repeat or item.kind == "grade" or not item.origins:
            continue
        ranks = vote.value if isinstance(vote.value, tuple) else (1 - vote.value, vote.value)
        given = [{name for origin in each.get("from", ()) if (name := names(origin))} for each in item.origins]
        for i, j in itertools.permutations(range(len(ranks)), 2):
            if len(given[i]) == len(given[j]) == 1 and given[i] != given[j]:
                worth = 0.5 if ranks[i] == ranks[j] else float(ranks[i] < ranks[j])
                won[next(iter(given[i]))][written(item.prompt)].append(worth)
    shares = {name: share([fmean(each) for each in by.values()], seed, "winners") for name, by in sorted(won.items())}
    return {name: found for name, found in shares.items() if found is not None}


def _names(items: Iterable[Item]) -> Any:
    """The name of who generated an answer: the model or the file; where all have the same one, the settings that
    differ."""
    origins = [origin for item in items for each in item.origins for origin in each.get("from", ())]
    several = len({_who(origin) for origin in origins}) > 1
    differ = [key for key in SETTINGS if len({origin.get(key) for origin in origins}) > 1]

    def name(origin: Mapping[str, Any]) -> str:
        return _who(origin) if several else ", ".join(f"{key} {origin[key]}" for key in differ if key in origin)

    return name


def _who(origin: Mapping[str, Any]) -> str:
    return str(origin.get("model") or origin.get("file") or "")


def told(found: Mapping[str, Estimate]) -> list[str]:
    """A line for each, the most preferred first."""
    best_first = sorted(found.items(), key=lambda each: -each[1].value)
    return [f"{name}: preferred to others' answers in {_share(each)}" for name, each in best_first]


def _share(each: Estimate) -> str:
    if each.n < FEWEST:
        return f"{each.value:.0%} of comparisons, in answers to {each.n} prompts, too few for an interval"
    return f"{each.value:.0%} [{each.low:.0%}, {each.high:.0%}] of comparisons, in answers to {each.n} prompts"
