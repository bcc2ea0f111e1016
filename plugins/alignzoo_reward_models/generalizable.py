"""The algorithm `generalizable-reward-model`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Lt
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class GeneralizableRewardModel:
    """A generalizable reward model: Bradley-Terry on a trunk whose language-model head goes on being trained.

    -(1-α)·log σ(s_w - s_l) - α·log σ(β·log π(y_w|x)), averaged over pairs: the best and the worst of each group; with
    the regulariser "contrast", -α·log σ(β·(log π(y_w|x) - log π(y_l|x))).

    Yang et al. 2024 (arXiv:2406.10216), GRM, as their code has it, which was read: both regularisers without a
    reference, the likelihood for a default, α = 0.01 and β = 0.1. The hidden states keep what generating asks of them.
    Log-probabilities are sums over whole answers.
    """

    alpha: Annotated[float, Ge(0), Lt(1)] = 0.01
    """α, the weight of the regulariser; 0 is plain Bradley-Terry."""
    beta: Annotated[float, Gt(0)] = 0.1
    """β, in 1 per nat."""
    regulariser: Literal["likelihood", "contrast"] = "likelihood"
    """What the language-model head is held to: the better answers, or the better ones above the worse."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"scores", "logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "reward-model"
    completions: ClassVar[int] = 2
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"alpha": (0.001, 0.1), "beta": (0.01, 1.0)}

    def prepare(self, batch: Batch) -> Batch:
        return fn.best_and_worst(batch)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        gap = out.scores[0::2] - out.scores[1::2]
        spoken, _ = rankings.likelihood(batch, out.logprobs)  # (N,)
        kept = spoken[0::2] - (spoken[1::2] if self.regulariser == "contrast" else 0.0)
        compared, held = -logsigmoid(gap), -logsigmoid(self.beta * kept)
        cost = (1 - self.alpha) * compared + self.alpha * held
        size = out.scores[0::2].abs() + out.scores[1::2].abs()
        figures = {"accuracy": fn.preferred(gap, size), "margin": gap, "loss/generation": held}
        return Terms(cost.repeat_interleave(2), {name: each.repeat_interleave(2) for name, each in figures.items()})
