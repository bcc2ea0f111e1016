"""The laws that make any two parts of a kind interchangeable, and how a part that breaks one is told.

A check is a function of a part and of what is `Given` for it. It raises ConformanceError, or returns figures: what
is no law, but what a user of the part should know.
"""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor

from alignzoo.errors import AlignzooError
from alignzoo.former import advice
from alignzoo.interfaces import Policy
from alignzoo.lifecycle import closed
from alignzoo.testing.world import toy_prompts
from alignzoo.types import Prompt

LAWS = {
    1: "loss and gradient do not depend on micro-batches, padding, group order or the number of processes",
    2: "nothing under the mask is read, nor any column that is not in `needs`",
    3: "a part mutates nothing and repeats exactly; the same seed gives the same",
    4: "hard inputs give an empty batch or finite numbers, never NaN",
    5: "before the first update ratios are exactly 1 and the KL to the reference is 0",
    6: "the gradient prefers the better completion, and no advantage means no policy gradient",
    7: "a run stopped anywhere and resumed is bit for bit the run that was not stopped",
    8: "an algorithm's metrics are its own: finite, per row or per token, under names that the runner does not use",
    11: "an answer fits its question: a group per prompt, a number per completion, exactly the columns asked for",
    12: "what is held out stays out of training",
    13: "every setting and every declared column counts, and away from the start each term has its sign and bounds",
}
"""Those of the project's laws that a single part can break, by number; 9 and 10 are the registry's."""

Figures: TypeAlias = Mapping[str, float]


class ConformanceError(AssertionError):
    """A part breaks one of the laws."""

    def __init__(self, law: int, given: str, expected: str, found: str, cause: str) -> None:
        super().__init__(
            f"law {law} is broken: {LAWS[law]}\n  input:       {given}\n  expected:    {expected}\n"
            f"  found:       {found}\n  usual cause: {cause}"
        )
        self.law = law
        self.given = given
        self.expected = expected
        self.found = found
        self.cause = cause


@dataclass(frozen=True)
class Given:
    """What a check may need to know beside the part."""

    columns: Sequence[str] = ()
    """Columns of the data that the part reads from `Batch.extra`; they are made up."""
    prompts: Sequence[Prompt] = ()
    """What to ask a sampler, a policy or a reward; none: a few short made-up prompts."""
    policy: Policy | None = None
    """Who writes for a sampler; None: a toy policy that talks in numbers."""

    def asked(self, *, conversations: bool = True) -> list[Prompt]:
        """The prompts, or made-up ones; of these, conversations where they can be read."""
        return list(self.prompts) or toy_prompts(conversations=conversations and self.chats)

    @property
    def chats(self) -> bool:
        """Whether prompts may be conversations: the toy policy reads them, and who writes says whether it does."""
        return self.policy is None or self.policy.info().chats


@dataclass(frozen=True)
class Check:
    """One check of one kind of part."""

    name: str
    law: int
    """The law that it mostly holds."""
    about: str
    run: Callable[[Any, Given], Figures | None]

    def __call__(self, part: Any, given: Given | None = None) -> Figures:
        """Raises ConformanceError where the part breaks the law; returns the figures that it has found."""
        return self.run(part, given or Given()) or {}


Checks: TypeAlias = dict[str, Check]


def checks(*held: tuple[int, Callable[[Any, Given], Figures | None]]) -> Checks:
    """Checks by name, each with its law, in this order."""
    return {
        run.__name__: Check(run.__name__, law, (run.__doc__ or "").partition("\n")[0].rstrip("."), run)
        for law, run in held
    }


@dataclass(frozen=True)
class Attempt:
    """A check in progress: which law it holds, on which input, and why parts usually fail it."""

    law: int
    given: str
    cause: str

    def fail(self, expected: str, found: str) -> NoReturn:
        raise ConformanceError(self.law, self.given, expected, found, self.cause)

    def require(self, holds: bool, expected: str, found: str) -> None:
        if not holds:
            self.fail(expected, found)

    @contextmanager
    def runs(self, what: str) -> Iterator[None]:
        """Turn an exception inside into a broken law."""
        try:
            yield
        except ConformanceError:
            raise
        except Exception as error:
            kind = "" if isinstance(error, AlignzooError) else f"{type(error).__name__}: "
            raise ConformanceError(
                self.law, self.given, f"{what} runs", f"{kind}{error}", advice(error) or self.cause
            ) from error

    def same(self, what: str, expected: Tensor, found: Tensor, size: float = 1e-3) -> None:
        """Equal up to the rounding, in float32, of numbers as large as `size` or `expected`."""
        self.near(what, expected, found, 1e-5 * max([size, *expected.abs().flatten().tolist()]))

    def near(self, what: str, expected: Tensor, found: Tensor, allowed: float) -> None:
        """Equal up to this difference."""
        if expected.shape != found.shape:
            self.fail(f"{what} of shape {tuple(expected.shape)}", f"shape {tuple(found.shape)}")
        away = float((expected - found).abs().max()) if expected.numel() else 0.0
        if not away <= allowed:
            self.fail(f"the same {what} ({summary(expected)})", f"{summary(found)}, which is {away:.3g} away")

    def unchanged(self, what: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
        """Every column equal to the bit; `what` says of a column's name in {} what it is."""
        for name, column in expected.items():
            if name not in found or column.shape != found[name].shape or not _identical(column, found[name]):
                now = summary(found[name]) if name in found else "nothing"
                self.fail(f"{what.format(name)} to be as before ({summary(column)})", now)

    def finite(self, what: str, values: Tensor) -> None:
        self.require(bool(torch.isfinite(values).all()), f"a finite {what}", summary(values))

    @contextmanager
    def leaves_randomness(self) -> Iterator[None]:
        """Inside, nobody draws from a global generator of torch, Python or numpy, or seeds it."""
        before = randomness()
        yield
        now = randomness()
        for name, state in before.items():
            self.require(now[name] == state, f"the global generator of {name} as it was", "another state")


def randomness() -> dict[str, bytes]:
    """The states of the global generators of torch, of Python and of numpy, where that is loaded."""
    states: dict[str, Any] = {"torch": torch.get_rng_state().tolist(), "Python": random.getstate()}
    if "numpy" in sys.modules:
        states["numpy"] = sys.modules["numpy"].random.get_state(legacy=True)
    return {name: pickle.dumps(state) for name, state in states.items()}


def _identical(one: Tensor, other: Tensor) -> bool:
    """Equal to the bit; what is no number in one, as where a reward abstained, is none in the other."""
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())


def summary(values: Tensor) -> str:
    """A tensor in a few words."""
    values = values.detach()
    if values.numel() <= 4:
        return str(values.tolist())
    bad = int((~torch.isfinite(values.double())).sum())
    return f"{tuple(values.shape)} of norm {float(values.double().norm()):.6g}" + (f", {bad} not finite" if bad else "")


def is_a_spec(part: Any) -> None:
    """Settings are a frozen dataclass that can be pickled, hashed and replaced: so a recipe and a process share it."""
    part = closed(part)
    attempt = Attempt(3, repr(part), "a class without @dataclass(frozen=True), or a lambda, lock or file in a field")
    cls: Any = type(part)
    frozen = is_dataclass(part) and cls.__dataclass_params__.frozen
    attempt.require(frozen, "a frozen dataclass", type(part).__name__)
    with attempt.runs("replace(), hash() and pickle"):
        copies = (replace(part), pickle.loads(pickle.dumps(part)))
        hash(part)
    for copy in copies:
        attempt.require(copy == part, f"a copy equal to {part!r}", repr(copy))
