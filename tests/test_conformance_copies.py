"""The kit's check of a policy's copy that generates ahead catches the kinds of copies that are none."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from alignzoo import Batch, Forward, ModelError
from alignzoo.testing import ConformanceError, ToyPolicy, check_policy


@dataclass(frozen=True)
class Spec:
    cls: type[ToyPolicy] = ToyPolicy

    def load(self, needs: frozenset[str], roles: Any = None) -> ToyPolicy:
        return self.cls()


class Itself(ToyPolicy):
    def behaviour(self) -> ToyPolicy:
        return self


class SharesWeights(ToyPolicy):
    def behaviour(self) -> ToyPolicy:
        own = super().behaviour()
        own.weights = own._answering = dict(self.weights)
        return own


class SharesOneTensor(ToyPolicy):
    def behaviour(self) -> ToyPolicy:
        own = super().behaviour()
        own.weights["head"] = self.weights["head"].detach()
        return own


class AnotherPolicy(ToyPolicy):
    def behaviour(self) -> ToyPolicy:
        return ToyPolicy(1)


class LacksATensor(ToyPolicy):
    """Its state says less than what it generates by, and the rest stays behind."""

    partial = False

    def behaviour(self) -> ToyPolicy:
        own = super().behaviour()
        own.partial = True  # type: ignore[attr-defined]
        return own

    def state(self) -> dict[str, Tensor]:
        found = super().state()
        return {name: each for name, each in found.items() if name != "embedding"} if self.partial else found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore({"embedding": self.weights["embedding"].detach(), **state})


class NamesOfItsOwn(LacksATensor):
    def state(self) -> dict[str, Tensor]:
        return (
            {f"copy_{name}": each for name, each in ToyPolicy.state(self).items()} if self.partial else super().state()
        )


class BringsThePolicyUpToDate(ToyPolicy):
    """The copy's `restore` reaches the policy, too."""

    def behaviour(self) -> ToyPolicy:
        own, policy = super().behaviour(), self

        def restore(state: Mapping[str, Tensor]) -> None:
            ToyPolicy.restore(own, state)
            policy._answering = own.weights

        own.restore = restore  # type: ignore[method-assign]
        return own


class SharesWhatItWorksIn(ToyPolicy):
    """Both leave what they are at in one place, where they read it a moment later."""

    place: ClassVar[dict[str, Any]] = {}

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        self.place["tokens"] = (3,)
        return super().forward(batch, columns)

    @torch.no_grad()
    def _next(self, tokens: tuple[int, ...]) -> Tensor:
        self.place["tokens"] = tokens
        time.sleep(0.001)
        return super()._next(self.place["tokens"])


class Refuses(ToyPolicy):
    def behaviour(self) -> ToyPolicy:
        raise ModelError("these weights are spread over the processes")


class DeepCopy(ToyPolicy):
    def behaviour(self) -> ToyPolicy:
        own = copy.deepcopy(self)
        own._answering = own.weights
        return own


MUTANTS = [
    *(Itself, SharesWeights, SharesOneTensor, AnotherPolicy, LacksATensor, NamesOfItsOwn, BringsThePolicyUpToDate),
    SharesWhatItWorksIn,
]


@pytest.mark.parametrize("policy", MUTANTS)
def test_what_is_no_copy_is_caught(policy: type[ToyPolicy]) -> None:
    with pytest.raises(ConformanceError):
        check_policy(Spec(policy), only=["behaviour"])


@pytest.mark.parametrize("policy", [ToyPolicy, DeepCopy, Refuses])
def test_what_is_one_passes(policy: type[ToyPolicy]) -> None:
    check_policy(Spec(policy), only=["behaviour"])
