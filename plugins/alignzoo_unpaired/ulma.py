"""The algorithm `ulma`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo_unpaired.shared import Labelled


@dataclass(frozen=True)
class ULMA(Labelled):
    """Unified language model alignment: imitate the desirable answers, move away from the others.

    -z·log π(y|x) - (1-z)·log σ(-β·log π(y|x)/π_ref(y|x)), z = 1 where the answer is desirable.

    Cai et al. 2023 (arXiv:2312.02554), ULMA: demonstrations and point-wise preferences in one step, without a
    reference for what is known to be good. Their code, which was read, has the mean over an answer's tokens in the
    place of log π(y|x), and adds the means over both kinds of answers.
    """

    def loss(self, batch: Batch, out: Forward) -> Terms:
        margin = self.margin(batch, out)
        likelihood, _ = rankings.likelihood(batch, out.logprobs)
        cost = torch.where(self.desirable_rows(batch), -likelihood, -logsigmoid(margin))
        return Terms(cost, self.figures(batch, out, margin))
