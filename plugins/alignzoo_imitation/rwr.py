"""The algorithm `rwr`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class RWR:
    """Reward-weighted regression: imitate all answers, the better ones more.

    -n·softmax(r/β)·log π(y|x) over a group of n, summed over tokens.

    Peters and Schaal 2007, as Peng et al. 2019 (arXiv:1910.00177) sec. 3 derive it: π·e^{r/β}/Z is the best policy
    at a KL of the group's; here the sum over the group estimates Z. β towards 0 imitates the best alone.
    """

    beta: Annotated[float, Gt(0)] = 1.0
    """β, the temperature of the rewards, in their unit."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    couples: ClassVar[str] = "row"
    completions: ClassVar[int] = 2
    laws: ClassVar[Mapping[str, str]] = {
        "every_token": "a worse answer is imitated as well, only less (arXiv:1910.00177)"
    }
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.1, 10.0)}

    def prepare(self, batch: Batch) -> Batch:
        batch = batch.select(fn.group_size(batch.group) > 1)
        share = rankings.group_softmax(batch.rewards / self.beta, batch.group) * fn.group_size(batch.group)
        return replace(batch, weights=fn.token_column(share, batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-out.logprobs, {"nll": -out.logprobs})
