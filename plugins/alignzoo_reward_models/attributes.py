"""The algorithm `attribute-reward-model`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from alignzoo import Batch, DataError, Forward, Terms

HELPSTEER = ("correctness", "coherence", "complexity", "verbosity")
"""HelpSteer's attributes beside helpfulness, which is the rating itself."""


@dataclass(frozen=True)
class AttributeRewardModel:
    """A reward model of several attributes: one output says the rating, and one each attribute.

    ((s_0 - r)² + Σ_k (s_k - a_k)²) / (1 + K), averaged over completions, r the score and a_k the K attributes.

    Wang et al. 2024, HelpSteer2 (arXiv:2406.08673), the regression model with an output for each of five attributes;
    Wang et al. 2024, ArmoRM (arXiv:2406.12845), whose first stage is this regression. A score of fixed weights is
    the reward `model` with `weights`; ArmoRM's second stage, a gate that weighs them by the prompt, is not here.
    """

    attributes: tuple[str, ...] = HELPSTEER
    """Names of the attributes: numeric columns of the data, or what the scores of a reward are made of."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "reward-model"
    couples: ClassVar[str] = "row"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"scores", *(f"scores:{k}" for k, _ in enumerate(self.attributes, 1))})

    @property
    def columns(self) -> Mapping[str, tuple[float, ...]]:
        """Each attribute, for the checks to make up."""
        return {name: (0.0, 1.0 + k) for k, name in enumerate(self.attributes)}

    def prepare(self, batch: Batch) -> Batch:
        known = {**batch.sources, **batch.parts, **batch.extra}
        missing = [name for name in self.attributes if name not in known]
        if missing:
            raise DataError(
                f"attribute-reward-model: no column and no part of a reward is called {', '.join(map(repr, missing))}; "
                f"there are {', '.join(map(repr, sorted(known))) or 'none'}. Name those to be learnt by "
                "optimizer.attributes"
            )
        return replace(batch, extra={**batch.extra, **{name: known[name] for name in self.attributes}})

    def loss(self, batch: Batch, out: Forward) -> Terms:
        errors = {"rating": out.scores - batch.rewards}
        for k, name in enumerate(self.attributes, 1):
            errors[name] = out[f"scores:{k}"] - batch.extra[name].to(out.scores.dtype)
        cost = torch.stack([error**2 for error in errors.values()]).mean(0)
        return Terms(cost, {f"error/{name}": error.abs() for name, error in errors.items()})
