"""The conformance kit: holds an optimizer to the laws that make any two of them interchangeable.

In a plugin's tests, one line: `check_optimizer(MyOptimizer())`. For one test per check:

    @pytest.mark.parametrize("check", OPTIMIZER_CHECKS)
    def test_conforms(check):
        check_optimizer(MyOptimizer(), only=[check])
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from alignzoo.errors import did_you_mean
from alignzoo.interfaces import Optimizer
from alignzoo.testing.optimizers import OPTIMIZER_CHECKS, ConformanceError
from alignzoo.testing.world import ToyPolicy, toy_batch, toy_groups, toy_policy

__all__ = [
    "OPTIMIZER_CHECKS",
    "ConformanceError",
    "ToyPolicy",
    "check_optimizer",
    "toy_batch",
    "toy_groups",
    "toy_policy",
]


def check_optimizer(optimizer: Optimizer, *, only: Collection[str] | None = None, columns: Sequence[str] = ()) -> None:
    """Hold an optimizer to every check, or to those named in `only`. Raises ConformanceError at the first it fails.

    `columns` names columns of the data that it reads from `Batch.extra`; they are made up.
    """
    for name in OPTIMIZER_CHECKS if only is None else only:
        if name not in OPTIMIZER_CHECKS:
            raise ValueError(f"there is no check {name!r}. {did_you_mean(name, OPTIMIZER_CHECKS)}")
        OPTIMIZER_CHECKS[name](optimizer, columns)
