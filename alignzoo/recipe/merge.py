"""The optimizer of a stage that trains nothing: it merges the weights of models, and leaves a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from alignzoo.traits import REWARD_MODEL, Traits

if TYPE_CHECKING:
    from torch import Tensor

    from alignzoo.types import Batch, Forward, Terms


@dataclass(frozen=True)
class Merge:
    """The weights of several models, merged from where they began: θ = θ₀ + Σ_k w_k·(θ_k - θ₀), θ₀ the stage's policy.

    linear: with weights that add up to 1 the average of the models, a soup (Wortsman et al. 2022, arXiv:2203.05482), of
    policies for several rewards a rewarded soup (Ramé et al. 2023, arXiv:2306.04488), of reward models WARM (Ramé et
    al. 2024, arXiv:2401.12187); with a smaller sum it goes back towards θ₀. slerp: of two models, tensor by tensor,
    (sin((1-λ)Ω)·δ₁ + sin(λΩ)·δ₂)/sin Ω of δ = θ_k - θ₀, Ω the angle between them, λ the second weight: WARP (Ramé et
    al. 2024, arXiv:2406.16768) eq. 2.
    """

    models: tuple[str, ...]
    """Model directories, or stages as stage:NAME, all of one architecture."""
    weights: tuple[float, ...] = ()
    """w of each model, in order; not given: equal ones that add up to 1."""
    method: Literal["linear", "slerp"] = "linear"
    """How they are merged."""
    scores: bool = False
    """The models are reward models."""
    epochs: ClassVar[int] = 0
    online: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models is empty: name the models to merge, as in models = ['stage:a', 'stage:b']")
        if self.weights and len(self.weights) != len(self.models):
            raise ValueError(f"weights has {len(self.weights)} numbers for {len(self.models)} models: give one each")
        if self.method == "slerp" and len(self.models) != 2:
            raise ValueError(f"models has {len(self.models)} models, and slerp goes between two: take linear")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"scores" if self.scores else "logprobs"})

    @property
    def trains(self) -> str:
        return REWARD_MODEL if self.scores else Traits.trains

    def shares(self) -> tuple[float, ...]:
        """w of each model."""
        return self.weights or (1 / len(self.models),) * len(self.models)

    def merged(self, base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The merged tensors by name."""
        found = {}
        for name, start in base.items():
            moved = [model[name].to(start.device).double() - start.double() for model in models]
            shares = slerp(moved[0], moved[1], self.shares()[1]) if self.method == "slerp" else self.shares()
            total = sum((share * each for share, each in zip(shares, moved, strict=True)), start.double())
            found[name] = total.to(start.dtype)
        return found

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, out: Forward) -> Terms:
        raise NotImplementedError(self.__doc__)


def slerp(first: Tensor, second: Tensor, share: float) -> tuple[float, float]:
    """The coefficients of two tensors in their spherical interpolation; those of the linear one where they point the
    same or opposite ways, or one is 0."""
    import torch

    size = float(first.norm() * second.norm())
    angle = float(torch.acos((first.flatten() @ second.flatten() / size).clamp(-1, 1))) if size else 0.0
    sine = float(torch.sin(torch.tensor(angle, dtype=torch.float64)))
    if sine < 1e-6:
        return 1 - share, share
    parts = torch.sin(torch.tensor([(1 - share) * angle, share * angle], dtype=torch.float64)) / sine
    return float(parts[0]), float(parts[1])
