"""Any part and its checks: by kind, as results for a table, and as pytest's parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from alignzoo.calling import kept
from alignzoo.errors import did_you_mean
from alignzoo.interfaces import Policy
from alignzoo.testing.engines import ENGINE_CHECKS
from alignzoo.testing.judges import JUDGE_CHECKS
from alignzoo.testing.laws import Check, Checks, ConformanceError, Figures, Given
from alignzoo.testing.optimizers import OPTIMIZER_CHECKS
from alignzoo.testing.policies import POLICY_CHECKS
from alignzoo.testing.rewards import REWARD_CHECKS
from alignzoo.testing.samplers import SAMPLER_CHECKS
from alignzoo.testing.tasks import TASK_CHECKS
from alignzoo.types import Prompt

KIND_CHECKS: dict[str, Checks] = {
    "optimizer": OPTIMIZER_CHECKS,
    "sampler": SAMPLER_CHECKS,
    "reward": REWARD_CHECKS,
    "judge": JUDGE_CHECKS,
    "policy": POLICY_CHECKS,
    "task": TASK_CHECKS,
    "engine": ENGINE_CHECKS,
}
"""The checks of each kind."""

TELLTALE = {
    "optimizer": "loss",
    "policy": "load",
    "task": "gold",
    "sampler": "sample",
    "reward": "score",
    "judge": "judge",
    "engine": "exact",
}
"""The member by which a part is told from those of other kinds."""


@dataclass(frozen=True)
class CheckResult:
    """How a part has stood one check."""

    check: str
    law: int
    about: str
    error: ConformanceError | None
    seconds: float
    figures: Figures = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.error is None


def kind_of(part: object) -> str:
    """The kind of a part, told by its members; raises TypeError for what is none."""
    for kind, member in TELLTALE.items():
        if hasattr(part, member):
            return kind
    raise TypeError(f"{part!r} is no part: it has none of {', '.join(TELLTALE.values())}; see alignzoo.interfaces")


def checks_of(part: object) -> Checks:
    """The checks of a part's kind."""
    return KIND_CHECKS[kind_of(part)]


def results(part: Any, made: Mapping[str, Check], given: Given) -> Iterator[CheckResult]:
    """Make these checks one by one; a check that a part fails keeps none of the others from being made."""
    for check in made.values():
        start = time.perf_counter()
        error, figures = None, {}
        with kept() as failed:  # what broke another law may leave nothing to check
            figures = dict(check(part, given))
        if isinstance(failed.error, ConformanceError):
            error = failed.error
        elif failed.error is not None:
            found = f"{type(failed.error).__name__}: {failed.error}"
            error = ConformanceError(check.law, check.name, "the check to run", found, "what another check has found")
        law = error.law if error else check.law
        yield CheckResult(check.name, law, check.about, error, time.perf_counter() - start, figures)


def parametrize_with_checks(
    *parts: Any,
    only: Collection[str] = (),
    columns: Sequence[str] = (),
    prompts: Sequence[Prompt] = (),
    policy: Policy | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A pytest decorator: one test for each part and check, whose id names both.

    The test takes `check` and `part`, and calls `check(part)`. What a part reads beside the batch is said here:
    `columns` of an optimizer's data, `prompts` to ask, and the `policy` that writes for a sampler.
    """
    import pytest

    given = Given(tuple(columns), tuple(prompts), policy)
    names = [_label(part, parts) for part in parts]
    cases = []
    for part, name in zip(parts, names, strict=True):
        made = checks_of(part)
        for unknown in set(only) - made.keys():
            raise ValueError(f"there is no check {unknown!r}. {did_you_mean(unknown, made)}")
        cases += [
            pytest.param(_Bound(check, given), part, id=f"{name}-{check.name}")
            for check in made.values()
            if not only or check.name in only
        ]
    return pytest.mark.parametrize(("check", "part"), cases)


@dataclass(frozen=True)
class _Bound:
    """A check with what it may need to know."""

    check: Check
    given: Given

    def __call__(self, part: Any) -> Figures:
        return self.check(part, self.given)


def _label(part: Any, parts: Sequence[Any]) -> str:
    """A part's class; of several of one class, with the settings that are not the default."""
    name = type(part).__name__
    if not is_dataclass(part) or sum(type(other) is type(part) for other in parts) == 1:
        return name
    own = {f.name: getattr(part, f.name) for f in fields(part) if getattr(part, f.name) != f.default}
    return f"{name}({', '.join(f'{field}={value!r}' for field, value in own.items())})" if own else name
