"""How a policy's weights learn: gradients that add up, over micro-batches and processes, and a torch optimizer's step.

`torch.optim`'s optimizer is another thing than alignzoo's `Optimizer`, and is always called the torch optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from alignzoo import processes
from alignzoo.errors import ModelError
from alignzoo.interfaces import ParameterGroup
from alignzoo.sharded import assign, is_sharded, whole

MakeTorchOptimizer = Callable[[list[ParameterGroup]], torch.optim.Optimizer]
"""Makes the torch optimizer of a policy's parameter groups, by the run's settings."""


class TorchTraining:
    """What trains a policy whose parameters are torch's: whole on every process, or DTensors, whose gradients are
    summed where they are computed. A policy inherits it, or brings its own `optimize`, `backward`, `step`,
    `optimizer_state` and `restore_optimizer`."""

    _torch_optimizer: torch.optim.Optimizer | None = None

    def parameters(self) -> list[ParameterGroup]:
        """What is trained."""
        raise NotImplementedError(f"{type(self).__name__} has no parameters()")

    def follow(self, role: str, mix: float) -> None:
        """Move a role, where a policy can: this one cannot."""
        raise ModelError(f"the roles of {type(self).__name__} do not move: it has no follow(), which {role!r} asks for")

    def optimize(self, make: MakeTorchOptimizer) -> None:
        """Begin to train: make the torch optimizer, whose moments are all 0."""
        self._torch_optimizer = make(self.parameters())

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradient to what is there."""
        loss.backward()  # type: ignore[no-untyped-call]

    def drop_gradients(self) -> None:
        """Forget what has been added up, for another try."""
        self._optimizer.zero_grad()

    def step(self, lr: float, clip: float) -> float:
        """Add up all processes' gradients, scale them down to the global norm `clip` (0: never), and step at the rate
        `lr`. The norm before that comes back; where it is not finite, no weight moves. No gradient is left."""
        trained = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        if not is_sharded(trained):
            processes.sum_gradients(trained)
        norm = whole(torch.nn.utils.clip_grad_norm_(trained, clip or math.inf))
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        if torch.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad()  # nothing holds them while the policy generates
        return float(norm)

    def optimizer_state(self) -> dict[str, Any]:
        """The torch optimizer's moments, for a checkpoint."""
        return self._optimizer.state_dict()

    def restore_optimizer(self, state: Mapping[str, Any]) -> None:
        """Take back what `optimizer_state` gave."""
        tensors = [value for each in state["state"].values() for value in each.values()]
        trained = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        self._optimizer.load_state_dict(self._spread(state) if is_sharded([*trained, *tensors]) else dict(state))

    def _spread(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state with each tensor spread as this torch optimizer spreads it, which a step at the rate 0 shows."""
        for group in self._optimizer.param_groups:
            group["lr"] = torch.zeros_like(group["lr"]) if isinstance(group["lr"], Tensor) else 0.0
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        self._optimizer.step()
        self._optimizer.zero_grad()
        spread = self._optimizer.state_dict()["state"]
        found: dict[int, dict[str, Any]] = {}
        for number, values in state["state"].items():
            found[number] = dict(values)
            for key, value in values.items():
                if isinstance(value, Tensor):
                    found[number][key] = spread[number][key]
                    assign(found[number][key], value)
        return {**state, "state": found}

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        if self._torch_optimizer is None:
            raise RuntimeError("the policy is not being trained: `optimize` comes first")
        return self._torch_optimizer
