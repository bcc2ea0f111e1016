"""The optimizer `luspo`: a setting of another."""

from __future__ import annotations

from dataclasses import dataclass

from alignzoo_policy_gradient.arithmetic import Reduction
from alignzoo_policy_gradient.gspo import GSPO


@dataclass(frozen=True)
class LUSPO(GSPO):
    """Length-unbiased sequence policy optimization: each sequence's term is multiplied by its length.

    1/G·Σ_i |y_i|·-min(s·A, clip(s, 1-ε, 1+ε')·A), s the sequence's ratio.

    arXiv:2602.05261. The gradient of s has 1/|y| in it, which the factor takes away: a token of a long answer counts as
    much as one of a short answer. TRL: `loss_type="luspo"`, `importance_sampling_level="sequence"`.
    """

    reduction: Reduction = "sum"
    """Mean over rows of the sum over tokens: the sequence's term as often as it has tokens."""
