"""Two models on the same items: means, differences paired by item, and intervals that hold together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from alignzoo.compare.inference import verdict
from alignzoo.compare.statistics import LEVEL, Estimate, over_prompts
from alignzoo.errors import DataError
from alignzoo.evaluation.outside import Measured


@dataclass(frozen=True)
class Line:
    """One metric of one evaluation."""

    evaluation: str
    metric: str
    items: int
    mean: float
    low: float
    high: float
    """The 95 % interval of the mean over items like these."""
    base: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    """The interval of the difference, which holds together with those of all other lines; None: no item differs."""
    shown: bool | None = None
    """Whether it leaves out 0."""
    lower_is_better: bool = False


def lines(found: Sequence[Measured], base: Sequence[Measured] = ()) -> list[Line]:
    """Every metric, beside the base's where there is one. Raises DataError where the two have other items."""
    made: list[Line] = []
    family = sum(len(each.metrics()) for each in found)
    for index, each in enumerate(found):
        others = base[index].metrics() if base else {}
        for metric, values in each.metrics().items():
            mean = _estimate(list(values.values()))
            low, high = mean.interval
            line = Line(each.name, metric, len(values), float(mean.mean), low, high)
            if base:
                line = _beside(line, values, others.get(metric, {}), family)
            made.append(Line(**{**vars(line), "lower_is_better": metric in each.lower_is_better}))
    return made


def _estimate(values: list[float]) -> Estimate:
    return over_prompts(np.asarray(values, dtype=float), "share" if _right_or_wrong(values) else "any")


def _right_or_wrong(values: Iterable[float]) -> bool:
    """Whether every item is right, wrong, or a tie, which is a part of a right one: 1, 0, ½, ⅓, ..."""
    return all(value == 0 or (0 < value <= 1 and (1 / value).is_integer()) for value in values)


def _beside(line: Line, values: dict[str, float], base: dict[str, float], family: int) -> Line:
    if not base:
        raise DataError(
            f"{line.evaluation}: {line.metric} was measured of the one and not of the other, as of a reward model or a "
            "judge beside a language model: compare two of a kind"
        )
    if values.keys() != base.keys():
        missing = sorted(values.keys() ^ base.keys())[:3]
        raise DataError(f"{line.evaluation}, {line.metric}: the two models have other items, as {', '.join(missing)}")
    gaps = np.asarray([values[item] - base[item] for item in values], dtype=float)
    whole = _right_or_wrong((*values.values(), *base.values()))
    estimate = over_prompts(gaps, "difference" if whole else "any")
    decided = verdict(estimate, family, LEVEL)
    return Line(
        **{
            **vars(line),
            "base": float(np.mean(list(base.values()))),
            "difference": float(gaps.mean()),
            "difference_low": decided.low,
            "difference_high": decided.high,
            "shown": decided.shown,
        }
    )
