"""Who is credited with what: each token of the better answer, the better of three, a rewarded token, the entropy."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from alignzoo.interfaces import Optimizer
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.optimizers.scene import (
    Level,
    Pull,
    compares,
    learnt,
    pull_of,
    rewarded,
    runs,
    scene,
    variants,
)


def every_token(optimizer: Optimizer, given: Given) -> None:
    """Each token of a lone winner is raised, and none of a lone loser."""
    cause = "a mask that leaves out a token, credit at one end of an answer alone, or the score on the wrong token"
    attempt = Attempt(
        13, "one good and one bad answer of four tokens, before training; a critic that sees which", cause
    )
    batch = scene([4, 4], [0, 0], [1.0, -1.0], given)
    seen = torch.tensor([[0.0, 0.2, 0.4, 0.6, 0.8], [0.0, -0.2, -0.4, -0.6, -0.8]])  # so that λ = 0 credits each, too
    for variant in variants(optimizer):
        if "logprobs" not in variant.part.needs:
            continue
        at = variant.of(attempt)
        for lead in (0.0, 0.01):
            level = torch.tensor([-1.0, -1.0 - lead])
            spoken: dict[str, Level] = dict.fromkeys(("logprobs", "old_logprobs", "ref_logprobs"), level)
            found = rewarded(attempt, variant, batch, {**spoken, "old_values": seen})
            if found is None:
                continue
            winner, loser = found.on["logprobs"][:, 1:]
            at.require(bool((winner > 0).all()), "a pull up on each token of the better answer", str(winner.tolist()))
            at.require(float(loser.max()) <= 1e-7, "no pull up on the worse answer's tokens", str(loser.tolist()))


def ranking(optimizer: Optimizer, given: Given) -> None:
    """In a group, a better answer is never raised less than a worse one."""
    cause = "an advantage without its sign, or rewards that have been put in another order"
    attempt = Attempt(13, "a group with the rewards 0, 2, 1 and 5, before training", cause)
    batch = scene([2] * 4, [0] * 4, [0.0, 2.0, 1.0, 5.0], given)
    for variant in variants(optimizer):
        found = rewarded(attempt, variant, batch, {})
        if found is not None:
            pulls = found.rows(learnt(found.on))[batch.rewards.argsort()]
            holds = bool((pulls.diff() >= -1e-6 * pulls.abs().max()).all())
            variant.of(attempt).require(holds, "pulls that rise with the reward", str(pulls.tolist()))


def baseline(optimizer: Optimizer, given: Given) -> None:
    """What all answers to a prompt share, as an easy prompt or the same KL, moves none of them.

    For optimizers that compare a prompt's completions.
    """
    if not compares(optimizer, given):
        return
    cause = "a baseline over the whole batch, or over other rewards than those that it is taken from"
    attempt = Attempt(6, "two groups, then the same with 3 added to each reward of the second, or taken from it", cause)
    batch = scene([2] * 6, [0, 0, 0, 1, 1, 1], [1.0, 0.0, 0.2, 0.0, 1.0, 0.7], given)
    shifted = [replace(batch, rewards=batch.rewards + by * (batch.group == 1)) for by in (3, -3)]
    away = torch.tensor(
        [-1.0, -1.0, -1.0, -2.0, -2.0, -2.0]
    )  # the second group's answers: all as far from the reference
    for variant in variants(optimizer):
        if not runs(variant, attempt, batch):
            continue
        at = variant.of(attempt)
        for other in shifted:
            _parallel(at, pull_of(at, variant.part, batch), pull_of(at, variant.part, other))
        at = replace(
            at, given=f"{attempt.given.partition(',')[0]}, then all of the second group farther from the reference"
        )
        near, far = (pull_of(at, variant.part, batch, {"ref_logprobs": level}) for level in (-1.0, away))
        if near is not None and far is not None and near.prepared.advantages is not None:
            _parallel(at, near, far, credit=True)


def _parallel(attempt: Attempt, one: Pull | None, other: Pull | None, *, credit: bool = False) -> None:
    """Pulls, or advantages, that are the same but for one factor, as a batch's standard deviation is."""
    if one is None or other is None:
        return
    first, second = (_signal(each, credit) for each in (one, other))
    size = float(first.norm() * second.norm())
    if size < 1e-12 and float(first.norm() + second.norm()) < 1e-9:
        return
    cosine = float(first @ second) / size if size > 0 else 0.0
    what = "advantages" if credit else "pulls"
    attempt.require(cosine > 1 - 1e-5, f"the same {what}, but for one factor", f"others: their cosine is {cosine:.5f}")


def _signal(pull: Pull, credit: bool) -> Tensor:
    advantages = pull.prepared.advantages
    if credit and advantages is not None:
        return advantages.flatten()
    return pull.on[learnt(pull.on)].flatten()


def entropy_bonus(optimizer: Optimizer, given: Given) -> None:
    """An optimizer that reads the entropy raises it, on each token."""
    cause = "an entropy bonus that is added to the loss: it is subtracted from it"
    attempt = Attempt(13, "two groups before training", cause)
    batch = scene([3, 3, 2, 2], [0, 0, 1, 1], [1.0, 0.0, 0.0, 1.0], given)
    for variant in variants(optimizer):
        if "entropy" in variant.part.needs and runs(variant, attempt, batch):
            found = pull_of(variant.of(attempt), variant.part, batch)
            lowest = float(found.on["entropy"].min()) if found is not None else 0.0
            variant.of(attempt).require(lowest >= 0, "no pull that lowers the entropy", f"{lowest:.3g}")


def dense_rewards(optimizer: Optimizer, given: Given) -> None:
    """A reward for one token raises that token, and no later one by more."""
    cause = "token rewards subtracted, or laid on the token before or after"
    attempt = Attempt(13, "groups with one reward each, then 1 more for the second token of the first answer", cause)
    batch = scene([4] * 4, [0, 0, 1, 1], [1.0, 0.0, 1.0, 0.0], given)
    dense = torch.zeros(batch.mask.shape)
    for sign in (1.0, -1.0):
        rewarded = dense.clone()
        rewarded[0, 2] = sign
        for variant in variants(optimizer):
            if "logprobs" not in variant.part.needs or not runs(variant, attempt, batch):
                continue
            at = variant.of(attempt)
            before = pull_of(at, variant.part, replace(batch, token_rewards=dense))
            after = pull_of(at, variant.part, replace(batch, token_rewards=rewarded))
            if before is None or after is None:
                continue
            change = sign * (after.on["logprobs"] - before.on["logprobs"])
            if float(change.abs().max()) <= 1e-7:
                continue  # it does not read token rewards, as GRPO does not
            mine, others = change[0], change[1:]
            gain = float(mine[2] - others[:, 2].mean())
            at.require(gain > 0, "a higher pull on the rewarded token than on the same token of others", f"{gain:.3g}")
            if float(mine[1:].max() - mine[1:].min()) <= 1e-6:
                continue  # to it an answer is one action, and the token's reward is the answer's
            later = (mine[3:] - change[2, 3:]).abs().max()  # the other winner's, which no token of its own rewards
            at.require(float(later) <= 1e-6, "no later token raised for it", f"one by {float(later):.3g}")


def dense_zero(optimizer: Optimizer, given: Given) -> None:
    """Token rewards of 0 are as none: they are added to the answer's reward, and do not stand in its place."""
    cause = "the answer's reward left out where there are token rewards"
    attempt = Attempt(13, "two groups without token rewards, then with such of 0", cause)
    batch = scene([4] * 4, [0, 0, 1, 1], [1.0, 0.0, 1.0, 0.0], given)
    zeros = replace(batch, token_rewards=torch.zeros(batch.mask.shape))
    for variant in variants(optimizer):
        if not runs(variant, attempt, batch):
            continue
        at = variant.of(attempt)
        one, two = (pull_of(at, variant.part, each) for each in (batch, zeros))
        if one is not None and two is not None:
            for name, pull in one.on.items():
                at.same(f"pull on {name}", pull, two.on[name])


def untrained_end(optimizer: Optimizer, given: Given) -> None:
    """An answer whose last token is not trained on, as after a tool's answer, is rewarded as others are."""
    cause = "the reward laid on the last token attended to: it belongs to the last one that is trained on"
    attempt = Attempt(
        13, "answers of four tokens, of which the last is not trained on, and their rewards turned", cause
    )
    whole = scene([4] * 4, [0, 0, 1, 1], [1.0, 0.0, 1.0, 0.0], given)
    mask = whole.mask.clone()
    mask[:, -1] = False
    effects = []
    for batch in (whole, replace(whole, mask=mask, own=mask)):
        one, two = (pull_of(attempt, optimizer, each) for each in (batch, replace(batch, rewards=1 - batch.rewards)))
        if one is None or two is None or not learnt(one.on):
            return
        effects.append(float((one.rows(learnt(one.on)) - two.rows(learnt(two.on))).abs().max()))
    if effects[0] > 1e-9:
        holds = effects[1] > 1e-3 * effects[0]
        attempt.require(
            holds, "pulls that go by the rewards, as they do with the last token", "the same, whatever they are"
        )
