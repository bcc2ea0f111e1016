"""SimPO: preference optimization without a reference model (Meng et al. 2024, arXiv:2405.14734, eq. 6)."""

from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import logsigmoid

import alignzoo
from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class SimPO:
    """-log σ( β·mean log π(best) - β·mean log π(worst) - γ ), averaged over pairs."""

    beta: float = 2.0
    """Scale of the length-normalised log-probability, the implicit reward."""
    gamma: float = 0.5
    """Margin the better completion must win by."""
    epochs: int = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})

    def prepare(self, batch: Batch) -> Batch:
        return fn.best_and_worst(batch)  # rows 2i and 2i+1 are one pair; tied groups are dropped

    def loss(self, batch: Batch, out: Forward) -> Terms:
        reward = self.beta * (out.logprobs * fn.sequence_mean(batch.mask)).sum(1)  # (N,)
        margin = reward[0::2] - reward[1::2] - self.gamma  # (N/2,)
        cost = -logsigmoid(margin).repeat_interleave(2)  # both rows carry their pair's cost
        return Terms(cost, {"margin": margin.repeat_interleave(2)})


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer("my-simpo", SimPO)
