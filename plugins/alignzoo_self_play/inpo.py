"""The algorithm `inpo`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class INPO:
    """Iterative Nash policy optimization: the policy plays against itself, and is held to a reference.

    (h - 1/(2η))², h = d(π) - (τ/η)·d(π_ref) - (1 - τ/η)·d(π_t), d(π) = log π(y_w|x) - log π(y_l|x), over pairs.

    Zhang et al. 2024 (arXiv:2407.00617) algorithm 1: π_t, the policy at the start of the step, has generated the
    answers, and each step is one of their iterations. The pair is the best and the worst of a group. The code of COMAL
    (arXiv:2410.23223), which was read, has this loss, with η = 0.1 and τ = η/3.
    """

    eta: Annotated[float, Gt(0)] = 0.1
    """η: the smaller, the larger is a step."""
    tau: Annotated[float, Ge(0)] = 0.03
    """τ, the weight of the reference beside π_t; η: the reference alone, 0: none."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "tau"
    online: ClassVar[bool] = True
    completions: ClassVar[int] = 2
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"eta": (0.005, 0.5)}

    def prepare(self, batch: Batch) -> Batch:
        return fn.best_and_worst(batch)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        share = self.tau / self.eta
        moved = rankings.implicit_reward(batch, out.logprobs, share)
        moved = moved + rankings.implicit_reward(batch, out.logprobs, 1 - share, role="old")
        h = (moved[0::2] - moved[1::2]).repeat_interleave(2)  # both rows carry their pair's
        return Terms((h - 1 / (2 * self.eta)) ** 2, {"margin": h})
