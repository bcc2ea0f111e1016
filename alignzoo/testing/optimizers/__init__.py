"""The checks that hold every optimizer to the laws, on random ragged groups and on hard ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import TypeAlias

from alignzoo.interfaces import Optimizer
from alignzoo.testing.laws import Checks, Figures, Given, checks
from alignzoo.testing.optimizers.apart import (
    abstained,
    dropped,
    far_behind,
    kl_share,
    loser_falls,
    no_hindsight,
    other_groups,
    reach,
)
from alignzoo.testing.optimizers.bounds import cap, level, raised_returns, returns, trust_region, value_loss
from alignzoo.testing.optimizers.comparing import (
    better_rises,
    centring,
    kl_strength,
    other_length,
    role_point,
    sources,
    stakes,
    ties,
)
from alignzoo.testing.optimizers.credit import (
    baseline,
    dense_rewards,
    dense_zero,
    entropy_bonus,
    every_token,
    ranking,
    untrained_end,
)
from alignzoo.testing.optimizers.direction import (
    critic,
    critic_alone,
    first_step,
    length_bias,
    prefers_better,
    zero_advantage,
)
from alignzoo.testing.optimizers.hard import hard_inputs
from alignzoo.testing.optimizers.horizon import discount, last_reward, right_critic, weightless
from alignzoo.testing.optimizers.invariance import group_order, micro_batches, padding, processes
from alignzoo.testing.optimizers.meaning import column_number, figures, sides, token_numbers
from alignzoo.testing.optimizers.provenance import cut_off, staleness, turns
from alignzoo.testing.optimizers.purity import mask, pure, reads
from alignzoo.testing.optimizers.reading import columns_read, holes, ratios
from alignzoo.testing.optimizers.reference import adaptive, kl_estimate, kl_pull
from alignzoo.testing.optimizers.resume import resume
from alignzoo.testing.optimizers.settings import settings
from alignzoo.testing.optimizers.shape import contract, metrics, needs, reduction
from alignzoo.testing.optimizers.steering import at_target, carried, rates
from alignzoo.testing.optimizers.weighing import label_smoothing, length_normalised, margin, nll, normaliser, sampled
from alignzoo.testing.world import column_values
from alignzoo.traits import traits_of

Held: TypeAlias = Callable[[Optimizer, Given], Figures | None]


def _unless_waived(check: Held) -> Held:
    """The check, kept by an optimizer whose trait `laws` says why it does not apply."""

    @wraps(check)
    def held(optimizer: Optimizer, given: Given) -> Figures | None:
        return None if check.__name__ in traits_of(optimizer).laws else check(optimizer, given)

    return held


def _with_columns(check: Held) -> Held:
    """The check, with the columns that the optimizer's trait `columns` says it reads beside those that are given."""

    @wraps(check)
    def held(optimizer: Optimizer, given: Given) -> Figures | None:
        known = column_values(given.columns)
        own = [f"{n}={','.join(map(str, v))}" for n, v in traits_of(optimizer).columns.items() if n not in known]
        return check(optimizer, replace(given, columns=(*given.columns, *own)))

    return held


AWAY_FROM_THE_START: tuple[tuple[int, Held], ...] = (
    (13, columns_read),
    (13, ratios),
    (13, kl_pull),
    (13, kl_estimate),
    (13, adaptive),
    (13, trust_region),
    (13, every_token),
    (13, ranking),
    (6, baseline),
    (13, entropy_bonus),
    (13, dense_rewards),
    (13, returns),
    (13, value_loss),
    (1, normaliser),
    (13, label_smoothing),
    (13, margin),
    (13, better_rises),
    (13, stakes),
    (13, other_length),
    (13, kl_strength),
    (13, centring),
    (13, sources),
    (13, right_critic),
    (13, discount),
    (13, weightless),
    (8, figures),
    (2, token_numbers),
    (2, column_number),
    (13, sides),
    (6, other_groups),
    (6, loser_falls),
    (13, last_reward),
    (13, abstained),
    (13, no_hindsight),
    (13, far_behind),
    (13, kl_share),
    (13, level),
    (13, dense_zero),
    (13, untrained_end),
    (13, raised_returns),
    (13, reach),
    (13, cap),
    (13, sampled),
    (13, cut_off),
    (13, staleness),
    (13, turns),
    (13, rates),
    (13, at_target),
    (13, carried),
    (13, role_point),
    (13, ties),
    (13, length_normalised),
    (13, nll),
    (13, dropped),
    (2, holes),
)
"""The checks of what happens away from the start. An optimizer to which one does not apply says so by `laws`."""

ALL: tuple[tuple[int, Held], ...] = (
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
    (5, _unless_waived(first_step)),
    (6, _unless_waived(prefers_better)),
    (6, _unless_waived(zero_advantage)),
    (6, _unless_waived(critic)),
    (6, critic_alone),
    (13, settings),
    *((law, _unless_waived(check)) for law, check in AWAY_FROM_THE_START),
    (7, resume),
    (6, length_bias),
)
OPTIMIZER_CHECKS: Checks = checks(*((law, _with_columns(check)) for law, check in ALL))
"""Every check of an optimizer by name, in the order in which they are made."""
