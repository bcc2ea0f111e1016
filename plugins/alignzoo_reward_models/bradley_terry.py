"""The algorithm `reward-model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Lt
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class RewardModel:
    """A reward model: Bradley-Terry on ranked completions.

    -(1-ε)·log σ(s_i - s_j - m) - ε·log σ(s_j - s_i - m) + c·(s_i + s_j)², averaged over all pairs of a group in which i
    is ranked above j.

    Ouyang et al. 2022 (arXiv:2203.02155) eq. 1: every pair of a ranked group in one batch. A group's mean counts by
    its number of completions; theirs counts prompts alike, which is the same where groups are equally large. The
    margin is that of Llama 2 (arXiv:2307.09288) eq. 2, the centring of Eisenstein et al. 2023 (arXiv:2312.09244) eq. 2,
    the label smoothing of Wang et al. 2024 (arXiv:2401.06080).
    """

    margin: str = ""
    """A numeric column of the data that the better completion must win by; empty: none."""
    centring: Annotated[float, Ge(0)] = 0.0
    """c, which pulls scores towards mean 0 (0.01 is usual)."""
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    """ε, the assumed share of preferences that are the wrong way round."""
    confidence: str = ""
    """A numeric column of the data: how probable it is that the better completion is better, as soft labels say, from
    0.5 to 1. Then ε is 1 minus it, pair by pair; empty: none."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "reward-model"
    completions: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.confidence and self.label_smoothing:
            raise ValueError("confidence says of each pair what label_smoothing says of all: give one of the two")

    def prepare(self, batch: Batch) -> Batch:
        return fn.untied(batch)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        pairs = rankings.ranked_pairs(batch)
        gap = pairs.gap(out.scores)
        required = batch.extra[self.margin][pairs.i] if self.margin else 0.0
        smoothing = 1 - batch.extra[self.confidence][pairs.i] if self.confidence else self.label_smoothing
        cost = -(1 - smoothing) * logsigmoid(gap - required) - smoothing * logsigmoid(-gap - required)
        cost = cost + self.centring * (out.scores[pairs.i] + out.scores[pairs.j]) ** 2
        accuracy = rankings.ranked_right(pairs, out.scores, out.scores.abs())
        return Terms(pairs.means(cost), {"accuracy": accuracy, "margin": pairs.means(gap)})
