"""The optimizer `kdrl` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from alignzoo import Batch, Forward, PolicySpec, Terms
from alignzoo import functional as fn
from alignzoo_policy_gradient.arithmetic import kl_k2
from alignzoo_policy_gradient.base import ClippedGroup


@dataclass(frozen=True)
class KDRL(ClippedGroup):
    """GRPO with a teacher: rewards say what is right, and a stronger policy how such answers go on.

    clip(A) + β·½(log π - log π_T)² per token, A = (r - group mean)/(group sd), averaged over all tokens.

    Xu et al. 2025 (arXiv:2506.02208): on the policy's own samples the gradient of k2 is that of the reverse KL to the
    teacher π_T, where k1's and k3's are not. Their β falls from 5e-3 to 1e-3; here it is constant.
    """

    teacher: PolicySpec | None = None
    """π_T, who is imitated; with the policy's tokenizer."""
    teacher_kl: Annotated[float, Ge(0)] = 2e-3
    """β, the weight of the KL to the teacher, in nats per token."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"teacher_kl": (1e-4, 0.1)}
    laws: ClassVar[Mapping[str, str]] = {"trust_region": "the teacher's pull goes on where the clip ends that of A"}

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"teacher_logprobs"}

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        terms = super().surrogate(batch, out)
        apart = fn.log_ratio(out.logprobs, batch["teacher_logprobs"], batch.mask)
        return Terms(terms.loss + self.teacher_kl * kl_k2(apart), {**terms.metrics, "teacher/kl": apart.detach()})
