"""The algorithm `lire`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn
from alignzoo_unpaired.shared import Listed


@dataclass(frozen=True)
class LIRE(Listed):
    """Listwise reward enhancement: the expected reward of a draw from a prompt's answers.

    -Σ_i P_i·r̂_i + w·(-log π(y*)), P = softmax(log π(y|x)/T) and r̂ = softmax(r), both over a group, y* the best.

    Zhu et al. 2024 (arXiv:2405.13516), as the authors' code (stevie1023/Lire, `lire_loss`) has it, which was read, with
    its T; the equation in the paper itself was not. Their code leaves the imitation out. The reward's size counts, not
    only its order. There is no reference.
    """

    temperature: Annotated[float, Gt(0)] = 2.0
    """T: large, all answers have a part in it; small, only the likeliest."""
    softmax_rewards: bool = True
    """Take a group's rewards through a softmax, so that they are between 0 and 1 whatever their scale is."""
    sft: Annotated[float, Ge(0)] = 0.0
    """w, the weight of the imitation of the best."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"temperature": (0.5, 20.0)}

    def loss(self, batch: Batch, out: Forward) -> Terms:
        total, _ = rankings.likelihood(batch, out.logprobs)
        share = rankings.group_softmax(total / self.temperature, batch.group)
        worth = rankings.group_softmax(batch.rewards, batch.group) if self.softmax_rewards else batch.rewards
        expected = share * worth * fn.group_size(batch.group)
        imitation = -total * rankings.best_of_group(batch) * fn.group_size(batch.group)
        return Terms(-expected + self.sft * imitation, {"expected": expected})
