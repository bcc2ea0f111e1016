"""The reference's log-probabilities of data that do not change: computed once, and read by the next run.

They lie in a folder of the user's cache, one file for each reference and its data: `alignzoo/reference` in
XDG_CACHE_HOME or ~/.cache, or the folder that ALIGNZOO_REFERENCES names; "off" keeps nothing. The file's name is a
hash of the reference's weights, of all rows and of how they were batched, so that a changed model or a changed row is
another file, and what is read is to the last bit what would have been computed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alignzoo import processes
from alignzoo.collate import Key, Known, fill, keys, known_rows
from alignzoo.interfaces import HasFingerprint, Policy
from alignzoo.room import Room
from alignzoo.types import Alert, Batch

SWITCH = "ALIGNZOO_REFERENCES"

CACHE = "cache"
"""The kind of alert that says that kept log-probabilities could not be used."""

FORMAT = 1
"""Of the files; another number makes the old ones unknown."""

GROUPS = 64
"""Computed at once, whatever the schedule: the same data have the same file in runs that batch them otherwise."""


def reference_of(
    policy: Policy,
    batches: Iterable[Batch],
    room: Room,
    *,
    told: Callable[[Alert], None],
    progress: Callable[[int], None],
) -> Known:
    """The reference's answers on these batches, read from the cache or computed in their order.

    In their order and not when they first come by, so that a resumed run has the same to the last bit. A file that
    cannot be read is told of and written anew, for everything in it can be computed again.
    """
    kept = list(batches)
    rows = [key for batch in kept for key in keys(batch)]
    file = _file(policy, rows, room)
    if (found := processes.of_first(_read(file, told) if file and not processes.index() else None)) is not None:
        return dict(zip(rows, torch.split(found, [_length(key) for key in rows]), strict=True))
    known: Known = {}
    for number, batch in enumerate(kept):
        progress(number)
        share = batch.select(slice(processes.index(), None, processes.count())).to(policy.device)
        filled = processes.same_columns(batch, fill(share, policy, frozenset({"ref_logprobs"}), room=room))
        assert filled.ref_logprobs is not None
        known |= known_rows(batch, filled.ref_logprobs)
    if file and not processes.index():
        _write(file, torch.cat([known[key] for key in rows]), told)
    return known


def _length(key: Key) -> int:
    """How many tokens the completion has."""
    return len(key[1]) // torch.long.itemsize - key[0]


# --- files ------------------------------------------------------------------------------------------------------------


def _file(policy: Policy, rows: Sequence[Key], room: Room) -> Path | None:
    """Where the answers lie; None where a policy's reference is not known again, or nothing shall be kept."""
    folder = os.environ.get(SWITCH, "")
    if folder == "off" or not rows or not isinstance(policy, HasFingerprint):
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alignzoo" / "reference"
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((FORMAT, policy.fingerprint(), room.rows, room.tokens)).encode())
    for start, row in rows:
        digest.update(f"{start} {len(row)} ".encode() + row)
    return (Path(folder) if folder else home) / f"{digest.hexdigest()}.safetensors"


def _read(file: Path, told: Callable[[Alert], None]) -> Tensor | None:
    """What the file holds; None where there is none, or a damaged one."""
    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as opened:
            column: Tensor = opened.get_tensor("logprobs")
            expected = (opened.metadata() or {}).get("digest")
    except (OSError, SafetensorError) as error:
        why = str(error)
    else:
        if _digest(column) == expected:
            return column
        why = "its numbers are not those that were written"
    told(Alert(CACHE, f"the reference's log-probabilities in {file} cannot be read ({why}): they are computed again"))
    return None


def _write(file: Path, column: Tensor, told: Callable[[Alert], None]) -> None:
    """Whole, or not at all; a run does not need it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        save_file({"logprobs": column}, partial, metadata={"digest": _digest(column)})
        partial.replace(file)
    except (OSError, SafetensorError) as error:
        told(
            Alert(
                CACHE,
                f"the reference's log-probabilities cannot be kept in {file.parent} ({error}), so the next run "
                f"computes them again: set {SWITCH} to another folder, or to 'off' to keep none",
            )
        )


def _digest(column: Tensor) -> str:
    return hashlib.blake2b(column.numpy().tobytes(), digest_size=16).hexdigest()
