"""One process or many: whole groups are dealt out, and what every process needs of the others is gathered.

`torchrun` or `accelerate launch` starts the processes, and `join` makes a group of them. Everything here is the
identity when there is only one. Where one fails, all end, and the one that failed tells of it.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from alignzoo.errors import RunError

LIMIT = timedelta(hours=2)
"""How long a process waits for the others: longer than the slowest judge keeps one of them, or the first writes a
checkpoint."""

START = timedelta(minutes=10)
"""How long they wait for each other to start."""

PATIENCE = timedelta(seconds=10)
"""How long a process that has failed waits to be told of the failure that came first."""

T = TypeVar("T")

_words: list[PrefixStore] = []
"""Once the processes are joined: where they leave words for each other that wait for no answer."""

_quiet: list[bool] = []
"""Not empty once another process tells of the failure that ends this one."""


class _Thread(threading.local):
    """What belongs to a thread."""

    line: Any = None
    """The connection by which it exchanges; None: the one of all."""


_thread = _Thread()


def count() -> int:
    """How many processes train together, by what the launcher tells them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def index() -> int:
    """Which of them this is; process 0 writes the files."""
    return int(os.environ.get("RANK", "0"))


def join() -> None:
    """Make a group of the processes that were launched together, each with a GPU of its own where there are GPUs."""
    if count() == 1 or dist.is_initialized():
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_index())
    try:
        store, rank, size = next(rendezvous("env://", timeout=START))
        group = PrefixStore("group", store)
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"  # objects go through gloo
        dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=LIMIT)
    except (ValueError, RuntimeError) as error:
        raise RunError(
            f"WORLD_SIZE says that this is one of {count()} processes, but they cannot be joined ({error}): start them "
            "with torchrun or `accelerate launch`, or unset WORLD_SIZE"
        ) from error
    _words.append(PrefixStore("words", store))
    atexit.register(_part)  # a thread of the group that outlives its interpreter aborts the process now and then


def local_index() -> int:
    """Which of this machine's processes this is: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", index()))


def machine() -> str:
    """The machine's number, as the launcher counts."""
    return os.environ.get("GROUP_RANK", "0")


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


# --- failing ----------------------------------------------------------------------------------------------------------


class Lost(RunError):
    """Another process has failed, so this one cannot go on."""


class Told(Lost):
    """Another process has said, in the place of an exchange, that it has failed."""


@contextmanager
def together(calm: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Inside, the processes are joined, and what one raises ends all of them within seconds: the others raise Lost with
    its message. Errors of the kinds in `calm` are raised by all at the same place, and disturb nobody."""
    join()
    try:
        yield
    except calm:
        raise
    except BaseException as error:
        if dist.is_initialized():
            _fail(error)
        raise


def _fail(error: BaseException) -> None:
    """Tell the others of an error, and let them wait no longer. Raises Lost where another process was the first."""
    first, where, told = True, machine(), ""
    if _words:
        try:
            first = not isinstance(error, Told) and _words[0].add("failed", 1) == 1
            if first:
                message = f"process {index()}: {str(error) or type(error).__name__}"
                _words[0].set("failure", f"{where}\n{message}")
            _words[0].wait(["failure"], PATIENCE)
            where, told = _words[0].get("failure").decode().split("\n", 1)
        except RuntimeError:  # the store ends with the launcher that holds it, or with the first process
            told = ""
    dist.destroy_process_group()
    if told and not first:
        if where == machine() or local_index():
            _quiet.append(True)
        if isinstance(error, Lost):
            raise Lost(told) from None


def heard() -> bool:
    """Whether another process tells of what went wrong, so that this one need not: the first to fail does, and on every
    other machine its first process."""
    return bool(_quiet)


@contextmanager
def _listening() -> Iterator[None]:
    """Inside, an exchange with the others. Raises Lost where one of them is no longer there."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise Lost(
            f"another process of the run has ended without a word, or kept this one waiting for {LIMIT}: its own "
            f"output may say more, and the system's log whether memory ran out ({str(error).splitlines()[0]})"
        ) from error


GONE = ("closed by peer", "reset by peer", "Broken pipe", "imed out", "gloo", "NCCL", "nccl", "rocessGroup")
"""What torch says of an exchange that failed for another process's sake."""


@contextmanager
def exchanging() -> Iterator[None]:
    """Inside, work in which weights are exchanged with the others. Raises Lost where one of them is no longer there;
    any other error is what it is."""
    try:
        with _listening():
            yield
    except Lost as lost:
        cause = lost.__cause__
        if cause is not None and not any(sign in str(cause) for sign in GONE):
            raise cause from None
        raise


# --- threads ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Failure:
    """In the place of what a process was to share."""

    message: str


def line() -> Any:
    """A connection between the processes for another thread, made by all together; None where there is only one."""
    return dist.new_group(backend="gloo", timeout=LIMIT) if count() > 1 else None


@contextmanager
def over(line: Any) -> Iterator[None]:
    """Inside, this thread exchanges over a connection of its own, in an order of its own; the thread of the same place
    in every other process does so, too."""
    former, _thread.line = _thread.line, line
    try:
        yield
    finally:
        _thread.line = former


def end(line: Any) -> None:
    """Close a connection that nobody uses any longer."""
    if line is not None and dist.is_initialized():
        dist.destroy_process_group(line)


def say_failed(error: BaseException) -> None:
    """Say in the place of this thread's next exchange that it has failed: the others' raises Told. Nothing is to be
    exchanged over its line afterwards."""
    if count() > 1 and not isinstance(error, Lost):
        with suppress(Lost):  # they know already
            everyones(_Failure(str(error) or type(error).__name__))


# --- sharing ----------------------------------------------------------------------------------------------------------


def dealt(items: Sequence[T]) -> list[T]:
    """This process's share: as many in a row as every other has, or one more or less."""
    size, more = divmod(len(items), count())
    start = index() * size + min(index(), more)
    return list(items[start : start + size + (index() < more)])


def gather(share: Sequence[T]) -> list[T]:
    """All processes' shares one after the other: in the order from which `dealt` took them, whatever each item has
    become."""
    return [item for each in everyones(list(share)) for item in each]


def of_first(value: T) -> T:
    """What the first process has, on all of them."""
    if count() == 1:
        return value
    if _thread.line is not None:  # where one may say instead that it has failed
        return everyones(value)[0]
    box = [value]
    with _listening():
        dist.broadcast_object_list(box)
    return box[0]


def everyones(value: T) -> list[T]:
    """What each process has, by its number, on all of them."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    with _listening():
        dist.all_gather_object(found, value, group=_thread.line)
    for process, each in enumerate(found):
        if isinstance(each, _Failure) and not isinstance(value, _Failure):
            raise Told(f"process {process}: {each.message}")
    return found


def any_of(flag: bool) -> bool:
    """Whether it is true on one of them."""
    return any(everyones(flag))


def least_positive(value: int) -> int:
    """The smallest of all processes' values, but for 0; 0 where all have that."""
    return min((each for each in everyones(value) if each > 0), default=0)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Add up the gradients of all processes, in place."""
    if count() == 1:
        return
    with _listening():
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def total(values: dict[str, float]) -> dict[str, float]:
    """Sums over all processes of numbers that each has its part of."""
    if count() == 1:
        return values
    shares = everyones(values)
    names = dict.fromkeys(name for share in shares for name in share)
    return {name: sum(share.get(name, 0.0) for share in shares) for name in names}
