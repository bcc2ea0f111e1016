"""Checkpoints: the trained weights, adamw, the optimizer's own fields and the step. Nothing random is saved.

Every draw's seed is derived from (run seed, step, use), so step k can be made again alone. A checkpoint is written to
a temporary name, synced and renamed: it is there whole, or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from alignzoo.errors import RunError
from alignzoo.interfaces import Optimizer, Policy


@dataclass(frozen=True)
class Checkpoint:
    """A step of a run, on disk."""

    step: int
    path: Path

    def restore(self, policy: Policy, adamw: torch.optim.Optimizer, optimizer: Optimizer) -> Optimizer:
        """Put weights and adamw back where they were; the optimizer's successor of that step comes back."""
        try:
            policy.restore(load_file(self.path / "weights.safetensors"))
            adamw.load_state_dict(torch.load(self.path / "adamw.pt", weights_only=True))
            fields = json.loads((self.path / "state.json").read_text())["optimizer"]
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise RunError(
                f"the checkpoint {self.path} cannot be read: {error}. Delete that folder to resume from the one before"
            ) from error
        return _with_fields(optimizer, fields)


def save(
    folder: Path, step: int, policy: Policy, adamw: torch.optim.Optimizer, optimizer: Optimizer, *, keep: int
) -> Checkpoint:
    """Write the checkpoint of a step, then drop all but the newest `keep`."""
    final = folder / f"step-{step:06d}"
    partial = folder / f".partial-{step:06d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights: dict[str, Tensor] = {name: tensor.contiguous().cpu() for name, tensor in policy.state().items()}
    save_file(weights, partial / "weights.safetensors")
    torch.save(adamw.state_dict(), partial / "adamw.pt")
    write_json(partial / "state.json", {"step": step, "optimizer": _fields(optimizer)})
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


def _fields(optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's fields, which are its whole state; those that JSON cannot hold do not change in a run."""
    if not dataclasses.is_dataclass(optimizer):
        return {}
    values = {f.name: getattr(optimizer, f.name) for f in dataclasses.fields(optimizer)}
    return {name: value for name, value in values.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _with_fields(optimizer: Optimizer, fields: Mapping[str, Any]) -> Optimizer:
    if not dataclasses.is_dataclass(optimizer):
        return optimizer
    as_before = {
        name: tuple(value) if isinstance(getattr(optimizer, name), tuple) else value for name, value in fields.items()
    }
    restored: Optimizer = dataclasses.replace(optimizer, **as_before)
    return restored


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
