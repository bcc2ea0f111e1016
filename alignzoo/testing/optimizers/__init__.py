"""The checks that hold every optimizer to the laws, on random ragged groups and on hard ones."""

from __future__ import annotations

from alignzoo.testing.laws import Checks, checks
from alignzoo.testing.optimizers.direction import (
    critic,
    critic_alone,
    first_step,
    length_bias,
    prefers_better,
    zero_advantage,
)
from alignzoo.testing.optimizers.hard import hard_inputs
from alignzoo.testing.optimizers.invariance import group_order, micro_batches, padding, processes
from alignzoo.testing.optimizers.purity import mask, pure, reads
from alignzoo.testing.optimizers.resume import resume
from alignzoo.testing.optimizers.settings import settings
from alignzoo.testing.optimizers.shape import contract, metrics, needs, reduction

OPTIMIZER_CHECKS: Checks = checks(
    (3, contract),
    (2, needs),
    (1, reduction),
    (8, metrics),
    (3, pure),
    (3, reads),
    (2, mask),
    (1, micro_batches),
    (1, processes),
    (1, padding),
    (1, group_order),
    (4, hard_inputs),
    (5, first_step),
    (6, prefers_better),
    (6, zero_advantage),
    (6, critic),
    (6, critic_alone),
    (13, settings),
    (7, resume),
    (6, length_bias),
)
"""Every check of an optimizer by name, in the order in which they are made."""
