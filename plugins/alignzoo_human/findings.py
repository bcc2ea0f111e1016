"""What stands out of raters' figures, in sentences: only what chance alone would rarely show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alignzoo.judging.agreement import Estimate, binomial
from alignzoo_human.quality import Alpha

CONCLUSIVE, TENTATIVE = 0.8, 0.667
"""α from which on conclusions can be drawn, and tentative ones: Krippendorff 2004, "Content Analysis", p. 241."""

FAST = 0.1
"""The share of votes that came too fast from which it is said."""

FEW = 0.1
"""The share of items with a second rater under which it is said."""


@dataclass(frozen=True)
class Figures:
    """What is known of one rater; see `alignzoo_human.bias`."""

    rater: str
    votes: int
    """All votes, gold questions and repeats among them."""
    self_consistency: Estimate | None
    gold: Estimate | None
    ties: Estimate | None
    left: Estimate | None
    longer: Estimate | None
    length_correlation: Estimate | None
    """The correlation of grades with the length of what is graded."""
    seconds: float
    """The median time of a vote."""
    too_fast: Estimate | None
    modelled_accuracy: float | None
    """How probably a vote is true, by Dawid and Skene's model, with three raters or more."""


def findings(figures: Sequence[Figures], alphas: Sequence[Alpha], items: int, shared: int) -> list[str]:
    """What stands out; a sentence that nothing does where that is so.

    A rater is named where an interval at the level 1 - 0.05/raters leaves out what is expected (Bonferroni): of raters
    who are all alike, a report names anybody for one figure in at most 1 of 20.
    """
    found = [*_agreement(alphas, items, shared)]
    level = 1 - 0.05 / max(len(figures), 1)
    for each in figures:
        found += _of_rater(each, [other for other in figures if other is not each], level)
    nothing = f"Nothing stands out of the {len(figures)} raters." if figures else "There are no votes yet."
    return found or [nothing]


def _agreement(alphas: Sequence[Alpha], items: int, shared: int) -> list[str]:
    said = []
    if items and shared < FEW * items:
        said.append(
            f"{shared} of {items} items have votes of two raters, so that little can be told of agreement: "
            "ask more raters about the same items"
        )
    for each in alphas:
        if each.level == "ordinal" and each.alpha and each.alpha.low < TENTATIVE:
            found, sure = each.alpha, each.alpha.high < TENTATIVE
            said.append(
                f"Raters agree {'little' if sure else 'perhaps little'} on {each.kind} votes: α = {found.value:.2f} "
                f"({found.low:.2f} to {found.high:.2f}), where {TENTATIVE} is wanted for tentative conclusions and "
                f"{CONCLUSIVE} for others"
            )
    return said


def _of_rater(each: Figures, others: Sequence[Figures], level: float) -> list[str]:
    said = []
    if each.left and _outside(each.left, 0.5, level):
        said.append(f"{each.rater} prefers the {'left' if each.left.value > 0.5 else 'right'}: the answer on the left "
                    f"wins {_told(each.left)}, where sides are drawn evenly")  # fmt: skip
    rest = _pooled(others, lambda other: other.longer)
    if each.longer and rest is not None and _outside(each.longer, rest, level):
        more = "longer" if each.longer.value > rest else "shorter"
        said.append(f"{each.rater} prefers {more} answers than others do: the longer one wins {_told(each.longer)}, "
                    f"and {rest:.0%} with the others")  # fmt: skip
    measured: dict[str, Callable[[Figures], Estimate | None]] = {
        "gives gold questions the right answer": lambda other: other.gold,
        "votes as before when an item comes again": lambda other: other.self_consistency,
    }
    for name, figure in measured.items():
        own, rest = figure(each), _pooled(others, figure)
        if own and rest is not None and own.value < rest and _outside(own, rest, level):
            said.append(f"{each.rater} {name} less often than others: {_told(own)}, and {rest:.0%} with the others")
    if each.too_fast and each.too_fast.value >= FAST:
        said.append(f"{each.rater} votes sooner than the answers can be read: {_told(each.too_fast)}, with a median of "
                    f"{each.seconds:.1f} s")  # fmt: skip
    return said


def _outside(found: Estimate, expected: float, level: float) -> bool:
    """Whether the interval at this level leaves out what is expected."""
    hits = round(found.value * found.n)
    counted = abs(hits - found.value * found.n) < 1e-6  # else parts of rankings, which have no count
    wider = binomial(hits, found.n, level) if counted else found
    return not wider.low <= expected <= wider.high


def _pooled(others: Sequence[Figures], figure: Callable[[Figures], Estimate | None]) -> float | None:
    known = [found for found in map(figure, others) if found is not None]
    return sum(each.value * each.n for each in known) / sum(each.n for each in known) if known else None


def _told(found: Estimate) -> str:
    return f"{found.value:.0%} of the time ({found.low:.0%} to {found.high:.0%}, of {found.n})"
