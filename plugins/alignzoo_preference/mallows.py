"""Optimizer `mallows-po`: preference optimization weighed by how much people agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo_preference.pairs import Pairs, ReferencePairLoss, on_both_rows

SURE = 1e-6
"""A relative entropy below it is taken for it: agreement is never infinite."""


@dataclass(frozen=True)
class MallowsPO(ReferencePairLoss):
    """Preference optimization after Mallows: prompts whose answers are less dispersed count more.

    -log σ(β·w(x)·(Δw - Δl)), w(x) = -φ·log(½·(H̄w + H̄l)/log V), Δ = log π(y|x) - log π_ref(y|x), H̄ the mean over an
    answer's tokens of the entropy of π_ref's next token, V the size of the vocabulary.

    Chen et al. 2024 (MallowsPO-θ, arXiv:2405.14953), with the estimate of the dispersion and the φ of their code.
    """

    dispersion: Annotated[float, Gt(0)] = 0.29
    """φ: scale of the dispersion's estimate, such that w(x) is about 1 on average."""
    vocabulary: Annotated[int, Gt(1)] = 128256
    """V: how many tokens there are; Llama 3's number. Twice as many make w(x) larger by about 2 %."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs", "ref_entropy"})
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 0.5)}

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid(better - worse)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        entropy = (batch["ref_entropy"] * fn.sequence_mean(batch.mask)).sum(1).view(-1, 2).mean(1)
        relative = (entropy / math.log(self.vocabulary)).clamp(SURE, 1)
        weight = on_both_rows(-self.dispersion * relative.log())[:, None]
        weighed = replace(batch, ref_logprobs=weight * batch.ref_logprobs)
        return super().loss(weighed, replace(out, logprobs=weight * out.logprobs))
