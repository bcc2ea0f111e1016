"""The algorithm `dft`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from alignzoo import Batch, Forward, Terms
from alignzoo_imitation.sft import SFT


@dataclass(frozen=True)
class DFT(SFT):
    """Dynamic fine-tuning: supervised fine-tuning that trusts the policy's own probabilities.

    -π(y_t)·log π(y_t), through the first factor of which no gradient goes, averaged over the tokens of the best
    completions.

    Wu et al. 2025 (arXiv:2508.05629) sec. 3; TRL's `loss_type="dft"`. The gradient of SFT is a policy gradient whose
    reward is 1/π: tokens that the policy finds improbable count for much; here each token counts alike.
    """

    imitates: ClassVar[bool] = True

    def loss(self, batch: Batch, out: Forward) -> Terms:
        nll = -torch.where(batch.mask, out.logprobs, 0.0)
        return Terms(nll * (-nll.detach()).exp(), {"nll": nll})
