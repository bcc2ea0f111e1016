"""As if it were another process: with another hash of texts, and without what was remembered on the way."""

from __future__ import annotations

import builtins
import copy
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from alignzoo.calling import kept
from alignzoo.decoding import Decoding
from alignzoo.interfaces import Policy
from alignzoo.testing.laws import Attempt
from alignzoo.types import Prompt

SALTS = (0x5DEECE66D, 0x2545F4914F6CDD1D, 0x369DEA0F31A53F85)
"""Other processes: in one of them a score by the remainder of a hash may be the same by chance."""


@contextmanager
def another_hash(salt: int) -> Iterator[None]:
    """Inside, `hash` of a text is another one, as it is in each process."""
    real = builtins.hash

    def salted(value: Any, /) -> int:
        return real(value) ^ salt if isinstance(value, str | bytes) else real(value)

    builtins.hash = salted
    try:
        yield
    finally:
        builtins.hash = real


LATER = (41 * 3600, 43 * 60)
"""Seconds after which a run is resumed: another hour, odd for even, whatever the minute; another minute likewise."""


@contextmanager
def another_clock(seconds: int) -> Iterator[None]:
    """Inside, `time.time` is so many seconds later, as it is where a run is resumed."""
    real = time.time
    time.time = lambda: real() + seconds
    try:
        yield
    finally:
        time.time = real


@contextmanager
def left_as_it_was(attempt: Attempt, policy: Policy) -> Iterator[None]:
    """Inside, a part is at work: afterwards what all code shares is as it was, and the policy answers as itself."""
    modes, said = _modes(), _said(policy)
    try:
        yield
    finally:
        now = _modes()
        for name, (value, put_back) in modes.items():
            if now[name][0] != value:
                put_back(value)
    for name, (value, _) in modes.items():
        attempt.require(now[name][0] == value, f"{name} to be {value} as before", str(now[name][0]))
    attempt.require(_said(policy) == said, "the policy to answer as itself afterwards", "other answers")


def _modes() -> dict[str, tuple[Any, Callable[[Any], object]]]:
    """What a process has once, and how it is set."""
    return {
        "the working directory": (os.getcwd(), os.chdir),
        "torch's gradient mode": (torch.is_grad_enabled(), torch.set_grad_enabled),
        "torch's default type": (torch.get_default_dtype(), torch.set_default_dtype),
        "torch's number of threads": (torch.get_num_threads(), torch.set_num_threads),
    }


def _said(policy: Policy) -> list[tuple[tuple[int, ...], list[float]]]:
    """What a policy answers greedily to a prompt, and how likely that is to it."""
    found = policy.generate([Prompt("what is 0")], 1, seeds=[0], decoding=Decoding(greedy=True, max_new_tokens=4))
    return [(c.tokens, [round(each, 3) for each in c.logprobs or ()]) for group in found for c in group.completions]


@contextmanager
def forgotten(part: object) -> Iterator[None]:
    """What the modules and classes of a part remember inside, in tables or in the caches of functions, they have
    forgotten afterwards."""
    kept = [(table, _copied(table)) for table in _tables(part)]
    for function in _cached(part):
        function.cache_clear()
    try:
        yield
    finally:
        for table, before in kept:
            if table != before:
                table.clear()
                table.extend(before) if isinstance(table, list) else table.update(before)
        for function in _cached(part):
            function.cache_clear()


def _copied(table: Any) -> Any:
    """A copy to the ground, where a third party's table can be copied so; else of the table itself."""
    with kept() as refused:
        found = copy.deepcopy(table)
    return found if refused.error is None else copy.copy(table)


def _owners(part: object) -> Iterator[Any]:
    """The modules and classes that a part is made of, but for the core's, which remember nothing."""
    for cls in type(part).__mro__:
        module = sys.modules.get(cls.__module__)
        if module is not None and cls.__module__.partition(".")[0] not in ("builtins", "typing", "abc", "alignzoo"):
            yield from (module, cls)


def _tables(part: object) -> list[Any]:
    found = {
        id(value): value
        for owner in _owners(part)
        for name, value in list(vars(owner).items())
        if isinstance(value, dict | list | set) and not name.startswith("__")
    }
    return list(found.values())


def _cached(part: object) -> Iterator[Any]:
    for owner in _owners(part):
        for value in list(vars(owner).values()):
            if callable(getattr(value, "cache_clear", None)) and callable(getattr(value, "cache_info", None)):
                yield value
