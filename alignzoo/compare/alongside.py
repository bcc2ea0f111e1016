"""What `--also` has measured, as columns of the results: means, differences paired by seed and item, and sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignzoo.compare import also, inference
from alignzoo.compare import statistics as st
from alignzoo.compare.plan import read_cell
from alignzoo.compare.results import CellResult, Column, Pair, Role, Standing


@dataclass
class _Measured:
    """One metric of one evaluation on a task, while it is read."""

    lower_is_better: bool
    about: Mapping[str, Any]
    rows: dict[str, dict[int, dict[str, float]]]
    """By label and seed, the value of each item."""


def columns(folder: Path, cells: Sequence[CellResult], level: float) -> tuple[Column, ...]:
    """Every metric of every evaluation on every task."""
    roles = {cell.algorithm: cell.role for cell in cells}
    found = []
    for task in dict.fromkeys(cell.task for cell in cells):
        mine = [cell for cell in cells if cell.task == task]
        lacking = _lacking(folder, mine)
        for key, each in _read(folder, mine).items():
            seeds = sorted({cell.seed for cell in mine} - lacking.get(key[0], set()))
            kept = {label: _of(runs, seeds, roles[label]) for label, runs in each.rows.items()}
            each.rows = {label: runs for label, runs in kept.items() if runs}
            if seeds and each.rows:
                found.append((task, key, each, _scores(each, roles, seeds)))
    told_apart = [scores for _, _, _, scores in found if scores.tells_runs_apart]
    algorithms = [sum(roles[label] == "algorithm" for label in scores.labels) for scores in told_apart]
    among, against = sum(n * (n - 1) // 2 for n in algorithms), sum(algorithms)
    made = []
    for task, (evaluation, metric), each, scores in found:
        name = f"{evaluation} {metric}"
        made.append(
            Column(
                task=task,
                evaluation=evaluation,
                metric=metric,
                lower_is_better=each.lower_is_better,
                standings=tuple(_standings(task, name, each, scores, roles, level)),
                pairs=(
                    *_among(task, name, scores, roles, among, level),
                    *_against(task, name, scores, roles, against, level),
                ),
                about=each.about,
            )
        )
    return tuple(made)


def failures(folder: Path, cells: Sequence[CellResult]) -> Iterator[str]:
    """A sentence on each evaluation that failed, or left metrics out."""
    failed: dict[str, list[tuple[str, str]]] = {}
    left_out: dict[str, tuple[str, ...]] = {}
    abouts: dict[str, set[str]] = {}
    for cell, told in _told(folder, cells):
        if told.error:
            failed.setdefault(told.measured.name, []).append((cell.id, told.error))
            continue
        abouts.setdefault(told.measured.name, set()).add(json.dumps(told.measured.about, sort_keys=True))
        if told.measured.left_out:
            left_out[told.measured.name] = told.measured.left_out
    for name, cases in failed.items():
        first, why = cases[0]
        yield (
            f"{name} failed for {len(cases)} {'run' if len(cases) == 1 else 'runs'}, {first} the first: {why}. Their "
            "seeds are left out of it. The same command with --retry evaluates them again, without training."
        )
    for name, known in abouts.items():
        if len(known) > 1:
            yield f"{name} was not the same for all runs, so that they do not compare: {' and '.join(sorted(known))}."
    for name, metrics in left_out.items():
        yield f"{name}: left out, since they are no number of an item: {', '.join(metrics)}."


def _told(folder: Path, cells: Sequence[CellResult]) -> Iterator[tuple[CellResult, also.Told]]:
    for cell in cells:
        place = folder / cell.folder
        if cell.has_figures and (place / "plan.json").exists():
            for told in also.read_told(read_cell(place), place):
                yield cell, told


def _read(folder: Path, cells: Sequence[CellResult]) -> dict[tuple[str, str], _Measured]:
    """By evaluation and metric, of one task."""
    found: dict[tuple[str, str], _Measured] = {}
    for cell, told in _told(folder, cells):
        for metric, values in told.measured.metrics().items():
            lower = metric in told.measured.lower_is_better
            of = found.setdefault((told.measured.name, metric), _Measured(lower, told.measured.about, {}))
            of.rows.setdefault(cell.algorithm, {})[cell.seed] = values
    return found


def _lacking(folder: Path, cells: Sequence[CellResult]) -> dict[str, set[int]]:
    """By evaluation, the seeds of which a trained policy has not been evaluated, or not with success: that is no
    fault of the algorithm, and the seed is left out."""
    found: dict[str, set[int]] = {}
    for cell in cells:
        place = folder / cell.folder
        if cell.role == "start" or not cell.has_figures or not (place / "plan.json").exists():
            continue
        asked = read_cell(place)
        known = {told.measured.name for told in also.read_told(asked, place) if not told.error}
        for name in set(asked.also) - known:
            found.setdefault(name, set()).add(cell.seed)
    return found


def _of(runs: dict[int, dict[str, float]], seeds: Sequence[int], role: Role) -> dict[int, dict[str, float]]:
    """The runs of these seeds; the start is one model, whatever the seed."""
    return runs if role == "start" else {seed: row for seed, row in runs.items() if seed in seeds}


def _scores(each: _Measured, roles: Mapping[str, Role], seeds: Sequence[int]) -> inference.Scores:
    """The values of the items that all have; the start's, which was evaluated once, stand with every seed. While runs
    that failed are counted, a metric of which less is better has its sign turned: they count by the worse."""
    items = sorted(set.intersection(*(set(row) for runs in each.rows.values() for row in runs.values())))
    sign = -1.0 if each.lower_is_better else 1.0
    rows: dict[str, dict[int, inference.Row]] = {}
    for label, runs in each.rows.items():
        signed: dict[int, inference.Row] = {
            seed: {place: sign * row[item] for place, item in enumerate(items)} for seed, row in runs.items()
        }
        rows[label] = dict.fromkeys(seeds, next(iter(signed.values()))) if roles[label] == "start" else signed
    start = next((runs for label, runs in rows.items() if roles[label] == "start"), {})
    full = {label: inference.counted(runs, start, seeds) for label, runs in rows.items()}
    return inference.scores(
        {
            label: {seed: {place: sign * v for place, v in row.items()} for seed, row in runs.items()}
            for label, runs in full.items()
        }
    )


def _standings(
    task: str, name: str, each: _Measured, scores: inference.Scores, roles: Mapping[str, Role], level: float
) -> Iterator[Standing]:
    ours = [label for label in scores.labels if roles[label] == "algorithm"]
    estimates = inference.means(scores, ours) if scores.tells_runs_apart else None
    for number, label in enumerate(scores.labels):
        table = scores.of(label)
        # The start is one model, whose runs are one: its interval is over items alone.
        alone = estimates is None or roles[label] == "start"
        kind: st.Kind = "share" if scores.share else "any"
        estimate = st.over_prompts(table.mean(0), kind) if alone or estimates is None else estimates[number]
        low, high = map(float, estimate.at(level / len(scores.labels)))
        values = tuple(map(float, table.mean(1)))
        failed = 0 if roles[label] == "start" else len(table) - len(each.rows[label])
        yield Standing(task, label, name, values, float(table.mean()), float(st.iqm(values)), low, high, failed)


def _among(
    task: str, name: str, scores: inference.Scores, roles: Mapping[str, Role], family: int, level: float
) -> Iterator[Pair]:
    labels = [label for label in scores.labels if roles[label] == "algorithm"]
    if len(labels) < 2:
        return
    ours = scores.values[[scores.labels.index(label) for label in labels]]
    estimates = inference.among(ours, share=scores.share) if scores.tells_runs_apart else None
    for number, (i, j) in enumerate(zip(*inference.all_pairs(len(labels)), strict=True)):
        verdict = inference.verdict(estimates[number], family, level) if estimates else None
        yield _pair(task, name, scores, (labels[i], labels[j]), "algorithms", verdict)


def _against(
    task: str, name: str, scores: inference.Scores, roles: Mapping[str, Role], family: int, level: float
) -> Iterator[Pair]:
    """Every algorithm less the start."""
    start = next((label for label in scores.labels if roles[label] == "start"), None)
    labels = [label for label in scores.labels if roles[label] == "algorithm"]
    if start is None or not labels:
        return
    ours = scores.values[[scores.labels.index(label) for label in labels]]
    tested = scores.tells_runs_apart
    estimates = inference.against(ours, scores.of(start), share=scores.share) if tested else None
    for number, label in enumerate(labels):
        verdict = inference.verdict(estimates[number], family, level) if estimates else None
        yield _pair(task, name, scores, (label, start), "controls", verdict)


def _pair(
    task: str,
    name: str,
    scores: inference.Scores,
    both: tuple[str, str],
    family: Any,
    verdict: inference.Verdict | None,
) -> Pair:
    first, second = (scores.of(label) for label in both)
    return Pair(
        task=task,
        a=both[0],
        b=both[1],
        metric=name,
        difference=float((first - second).mean()),
        low=verdict.low if verdict else None,
        high=verdict.high if verdict else None,
        p=verdict.p if verdict else None,
        p_adjusted=verdict.p_adjusted if verdict else None,
        family=family,
        improvement=float(st.probability_of_improvement([first.mean(1)], [second.mean(1)])),
        n_seeds=len(first),
        n_prompts=first.shape[1],
        shown=verdict.shown if verdict else False,
    )


# --- in words ---------------------------------------------------------------------------------------------------------


def sentences(column: Column) -> Iterator[str]:
    """What a column bears, against the start: what training has cost or gained elsewhere."""
    pairs = [pair for pair in column.pairs if pair.family == "controls" and pair.p is not None]
    said = []
    for pair in (each for each in pairs if each.shown):
        better = (pair.difference > 0) is not column.lower_is_better
        said.append(f"{pair.a} is {'better' if better else 'worse'} ({_by(pair)})")
    rest = [f"{pair.a} ({_by(pair)})" for pair in pairs if not pair.shown]
    if rest:
        said.append(f"no difference is shown for {', '.join(rest)}")
    if said:
        yield f"By {column.name}, trained on {column.task}, against {pairs[0].b}: {'; '.join(said)}."


def _by(pair: Pair) -> str:
    if pair.low is None or pair.high is None:
        return "alike in every item"
    return f"{pair.difference:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}]"
