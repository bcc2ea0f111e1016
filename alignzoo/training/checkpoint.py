"""Checkpoints: the trained weights and their moments, the step, the fields of parts with a successor. Nothing random.

Every draw's seed is derived from (run seed, step, use), so step k can be made again alone. A checkpoint is written to
a temporary name, synced and renamed: it is there whole, or not at all. Disks damage what they hold, so it also knows
the SHA-256 of its files, and how much of the journal was written before it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from alignzoo import processes, sharded
from alignzoo.errors import RunError
from alignzoo.files import read_object
from alignzoo.interfaces import HasNext, Optimizer, Policy, RewardSource, Sampler
from alignzoo.lifecycle import parts_in, taking_over, with_parts
from alignzoo.storage import discard, in_words, install, partial_of, sha256, sweep, write_json, writing

Part = TypeVar("Part")


FILES = ("weights.safetensors", "adamw.pt")
WAITING = "waiting"
"""In state.json, where there is any: what has been generated ahead, a step each (`schedule.ahead`)."""
SHARDS = "shards"
"""In their place, where the weights are sharded: the folder in which every process writes its parts."""

NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """A step of a run, on disk, whose files are as they were written."""

    step: int
    path: Path
    state: Mapping[str, Any] = dataclasses.field(repr=False)
    """state.json: the fields of parts with a successor, the SHA-256 of the other files, and the journal's extent."""

    def restore(
        self, policy: Policy, optimizer: Optimizer, sampler: Sampler, rewards: Sequence[RewardSource]
    ) -> tuple[Optimizer, Sampler, list[RewardSource]]:
        """Put weights and the torch optimizer back where they were; the successors of that step come back."""
        try:
            if (self.path / SHARDS).is_dir():
                sharded.read(self.path / SHARDS, policy)
            else:
                policy.restore(load_file(self.path / "weights.safetensors"))
                policy.restore_optimizer(torch.load(self.path / "adamw.pt", weights_only=True))
            pairs = zip(rewards, self.state["rewards"], strict=True)
            given = [restored(reward, fields) for reward, fields in pairs]
            return restored(optimizer, self.state["optimizer"]), restored(sampler, self.state["sampler"]), given
        except torch.OutOfMemoryError:
            raise  # the checkpoint is not to blame
        except OSError as error:
            raise RunError(f"the checkpoint {self.path} cannot be read: {in_words(error)}") from error
        except UNREADABLE as error:
            raise RunError(
                f"the checkpoint {self.path} is whole, but does not fit this run: {type(error).__name__}: {error}. Was "
                "the model, a plugin or torch changed? Delete that folder to resume from the one before"
            ) from error


UNREADABLE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
)


class Damaged(Exception):
    """A checkpoint is not as it was written; the message says what is wrong with it."""


def save(
    folder: Path,
    step: int,
    policy: Policy,
    optimizer: Optimizer,
    sampler: Sampler,
    rewards: Sequence[RewardSource],
    *,
    keep: int,
    journal: Mapping[str, Any] | None = None,
    waiting: Sequence[Mapping[str, Any]] = (),
) -> Checkpoint:
    """Write the checkpoint of a step, then drop all but the newest `keep`. All processes call it; the first writes.
    `journal` is the extent of the journal that it counts on, which is on disk already; `waiting` has been generated for
    later steps."""
    final = folder / f"step-{step:06d}"
    state = {"step": step, "optimizer": state_of(optimizer), "sampler": state_of(sampler), "journal": journal or {}}
    state["rewards"] = [state_of(reward) for reward in rewards]
    if waiting:
        state[WAITING] = list(waiting)
    if processes.index() and not policy.info().collective:
        return Checkpoint(step, final, state)
    tensors, moments = policy.state(), policy.optimizer_state()
    spread, partial = sharded.is_sharded(tensors.values()), final
    if processes.index() and not spread:
        return Checkpoint(step, final, state)
    with writing(f"the checkpoint of step {step}", folder):
        if not processes.index():
            if folder.is_dir():
                sweep(folder)
            partial = partial_of(final, folder.parent.parent)
        if spread:
            partial = processes.of_first(partial)
            digests = sharded.write(partial / SHARDS, tensors, moments)
            state["files"] = {f"{SHARDS}/{name}": digest for name, digest in sorted(digests.items())}
        else:
            weights = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
            save_file(weights, partial / "weights.safetensors")
            torch.save(moments, partial / "adamw.pt")
            (partial / "adamw.pt").chmod(0o600)  # as safetensors makes the weights
            state["files"] = {name: sha256(partial / name) for name in FILES}
        if not processes.index():
            write_json(partial / "state.json", state | {"sha256": _digest(state)})
            install(partial, final)
            _drop_old(folder, keep)
    return Checkpoint(step, final, state)


def newest(
    folder: Path, complete: Callable[[Mapping[str, Any]], str], told: Callable[[int, str], None], *, keep: int
) -> Checkpoint | None:
    """The newest checkpoint that is as it was written and whose journal is `complete`, or None where there is none yet.

    `complete` says what a journal of that extent lacks, "" for nothing. A newer one that cannot be used is set aside
    and `told`; where none can be used, a RunError says why.
    """
    for place in (folder.parent, folder):
        if place.exists() and not place.is_dir():
            raise RunError(f"{place} is a file where the folder of checkpoints is expected: move it away")
    if not folder.is_dir():
        return None
    sweep(folder)
    found, problems = _all(folder), []
    for step, path in reversed(found):
        try:
            checkpoint = _whole(step, path)
            lacks = complete(checkpoint.state["journal"])
        except Damaged as damage:
            lacks = str(damage)
        if lacks:
            problems.append((step, path, lacks))
            continue
        for bad, place, why in problems:
            aside = place.with_name(f"damaged-{place.name}")
            if aside.exists():
                discard(aside)
            place.rename(aside)
            told(
                step,
                f"the checkpoint of step {bad} cannot be used: {why}. It is now {aside}; the run goes on from "
                f"step {step}",
            )
        _drop_old(folder, keep)  # a kill may have come between
        return checkpoint
    if problems:
        why = "\n".join(f"  {path}: {lacks}" for _, path, lacks in problems)
        raise RunError(
            f"no checkpoint in {folder} can be used:\n{why}\nPut back what is missing from a copy, or delete that "
            "folder: the stage then begins again from its first step"
        )
    return None


def drop_all(folder: Path) -> None:
    """Delete every checkpoint of a stage, and the folders that are empty then; what somebody has put beside them
    stays."""
    for place in (folder, folder.parent):
        if place.is_dir():
            sweep(place)
    for _, path in _all(folder) if folder.is_dir() else ():
        discard(path)
    for place in (folder, folder.parent):
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def _drop_old(folder: Path, keep: int) -> None:
    for _, old in _all(folder)[:-keep]:
        discard(old)


def _whole(step: int, path: Path) -> Checkpoint:
    """The checkpoint of a folder; raises Damaged where it is not as it was written."""
    try:
        state = read_object(path / "state.json", "step", "optimizer", "sampler", "journal", "files", "sha256")
        digest = state.pop("sha256")
        if digest != _digest(state) or state["step"] != step:
            raise Damaged("state.json is not as it was written (its SHA-256 differs)")
        for name, expected in state["files"].items():
            if sha256(path / name) != expected:
                raise Damaged(f"{name} is not as it was written (its SHA-256 differs)")
    except RunError as error:
        raise Damaged(str(error)) from error
    except OSError as error:
        raise Damaged(in_words(error)) from error
    return Checkpoint(step, path, state)


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _all(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints' steps and folders in order; what bears another name is no business of ours."""
    named = [(NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()]
    return sorted((int(match[1]), path) for match, path in named if match)


def state_of(part: object) -> dict[str, Any]:
    """The fields of a part with a successor, as JSON has them, and those of the parts in its fields, as "judge.0" where
    the field is `judge`; what only Python can hold, a function say, does not change in a run."""
    within = {f"{name}.{number}": state_of(each) for (name, number), each in parts_in(part).items()}
    found: dict[str, Any] = {place: state for place, state in within.items() if state}
    for name, adapter in _adapters(part):
        if callable(getattr(part, name)):
            continue
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
    places = {place: f"{place[0]}.{place[1]}" for place in parts_in(part)}
    within = {p: restored(each, fields[places[p]]) for p, each in parts_in(part).items() if places[p] in fields}
    part = with_parts(part, within)
    values = {n: each.validate_python(fields[n]) for n, each in _adapters(part) if not callable(getattr(part, n))}
    return taking_over(dataclasses.replace(part, **values), part) if values else part  # type: ignore[type-var]


def _adapters(part: object) -> Iterator[tuple[str, TypeAdapter[Any]]]:
    """What turns each field into JSON and back, by its annotation; none for what no JSON can hold."""
    if not dataclasses.is_dataclass(part) or not isinstance(part, HasNext):
        return
    hints, parts = typing.get_type_hints(type(part), include_extras=True), {name for name, _ in parts_in(part)}
    for field in dataclasses.fields(part):
        if field.name in parts:
            continue
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hints[field.name])
        except PydanticSchemaGenerationError:
            continue
        yield field.name, adapter
