"""Whether what a comparison goes on from is what it was: recipes, data, models and code of its cells, and their
answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignzoo.compare.plain import AGAIN
from alignzoo.compare.plan import Cell, entry, read_cell
from alignzoo.compare.results import CellResult
from alignzoo.errors import RunError
from alignzoo.files import read_object
from alignzoo.recipe import load
from alignzoo.recipe.changes import changes
from alignzoo.registry import Registry
from alignzoo.runs import inputs
from alignzoo.storage import write_json

SHOWN = 8
"""So many changes are told."""

# --- data, models and code --------------------------------------------------------------------------------------------


def write_inputs(cell: Cell, folder: Path, evaluator: Mapping[str, Any], registry: Registry) -> None:
    """inputs.json: what a cell's answers are written and scored with, as `run/manifest.json` says what it is trained
    with. A cell that goes on keeps its own."""
    path = folder / "inputs.json"
    if not path.exists():
        read = {"stage": [evaluator], "measure": _measure(cell.scored_by)}
        used = inputs.used(read, registry)
        plugins = {name: about for name, about in registry.distributions().items() if name in used}
        write_json(path, {"recipe": read, "plugins": plugins} | _now([read]))


def _measure(text: str) -> dict[str, str]:
    """A reward with its settings, "model[model=DIR]", as a resolved recipe has it."""
    if not text:
        return {}
    given = entry(text)
    pairs = (each.partition("=") for each in given.settings)
    return {"name": given.name} | {
        key.strip().rpartition(".")[2]: value.strip().strip("\"'") for key, _, value in pairs
    }


def check_inputs(cells: Sequence[Cell], folder: Path, registry: Registry) -> None:
    """Raise where a recipe's file, data, a model or a plugin has changed since one of these cells was begun: old cells
    would be held against new ones that learned, or were scored, from something else."""
    former = [(cell, told) for cell in cells for told in _former(folder / cell.id)]
    now = _now([told["recipe"] for _, told in former]) | {"plugins": registry.distributions()}
    found: dict[str, list[str]] = {}
    for cell, told in former:
        for change in inputs.changed(told, now, inputs.used(told["recipe"], registry)):
            found.setdefault(change, []).append(cell.id)
    for cell in cells:
        for change in _recipe_changes(folder / cell.id, registry):
            found.setdefault(change, []).append(cell.id)
    if not found:
        return
    ids = list(dict.fromkeys(each for cells in found.values() for each in cells))
    lines = "\n".join([*found][:SHOWN])
    raise RunError(
        f"of the cells in {folder}, {len(ids)} had other recipes, data, models or plugins, {ids[0]} the first; new "
        f"ones would not compare with them:\n{lines}\nPut the former ones back, or give another --out. Or delete the "
        "folders of those cells: the same command runs them again"
    )


def _recipe_changes(folder: Path, registry: Registry) -> Iterator[str]:
    """What a recipe's file says now, and did not when a cell was trained by it. Registered recipes change with their
    plugin alone, and are told by it."""
    if not (folder / "plan.json").exists() or not (folder / "run" / "manifest.json").exists():
        return
    cell = read_cell(folder)
    if Path(cell.recipe).is_file():
        was = read_object(folder / "run" / "manifest.json", "recipe", fix=AGAIN)["recipe"]
        now = json.loads(json.dumps(load(cell.recipe, cell.overrides, registry=registry).resolved))
        for change in changes(was, now, [stage["name"] for stage in now["stage"]]):
            yield f"{cell.recipe} has changed: {change}"


def _former(folder: Path) -> Iterator[Mapping[str, Any]]:
    """What a cell was made with, as far as it is known: of earlier comparisons only what it was trained with."""
    for path in (folder / "run" / "manifest.json", folder / "inputs.json"):
        if path.exists():
            yield read_object(path, "recipe", fix=AGAIN)


def _now(recipes: Sequence[Any]) -> dict[str, Any]:
    """Each file and model that resolved recipes name is read once."""
    together = {"recipes": recipes}
    return {"files": inputs.files(together), "models": inputs.models(together)}


# --- answers ----------------------------------------------------------------------------------------------------------


def answers_of(folder: Path) -> dict[str, Any]:
    """For cell.json: how many lines a cell's answers.jsonl has, and its SHA-256."""
    content = (folder / "answers.jsonl").read_bytes()
    return {"lines": content.count(b"\n"), "sha256": hashlib.sha256(content).hexdigest()}


def check_answers(result: CellResult, folder: Path) -> None:
    """Raise where a finished cell's answers are not those that its figures are of: prompts that are missing here are
    left out of all cells' statistics, and a cell without answers counts as one that failed."""
    path = folder / "answers.jsonl"
    if not result.has_figures:
        return
    if not path.exists():
        raise RunError(f"{path} is gone, though the cell {result.id} is finished. Put it back, or: {AGAIN}")
    was = read_object(folder / "cell.json").get("answers")
    if was is None:  # of an earlier comparison, which has not noted them
        return
    now = answers_of(folder)
    if was != now:
        lines = f"{was['lines']} lines, now {now['lines']}" if was["lines"] != now["lines"] else "other text"
        raise RunError(
            f"{path} has changed since the cell {result.id} was finished: it had {lines}. Put it back, or: {AGAIN}"
        )
