"""Finished cells -> results: figures, intervals, pairs, win-rates, profiles, and the sentences that they bear."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from alignzoo import api
from alignzoo.compare import headlines
from alignzoo.compare import statistics as st
from alignzoo.compare.grid import CURVE_PROMPTS, RANDOM, START, Chosen, Grid
from alignzoo.compare.results import (
    CellResult,
    Compared,
    Improvement,
    Pair,
    Profile,
    Results,
    Role,
    Standing,
    WinRate,
)
from alignzoo.compare.winrates import Bout, Verdicts, by_gold, reversed_rate, win_rate
from alignzoo.evaluation.answers import Answer, by_prompt, read_answers

METRICS = ("gold", "accuracy", "reward")
"""What is compared: the first of these that the task has."""

REPS = 2000
"""Bootstrap resamples."""

DICE = 7
"""Seed of the bootstrap."""

POINTS = 41
"""Thresholds of a performance profile."""


def analyse(
    grid: Grid, folder: Path, cells: Sequence[CellResult], chosen: Chosen, verdicts: Verdicts = by_gold
) -> Results:
    """Everything that the cells tell; the same cells always tell the same."""
    cells = _with_start(cells)
    sheet = Sheet(folder, [cell for cell in cells if cell.role != "trial"])
    pairs = [pair for task in sheet.tasks for pair in _pairs(sheet, task)]
    rescaled = _rescaled(sheet)
    results = Results(
        command=command(grid),
        settings=_settings(grid),
        metric={task: sheet.metric(task) for task in sheet.tasks},
        algorithms=tuple(_compared(grid, sheet, chosen)),
        cells=tuple(cells),
        standings=(*_standings(sheet), *_overall(rescaled)),
        pairs=tuple(pairs),
        win_rates=tuple(rate for task in sheet.tasks for rate in _win_rates(sheet, task, verdicts)),
        improvements=tuple(_improvements(rescaled)),
        profiles=tuple(_profiles(rescaled)),
        headlines=(),
        notes=tuple(headlines.notes(grid.plan, sheet.cells)),
        **_where(grid),
    )
    return replace(results, headlines=tuple(headlines.headlines(results)))


class Sheet:
    """The comparison's cells and their answers, by task, algorithm and seed."""

    def __init__(self, folder: Path, cells: Sequence[CellResult]) -> None:
        self.folder, self.cells = folder, list(cells)
        self.tasks = list(dict.fromkeys(cell.task for cell in cells))
        self.labels = list(dict.fromkeys(cell.algorithm for cell in cells))
        self._answers: dict[str, list[Answer]] = {}

    def of(self, task: str, label: str) -> dict[int, CellResult]:
        """The cells with figures, by seed."""
        mine = [cell for cell in self.cells if (cell.task, cell.algorithm) == (task, label)]
        return {cell.seed: cell for cell in mine if cell.has_figures}

    def role(self, label: str) -> Role:
        return next(cell.role for cell in self.cells if cell.algorithm == label)

    def metric(self, task: str) -> str:
        """The figure that the task's algorithms are compared by."""
        known = {name for cell in self.cells if cell.task == task for name in cell.after}
        return next((name for name in METRICS if name in known), METRICS[-1])

    def answers(self, cell: CellResult) -> list[Answer]:
        """Its sampled answers, by prompt."""
        if cell.id not in self._answers:
            every = read_answers(self.folder / cell.folder / "answers.jsonl")
            kept = sorted((each for each in every if not each.greedy), key=lambda each: each.prompt)
            self._answers[cell.id] = [replace(each, logprobs=(), start_logprobs=()) for each in kept]
        return self._answers[cell.id]

    def matrix(self, task: str, label: str, metric: str) -> dict[int, dict[int, float]]:
        """By seed, then by prompt."""
        return {seed: by_prompt(self.answers(cell), metric) for seed, cell in self.of(task, label).items()}


def _with_start(cells: Sequence[CellResult]) -> list[CellResult]:
    """Each cell with the start's figures of its task and seed as those before training."""
    starts = {(cell.task, cell.seed): cell.after for cell in cells if cell.role == "start"}
    return [replace(cell, before=starts.get((cell.task, cell.seed), {})) for cell in cells]


# --- one task ---------------------------------------------------------------------------------------------------------


def _standings(sheet: Sheet) -> list[Standing]:
    found = []
    for task, label, metric in itertools.product(sheet.tasks, sheet.labels, METRICS):
        table = _array(list(sheet.matrix(task, label, metric).values()))
        if not table.size:
            continue
        estimate = _estimate(table)
        low, high = estimate.interval
        values = tuple(map(float, table.mean(1)))
        found.append(Standing(task, label, metric, values, estimate.mean, float(st.iqm(values)), low, high))
    return found


def _pairs(sheet: Sheet, task: str) -> list[Pair]:
    """Every pair, corrected within its family."""
    metric = sheet.metric(task)
    found = [_pair(sheet, task, metric, a, b) for a, b in itertools.combinations(sheet.labels, 2)]
    pairs = [pair for pair in found if pair is not None]
    corrected = {}
    for family in ("algorithms", "controls"):
        mine = [pair for pair in pairs if pair.family == family and pair.p is not None]
        for pair, p in zip(mine, st.holm([pair.p or 0.0 for pair in mine]), strict=True):
            corrected[pair.a, pair.b] = p
    return [replace(pair, p_holm=corrected.get((pair.a, pair.b))) for pair in pairs]


def _pair(sheet: Sheet, task: str, metric: str, a: str, b: str) -> Pair | None:
    """Paired by seed and by prompt: what one of the two has not, the other does without."""
    ours, theirs = sheet.matrix(task, a, metric), sheet.matrix(task, b, metric)
    seeds = sorted(ours.keys() & theirs.keys())
    both = _array([m[seed] for m in (ours, theirs) for seed in seeds])
    if not both.size:
        return None
    first, second = both[: len(seeds)], both[len(seeds) :]
    estimate = st.crossed(first - second) if min(first.shape) > 1 else None
    low, high = estimate.interval if estimate else (None, None)
    control = any(sheet.role(label) != "algorithm" for label in (a, b))
    return Pair(
        task=task,
        a=a,
        b=b,
        metric=metric,
        difference=float((first - second).mean()),
        low=low,
        high=high,
        p=estimate.p if estimate else None,
        p_holm=None,
        family="controls" if control else "algorithms",
        improvement=float(st.probability_of_improvement([first.mean(1)], [second.mean(1)])),
        detectable=estimate.detectable() if estimate else None,
        n_seeds=len(seeds),
        n_prompts=first.shape[1],
    )


def _array(rows: Sequence[Mapping[int, float]]) -> st.Array:
    """(rows, prompts), of the prompts that all rows have."""
    if not rows:
        return np.zeros((0, 0))
    shared = sorted(set.intersection(*(set(row) for row in rows)))
    return np.array([[row[prompt] for prompt in shared] for row in rows], float)


def _estimate(table: st.Array) -> st.Estimate:
    if min(table.shape) > 1:
        return st.crossed(table)
    return st.over_prompts(table[0]) if table.shape[1] > 1 else st.Estimate(float(table.mean()), 0.0, 1.0)


def _win_rates(sheet: Sheet, task: str, verdicts: Verdicts) -> list[WinRate]:
    found = []
    for a, b in itertools.combinations(sheet.labels, 2):
        ours, theirs = sheet.of(task, a), sheet.of(task, b)
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            continue
        matched = [_matched(sheet.answers(ours[seed]), sheet.answers(theirs[seed])) for seed in seeds]
        bout = Bout(task, a, b, [pair[0] for pair in matched], [pair[1] for pair in matched])
        rate = win_rate(bout, verdicts)
        found += [rate, reversed_rate(rate)]
    return found


def _matched(ours: Sequence[Answer], theirs: Sequence[Answer]) -> tuple[list[Answer], list[Answer]]:
    """One answer of each to each prompt: where there are several, the first."""
    a = {each.prompt: each for each in reversed(ours)}
    b = {each.prompt: each for each in reversed(theirs)}
    shared = sorted(a.keys() & b.keys())
    return [a[prompt] for prompt in shared], [b[prompt] for prompt in shared]


# --- all tasks together -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rescaled:
    """Every run's score with the start at 0 and the best cell of its task at 1."""

    strata: dict[str, list[st.Array]]
    """By algorithm: an array of runs for each task. Those that have no run on some task are left out."""

    @cached_property
    def labels(self) -> list[str]:
        return list(self.strata)


def _rescaled(sheet: Sheet) -> Rescaled:
    scores = {
        (task, label): np.array([cell.after[sheet.metric(task)] for cell in sheet.of(task, label).values()])
        for task in sheet.tasks
        for label in sheet.labels
    }
    scales = {}
    for task in sheet.tasks:
        known = [scores[task, label] for label in sheet.labels if scores[task, label].size]
        start = float(scores[task, START].mean()) if scores[task, START].size else 0.0
        best = max((float(runs.max()) for runs in known), default=start)
        scales[task] = (start, best - start if best > start else 1.0)
    strata = {}
    for label in sheet.labels:
        if all(scores[task, label].size for task in sheet.tasks):
            strata[label] = [(scores[task, label] - scales[task][0]) / scales[task][1] for task in sheet.tasks]
    return Rescaled(strata)


def _overall(rescaled: Rescaled) -> list[Standing]:
    found = []
    for label, strata in rescaled.strata.items():
        draws = st.stratified_bootstrap(strata, st.pooled_iqm, rng=np.random.default_rng(DICE), reps=REPS)
        low, high = st.percentiles(draws)
        values = tuple(float(value) for runs in itertools.zip_longest(*strata) for value in runs if value is not None)
        mean = float(np.mean(np.concatenate(strata)))
        iqm = float(st.pooled_iqm(strata))
        found.append(Standing("", label, "rescaled", values, mean, iqm, float(low), float(high)))
    return found


def _improvements(rescaled: Rescaled) -> list[Improvement]:
    found = []
    for a, b in itertools.combinations(rescaled.labels, 2):
        ours, theirs = rescaled.strata[a], rescaled.strata[b]
        n = len(ours)
        draws = st.stratified_bootstrap(
            [*ours, *theirs],
            lambda drawn, n=n: st.probability_of_improvement(drawn[:n], drawn[n:]),  # type: ignore[misc]
            rng=np.random.default_rng(DICE),
            reps=REPS,
        )
        low, high = map(float, st.percentiles(draws))
        chance = float(st.probability_of_improvement(ours, theirs))
        found += [Improvement(a, b, chance, low, high), Improvement(b, a, 1 - chance, 1 - high, 1 - low)]
    return found


def _profiles(rescaled: Rescaled) -> list[Profile]:
    every = [score for strata in rescaled.strata.values() for runs in strata for score in runs]
    if not every:
        return []
    thresholds = np.linspace(min(0.0, *every), max(1.0, *every), POINTS)
    found = []
    for label, strata in rescaled.strata.items():
        draws = st.stratified_bootstrap(
            strata,
            lambda drawn: st.performance_profile(drawn, thresholds),
            rng=np.random.default_rng(DICE),
            reps=REPS // 4,
        )
        low, high = st.percentiles(draws)
        shares = st.performance_profile(strata, thresholds)
        found.append(Profile(label, *(tuple(map(float, each)) for each in (thresholds, shares, low, high))))
    return found


# --- what was compared ------------------------------------------------------------------------------------------------


def _compared(grid: Grid, sheet: Sheet, chosen: Chosen) -> list[Compared]:
    plan = grid.plan
    given = {each.label: each for each in plan.algorithms}
    about = {
        "start": "no training: the policy that all start from",
        "best-of": f"no training: the best of {plan.best_of} samples of the start by the task's reward",
        "random": f"{grid.randomised.label}, trained on a reward that says nothing",
    }
    found = []
    for label in sheet.labels:
        role = sheet.role(label)
        entry = given.get(label) or (grid.randomised if role == "random" else None)
        failed: dict[str, int] = {}
        for cell in sheet.cells:
            if cell.algorithm == label and cell.status != "ok":
                failed[cell.status] = failed.get(cell.status, 0) + 1
        found.append(
            Compared(
                label=label,
                name=entry.name if entry else "",
                setting=entry.setting if entry else "",
                role=role,
                summary=about.get(role) or _summary(grid, label),
                trials=plan.trials if role == "algorithm" else 0,
                tuned={task: setting for (task, mine), setting in chosen.items() if mine == label and setting},
                failed=failed,
            )
        )
    return found


def _summary(grid: Grid, label: str) -> str:
    entry = next(each for each in grid.plan.algorithms if each.label == label)
    return grid.recipe(entry, grid.tasks[0]).description


def command(grid: Grid) -> str:
    """The command line that repeats the comparison."""
    import shlex

    plan = grid.plan
    words = ["alignzoo", "compare", *(each.label for each in plan.algorithms), *plan.overrides]
    words += [word for task in grid.tasks if plan.tasks for word in ("--task", task.label)]
    words += ["--seeds", str(plan.seeds)]
    words += ["--budget", str(plan.budget)] if plan.budget else []
    words += ["--tune", str(plan.trials)] if plan.trials else []
    words += ["--prompts", str(plan.prompts), "--best-of", str(plan.best_of), "--judge", plan.judge]
    words += [word for path in plan.plugins for word in ("--plugin", path)]
    return shlex.join(words)


def _settings(grid: Grid) -> dict[str, Any]:
    plan = grid.plan
    return {
        "tasks": [each.label for each in grid.tasks],
        "seeds": plan.seeds,
        "budget": None if plan.budget is None else {plan.budget.currency: plan.budget.amount},
        "trials": plan.trials,
        "start": plan.start,
        "best_of": plan.best_of,
        "judge": plan.judge,
        "evaluation": {
            "prompts": plan.prompts,
            "n": plan.n,
            "validation prompts": plan.validation,
            "curve prompts": CURVE_PROMPTS,
        },
        "overrides": list(plan.overrides),
        "bootstrap": {"resamples": REPS, "seed": DICE},
    }


def _where(grid: Grid) -> dict[str, Any]:
    told = api.manifest(grid.recipe(grid.plan.algorithms[0], grid.tasks[0]), grid.registry)
    return {name: told[name] for name in ("versions", "plugins", "machine")}


__all__ = ["RANDOM", "START", "Sheet", "analyse", "command"]
