"""The algorithm `sppo`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn
from alignzoo_self_play.wins import Wins, win_rates


@dataclass(frozen=True)
class SPPO:
    """Self-play preference optimization: how much likelier an answer becomes is how often it beats the policy's own.

    ( log π(y|x)/π_t(y|x) - η·(P̂(y ≻ π_t) - ½) )², averaged over answers; P̂ is the mean over the answers of its group.

    Wu et al. 2024 (arXiv:2405.00675) algorithm 1. π_t is the reference, which has generated the answers: the policy at
    the start of a round, as in the recipe of this name. Their code trains on the best and the worst of five.
    """

    eta: Annotated[float, Gt(0)] = 1000.0
    """η: by how many nats an answer that always wins is to become likelier, times two."""
    wins: Wins = "bradley-terry"
    """P of two answers: σ(r_i - r_j) of their rewards; or "score": each reward is a win rate, as a judge's."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    completions: ClassVar[int] = 2
    laws: ClassVar[Mapping[str, str]] = {"baseline": "with wins=score a reward is a win rate, and 3 more would be none"}
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"eta": (2.0, 2000.0)}

    def prepare(self, batch: Batch) -> Batch:
        batch = batch.select(fn.group_size(batch.group) > 1)
        return replace(batch, extra={**batch.extra, "wins": win_rates(batch, self.wins)})

    def loss(self, batch: Batch, out: Forward) -> Terms:
        target = self.eta * (batch.extra["wins"] - 0.5)
        error = rankings.implicit_reward(batch, out.logprobs, 1.0) - target
        return Terms(error**2, {"error": error.abs()})
