"""Micro-batches: how much goes through a policy at once, on one process or dealt to many.

They add up to the whole batch and change no result, so their size is a question of memory and speed alone. On several
processes they are planned jointly: every process holds the whole batch, comes to the same plan, and makes as many
passes as the others, so that a pass may be collective (sharded weights).
"""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from alignzoo import processes
from alignzoo.errors import RunError
from alignzoo.interfaces import Policy
from alignzoo.types import Alert, Batch

MEMORY = "memory"
"""The kind of alert that says that micro-batches are smaller from now on."""

SIGNS = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch says where memory runs out without an error of its own kind."""

Unit = tuple[int, int]
"""What a micro-batch takes or leaves: how many rows, and how many tokens."""


class MicroBatchTooLarge(Exception):
    """A micro-batch did not fit into memory; smaller ones will be made from now on, so it is worth another try."""


@dataclass(frozen=True)
class Round:
    """One pass of this process."""

    batch: Batch
    idle: bool = False
    """The other processes have a micro-batch more: this row is computed to keep them company, and counts nothing."""


# --- where a batch may be cut -----------------------------------------------------------------------------------------


def cut(batch: Batch, rows: int = 0, *, tokens: int = 0, couples: str = "group") -> Iterator[Batch]:
    """Micro-batches of at most so many rows and tokens (0: any number), in order, never through what `couples` names:
    "row": anywhere; "group": between groups; "minibatch": not at all.

    What may not be split and is larger stays whole. A prompt that rows share counts once, since a policy may compute
    it once; so a group within the tokens is not split for their sake even where it may be. Of as few micro-batches as
    the tokens allow, the largest is as small as can be: it is what decides how much memory is needed.
    """
    if couples == "minibatch" or not (rows or tokens):
        yield batch
        return
    units = _units(batch, rows, tokens, couples)
    ends = _ends(units, rows, tokens)
    if tokens:
        fewest, enough, most = len(ends), 1, tokens
        while enough < most:
            bound = (enough + most) // 2
            enough, most = (enough, bound) if len(_ends(units, rows, bound)) == fewest else (bound + 1, most)
        ends = _ends(units, rows, enough)
    for start, end in zip([0, *ends], ends, strict=False):
        yield batch if end - start == len(batch) else batch.select(slice(start, end))


def deal(batch: Batch, count: int, *, couples: str) -> list[Batch]:
    """Each process's share of a batch: whole groups, the longest first to whoever has the fewest tokens. Single rows
    where the loss allows it and there are fewer groups than processes; all to the first where nothing may be split."""
    if count == 1 or couples == "minibatch":
        return [batch, *(batch.select(slice(0, 0)) for _ in range(count - 1))]
    whole = couples != "row" or len(batch.group_sizes()) >= count
    units = _units(batch, 0, 0, "group") if whole else _units(batch, 1, 0, "row")
    starts = [0]
    for size, _ in units:
        starts.append(starts[-1] + size)
    load, owner = [0] * count, [0] * len(batch)
    for number in sorted(range(len(units)), key=lambda i: (-units[i][1], i)):
        process = load.index(min(load))
        load[process] += units[number][1]
        owner[starts[number] : starts[number + 1]] = [process] * units[number][0]
    owners = torch.tensor(owner, device=batch.tokens.device)
    return [batch.select(owners == process) for process in range(count)]


def _units(batch: Batch, rows: int, tokens: int, couples: str) -> list[Unit]:
    own: list[int] = (batch.attend.sum(1) - batch.prompt_length).tolist()
    shared: list[int] = batch.prompt_length.tolist()
    prompts: list[int] = batch.prompt.tolist()
    units: list[Unit] = []
    start = 0
    for size in batch.group_sizes().tolist():
        group = range(start, start + size)
        longest: dict[int, int] = {}
        for i in group:
            longest[prompts[i]] = max(longest.get(prompts[i], 0), shared[i])
        weight = sum(longest.values()) + sum(own[i] for i in group)
        if couples == "row" and (rows or weight > tokens):
            units += [(1, shared[i] + own[i]) for i in group]
        else:
            units.append((size, weight))
        start += size
    return units


def _ends(units: Sequence[Unit], rows: int, tokens: int) -> list[int]:
    """Where micro-batches of at most so many rows and tokens (0: any number) end, each as large as it may be."""
    ends, start, end, cost = [], 0, 0, 0
    for size, weight in units:
        if end > start and (0 < rows < end + size - start or 0 < tokens < cost + weight):
            ends.append(end)
            start, cost = end, 0
        end, cost = end + size, cost + weight
    return [*ends, end]


# --- what fits --------------------------------------------------------------------------------------------------------


def on_stderr(alert: Alert) -> None:
    """Warn as Python does."""
    warnings.warn(alert.message, stacklevel=4)


class MicroBatcher:
    """Cuts batches into micro-batches that fit a policy's memory. Where one does not, all are half as large from then
    on, which is told once."""

    def __init__(
        self, policy: Policy, *, rows: int = 0, tokens: int = 0, told: Callable[[Alert], None] = on_stderr
    ) -> None:
        info = policy.info()
        self.rows = rows
        self.tokens = tokens or info.tokens_per_pass
        self.collective = info.collective
        self.told = told
        self.halved = False
        self.agreed = processes.count() == 1 or self.collective
        """Whether what fits need not be found out together: one process is nobody's company, and a pass that needs all
        of them cannot be tried by one."""

    def cut(self, batch: Batch, *, couples: str = "row") -> Iterator[Batch]:
        """Micro-batches of a batch that this process computes alone."""
        return cut(batch, self.rows, tokens=self.tokens, couples=couples)

    def rounds(self, batch: Batch, *, couples: str = "row") -> list[Round]:
        """This process's passes over its share of a batch that all processes hold: as many as every other makes. Called
        by all of them, which agree on the smallest size that any of them needs."""
        if not len(batch):
            return []
        if processes.count() == 1:
            return [Round(micro) for micro in self.cut(batch, couples=couples)]
        self.tokens = processes.least_positive(self.tokens)
        shares = deal(batch, processes.count(), couples=couples)
        plans = [list(self.cut(share, couples=couples)) if len(share) else [] for share in shares]
        mine = [Round(micro) for micro in plans[processes.index()]]
        nothing = ~batch.mask.any(1)  # to answer, so that a policy might make no pass
        shortest = int((batch.attend.sum(1) + batch.tokens.shape[1] * nothing).argmin())
        company = Round(batch.select(slice(shortest, shortest + 1)), idle=True)
        return mine + [company] * (max(map(len, plans)) - len(mine))

    def agree(self, attempt: Callable[[Round], object], batch: Batch, *, couples: str = "row") -> list[Round]:
        """This process's passes over its share, none of which any process finds too large. Called by all of them before
        their first update: each tries its largest, and all take smaller ones until all have room, so that all make as
        many passes from the first update on. What `attempt` leaves behind is the caller's to drop."""
        while True:
            rounds, fits = self.rounds(batch, couples=couples), True
            try:
                for largest in sorted(rounds, key=lambda one: -int(one.batch.attend.sum()))[:1]:
                    attempt(largest)
            except MicroBatchTooLarge:
                fits = False
            if not processes.any_of(not fits):
                self.agreed = True
                return rounds

    def holds(self, batch: Batch) -> bool:
        """Whether all of it should fit at once."""
        return next(self.cut(batch)) is batch

    @contextlib.contextmanager
    def trying(self, part: Batch, *, couples: str = "row") -> Iterator[None]:
        """Inside, a micro-batch is computed. Raises MicroBatchTooLarge where memory does not suffice; RunError where it
        cannot be made smaller, or where a pass is collective, so that one process cannot go on alone."""
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._halve(part, couples, error)
            traceback.clear_frames(error.__traceback__)  # they hold on to what did not fit
            raise MicroBatchTooLarge from None

    def _halve(self, part: Batch, couples: str, error: Exception) -> None:
        size = int(part.attend.sum())
        before = min(self.tokens or size, size)
        groups = len(part.group_sizes())
        if self.collective:
            raise RunError(
                f"out of memory with a micro-batch of {len(part)} rows and {size} tokens, in a pass that needs all "
                f"processes and cannot be repeated by one: set schedule.micro_tokens = {max(1, before // 2)} or less"
            ) from error
        if len(part) == 1 or couples == "minibatch" or (couples == "group" and groups == 1):
            rows = "row" if len(part) == 1 else f"rows of a {'group' if groups == 1 else 'minibatch'}"
            raise RunError(
                f"out of memory with a micro-batch of {len(part)} {rows} and {size} tokens, which cannot be made "
                "smaller: use shorter texts (policy.max_length, policy.max_new_tokens), fewer completions of a prompt "
                "(sampler.n), an adapter (policy.lora_rank), a lower precision (policy.dtype), or a smaller model"
            ) from error
        self.tokens = max(1, before // 2)
        if not self.halved:
            self.halved = True
            self.told(
                Alert(
                    MEMORY,
                    f"out of memory with a micro-batch of {len(part)} rows and {size} tokens: it goes on with "
                    f"{self.tokens} tokens at once, and half of those where need be, which changes no result; "
                    f"schedule.micro_tokens = {self.tokens} begins there",
                    {"rows": float(len(part)), "tokens": float(size)},
                )
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the GPU or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
