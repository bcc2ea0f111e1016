"""Optimizer `minillm`: the reverse KL of whole answers by a policy gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, PolicySpec, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class MiniLLM:
    """KL(π ‖ π_T) of whole answers: each token's own exactly, and what follows it by a clipped policy gradient.

    KL(π ‖ π_T) over the vocabulary at each token - min(ρ·A, clip(ρ, 1±ε)·A), A_t = the mean of log π_T/π_old over the
    tokens after t; averaged over the tokens.

    Gu et al. 2024 (arXiv:2306.08543) sec. 2.2: the single-step decomposition, whose first part has no variance, and
    the length normalisation of the long one. On text that a mixture with the teacher has generated, each token is
    weighed by π/μ where the run sets `schedule.importance_cap`. Their loss on pre-training text is left to the data.
    """

    teacher: PolicySpec | None = None
    """π_T, who is imitated."""
    clip: Annotated[float, Gt(0)] = 0.2
    """ε: the ratio of what follows is clipped to 1 ± clip."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    online: ClassVar[bool] = True
    reads_rewards: ClassVar[bool] = False
    couples: ClassVar[str] = "row"
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs", "teacher_logprobs", "teacher_reverse_kl"})
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"clip": (0.05, 0.5)}

    def prepare(self, batch: Batch) -> Batch:
        nearer = fn.log_ratio(batch["teacher_logprobs"], batch.old_logprobs, batch.mask)
        later = nearer.flip(1).cumsum(1).flip(1) - nearer
        count = batch.mask.flip(1).cumsum(1).flip(1) - batch.mask.long()
        advantages = later / count.clamp(min=1) * batch.mask
        return replace(batch, advantages=advantages, weights=fn.token_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).exp()
        later = fn.clipped_surrogate(ratio, batch.advantages, low=self.clip, high=self.clip)
        own = out["teacher_reverse_kl"]
        return Terms(own + later, {"teacher/kl": own.detach(), "loss/later": later})
