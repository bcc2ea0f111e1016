"""How far one batch may take an optimizer: the trust region of the policy, and what the critic is held to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from alignzoo.interfaces import Optimizer
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.optimizers.scene import Level, Variant, noise, pull_of, runs, scene, variants
from alignzoo.types import Batch

FAR = 20.0
"""A ratio far outside every trust region, and inside float32."""
WINNER, LOSER = 0, 1


def trust_region(optimizer: Optimizer, given: Given) -> None:
    """The pull ends where `clip` says: of a winner above its ratio's bound, of a loser below it, and nowhere else."""
    cause = "max in the place of min, the bounds changed over, or a bound on another ratio than π/π_old"
    attempt = Attempt(13, "answers of one token, of which one has moved since the step began", cause)
    batch = scene([1] * 4, [0, 0, 1, 1], [1.0, 0.0, 1.0, 0.0], given)
    for variant in variants(optimizer):
        if not {"logprobs", "old_logprobs"} <= variant.part.needs or not runs(variant, attempt, batch):
            continue
        at = variant.of(attempt)
        if _pull(at, variant, batch, WINNER, 1.0) is None:
            continue
        near = [_there(at, variant, batch, row, 1.0) for row in (WINNER, LOSER)]
        if near[0] <= 0 or near[1] >= 0:
            continue  # no comparison
        if near[0] == _there(at, variant, batch, WINNER, 0.9):
            without = not any(_number(variant.part, name) for name in ("clip", "clip_low", "clip_high"))
            at.require(without, "a ratio to old_logprobs, which its clip bounds", "the same pull whatever they are")
            continue  # no ratio, as in REINFORCE
        inverse = [near[0] / (ratio * _there(at, variant, batch, WINNER, ratio) or 1.0) for ratio in (0.5, 0.8)]
        held = all(abs(each - 1) < 1e-3 for each in inverse)
        at.require(not held, "a weight of π/π_old, where there is one", "π_old/π")
        for row, ratio, who in ((WINNER, 0.5, "good answer half"), (LOSER, 1.8, "bad answer 1.8 times")):
            pull = _there(at, variant, batch, row, ratio)
            expected = f"a pull {'up' if row == WINNER else 'down'} on a {who} as likely as before"
            at.require(pull * near[row] > 1e-9, expected, f"{pull:.3g}")
        if not variant.choice:
            _bounded(at, variant, batch, near)


def _bounded(attempt: Attempt, variant: Variant, batch: Batch, near: list[float]) -> None:
    clip, clip_low, clip_high = (_number(variant.part, name) for name in ("clip", "clip_low", "clip_high"))
    first = _pull(attempt, variant, batch, WINNER, 1.0)
    if not clip and not clip_high and (first is None or first[1] is None):
        return  # it has no trust region
    for row, far, size in ((WINNER, FAR, clip_high or clip), (LOSER, 1 / FAR, clip_low or clip)):
        who = "good answer above" if row == WINNER else "bad answer below"
        if row == LOSER and size >= 1:
            continue  # a ratio is never below 0
        beyond_it = _pull(attempt, variant, batch, row, far)
        if not size and (beyond_it is None or not beyond_it[1]):
            continue  # no bound on this side, and no token counted as clipped
        edge, beyond = (_there(attempt, variant, batch, row, ratio) for ratio in (far, far**1.5))
        flat = abs(edge - beyond) <= 1e-3 * abs(near[row])
        attempt.require(flat, f"the pull on a {who} the trust region to end", f"{edge:.3g}, and {beyond:.3g} farther")
        bound = _bound(partial(_there, attempt, variant, batch, row), far, edge, near[row])
        _where_it_says(attempt, variant, row, who, bound, size)
        if bound is not None:
            _as_counted(attempt, variant, batch, row, who, bound)


def _where_it_says(attempt: Attempt, variant: Variant, row: int, who: str, bound: float | None, size: float) -> None:
    if not size:
        return
    sign = 1 if row == WINNER else -1
    allowed = [1 + sign * size, math.exp(sign * size), *([size] if size > 1 else [1 / (1 - sign * size)])]
    expected = f"the pull on a {who} the trust region to end at a ratio of {allowed[0]:.4g} (or {allowed[1]:.4g})"
    found = "none" if bound is None else f"{bound:.4g}"
    at_one = bound is not None and any(abs(math.log(bound / each)) < 2e-3 * size + 1e-5 for each in allowed)
    attempt.require(at_one, expected, found)


def _as_counted(attempt: Attempt, variant: Variant, batch: Batch, row: int, who: str, bound: float) -> None:
    for farther, expected in ((0.9, False), (1.1, True)):
        found = _pull(attempt, variant, batch, row, bound**farther)
        if found is not None and found[1] is not None:
            what = f"clip_fraction {'above 0' if expected else '0'} {'beyond' if expected else 'within'} the bound"
            attempt.require((found[1] > 0) == expected, f"{what} of a {who} it", f"{found[1]:.3g}")


def _bound(pull: Callable[[float], float], far: float, edge: float, near: float) -> float | None:
    """The ratio from which on the pull is what it is far away; None where it is so from the start."""

    def outside(ratio: float) -> bool:
        return abs(pull(ratio) - edge) <= 1e-4 * abs(near)

    inside, beyond = 0.0, math.log(far)
    if outside(1.0):
        return None
    for _ in range(18):
        middle = (inside + beyond) / 2
        inside, beyond = (inside, middle) if outside(math.exp(middle)) else (middle, beyond)
    return math.exp(beyond)


def _there(attempt: Attempt, variant: Variant, batch: Batch, row: int, ratio: float) -> float:
    found = _pull(attempt, variant, batch, row, ratio)
    assert found is not None  # whether rows are left does not depend on the ratio
    return found[0]


def _pull(
    attempt: Attempt, variant: Variant, batch: Batch, row: int, ratio: float
) -> tuple[float, float | None] | None:
    """The pull on one answer that has moved by this ratio, and its share of clipped tokens; its KL term is at 0."""
    moved = torch.full((len(batch),), -1.0)
    moved[row] += math.log(ratio)
    found = pull_of(attempt, variant.part, batch, {"logprobs": moved}, afterwards={"ref_logprobs": moved})
    if found is None:
        return None
    place = (found.origin == row).nonzero().flatten()
    if not len(place):
        return 0.0, None
    metric = found.terms.metrics.get("clip_fraction")
    return float(found.rows()[row]), None if metric is None else float(metric[place[0]].sum())


def _number(part: Any, name: str) -> float:
    value = next((getattr(part, f.name) for f in dataclasses.fields(part) if f.name == name), 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def value_loss(optimizer: Optimizer, given: Given) -> None:
    """The critic is pulled towards its return, above all where it has moved away, and up to `value_clip` otherwise."""
    cause = (
        "the sign of the value loss, min in the place of max, or a clip round the return in the place of the old value"
    )
    attempt = Attempt(13, "a critic that said 0, and returns of 4 and -4", cause)
    batch = scene([1] * 4, [0, 0, 1, 1], [1.0, 0.0, 1.0, 0.0], given)
    returns = torch.tensor([4.0, -4.0, 4.0, -4.0])
    for variant in variants(optimizer):
        if "values" not in variant.part.needs or not runs(variant, attempt, batch):
            continue
        at = variant.of(attempt)
        clip = _number(variant.part, "value_clip")
        for share in (-0.5, -0.1, 0.0, 0.9 * clip / 4, 1.1 * clip / 4, 0.5, 1.5):
            says = share * returns
            late: dict[str, Level] = {"returns": returns, "old_values": 0.0}
            found = pull_of(at, variant.part, batch, {"values": says}, afterwards=late)
            if found is None or found.prepared.returns is None:
                return
            towards = found.rows("values") * (returns - says).sign()
            where = f"where it says {float(says[0]):.3g}"
            at.require(bool((towards >= -1e-9).all()), f"no pull away from the return {where}", str(towards.tolist()))
            live = share <= 0 or share * 4 < min(clip, 4.0)
            if live:
                at.require(bool((towards > 0).all()), f"a pull towards the return {where}", str(towards.tolist()))
            elif 0 < clip < share * 4 and share < 1:
                at.require(not towards.any(), f"no pull {where}, beyond value_clip", str(towards.tolist()))


def returns(optimizer: Optimizer, given: Given) -> None:
    """An answer of one token has its reward as return, whatever the critic said, and twice for twice the reward."""
    cause = "returns from whitened advantages, or from other values than those that the advantages are taken from"
    attempt = Attempt(13, "answers of one token with the rewards 1, 0, 2 and 0.5; then twice as much", cause)
    batch = scene([1] * 4, [0, 0, 1, 1], [1.0, 0.0, 2.0, 0.5], given)
    for variant in variants(optimizer):
        if "old_values" not in variant.part.needs or not runs(variant, attempt, batch):
            continue
        at = variant.of(attempt)
        found = []
        for scale, values in ((1.0, 0.0), (1.0, noise(batch, 1.0, 5)), (2.0, 0.0)):
            scaled = dataclasses.replace(batch, rewards=scale * batch.rewards)
            made = pull_of(at, variant.part, scaled, {"old_values": values})
            if made is None or made.prepared.returns is None:
                return
            found.append(torch.zeros(len(batch)).index_add(0, made.origin, made.prepared.returns.sum(1)))
        at.near("returns, whatever the critic said", found[0], found[1], 1e-4)
        more = found[2] - found[0]
        by_rewards = torch.allclose(more, batch.rewards, atol=1e-4)
        scaled_away = torch.allclose(more, more.mean().expand(4), atol=1e-3)  # whitened: the scale is gone
        at.require(
            by_rewards or scaled_away, "twice the return for twice the reward", f"{found[2].tolist()}, not twice"
        )


def raised_returns(optimizer: Optimizer, given: Given) -> None:
    """Where each reward is 1 higher, so are the returns: a critic is to learn what an answer is worth."""
    cause = "rewards whitened with their mean taken away: no return says how well the policy does"
    attempt = Attempt(13, "answers of one token, then each reward 1 higher", cause)
    batch = scene([1] * 4, [0, 0, 1, 1], [1.0, 0.0, 2.0, 0.5], given)
    for variant in variants(optimizer):
        if "old_values" not in variant.part.needs or not runs(variant, attempt, batch):
            continue
        at, sums = variant.of(attempt), []
        for rewards in (batch.rewards, batch.rewards + 1):
            found = pull_of(at, variant.part, dataclasses.replace(batch, rewards=rewards))
            if found is None or found.prepared.returns is None:
                return
            sums.append(float(found.prepared.returns.sum()))
        at.require(sums[1] > sums[0] + 1e-4, "higher returns", f"a sum of {sums[1]:.4g}, after {sums[0]:.4g}")


def level(optimizer: Optimizer, given: Given) -> None:
    """With `level="token"` no other token's ratio changes a token's pull, and with `level="sequence"` each does."""
    if not any(field.name == "level" for field in dataclasses.fields(optimizer)):  # type: ignore[arg-type]
        return
    cause = "a product or a running product of ratios for a token's own, or the two levels exchanged"
    attempt = Attempt(13, "a good and a bad answer, then the last token of the good one a little less likely", cause)
    batch = scene([4, 4], [0, 0], [1.0, 0.0], given)
    for variant in variants(optimizer):
        which = getattr(variant.part, "level", None)
        if which not in ("token", "sequence") or "old_logprobs" not in variant.part.needs:
            continue
        if not runs(variant, attempt, batch):
            continue
        at, pulls = variant.of(attempt), []
        for less in (0.0, 0.05 if which == "token" else 1e-4):
            own = torch.full(batch.mask.shape, -1.0)
            own[0, -1] -= less
            found = pull_of(at, variant.part, batch, {"logprobs": own, "old_logprobs": -1.0, "ref_logprobs": -1.0})
            pulls.append(torch.zeros(3) if found is None else found.on["logprobs"][0, 1:4])
        change = float((pulls[1] - pulls[0]).abs().max())
        if which == "token":
            at.require(change <= 1e-6, "the same pull on the tokens before it", f"one that is {change:.3g} away")
        else:
            at.require(change > 1e-9, "another pull on the tokens before it", "the same")


def cap(optimizer: Optimizer, given: Given) -> None:
    """Beyond the setting `cap` a ratio weighs as much as at the cap, and below it less."""
    size = _number(optimizer, "cap")
    if not size or not {"logprobs", "old_logprobs"} <= optimizer.needs:
        return
    cause = "1 + cap for the cap, or tokens left out beyond it that should go on with its weight"
    attempt = Attempt(
        13, f"a good answer of two tokens, likelier than before by half of cap = {size:g} and by more", cause
    )
    batch = scene([2, 2], [0, 0], [1.0, 0.0], given)

    def there(ratio: float) -> float:
        moved = torch.tensor([-1.0 + math.log(ratio), -1.0])
        values: dict[str, Level] = {"logprobs": moved, "old_logprobs": -1.0, "ref_logprobs": moved}
        found = pull_of(attempt, optimizer, batch, values)
        return 0.0 if found is None else float(found.rows()[WINNER])

    below, edge, beyond, far, farther = (there(share * size) for share in (0.5, 1.0, 2.0, 50.0, 100.0))
    if abs(below) < 1e-9 or abs(far - farther) > 1e-4 * abs(far):
        return  # no weight of a ratio, or another thing than the ratio is capped
    holds = abs(beyond - edge) <= 1e-4 * abs(edge) and abs(below) < abs(edge) - 1e-9
    found = f"{below:.4g} at half of it, {edge:.4g} there, {beyond:.4g} at twice"
    attempt.require(holds, "the pull at the cap to be less below it, and the same beyond", found)
