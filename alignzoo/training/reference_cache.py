"""The reference's log-probabilities of data that do not change: computed once, and read by the next run.

They lie in a folder of the user's cache, one file for each reference and its data: `alignzoo/reference` in
XDG_CACHE_HOME or ~/.cache, or the folder that ALIGNZOO_REFERENCES names; "off" keeps nothing. The file's name is a
hash of the reference's weights, of all rows and of how they were batched, so that a changed model or a changed row is
another file, and what is read is to the last bit what would have been computed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alignzoo import processes
from alignzoo.batching import collate, fill
from alignzoo.interfaces import Policy
from alignzoo.microbatch import MicroBatcher
from alignzoo.types import Alert, Batch, Group

SWITCH = "ALIGNZOO_REFERENCES"

CACHE = "cache"
"""The kind of alert that says that kept log-probabilities could not be used."""

FORMAT = 2
"""The version of the files' format; another number makes the old ones unknown."""

GROUPS = 64
"""Computed at once, whatever the schedule: the same data have the same file in runs that batch them otherwise."""


Row = tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]
"""A row of the data: the prompt's tokens, the completion's, and which of these are trained on, so asked about."""


@dataclass(frozen=True)
class Remembered:
    """The reference's log-probabilities of given data, by row."""

    rows: Mapping[Row, Tensor] = field(default_factory=dict)
    """One number for each token of the row that the reference was asked about."""

    def column(self, batch: Batch, groups: Sequence[Group]) -> Tensor | None:
        """The column (N, T) of the batch of these groups; None where one of its rows is not remembered."""
        rows = _rows(groups)
        found = [self.rows.get(rows[number]) for number in batch.row.tolist()] if self.rows else [None]
        known = [each for each in found if each is not None]
        if len(known) < len(found):
            return None
        column = torch.zeros(batch.tokens.shape, dtype=known[0].dtype)
        column[batch.mask.cpu()] = torch.cat(known)
        return column.to(batch.tokens.device)


def _rows(groups: Sequence[Group]) -> list[Row]:
    """The rows by their numbers in `Batch.row`."""
    return [(group.prompt_tokens, each.tokens, each.trained) for group in groups for each in group.completions]


def remember(
    policy: Policy,
    batches: Iterable[Sequence[Group]],
    batcher: MicroBatcher,
    *,
    told: Callable[[Alert], None],
    progress: Callable[[int], None],
) -> Remembered:
    """The reference's answers on these groups, scored or not, read from the cache or computed in their order.

    In their order and not when they first come by, so that a resumed run has the same to the last bit. A file that
    cannot be read is told of and written anew, for everything in it can be computed again.
    """
    kept = [(groups, collate(groups, scored=False)) for groups in batches]
    rows = [_rows(groups)[number] for groups, batch in kept for number in batch.row.tolist()]
    counts = [count for _, batch in kept for count in batch.mask.sum(1).tolist()]
    file = _file(policy, rows, batcher)
    found = processes.of_first(_read(file, told) if file and not processes.index() else None)
    if found is None:
        answers = []
        for number, (_, batch) in enumerate(kept):
            progress(number)
            filled = fill(batch.to(policy.device), policy, frozenset({"ref_logprobs"}), batcher=batcher)
            answers.append(filled["ref_logprobs"][filled.mask].cpu())
        found = torch.cat(answers) if answers else torch.zeros(0)
        if file and not processes.index():
            _write(file, found, told)
    return Remembered(dict(zip(rows, torch.split(found, counts), strict=True)))


# --- files ------------------------------------------------------------------------------------------------------------


def _file(policy: Policy, rows: Sequence[Row], batcher: MicroBatcher) -> Path | None:
    """Where the answers lie; None where a policy's reference is not known again, or nothing shall be kept."""
    folder, fingerprint = os.environ.get(SWITCH, ""), policy.info().fingerprint
    if folder == "off" or not rows or fingerprint is None:
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alignzoo" / "reference"
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((FORMAT, fingerprint(), batcher.rows, batcher.tokens)).encode())
    for prompt, completion, trained in rows:
        digest.update(f"{len(prompt)} {len(completion)} ".encode() + array("q", prompt + completion).tobytes())
        if not all(trained):
            digest.update(bytes(trained))
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
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"logprobs": column}, partial, metadata={"digest": _digest(column)})
        partial.replace(file)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        told(
            Alert(
                CACHE,
                f"the reference's log-probabilities cannot be kept in {file.parent} ({error}), so the next run "
                f"computes them again: set {SWITCH} to another folder, or to 'off' to keep none",
            )
        )


def _digest(column: Tensor) -> str:
    return hashlib.blake2b(column.numpy().tobytes(), digest_size=16).hexdigest()
