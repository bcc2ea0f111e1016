"""What stands beside a mean that is not what it seems: runs that failed, runs that spent more or less than the rest."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from alignzoo.compare.plan import TOLERANCE
from alignzoo.compare.results import CellResult, Results
from alignzoo.schedule import AT_KL

KL_STOP = "schedule.kl_stop"
"""The override by which all runs end at a KL."""
NEAR = 0.25
"""A method whose KL is within this share of the one where its runs were to end has come to it."""


def runs(results: Results, task: str, label: str) -> list[CellResult]:
    """Those that count of an algorithm, or a control, on a task."""
    return [c for c in results.cells if (c.task, c.algorithm) == (task, label) and c.role != "trial"]


def spent(results: Results, task: str, label: str) -> float | None:
    """The share of the budget that its runs have spent on the average; None without a budget, or where a clock alone
    knows."""
    budget = results.settings.get("budget")
    if not budget:
        return None
    ((currency, amount),) = budget.items()
    spending = [c for c in runs(results, task, label) if c.has_figures and (c.steps or c.status == "over-budget")]
    costs = [cell.costs.get(currency) for cell in spending]
    known = [cost for cost in costs if cost is not None]
    return fmean(known) / amount if known else None


def kl_limit(results: Results) -> float | None:
    """The KL to the start at which all runs end, in nats per sequence; None where they do not end by it."""
    given = [
        each.partition("=")[2] for each in results.settings.get("overrides", ()) if each.partition("=")[0] == KL_STOP
    ]
    return (float(given[-1]) or None) if given else None


def before_the_limit(results: Results, task: str, label: str) -> int:
    """How many runs ended before their KL came to the limit, by what stopped them and by what they ended with."""
    limit = kl_limit(results) or 0.0
    trained = [cell for cell in runs(results, task, label) if cell.has_figures and cell.steps]
    return sum(not cell.stopped.startswith(AT_KL) and cell.after.get("kl", 0.0) < limit for cell in trained)


def kl_after(results: Results, task: str, label: str) -> float | None:
    """The KL to the start of its trained runs in nats per sequence, of held-out prompts, on the average; None where
    nothing has measured it."""
    trained = [cell for cell in runs(results, task, label) if cell.has_figures and cell.steps]
    known = [cell.after["kl"] for cell in trained if "kl" in cell.after]
    return fmean(known) if known else None


def marks(results: Results, task: str, label: str) -> Iterator[str]:
    """What a reader of its mean must know, each in a few words."""
    mine = runs(results, task, label)
    for status in ("failed", "diverged"):
        n = sum(cell.status == status for cell in mine)
        if n:
            yield f"{n} of {len(mine)} {status}"
    if kl_limit(results):
        short = before_the_limit(results, task, label)
        if short:
            yield f"{short} of {len(mine)} short of the KL"
        return
    share = spent(results, task, label)
    if share is not None and abs(share - 1) > TOLERANCE:
        yield f"spent {100 * share:.0f} % of the budget"
    elif any(cell.status == "over-budget" for cell in mine):
        yield "over the budget"


def terms(results: Results, task: str, a: str, b: str) -> str:
    """On which terms two were compared."""
    if limit := kl_limit(results):
        after = [(kl, label) for label in (a, b) if (kl := kl_after(results, task, label)) is not None]
        if any(abs(kl / limit - 1) > NEAR for kl, _ in after):
            told = " and ".join(f"{kl:.2f} ({label})" for kl, label in after)
            return f" at KLs of {told}, where runs were to end at {limit:g}"
        short = any(before_the_limit(results, task, label) for label in (a, b))
        return f" at a KL of {limit:g}" + (", which not all of their runs have come to" if short else "")
    budget = results.settings.get("budget")
    if not budget:
        return " at their recipes' own steps"
    known = [share for label in (a, b) if (share := spent(results, task, label)) is not None]
    if len(known) == 2 and max(known) > (1 + TOLERANCE) * min(known):
        told = " and ".join(f"{100 * share:.0f} % ({label})" for label, share in zip((a, b), known, strict=True))
        return f", having spent {told} of the budget in {next(iter(budget))}"
    return f" at equal {next(iter(budget))}"
