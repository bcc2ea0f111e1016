"""Pictures of single answers: how their scores lie, which prompts changed, whether the reward knows what is good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from alignzoo.compare.analysis import METRICS
from alignzoo.compare.report.drawing import INK, QUIET, Looks, Picture, slug
from alignzoo.compare.report.forest import ranked, shortened
from alignzoo.compare.results import Results
from alignzoo.files import read_lines

BINS = 24
"""How many bins a distribution has."""

CHANGED = 5
"""So many prompts that changed most are named on either side."""

Scores = Mapping[int, float]
"""By prompt, the mean over seeds."""


@dataclass(frozen=True)
class Told:
    """The scores of the answers to a task's held-out prompts."""

    answers: Mapping[str, Sequence[Mapping[str, Any]]]
    """By algorithm, of all seeds: prompt, gold, accuracy, reward."""
    asked: Mapping[int, Any]
    """The prompts by their numbers."""

    def by_prompt(self, label: str, metric: str) -> Scores:
        """The mean over seeds of each prompt's score."""
        found: dict[int, list[float]] = {}
        for each in self.answers.get(label, ()):
            if each[metric] is not None:
                found.setdefault(each["prompt"], []).append(each[metric])
        return {prompt: fmean(values) for prompt, values in found.items()}


def told(folder: Path, results: Results, task: str) -> Told:
    """Read the sampled answers of every run that has figures."""
    answers: dict[str, list[Mapping[str, Any]]] = {}
    asked: dict[int, Any] = {}
    for cell in results.cells:
        if cell.task != task or cell.role == "trial" or not cell.has_figures:
            continue
        for line in read_lines(folder / cell.folder / "answers.jsonl"):
            if not line["greedy"]:
                asked.setdefault(line["prompt"], line["asked"])
                kept = {name: line.get(name) for name in ("prompt", *METRICS)}
                answers.setdefault(cell.algorithm, []).append(kept)
    return Told(answers, asked)


# --- how scores lie ---------------------------------------------------------------------------------------------------


def distributions(results: Results, task: str, known: Told, looks: Looks) -> Picture | None:
    """A ridge for each: how many answers have which score. Of right-or-wrong scores the mean says everything."""
    metric = results.metric[task]
    labels = [row.algorithm for row in ranked(results, task)]
    values = {label: [a[metric] for a in known.answers.get(label, ()) if a[metric] is not None] for label in labels}
    values = {label: each for label, each in values.items() if each}
    every = [value for each in values.values() for value in each]
    if len(set(every)) < 3:
        return None
    edges = np.linspace(min(every), max(every), BINS + 1)
    shares = {label: np.histogram(each, edges)[0] / len(each) for label, each in values.items()}
    highest = max(float(share.max()) for share in shares.values())

    def draw(axes: Any) -> None:
        for row, label in enumerate(reversed(shares)):
            look = looks.of[label]
            common = {"color": look.colour, "gid": f"of-{look.number}"}
            heights = 0.85 * np.append(shares[label], shares[label][-1]) / highest
            axes.fill_between(edges, row, row + heights, step="post", alpha=0.35, lw=0, **common)
            axes.plot(edges, row + heights, drawstyle="steps-post", lw=0.9, **common)
            axes.plot([fmean(values[label])], [row + 0.02], marker="^", ms=5.5, ls="", **common)
        axes.set_yticks(range(len(shares)), [shortened(label) for label in reversed(shares)])
        axes.set_ylim(-0.15, len(shares))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{metric} of an answer; the triangle is the mean")

    title = _spread_title(labels, values, results, task)
    says = f"How the answers' {metric} lies on {task}, all seeds together, the highest mean on top."
    return Picture(slug(task, "scores"), title, says, draw, (), (4.5, 0.9 + 0.36 * len(shares)))


def _spread_title(labels: Sequence[str], values: Mapping[str, Sequence[float]], results: Results, task: str) -> str:
    """The finding: what the worst answers of the best one score, beside the start's."""
    best = next((each for each in labels if results.compared(each).role == "algorithm" and each in values), "")
    start = next((each for each in values if results.compared(each).role == "start"), "")
    if not best or not start:
        return f"How scores lie on {task}"
    worst, first = (float(np.quantile(values[each], 0.1)) for each in (best, start))
    return f"One answer in ten scores below {worst:.2f} with {best}, below {first:.2f} at the start"


# --- which prompts changed --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Changed:
    """A prompt on which two differ."""

    prompt: int
    asked: Any
    a: float
    b: float


@dataclass(frozen=True)
class Beside:
    """Two algorithms, prompt by prompt."""

    a: str
    b: str
    picture: Picture
    changed: Sequence[Changed]
    """The prompts on which a is better by most, then those on which it is worse."""


def rivals(results: Results, task: str) -> tuple[str, str] | None:
    """The two that are drawn beside each other: the algorithms with the highest means; of one alone, it and the
    start."""
    rows = [row.algorithm for row in ranked(results, task)]
    ours = [label for label in rows if results.compared(label).role == "algorithm"]
    others = [*ours[1:], *(label for label in rows if results.compared(label).role == "start")]
    return (ours[0], others[0]) if ours and others else None


def beside(results: Results, task: str, known: Told, looks: Looks) -> Beside | None:
    """A scatter of two algorithms' scores, a mark a prompt, and the prompts that changed most."""
    pair, metric = rivals(results, task), results.metric[task]
    if pair is None:
        return None
    a, b = pair
    ours, theirs = known.by_prompt(a, metric), known.by_prompt(b, metric)
    shared = sorted(ours.keys() & theirs.keys())
    if len(shared) < 2:
        return None
    counts = Counter((round(theirs[p], 6), round(ours[p], 6)) for p in shared)
    wins, losses = (sum(sign * (ours[p] - theirs[p]) > 1e-9 for p in shared) for sign in (1, -1))

    def draw(axes: Any) -> None:
        ends = [min(min(each) for each in counts), max(max(each) for each in counts)]
        axes.plot(ends, ends, color=QUIET, lw=1, ls=":")
        for sign, look in ((1, looks.of[a]), (-1, looks.of[b]), (0, None)):
            mine = [each for each in counts if np.sign(round(each[1] - each[0], 6)) == sign]
            xs, ys = [x for x, _ in mine], [y for _, y in mine]
            size = [10 + 9 * min(counts[each] - 1, 40) for each in mine]
            colour, gid = (look.colour, f"of-{look.number}") if look else (QUIET, None)
            axes.scatter(xs, ys, s=size, color=colour, alpha=0.55, lw=0, gid=gid)
        axes.set_xlabel(f"{metric}: {shortened(b)}")
        axes.set_ylabel(f"{metric}: {shortened(a)}")

    title = f"{a} is better than {b} on {wins} of {len(shared)} prompts, worse on {losses}"
    says = (
        f"Each prompt of {task} by its mean {metric} over seeds; above the dotted line {a} is better; a larger mark is "
    )
    says += "several prompts."
    size = (4.5, 3.6)
    every = [Changed(p, known.asked[p], ours[p], theirs[p]) for p in shared]
    order = sorted(every, key=lambda each: (each.b - each.a, each.prompt))
    better = [each for each in order[:CHANGED] if each.a > each.b]
    worse = [each for each in reversed(order[-CHANGED:]) if each.a < each.b]
    picture = Picture(slug(task, "prompts"), title, says, draw, (a, b), size)
    return Beside(a, b, picture, [*better, *worse])


# --- whether the reward knows what is good ----------------------------------------------------------------------------


def proxy(results: Results, task: str, known: Told, looks: Looks) -> Picture | None:
    """The reward and the gold score of every answer: of the start, and of the algorithm with the highest mean."""
    rows = [row.algorithm for row in ranked(results, task)]
    best = next((label for label in rows if results.compared(label).role == "algorithm"), None)
    start = next((label for label in rows if results.compared(label).role == "start"), None)
    points = {label: _both(known.answers.get(label, ())) for label in (start, best) if label is not None}
    points = {label: each for label, each in points.items() if len(each) > 2}
    if best not in points or all(reward == gold for each in points.values() for reward, gold in each):
        return None

    def draw(axes: Any) -> None:
        for label, each in points.items():
            look = looks.of[label]
            rewards, golds = np.array(each).T
            common = {"color": look.colour, "gid": f"of-{look.number}"}
            axes.scatter(rewards, golds, s=9, alpha=0.22, lw=0, **common)
            middle = _binned(rewards, golds)
            axes.plot(*middle, lw=2.2, ls=look.style, marker=look.marker, ms=4.5, mec=INK, mew=0.4, **common)
        axes.set_xlabel("reward of an answer")
        axes.set_ylabel("gold")

    agree = {label: _correlation(each) for label, each in points.items()}
    name = "grow together" if agree[best] > 0.5 else "hardly agree" if agree[best] < 0.2 else "agree in part"
    title = f"Reward and gold {name} in {best}'s answers: r = {agree[best]:.2f}"
    title += f", at the start {agree[start]:.2f}" if start in agree else ""
    says = (
        f"Reward and gold of every answer to {task}'s held-out prompts, all seeds; lines join the means of equal parts."
    )
    return Picture(slug(task, "proxy"), title, says, draw, list(points))


def _both(answers: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(a["reward"], a["gold"]) for a in answers if a["reward"] is not None and a["gold"] is not None]


def _binned(rewards: Any, golds: Any) -> tuple[list[float], list[float]]:
    """The means of up to eight parts with as many answers each."""
    order = np.argsort(rewards, kind="stable")
    parts = [part for part in np.array_split(order, 8) if len(part)]
    return [float(rewards[part].mean()) for part in parts], [float(golds[part].mean()) for part in parts]


def _correlation(points: Sequence[tuple[float, float]]) -> float:
    """Pearson's; 0 where one does not vary."""
    rewards, golds = np.array(points).T
    return float(np.corrcoef(rewards, golds)[0, 1]) if rewards.std() > 0 and golds.std() > 0 else 0.0
