"""What is known of where an answer comes from, beside its reward: whether it ended, how old it is, its turns."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from torch import Tensor

from alignzoo.interfaces import Optimizer
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.optimizers.scene import Level, Scene, learnt, pull_of, rewarded, runs, scene, variants

NEAR: dict[str, Level] = {"logprobs": -1.0, "old_logprobs": -1.0, "ref_logprobs": -1.0}
"""Before the first update."""


def _pull(attempt: Attempt, optimizer: Optimizer, batch: Scene, column: str, rows: list[float]) -> float | None:
    """The pull on the first answer, where this column says this of the answers; None where nothing is learnt."""
    known = replace(batch, extra={**batch.extra, column: torch.tensor(rows)})
    found = pull_of(attempt, optimizer, known, NEAR)
    if found is None or not learnt(found.on):
        return None
    return float(found.rows(learnt(found.on))[0])


def cut_off(optimizer: Optimizer, given: Given) -> None:
    """A good answer that was cut off is raised no more than one that ended, and one that ended beside it is raised."""
    cause = "finished and cut off taken for each other: `finished` is 1 where an answer has ended"
    attempt = Attempt(13, "a good answer and three bad ones, all ended; then one of them cut off", cause)
    batch = scene([3] * 4, [0] * 4, [1.0, 0.0, 0.0, 0.0], given)
    for variant in variants(optimizer):
        if rewarded(attempt, variant, batch, NEAR) is None:
            continue
        at, ended = variant.of(attempt), [1.0] * 4
        whole = _pull(at, variant.part, batch, "finished", ended)
        if whole is None or whole <= 1e-7:
            continue
        cut = _pull(at, variant.part, batch, "finished", [0.0, *ended[1:]]) or 0.0
        beside = _pull(at, variant.part, batch, "finished", [*ended[:3], 0.0]) or 0.0
        at.require(cut <= whole + 1e-6, f"a pull of at most {whole:.4g} on the good answer, cut off", f"{cut:.4g}")
        at.require(beside > 1e-7, "a pull up on the good answer, which has ended", f"{beside:.4g}")


def staleness(optimizer: Optimizer, given: Given) -> None:
    """The older the policy that an answer is from, the less it is raised, or as much."""
    cause = "a weight that grows with the age: `staleness` is the number of steps since"
    attempt = Attempt(13, "a good answer and a bad one of this step, or of one or four steps before", cause)
    batch = scene([3, 3], [0, 0], [1.0, 0.0], given)
    for variant in variants(optimizer):
        if rewarded(attempt, variant, batch, NEAR) is None:
            continue
        at = variant.of(attempt)
        pulls = [_pull(at, variant.part, batch, "staleness", [age, 0.0]) or 0.0 for age in (0.0, 1.0, 4.0)]
        holds = all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(pulls))
        at.require(holds, "pulls on the good answer that fall with its age, or stay", str(pulls))


def turns(optimizer: Optimizer, given: Given) -> None:
    """Each own token of a good answer is raised, in each of its turns, a tool's between them or not."""
    cause = "credit for one turn alone, or a turn's number taken for another's: 0 is the first one"
    attempt = Attempt(13, "a good and a bad answer, each of two turns with a tool's between them", cause)
    batch = scene([5, 5], [0, 0], [1.0, -1.0], given)
    mask = batch.mask.clone()
    mask[:, 3] = False
    turn = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 2.0]).expand(2, -1) * mask
    many = replace(batch, mask=mask, own=mask, extra={**batch.extra, "turn": turn})
    seen = _ramp(batch)
    for variant in variants(optimizer):
        if "logprobs" not in variant.part.needs or not runs(variant, attempt, many):
            continue
        known, bare = replace(many, extra=batch.extra), {**NEAR, "old_values": seen}
        without = rewarded(attempt, variant, known, bare)
        if without is None or not bool((without.on["logprobs"][0][mask[0]] > 0).all()):
            continue  # that is `every_token`'s affair
        found = pull_of(variant.of(attempt), variant.part, many, bare)
        pulls = torch.zeros(4) if found is None else found.on["logprobs"][0][mask[0]]
        holds = bool((pulls > 0).all())
        variant.of(attempt).require(holds, "a pull up on each of the good answer's tokens", str(pulls.tolist()))


def _ramp(batch: Scene) -> Tensor:
    """A critic that sees which of two answers is good, more with each token."""
    steps = 0.2 * torch.arange(batch.mask.shape[1])
    return torch.stack([steps, -steps])
