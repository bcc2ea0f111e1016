"""Whether a judge is fit to train: what was found of it, against bars that everybody may set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from alignzoo.judging.examine import FIGURES, Examination


@dataclass(frozen=True)
class Bars:
    """What a judge must reach to be fit to train. Our choice and no law: tell yours beside your figures."""

    consistent: Annotated[float, Ge(0), Le(1)] = 0.8
    """At least this share of pairs has the same winner in both orders."""
    repeatable: Annotated[float, Ge(0), Le(1)] = 0.9
    """At least this share of questions gets the same verdict when asked again."""
    padded: Annotated[float, Ge(0), Le(1)] = 0.6
    """At most this share of answers loses to itself with padding."""
    length: Annotated[float, Ge(0), Le(2)] = 0.3
    """At most by this much its correlation with length is above that of the labels."""
    kappa: Annotated[float, Ge(-1), Le(1)] = 0.2
    """At least this is Cohen's κ with the raters' majority, or with the one rater."""
    unanswered: Annotated[float, Ge(0), Le(1)] = 0.1
    """At most this share of pairs is abstained from or fails."""


@dataclass(frozen=True)
class Fitness:
    """The finding."""

    fit: bool | None
    """None where nothing speaks against the judge, but something could not be measured."""
    reasons: tuple[str, ...]
    """Why not."""

    def __str__(self) -> str:
        said = {True: "yes", False: "no, because ", None: "not shown, because "}[self.fit]
        return f"fit to train: {said}{'; '.join(self.reasons)}"


def fitness(found: Examination, bars: Bars) -> Fitness:
    """The finding: every estimate against its bar, and κ's whole interval against chance."""
    against = [_short(found, name, getattr(bars, name)) for name in ("consistent", "repeatable")]
    against += [_beyond(found, name, getattr(bars, name)) for name in ("padded", "unanswered")]
    against += [_longwinded(found, bars.length), _disagreeing(found, bars.kappa)]
    if reasons := tuple(filter(None, against)):
        return Fitness(False, reasons)
    unknown = [f"{FIGURES[name]} could not be measured: {why}" for name, why in found.unmeasured.items() if name in KEY]
    return Fitness(None if unknown else True, tuple(unknown))


KEY = ("consistent", "repeatable", "padded", "length")
"""What must have been measured for a yes."""


def _short(found: Examination, name: str, bar: float) -> str:
    if name not in found.figures or found.figures[name].value >= bar:
        return ""
    return f"{FIGURES[name]} in {found.figures[name].value:.0%} of cases, {bar:.0%} or more wanted"


def _beyond(found: Examination, name: str, bar: float) -> str:
    if name not in found.figures or found.figures[name].value <= bar:
        return ""
    return f"{FIGURES[name]} in {found.figures[name].value:.0%} of cases, {bar:.0%} or less wanted"


def _longwinded(found: Examination, bar: float) -> str:
    if "length" not in found.figures or "length_labels" not in found.figures:
        return ""
    judge, labels = (found.figures[name].value for name in ("length", "length_labels"))
    if judge - labels <= bar:
        return ""
    return f"it prefers length: correlation {judge:.2f}, the labels' {labels:.2f}, at most {bar:.2f} more wanted"


def _disagreeing(found: Examination, bar: float) -> str:
    if not found.judged:
        return "it agreed with nobody: there is no pair that both it and a rater decided"
    whole = found.judged[-1]  # the majority, or the one rater
    if whole.kappa.value < bar:
        return f"κ with the {whole.second} is {whole.kappa.value:.2f}, {bar:.2f} or more wanted"
    if whole.kappa.low <= 0 <= bar:
        return f"κ with the {whole.second} may as well be 0: its interval begins at {whole.kappa.low:.2f}"
    return ""
