"""Finished cells -> results: figures, intervals, pairs, win-rates, profiles, and the sentences that they bear."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignzoo.compare import alongside, headlines, inference, overall
from alignzoo.compare import statistics as st
from alignzoo.compare.data_of import told_data
from alignzoo.compare.grid import CURVE_PROMPTS, RANDOM, START, Chosen, Grid
from alignzoo.compare.results import (
    CHAIN,
    CellResult,
    Compared,
    Pair,
    Results,
    Role,
    Standing,
    WinRate,
)
from alignzoo.compare.winrates import Bout, Keep, Verdicts, by_gold, reversed_rate, win_rate
from alignzoo.evaluation.answers import Answer, by_prompt, read_answers
from alignzoo.runs import api

METRICS = ("gold", "accuracy", "reward", "preference")
"""What is compared: the first of these that the task has."""

SHARES = ("accuracy", "preference")
"""Those that are shares of right answers."""


def analyse(
    grid: Grid,
    folder: Path,
    cells: Sequence[CellResult],
    chosen: Chosen,
    verdicts: Verdicts | None = by_gold,
    looks: Sequence[int] = (),
    keep: Keep | None = None,
) -> Results:
    """Everything that the cells tell; the same cells always tell the same. `looks`: the numbers of seeds, rising, at
    which results were looked at, this one the last; nothing stands for a first look. Without `verdicts` no answer is
    judged; `keep` is told those of a judge."""
    cells = _with_start(cells)
    sheet = Sheet(folder, [cell for cell in cells if cell.role != "trial"])
    looks = list(looks) or [grid.plan.seeds]
    level = inference.level_of(len(looks))
    prompts = {task: sheet.prompts(task) for task in sheet.tasks}
    scores = {task: sheet.scores(task, sheet.metric(task)) for task in sheet.tasks}
    rescaled = _rescaled(grid, sheet, scores)
    results = Results(
        command=command(grid),
        settings=_settings(grid) | {"looks": looks, "level": level, "answered prompts": prompts},
        metric={task: sheet.metric(task) for task in sheet.tasks},
        algorithms=tuple(_compared(grid, sheet, chosen, cells)),
        cells=tuple(cells),
        standings=(*_standings(sheet, level), *overall.standings(rescaled)),
        pairs=(*_among(sheet, scores, level), *_against_controls(sheet, scores, level)),
        win_rates=tuple(rate for task in sheet.tasks for rate in _win_rates(sheet, task, verdicts, keep)),
        improvements=tuple(overall.improvements(rescaled)),
        profiles=tuple(overall.profiles(rescaled)),
        headlines=(),
        notes=(),
        columns=alongside.columns(folder, sheet.cells, level) if grid.plan.also else (),
        **_where(grid),
    )
    failed = alongside.failures(folder, sheet.cells) if grid.plan.also else ()
    results = replace(results, notes=(*headlines.notes(grid.plan, results), *failed))
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
        return next((name for name in METRICS if name in known), "reward")

    def answers(self, cell: CellResult) -> list[Answer]:
        """Its sampled answers, by prompt."""
        if cell.id not in self._answers:
            every = read_answers(self.folder / cell.folder / "answers.jsonl")
            kept = sorted((each for each in every if not each.greedy), key=lambda each: each.prompt)
            self._answers[cell.id] = [replace(each, logprobs=(), start_logprobs=()) for each in kept]
        return self._answers[cell.id]

    def scores(self, task: str, metric: str) -> inference.Scores:
        """Every run's, those of failed runs included by the rule of `inference.counted`; of the prompts that all runs
        have. What has no run that ended is left out."""
        ended = {label: self._ended(task, label, metric) for label in self.labels}
        start = next((runs for label, runs in ended.items() if self.role(label) == "start"), {})
        seeds = sorted({cell.seed for cell in self.cells if cell.task == task})
        rows = {label: inference.counted(runs, start, seeds) for label, runs in ended.items() if runs}
        return inference.scores(rows, share=metric in SHARES)

    def _ended(self, task: str, label: str, metric: str) -> dict[int, dict[int, float]]:
        """By seed, then by prompt."""
        rows = {seed: by_prompt(self.answers(cell), metric) for seed, cell in self.of(task, label).items()}
        return {seed: row for seed, row in rows.items() if row}

    def prompts(self, task: str) -> int:
        """How many held-out prompts were answered."""
        cells = [cell for cell in self.cells if cell.task == task and cell.has_figures]
        return max((len({each.prompt for each in self.answers(cell)}) for cell in cells), default=0)

    def algorithms(self, scores: inference.Scores) -> list[str]:
        """Those that scores are of."""
        return [label for label in scores.labels if self.role(label) == "algorithm"]


def _with_start(cells: Sequence[CellResult]) -> list[CellResult]:
    """Each cell with the start's figures of its task and seed as those before training."""
    starts = {(cell.task, cell.seed): cell.after for cell in cells if cell.role == "start"}
    return [replace(cell, before=starts.get((cell.task, cell.seed), {})) for cell in cells]


# --- one task ---------------------------------------------------------------------------------------------------------


def _standings(sheet: Sheet, level: float) -> list[Standing]:
    """The mean of each on each task; the intervals of a table hold together."""
    found = []
    for task, metric in itertools.product(sheet.tasks, METRICS):
        scores = sheet.scores(task, metric)
        if not scores.values.size:
            continue
        ours = sheet.algorithms(scores)
        estimates = inference.means(scores, ours) if scores.tells_runs_apart else None
        for number, label in enumerate(scores.labels):
            table = scores.of(label)
            kind: st.Kind = "share" if scores.share else "any"
            estimate = estimates[number] if estimates else st.over_prompts(table.mean(0), kind)
            low, high = map(float, estimate.at(level / len(scores.labels)))
            values, failed = tuple(map(float, table.mean(1))), len(table) - len(sheet.of(task, label))
            mean, iqm = float(table.mean()), float(st.iqm(values))
            found.append(Standing(task, label, metric, values, mean, iqm, low, high, failed))
    return found


def _among(sheet: Sheet, scores: Mapping[str, inference.Scores], level: float) -> Iterator[Pair]:
    """Every pair of algorithms: all tasks are one family."""
    of_task = {task: sheet.algorithms(found) for task, found in scores.items()}
    tested = [task for task, found in scores.items() if found.tells_runs_apart]
    family = sum(len(of_task[task]) * (len(of_task[task]) - 1) // 2 for task in tested)
    for task, found in scores.items():
        labels = of_task[task]
        ours = found.values[[found.labels.index(label) for label in labels]] if labels else found.values
        estimates = inference.among(ours, share=found.share) if task in tested and len(labels) > 1 else None
        for number, (i, j) in enumerate(zip(*inference.all_pairs(len(labels)), strict=True)):
            verdict = inference.verdict(estimates[number], family, level) if estimates else None
            yield _pair(sheet, task, found, (labels[i], labels[j]), verdict)


def _against_controls(sheet: Sheet, scores: Mapping[str, inference.Scores], level: float) -> Iterator[Pair]:
    """Every algorithm against every control, gate-kept; and the random reward against the start, by itself."""
    tested = [task for task, found in scores.items() if found.tells_runs_apart]
    family = sum(len(sheet.algorithms(scores[task])) for task in tested)
    for task, found in scores.items():
        controls = sorted((c for c in found.labels if sheet.role(c) in CHAIN), key=lambda c: CHAIN.index(sheet.role(c)))
        labels = sheet.algorithms(found)
        chains: dict[str, list[inference.Verdict]] = {label: [] for label in labels}
        if labels and task in tested:
            ours = found.values[[found.labels.index(label) for label in labels]]
            for control in controls:
                estimates = inference.against(ours, found.of(control), share=found.share)
                for number, label in enumerate(labels):
                    chains[label].append(inference.verdict(estimates[number], family, level))
        for label, chain in chains.items():
            reached = list(inference.gates(chain))
            for number, control in enumerate(controls):
                verdict = chain[number] if chain else None
                pair = _pair(sheet, task, found, (label, control), verdict)
                yield replace(pair, reached=reached[number] if chain else True)
        roles = {sheet.role(control): control for control in controls}
        if task in tested and {"random", "start"} <= roles.keys():
            both = roles["random"], roles["start"]
            estimate = inference.against(found.of(both[0])[None], found.of(both[1]), share=found.share)[0]
            yield _pair(sheet, task, found, both, inference.verdict(estimate, len(tested), level))


def _pair(
    sheet: Sheet, task: str, scores: inference.Scores, both: tuple[str, str], verdict: inference.Verdict | None
) -> Pair:
    """Paired by seed and by prompt."""
    a, b = both
    first, second = scores.of(a), scores.of(b)
    control = any(sheet.role(label) != "algorithm" for label in both)
    return Pair(
        task=task,
        a=a,
        b=b,
        metric=sheet.metric(task),
        difference=float((first - second).mean()) if first.size else 0.0,
        low=verdict.low if verdict else None,
        high=verdict.high if verdict else None,
        p=verdict.p if verdict else None,
        p_adjusted=verdict.p_adjusted if verdict else None,
        family="controls" if control else "algorithms",
        improvement=float(st.probability_of_improvement([first.mean(1)], [second.mean(1)])) if first.size else 0.5,
        n_seeds=len(first),
        n_prompts=first.shape[1],
        shown=verdict.shown if verdict else False,
    )


def _win_rates(sheet: Sheet, task: str, verdicts: Verdicts | None, keep: Keep | None) -> list[WinRate]:
    """None where nobody judges, or where what would is not there: of given answers alone nothing tells which of two
    sampled ones is better."""
    found: list[WinRate] = []
    if verdicts is None or (verdicts is by_gold and sheet.metric(task) == "preference"):
        return found
    for a, b in itertools.combinations(sheet.labels, 2):
        ours, theirs = sheet.of(task, a), sheet.of(task, b)
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            continue
        matched = [_matched(sheet.answers(ours[seed]), sheet.answers(theirs[seed])) for seed in seeds]
        bout = Bout(task, a, b, [pair[0] for pair in matched], [pair[1] for pair in matched], seeds)
        rate = win_rate(bout, verdicts, None if verdicts is by_gold else keep)
        found += [rate, reversed_rate(rate)]
    return found


def _matched(ours: Sequence[Answer], theirs: Sequence[Answer]) -> tuple[list[Answer], list[Answer]]:
    """One answer of each to each prompt: where there are several, the first."""
    a = {each.prompt: each for each in reversed(ours)}
    b = {each.prompt: each for each in reversed(theirs)}
    shared = sorted(a.keys() & b.keys())
    return [a[prompt] for prompt in shared], [b[prompt] for prompt in shared]


def _rescaled(grid: Grid, sheet: Sheet, scores: Mapping[str, inference.Scores]) -> overall.Rescaled:
    """Every run on one scale."""
    runs = {
        task: {label: found.of(label).mean(1) for label in found.labels if found.values.size}
        for task, found in scores.items()
    }
    best = {task: 1.0 for task in sheet.tasks if sheet.metric(task) in SHARES}
    best |= {task: known for task in sheet.tasks if sheet.metric(task) == "gold" and (known := grid.best(task))}
    return overall.rescaled(runs, START, best)


# --- what was compared ------------------------------------------------------------------------------------------------


def _compared(grid: Grid, sheet: Sheet, chosen: Chosen, cells: Sequence[CellResult]) -> list[Compared]:
    plan = grid.plan
    given = {each.label: each for each in plan.algorithms}
    about = {
        "start": "no training: the policy that all start from",
        "best-of": f"no training: the best of {plan.best_of} samples of the start by the task's reward",
        "random": f"{grid.randomised.label if grid.randomised else ''}, trained on a reward that says nothing",
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
                data=told_data(grid, entry) if entry is not None and role == "algorithm" else "",
                trials=_ended_trials(grid, cells, label) if role == "algorithm" else 0,
                tuned={task: setting for (task, mine), setting in chosen.items() if mine == label and setting},
                failed=failed,
            )
        )
    return found


def _ended_trials(grid: Grid, cells: Sequence[CellResult], label: str) -> int:
    """How many trials of an algorithm have a figure, on the task on which they are fewest: one that failed tunes
    nothing."""
    mine = [cell for cell in cells if cell.role == "trial" and cell.algorithm == label]
    return min(sum(cell.task == task.label and cell.status == "ok" for cell in mine) for task in grid.tasks)


def _summary(grid: Grid, label: str) -> str:
    entry = next(each for each in grid.plan.algorithms if each.label == label)
    return grid.recipe(entry, grid.tasks[0]).description


def command(grid: Grid) -> str:
    """The command line that repeats the comparison."""
    import shlex

    plan = grid.plan
    words = ["alignzoo", "compare", *(each.written for each in plan.algorithms), *plan.overrides]
    words += [word for task in grid.tasks if plan.tasks for word in ("--task", task.written)]
    words += ["--seeds", str(plan.seeds)]
    words += ["--budget", str(plan.budget)] if plan.budget else []
    words += ["--tune", str(plan.trials)] if plan.trials else []
    words += ["--tune-kl", f"{plan.trial_kl:g}"] if plan.trial_kl is not None else []
    words += ["--prompts", str(plan.prompts), "--best-of", str(plan.best_of), "--judge", plan.judge]
    words += ["--measure", plan.measure] if plan.measure else []
    words += [word for each in plan.also for word in ("--also", each)]
    words += ["--also-limit", str(plan.also_limit)] if plan.also_limit is not None else []
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
        "measure": plan.measure,
        "also": list(plan.also),
        "also limit": plan.also_limit,
        "evaluation": {
            "prompts": plan.prompts,
            "n": plan.n,
            "validation prompts": plan.validation,
            "curve prompts": CURVE_PROMPTS,
        },
        "overrides": list(plan.overrides),
        "bootstrap": {"resamples": overall.REPS, "seed": overall.SEED},
    }


def _where(grid: Grid) -> dict[str, Any]:
    told = api.manifest(grid.recipe(grid.plan.algorithms[0], grid.tasks[0]), grid.registry)
    return {name: told[name] for name in ("versions", "plugins", "machine")}


__all__ = ["RANDOM", "START", "Sheet", "analyse", "command"]
