"""The optimizer `process-reward-model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch.nn.functional import binary_cross_entropy_with_logits

from alignzoo import Batch, Forward, PluginError, Terms
from alignzoo import functional as fn
from alignzoo.interfaces import CheckContext
from alignzoo_process.steps import Steps


@dataclass(frozen=True)
class ProcessRewardModel:
    """A process reward model: how probably each step of a solution is right, read at its end.

    -y·log σ(s) - (1-y)·log σ(-s), y the step's label from 0 to 1, averaged over steps.

    Lightman et al. 2023 (arXiv:2305.20050) and Uesato et al. 2022 (arXiv:2211.14275); with the soft labels of
    Math-Shepherd, Wang et al. 2023 (arXiv:2312.08935) eq. 2. The sampler `steps` brings a row for each step.
    """

    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "reward-model"
    couples: ClassVar[str] = "row"

    def check(self, context: CheckContext) -> None:
        """Raise PluginError where answers are rows instead of steps, each with what comes before it."""
        if context.sampler is not None and not isinstance(context.sampler, Steps):
            raise PluginError(
                "process-reward-model reads the end of each step of a solution, and the stage's sampler brings whole "
                "answers: set sampler=steps, with data whose completions are the steps of a solution and whose scores "
                "say how right each is"
            )

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, out: Forward) -> Terms:
        label = batch.rewards.clamp(0, 1)
        cost = binary_cross_entropy_with_logits(out.scores, label.to(out.scores.dtype), reduction="none")
        right = fn.preferred((2 * label - 1) * out.scores, torch.zeros_like(out.scores))
        return Terms(cost, {"accuracy": right, "label": label})
