"""A run's folder: where it goes, what it holds, and whether it is the run that one means to go on with."""

from __future__ import annotations

import functools
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from alignzoo import processes, report
from alignzoo.errors import RunError
from alignzoo.evaluation.answers import Figures
from alignzoo.files import read_lines, read_object
from alignzoo.interfaces import Policy
from alignzoo.recipe import Recipe
from alignzoo.recipe.changes import changes
from alignzoo.registry import Registry
from alignzoo.runs import inputs
from alignzoo.storage import LOCK, discard, in_words, is_leftover, only_writer, sweep, write_json

PACKAGES = ("alignzoo", "torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "numpy", "pluggy")
"""Whose versions a manifest names."""

SHOWN = 8
"""Changes that an error lists."""


BROKEN = "Without it nobody can say what the run was: put it back from a copy, or start again with another --out."
DIED = "has ended without a word: it was killed (for want of memory, say), it crashed, or a library ended the program"
DONE_AGAIN = "finished stages again, from their checkpoints where schedule.keep_checkpoints kept these"


@dataclass(frozen=True)
class StageResult:
    """What a stage has come to."""

    name: str
    optimizer: str
    before: Figures
    after: Figures
    best_of: Figures
    steps: int
    stopped: str
    model: Path
    """A transformers directory with the trained model; of a stage that trains nothing, its file of data."""
    costs: Figures = field(default_factory=dict)
    """What its rewards and sampler have spent, in all its starts: requests, tokens, money."""
    round: int = 0
    """Which round it is, from 1, of a stage that the recipe repeats; 0 for any other."""


@dataclass(frozen=True)
class Result:
    """What a run has come to."""

    out: Path
    stages: tuple[StageResult, ...]
    policy: Policy | None
    """The last stage's policy, live; None where every stage was finished before."""

    @property
    def before(self) -> Figures:
        """The last stage's evaluation before training."""
        return self.stages[-1].before

    @property
    def after(self) -> Figures:
        """The last stage's evaluation after training."""
        return self.stages[-1].after

    @property
    def model(self) -> Path:
        """The last stage's model directory."""
        return self.stages[-1].model


@contextmanager
def claimed(
    recipe: Recipe, out: str | Path | None, resume: bool, told: Callable[[str], None] = lambda message: None
) -> Iterator[Path]:
    """The folder to write to, made, and locked against a second writer. Earlier results are never written over, and
    what the operating system refuses inside is told with what is safe. Of a start that ended without a word that is
    `told`."""
    folder = _place(recipe, out, resume)
    if processes.index():
        yield folder  # the other processes trust the first one, which may have begun to write
        return
    try:
        if not (folder / LOCK).exists():  # what is not a run's is refused before anything is written to it
            _check_free(recipe, folder, resume)
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with only_writer(folder) as died:  # who does not hold it deletes nothing: another may just have made the folder
            _check_free(recipe, folder, resume)  # another start may have begun, and ended, in the meantime
            if died:
                told(f"the start before, {died}, {DIED}")
            try:
                yield folder
            finally:
                if made and [path.name for path in folder.iterdir()] == [LOCK]:
                    discard(folder)  # the run was refused before it wrote anything
    except OSError as error:
        raise RunError(f"{in_words(error)}. {_safe(folder)}") from error


def _place(recipe: Recipe, out: str | Path | None, resume: bool) -> Path:
    if out is None and processes.count() > 1:
        raise RunError("several processes must write to one folder: name it with --out DIR")
    if out is None:
        if resume:
            raise RunError("resume what? Say which run with --out DIR")
        return next_folder(recipe.name)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: give --out a folder")
    return folder


def _check_free(recipe: Recipe, folder: Path, resume: bool) -> None:
    """Raise where a folder is another's, or holds another run."""
    if not folder.exists() or all(map(is_leftover, folder.iterdir())):
        return
    if not resume:
        raise RunError(f"{folder} is not empty: choose another --out, or go on with that run by --resume")
    _check_same(recipe, folder)


def swept(folder: Path) -> None:
    """Delete what a kill has left of files and models that were being written or deleted."""
    for place in (folder, folder / "models", folder / "data"):
        if place.is_dir():
            sweep(place)


def _safe(folder: Path) -> str:
    """What of a run is on disk, and how to go on."""
    saved = [path for path in folder.glob("checkpoints/*/step-*") if (path / "state.json").is_file()]
    if not saved:
        return "There is no checkpoint yet: start again, with --resume or in another --out"
    last = max(saved, key=lambda path: path.stat().st_mtime)
    safe = f"The run up to {last.name} of {last.parent.name} is safe in {folder}"
    return f"{safe}: when that is mended, go on with the same command and --resume"


def next_folder(name: str) -> Path:
    """Where a run goes that is told no place: runs/NAME-001, and so on."""
    taken = [path.name.removeprefix(f"{name}-") for path in Path("runs").glob(f"{name}-*")]
    return Path("runs") / f"{name}-{max((int(number) for number in taken if number.isdigit()), default=0) + 1:03d}"


def _check_same(recipe: Recipe, folder: Path) -> None:
    """A run can only be resumed with the recipe that it was started with, but for stages that have not begun."""
    path = folder / "manifest.json"
    if not path.exists():
        raise RunError(f"{folder} holds no run to resume: it has no manifest.json")
    former = read_object(path, "recipe", fix=BROKEN)["recipe"]
    begun = begun_in(folder)
    found = changes(former, json.loads(json.dumps(recipe.resolved)), begun)
    if found:
        more = f"\n  and {len(found) - SHOWN} more, which may follow from these" if len(found) > SHOWN else ""
        told = "".join(f"\n  {change}" for change in found[:SHOWN])
        raise RunError(
            f"{folder} was started with another recipe and cannot be resumed with this one:{told}{more}\n"
            f"Only stages that have not begun may be changed; begun: {', '.join(begun) or 'none'}. Undo the change, or "
            "start again with another --out"
        )


def begun_in(folder: Path) -> list[str]:
    """The stages of a run that have been evaluated or trained, in their order."""
    lines = [str(line["stage"]) for line in read_lines(folder / "evaluations.jsonl", "stage")]
    lines += dict.fromkeys(str(line["stage"]) for line in read_lines(folder / "generated.jsonl", "stage"))
    saved = sorted(path.name for path in (folder / "checkpoints").glob("*") if path.is_dir())
    return list(dict.fromkeys([*(each.name for each in finished_in(folder)), *lines, *saved]))


def manifest(recipe: Recipe, registry: Registry) -> dict[str, Any]:
    """Everything that it takes to repeat a run."""
    return {
        "recipe": recipe.resolved,
        "seeds": {stage.name: stage.seed for stage in recipe.stages},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "plugins": registry.distributions(),
        "files": inputs.files(recipe.resolved),
        "models": inputs.models(recipe.resolved),
        "machine": {
            "system": platform.platform(),
            "threads": torch.get_num_threads(),
            "processes": processes.count(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        },
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def write_manifest(folder: Path, recipe: Recipe, registry: Registry, told: Callable[[str], None]) -> None:
    """manifest.json. Of a run that is resumed it is compared with the former one: other data or plugins are refused,
    other versions or threads are told, and what was is kept under "resumed"."""
    now, path = manifest(recipe, registry), folder / "manifest.json"
    if any(not is_leftover(each) for each in folder.iterdir()):
        former = read_object(path, "recipe", fix=BROKEN)
        parts = inputs.used(recipe.resolved, registry)
        inputs.check_unchanged(former, now, parts, path)
        different = inputs.differing(former, now)
        resumed = [*former.get("resumed", []), *([different] if different else [])]
        now |= {"resumed": resumed} if resumed else {}
        if words := inputs.in_words(different, now, parts):
            told(f"the run was started with {words}: its results can differ from those of a run that was not resumed")
    write_json(path, now)


@functools.cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def write(folder: Path, recipe: Recipe, results: Sequence[StageResult], curves: bool) -> None:
    """result.json, and curves.png where asked for, of the stages that are done."""
    if processes.index():
        return
    stages = [asdict(each) | {"model": str(each.model.relative_to(folder))} for each in results]
    for each in stages:
        if not each["round"]:
            del each["round"]
    write_json(folder / "result.json", {"recipe": recipe.name, "stages": stages})
    if curves:
        report.curves(folder)


def finished_in(folder: Path) -> list[StageResult]:
    """The stages that an earlier start has finished."""
    path = folder / "result.json"
    if not path.exists():
        return []
    stages = read_object(path, "stages", fix=f"Put it back, or delete it: --resume then takes {DONE_AGAIN}.")["stages"]
    try:
        found = [StageResult(**{**each, "model": folder / each["model"]}) for each in stages]
    except (TypeError, KeyError) as error:
        raise RunError(f"{path} is no result of a run: {error}. Delete it: --resume then takes {DONE_AGAIN}") from error
    for each in found:
        if not each.model.resolve().is_relative_to(folder.resolve()):
            raise RunError(f"{path} names a model outside of the run, {each.model}: put the file back, or delete it")
        if not each.model.is_dir() and not each.model.is_file():
            raise RunError(
                f"{each.model} is gone, though the stage {each.name!r} is finished: put it back, or delete {path}: "
                f"--resume then takes {DONE_AGAIN}, and saves the model"
            )
    return found
