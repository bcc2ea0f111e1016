"""What the data bear, in words; and what a reader must know to judge them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from alignzoo.compare.plan import Plan
from alignzoo.compare.results import CellResult, Headline, Pair, Results, Standing

NAMED = 3
"""So many undecided pairs are named in a sentence; of more, the largest differences, and the table has them all."""


def headlines(results: Results) -> Iterator[Headline]:
    """A sentence or several for each task, then of all tasks together."""
    for task in results.tasks:
        for text in _of_task(results, task):
            yield Headline(task, text)


def _of_task(results: Results, task: str) -> Iterator[str]:
    pairs = [_oriented(pair) for pair in results.pairs if pair.task == task]
    terms = _terms(results)
    among = sorted((p for p in pairs if p.family == "algorithms"), key=lambda p: -p.difference)
    for pair in among:
        if pair.significant:
            yield f"{pair.a} beats {pair.b} on {task} by {_by(pair)}{terms}."
    open_ones = [pair for pair in among if not pair.significant]
    if open_ones:
        yield _undecided(open_ones, task)
    yield from _against_controls(results, pairs, task)
    yield from _failures(results, task)


def _oriented(pair: Pair) -> Pair:
    """With the better one first."""
    if pair.difference >= 0:
        return pair
    low, high = (None, None) if pair.low is None or pair.high is None else (-pair.high, -pair.low)
    return replace(
        pair, a=pair.b, b=pair.a, difference=-pair.difference, low=low, high=high, improvement=1 - pair.improvement
    )


def _terms(results: Results) -> str:
    budget = results.settings["budget"]
    return f" at equal {next(iter(budget))}" if budget else " at their recipes' own steps"


def _by(pair: Pair) -> str:
    interval = "" if pair.low is None else f" [{pair.low:.2f}, {pair.high:.2f}]"
    return f"{pair.difference:.2f}{interval} {pair.metric}"


def _undecided(pairs: Sequence[Pair], task: str) -> str:
    seeds = sorted({pair.n_seeds for pair in pairs})
    n = f"n = {seeds[0]}" if len(seeds) == 1 else f"n = {seeds[0]} to {seeds[-1]}"
    if all(pair.p is None for pair in pairs):
        return f"On {task} one seed cannot tell the algorithms apart: give --seeds 3 or more."
    shown = pairs if len(pairs) <= NAMED else pairs[: NAMED - 1]
    named = [f"between {pair.a} and {pair.b} ({_by(pair)})" for pair in shown]
    named += [f"in {len(pairs) - len(shown)} other pairs"] if len(pairs) > len(shown) else []
    smallest = max(pair.detectable for pair in pairs if pair.detectable is not None)
    corrected = "" if len(pairs) == 1 else ", corrected for the number of pairs"
    return (
        f"On {task}, at {n}{corrected}, no significant difference {', nor '.join(named)}; a true difference of "
        f"{smallest:.2f} would have been found in 80 % of such comparisons, before correction."
    )


def _against_controls(results: Results, pairs: Sequence[Pair], task: str) -> Iterator[str]:
    algorithms = [each.label for each in results.algorithms if each.role == "algorithm"]
    for control in (each for each in results.algorithms if each.role != "algorithm"):
        verdicts: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
        for pair in pairs:
            if control.label not in (pair.a, pair.b):
                continue
            other = pair.b if pair.a == control.label else pair.a
            if other in algorithms:
                verdict = "open" if not pair.significant else "better" if pair.a == other else "worse"
                verdicts[verdict].append(other)
        said = [
            f"{_list(names)} {'is' if len(names) == 1 else 'are'} {verdict}"
            for verdict, names in verdicts.items()
            if names and verdict != "open"
        ]
        if verdicts["open"]:
            all_of_many = set(verdicts["open"]) == set(algorithms) and len(algorithms) > NAMED
            said.append(f"no difference is shown for {'any algorithm' if all_of_many else _list(verdicts['open'])}")
        if said:
            yield f"Against {control.label} on {task}: {'; '.join(said)}."
    starts = {each.label for each in results.algorithms if each.role == "start"}
    for pair in pairs:
        roles = {results.compared(label).role for label in (pair.a, pair.b)}
        if roles == {"start", "random"} and pair.significant:
            gained = pair.b in starts
            how, meaning = ("gained", ": so much is not learning") if gained else ("lost", "")
            yield f"Training on a reward that says nothing {how} {_by(pair)} on {task}{meaning}."


def _failures(results: Results, task: str) -> Iterator[str]:
    for each in results.algorithms:
        mine = [cell for cell in results.cells if (cell.task, cell.algorithm) == (task, each.label)]
        mine = [cell for cell in mine if cell.role != "trial"]
        for status in ("failed", "diverged", "over-budget"):
            n = sum(cell.status == status for cell in mine)
            if n:
                went = {"failed": "failed", "diverged": "diverged", "over-budget": "went over the budget"}[status]
                kept = "; its figures are of the others" if status != "over-budget" and n < len(mine) else ""
                yield f"{n} of {len(mine)} runs of {each.label} on {task} {went}{kept}."


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def notes(plan: Plan, cells: Sequence[CellResult]) -> Iterator[str]:
    """How the figures were made."""
    yield (
        f"Every algorithm starts from the same policy, reads the same prompts, is scored by the task's reward, and "
        f"answers the same {plan.prompts} held-out prompts with the same draws; a recipe that brings a reward of its "
        "own learns from that, and is measured by the task's."
    )
    if plan.budget:
        yield f"Each run trains until it has spent {plan.budget}, to the nearest step; evaluation is not counted."
    else:
        yield "No budget was given: each recipe takes its own number of steps, so costs differ. See the costs."
    if plan.trials:
        yield (
            f"Each algorithm was given {plan.trials} trials on each task, its recipe's setting the first, chosen by "
            "the reward on held-out prompts and a seed that the comparison does not use."
        )
    else:
        yield "Nothing was tuned: each algorithm ran with its recipe's setting, so this compares recipes."
    yield (
        "Intervals and tests of a task treat seeds and prompts as crossed random effects, paired by both; p-values are "
        "corrected by Holm, algorithms among themselves and against controls apart."
    )
    if plan.seeds < 5:
        seeds = "One seed" if plan.seeds == 1 else f"{plan.seeds} seeds"
        yield f"{seeds}: five or more are better; with few, only large differences show."
    if plan.judge == "gold":
        yield (
            "Win-rates are judged by the task's hidden gold score; where it has none, by accuracy or else the reward."
        )
    else:
        yield (
            f"Win-rates are judged by {plan.judge}, each pair of answers in both orders, averaged; equal texts, and "
            "what the judge abstains from, are ties."
        )


def leader(standings: Sequence[Standing]) -> Standing:
    """The highest mean."""
    return max(standings, key=lambda each: each.mean)
