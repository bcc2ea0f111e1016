"""The algorithm `pointwise-dpo`."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms
from alignzoo_unpaired.shared import Labelled


@dataclass(frozen=True)
class PointwiseDPO(Labelled):
    """Direct preference optimization of single answers: each is desirable or not.

    -z·log σ(r̂) - (1-z)·log σ(-r̂), r̂ = β·log π(y|x)/π_ref(y|x), z = 1 where the answer is desirable.

    Cai et al. 2023 (arXiv:2312.02554), point-wise DPO with binary labels; the prompt's log-partition, which
    nobody knows, is taken to be 0.
    """

    def loss(self, batch: Batch, out: Forward) -> Terms:
        margin = self.margin(batch, out)
        return Terms(-logsigmoid(margin), self.figures(batch, out, margin))
