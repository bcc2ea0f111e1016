"""The algorithm `reward-model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class RewardModel:
    """A reward model: Bradley-Terry on ranked completions.

    -log σ(s_i - s_j - m) + c·(s_i + s_j)², averaged over all pairs of a group in which i is ranked above j.

    Ouyang et al. 2022 (arXiv:2203.02155) eq. 1: every pair of a ranked group in one batch. A group's mean counts by
    its number of completions; theirs counts prompts alike, which is the same where groups are equally large. The
    margin is that of Llama 2 (arXiv:2307.09288) eq. 2, the centring of Eisenstein et al. 2023 (arXiv:2312.09244) eq. 2.
    """

    margin: str = ""
    """A numeric column of the data that the better completion must win by; empty: none."""
    centring: Annotated[float, Ge(0)] = 0.0
    """c, which pulls scores towards mean 0 (0.01 is usual)."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "reward-model"
    completions: ClassVar[int] = 2

    def prepare(self, batch: Batch) -> Batch:
        return fn.untied(batch)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        better = (batch.group[:, None] == batch.group) & (batch.rewards[:, None] > batch.rewards)  # (N, N): i over j
        i, j = better.nonzero(as_tuple=True)
        gap = out.scores[i] - out.scores[j]
        required = batch.extra[self.margin][i] if self.margin else 0.0
        cost = self.centring * (out.scores[i] + out.scores[j]) ** 2 - logsigmoid(gap - required)

        group = fn.group_index(batch.group)
        size = torch.bincount(group)
        pairs = torch.bincount(group[i], minlength=len(size))

        def by_row(values: torch.Tensor) -> torch.Tensor:
            """The mean over a group's pairs, laid on its rows, half of each pair on either one."""
            share = values * (size / pairs)[group[i]] / 2
            return torch.zeros_like(out.scores).index_add(0, i, share).index_add(0, j, share)

        accuracy = fn.preferred(gap, out.scores[i].abs() + out.scores[j].abs())
        return Terms(by_row(cost), {"accuracy": by_row(accuracy), "margin": by_row(gap)})
