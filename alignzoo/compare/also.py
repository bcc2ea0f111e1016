"""What a comparison evaluates its final policies by besides its own figures: tasks, pairs, the LM Evaluation Harness.

Each evaluation of a cell is a file of its folder, also/NAME.json, with every item. One that is there is not made again,
also where the comparison asks for one more afterwards; one that failed says why, and the cell's other figures stay.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignzoo.calling import kept
from alignzoo.compare.answers import Examiner, preferred
from alignzoo.compare.plan import Cell, safe
from alignzoo.data import Data, prompts_of
from alignzoo.errors import AlignzooError, RecipeError, in_words
from alignzoo.evaluation import outside
from alignzoo.evaluation.outside import Item, Kind, Measured
from alignzoo.files import read_json
from alignzoo.interfaces import Policy
from alignzoo.microbatch import MicroBatcher
from alignzoo.policies import loaded
from alignzoo.storage import write_json
from alignzoo.types import Prompt

if TYPE_CHECKING:
    from alignzoo.recipe import Stage
    from alignzoo.registry import Registry

OPTION = "--also"


@dataclass(frozen=True)
class Told:
    """An evaluation of a cell, as its file has it."""

    measured: Measured
    error: str = ""
    """Why there are no items; empty where there are some."""


def kind_of(name: str, registry: Registry) -> Kind:
    """What an evaluation's name stands for."""
    return outside.kind_of(name, [each.name for each in registry.list("task")], OPTION)


def check(names: Sequence[str], limit: int | None, registry: Registry) -> None:
    """Raise for an evaluation that could not be made of any cell, before the first is run."""
    for name in names:
        if [safe(each) for each in names].count(safe(name)) > 1:
            raise RecipeError(f"{OPTION} {name} is given twice, or by two names that one file would have")
        kind = kind_of(name, registry)
        if kind == "harness":
            outside.harness_for(name)
        elif kind == "pairs":
            outside.check_pairs(_pairs(name, limit), name)
    if limit is not None and not names:
        raise RecipeError(f"{OPTION}-limit bounds the items of {OPTION}, of which there is none")


def _pairs(name: str, limit: int | None) -> list[Prompt]:
    return prompts_of(Data(path=name, limit=limit or 0))


# --- a cell -----------------------------------------------------------------------------------------------------------


def missing(cell: Cell, folder: Path) -> list[str]:
    """Those of a cell's evaluations that have no file yet."""
    return [name for name in cell.also if not _file(folder, name).exists()]


def read_told(cell: Cell, folder: Path) -> Iterator[Told]:
    """The evaluations of a cell that have a file, in the order in which they were asked for."""
    for name in cell.also:
        path = _file(folder, name)
        if path.exists():
            told = read_json(path)
            items = tuple(Item(*each) for each in told["items"])
            lower, left_out = frozenset(told["lower_is_better"]), tuple(told["left_out"])
            yield Told(Measured(name, items, lower, told["about"], left_out), told["error"])


def forget_failed(cell: Cell, folder: Path) -> None:
    """Delete the files of evaluations that failed, for another try."""
    for each in read_told(cell, folder):
        if each.error:
            _file(folder, each.measured.name).unlink()


def evaluate(cell: Cell, folder: Path, stage: Stage, model: str, registry: Registry) -> None:
    """Make a cell's missing evaluations, of its final model. `stage` is the one whose policy says how it is loaded."""
    spec: Any = stage.policy
    live: dict[str, Policy] = {}

    def policy(which: str) -> Policy:
        """A model, loaded once for all evaluations that take it live."""
        if which not in live:
            live[which] = loaded(replace(spec, model=which), frozenset())
        return live[which]

    for name in missing(cell, folder):
        with kept() as failed:  # the package that evaluates is another's: what it raises is told with the column
            told = Told(_measured(name, cell, model, spec.model, policy, registry))
        if failed.error is not None:
            told = Told(Measured(name, ()), in_words(failed.error))
            if not isinstance(failed.error, AlignzooError):
                traceback.print_exception(failed.error)
        _write(folder, told)


def _measured(
    name: str, cell: Cell, model: str, start: str, policy: Callable[[str], Policy], registry: Registry
) -> Measured:
    kind, limit = kind_of(name, registry), cell.also_limit
    if kind == "harness":
        return outside.by_harness(name, model, limit=limit)
    if kind == "task":
        from alignzoo.recipe import named_part

        return outside.by_task(name, named_part(registry, "task", name, None), policy(model), limit=limit)
    return by_raising(name, _pairs(name, limit), policy(model), policy(start))


def by_raising(name: str, prompts: Sequence[Prompt], policy: Policy, start: Policy) -> Measured:
    """How often a policy has raised the chosen answer more than the rejected one since the start, which is DPO's
    implicit reward; and its loss on the chosen answers, in nats per token."""
    items: list[Item] = []
    batchers = MicroBatcher(policy), MicroBatcher(start)
    read_from = repr([(each.messages, each.completions, each.labels) for each in prompts])
    about = {"pairs": len(prompts), "sha256": hashlib.sha256(read_from.encode()).hexdigest()[:16]}
    for first in range(0, len(prompts), outside.AT_ONCE):
        some = prompts[first : first + outside.AT_ONCE]
        found = preferred(policy, Examiner(some, (), None, start), some, *batchers)
        for place, (raised, nll) in found.items():
            figures = {"preference": raised, "nll": nll}
            if isinstance(subset := some[place].info.get("subset"), str):
                figures[f"preference/{subset}"] = raised
            items += [Item(str(first + place), metric, value) for metric, value in figures.items()]
    return Measured(name, tuple(items), frozenset({"nll"}), about)


def lost(cell: Cell, folder: Path, how: str) -> None:
    """Say of the missing evaluations of a cell whose process died what became of them."""
    for name in missing(cell, folder):
        _write(folder, Told(Measured(name, ()), how))


def _write(folder: Path, told: Told) -> None:
    measured = told.measured
    path = _file(folder, measured.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "name": measured.name,
        "error": told.error,
        "about": dict(measured.about),
        "lower_is_better": sorted(measured.lower_is_better),
        "left_out": measured.left_out,
        "items": [[each.id, each.metric, each.value] for each in measured.items],
    }
    write_json(path, whole)


def _file(folder: Path, name: str) -> Path:
    return folder / "also" / f"{safe(name)}.json"
