"""Checkpoints: the trained weights and their moments, the step, the fields of parts with a successor. Nothing random.

Every draw's seed is derived from (run seed, step, use), so step k can be made again alone. A checkpoint is written to
a temporary name, synced and renamed: it is there whole, or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alignzoo import processes
from alignzoo.errors import RunError
from alignzoo.interfaces import HasNext, Optimizer, Policy, Sampler

Part = TypeVar("Part")


@dataclass(frozen=True)
class Checkpoint:
    """A step of a run, on disk."""

    step: int
    path: Path

    def restore(
        self, policy: Policy, optimizer: Optimizer, sampler: Sampler
    ) -> tuple[Optimizer, Sampler]:
        """Put weights and the torch optimizer back where they were; the successors of that step come back."""
        try:
            policy.restore(load_file(self.path / "weights.safetensors"))
            policy.restore_optimizer(torch.load(self.path / "adamw.pt", weights_only=True))
            state = json.loads((self.path / "state.json").read_text())
            return restored(optimizer, state["optimizer"]), restored(sampler, state["sampler"])
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise RunError(
                f"the checkpoint {self.path} cannot be read: {error}. Delete that folder to resume from the one before"
            ) from error


def save(
    folder: Path,
    step: int,
    policy: Policy,
    optimizer: Optimizer,
    sampler: Sampler,
    *,
    keep: int,
) -> Checkpoint:
    """Write the checkpoint of a step, then drop all but the newest `keep`. All processes call it; the first writes."""
    final = folder / f"step-{step:06d}"
    if processes.index() and not policy.info().collective:
        return Checkpoint(step, final)
    state, moments = policy.state(), policy.optimizer_state()
    if processes.index():
        return Checkpoint(step, final)
    partial = folder / f".partial-{step:06d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights: dict[str, Tensor] = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
    save_file(weights, partial / "weights.safetensors")
    torch.save(moments, partial / "adamw.pt")
    write_json(partial / "state.json", {"step": step, "optimizer": state_of(optimizer), "sampler": state_of(sampler)})
    for path in [*partial.iterdir(), partial]:
        _sync(path)
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    _sync(folder)
    for old in _all(folder)[:-keep]:
        shutil.rmtree(old.path)
    return Checkpoint(step, final)


def latest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None where a run has not come to its first."""
    found = _all(folder)
    return found[-1] if found else None


def _all(folder: Path) -> list[Checkpoint]:
    return sorted(
        (Checkpoint(int(path.name.removeprefix("step-")), path) for path in folder.glob("step-*")), key=lambda c: c.step
    )


def state_of(part: object) -> dict[str, Any]:
    """The fields of a part with a successor, as JSON has them; what only Python can hold does not change in a run."""
    found = {}
    for name, adapter in _adapters(part):
        try:
            found[name] = adapter.dump_python(getattr(part, name), mode="json", warnings="error")
        except ValueError as error:
            raise RunError(
                f"{type(part).__name__}.{name} cannot be written to a checkpoint: {error}. The fields of a part with "
                "next() are its state: numbers, texts, tuples and dataclasses of these, annotated as what they are"
            ) from error
    return found


def restored(part: Part, fields: Mapping[str, Any]) -> Part:
    """The part with the state that `state_of` gave."""
    values = {name: adapter.validate_python(fields[name]) for name, adapter in _adapters(part)}
    return dataclasses.replace(part, **values) if values else part  # type: ignore[type-var]


def _adapters(part: object) -> Iterator[tuple[str, TypeAdapter[Any]]]:
    """What turns each field into JSON and back, by its annotation; none for what no JSON can hold."""
    if not dataclasses.is_dataclass(part) or not isinstance(part, HasNext):
        return
    hints = typing.get_type_hints(type(part), include_extras=True)
    for field in dataclasses.fields(part):
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hints[field.name])
        except PydanticSchemaGenerationError:
            continue
        yield field.name, adapter


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole: to a temporary name, synced and renamed."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _sync(partial)
    partial.replace(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
