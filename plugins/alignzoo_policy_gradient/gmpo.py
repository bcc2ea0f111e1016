"""The optimizer `gmpo` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo.twins import Twin
from alignzoo_policy_gradient.base import GroupRelative


@dataclass(frozen=True)
class GMPO(GroupRelative):
    """Geometric-mean policy optimization: GRPO whose ratios are multiplied.

    -A·( Π_t ρ̂_t )^(1/|y|) + β·mean_t k3(π ‖ π_ref), averaged over completions; ρ̂ is ρ cut at e^ε where A > 0 and at
    e^-ε where A < 0, A = (r - group mean) / (group sd + 1e-4).

    Zhao et al. 2025 (arXiv:2507.20673) sec. 3. One token with a far ratio moves a geometric mean little, so that the
    clip may be wide. Computed in logarithms. The paper has no KL term; ours is TRL's, and off by default.
    """

    clip: Annotated[float, Gt(0)] = 0.4
    """ε, of each token's log-ratio: e^±0.4 is a ratio from 0.67 to 1.49."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"clip": (0.1, 0.8)}

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, advantages=self.credit(batch))

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        log_ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask)
        better = batch.advantages[:, None] > 0
        cut = torch.where(better, log_ratio.clamp(max=self.clip), log_ratio.clamp(min=-self.clip))
        mean = fn.sequence_mean(batch.mask)
        cost = -batch.advantages * (cut * mean).sum(1).exp()  # (N,), the geometric mean
        return Terms(cost, {"clip_fraction": ((cut != log_ratio) * mean).sum(1)})

    def oracle(self) -> Twin:
        settings = {"epsilon_low": self.clip, "epsilon_high": self.clip, "beta": self.kl}
        return Twin("trl", "alignzoo_trl.groups:gmpo", settings, rows="groups")
