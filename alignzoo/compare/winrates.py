"""Who wins: a judge compares two algorithms' answers to the same prompt, in both orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignzoo.compare.plan import entry
from alignzoo.compare.results import WinRate
from alignzoo.compare.statistics import Array, Crossed, over_prompts
from alignzoo.evaluation.answers import Answer
from alignzoo.interfaces import Judge
from alignzoo.judging import ask
from alignzoo.recipe import part
from alignzoo.registry import Registry
from alignzoo.types import Question, Verdict

Verdicts = Callable[[Sequence[tuple[Answer, Answer]]], list[float]]
"""For pairs of answers to the same prompt: 1 where the first is better, 0 where the second is, between for a tie."""

Keep = Callable[[dict[str, Any]], None]
"""Takes what a judge has said of one pair of answers: a line of verdicts.jsonl."""

RIDGE = (0.01, 1.0)
"""Precisions of the normal priors on the length-controlled model's coefficients: of the log-odds at the mean length
difference, which it bounds where one side wins always; and of the effect of length, which it takes for 0 where lengths
do not differ enough to tell it. Of a hundred answers and more, whose lengths differ, it changes little."""


def verdicts_of(judge: str, registry: Registry) -> Verdicts:
    """Those of "gold", or of a judge with its settings: "openai[model=gpt-4.1-mini]"."""
    given = entry(judge)
    if given.label == "gold":
        return by_gold
    return by_judge(part(registry.get("judge", given.name), given.settings, given.name, registry=registry))


def by_judge(judge: Judge) -> Verdicts:
    """The better one in a judge's eyes. Equal texts are ties, and not asked about; so is what it abstains from."""

    def verdicts(pairs: Sequence[tuple[Answer, Answer]]) -> list[float]:
        asked = [Question(a.asked, (a.text, b.text)) for a, b in pairs if a.text != b.text]
        given = iter(ask(judge, asked, None, on_error="retry"))
        return [0.5 if a.text == b.text else _chance(next(given)) for a, b in pairs]

    return verdicts


def _chance(verdict: Verdict) -> float:
    return 0.5 if verdict.value is None else verdict.value


def by_gold(pairs: Sequence[tuple[Answer, Answer]]) -> list[float]:
    """The better one by the task's hidden gold score; where there is none, by accuracy, or else by the reward."""
    return [_greater(_worth(a), _worth(b)) for a, b in pairs]


def _worth(answer: Answer) -> float:
    known = (answer.gold, answer.accuracy, answer.reward)
    return next((value for value in known if value is not None), 0.0)


def _greater(a: float, b: float) -> float:
    return 1.0 if a > b else 0.5 if a == b else 0.0


@dataclass(frozen=True)
class Bout:
    """Two algorithms' answers, by seed: row by row to the same prompts."""

    task: str
    a: str
    b: str
    answers_a: Sequence[Sequence[Answer]]
    answers_b: Sequence[Sequence[Answer]]
    seeds: Sequence[int] = ()
    """Theirs, where verdicts are kept."""


def win_rate(bout: Bout, verdicts: Verdicts, keep: Keep | None = None) -> WinRate:
    """The rate with its interval over seeds and prompts, and the rate at equal length.

    Each pair is judged in both orders, and the two verdicts are averaged, so that a judge's liking for the first
    place cancels out. `keep` is told each.
    """
    pairs = [(x, y) for a, b in zip(bout.answers_a, bout.answers_b, strict=True) for x, y in zip(a, b, strict=True)]
    forth = np.asarray(verdicts(pairs))
    back = 1 - np.asarray(verdicts([(y, x) for x, y in pairs]))
    if keep is not None:
        which = [(seed, x.prompt) for seed, answers in zip(bout.seeds, bout.answers_a, strict=True) for x in answers]
        for (seed, prompt), one, other in zip(which, forth.tolist(), back.tolist(), strict=True):
            about = {"task": bout.task, "a": bout.a, "b": bout.b, "seed": seed, "prompt": prompt}
            keep(about | {"a_first": one, "b_first": other})
    wins = (forth + back) / 2
    by_seed = wins.reshape(len(bout.answers_a), -1)
    if min(by_seed.shape) > 1:
        estimate = Crossed(by_seed[None]).means().estimate(kind="share")[0]
    else:
        estimate = over_prompts(by_seed.mean(0), "share")
    low, high = estimate.interval
    lengths = np.array([len(x.tokens) - len(y.tokens) for x, y in pairs], float)
    return WinRate(
        task=bout.task,
        a=bout.a,
        b=bout.b,
        rate=float(estimate.mean),
        low=low,
        high=high,
        length_controlled=length_controlled(wins, lengths),
        ties=float(np.mean(wins == 0.5)),
        inconsistent=float(np.mean((forth - 0.5) * (back - 0.5) < 0)),
        n=len(pairs),
    )


def reversed_rate(rate: WinRate) -> WinRate:
    """The same bout seen from the other side."""
    return WinRate(
        task=rate.task,
        a=rate.b,
        b=rate.a,
        rate=1 - rate.rate,
        low=1 - rate.high,
        high=1 - rate.low,
        length_controlled=1 - rate.length_controlled,
        ties=rate.ties,
        inconsistent=rate.inconsistent,
        n=rate.n,
    )


def length_controlled(wins: Array, lengths: Array) -> float:
    """The win-rate at equal length: σ(θ) of the logistic regression P(win) = σ(θ + φ·x), x = tanh(Δ/sd(Δ)).

    Δ is the first answer's length less the second's. It is fitted as θ' + φ·(x - x̄), so that φ is 0, and the rate the
    plain one, where one side is always longer by as much, which tells nothing of equal lengths. This is AlpacaEval 2's
    (Dubois et al. 2024, arXiv:2404.04475, eq. 2) with its length term and without its term for each instruction's
    difficulty, which needs many models to be estimated. A half-win counts half on each side. Swapping the two sides
    turns θ into -θ exactly.
    """
    spread = float(lengths.std())
    controlled = np.tanh(lengths / spread) if spread else np.zeros_like(lengths)
    middle, ridge = controlled.mean(), np.array(RIDGE)
    features = np.stack([np.ones_like(controlled), controlled - middle], 1)
    theta = np.zeros(2)
    for _ in range(50):
        chance = 1 / (1 + np.exp(-features @ theta))
        slope = features.T @ (wins - chance) - ridge * theta
        curvature = (features * (chance * (1 - chance))[:, None]).T @ features + np.diag(ridge)
        step = np.linalg.solve(curvature, slope)
        theta = theta + step * min(1.0, 5.0 / float(np.abs(step).max() or 1.0))
        if np.abs(step).max() < 1e-10:
            break
    return float(1 / (1 + np.exp(middle * theta[1] - theta[0])))
