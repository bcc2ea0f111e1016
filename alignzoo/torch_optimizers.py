"""The torch optimizers that step a policy's weights, by name, and the bytes that each keeps beside the weights.

They are torch's own, and for 8-bit moments bitsandbytes', which is asked for only where it is named.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignzoo.cost import FLOAT32, ModelShape
from alignzoo.errors import RunError
from alignzoo.interfaces import ParameterGroup

if TYPE_CHECKING:
    from alignzoo.schedule import TorchOptimizer
from alignzoo.sharded import is_sharded

BLOCK = 256
"""Weights of bitsandbytes' 8-bit moments that share a float32 scale."""

SLICE = 4096 * BLOCK
"""Weights that are stepped at once with 8-bit moments on a processor."""

EMBEDDING = "embedding"
"""The key of a parameter group that is an embedding or a head: a table of rows rather than a map of vectors."""


def torch_optimizer(
    settings: TorchOptimizer, device: torch.device, groups: list[ParameterGroup]
) -> torch.optim.Optimizer:
    """The torch optimizer that a schedule names, over these parameters; the rate is set at every step. Raises RunError
    for one that cannot step where weights are sharded."""
    if settings.optimizer not in SHARDED and is_sharded(each for group in groups for each in group["params"]):
        raise RunError(
            f"schedule.optimizer = {settings.optimizer!r} needs whole matrices, and the weights are sharded over the "
            f"processes: take {', '.join(SHARDED)}, or policy.shard=none"
        )
    return MAKERS[settings.optimizer](settings, device, groups)


def check_installed(name: str) -> None:
    """Raise RunError where a torch optimizer of this name needs a package that is not there."""
    if name == "adamw8bit":
        _bitsandbytes()


def state_bytes(settings: TorchOptimizer, shape: ModelShape) -> int:
    """What the torch optimizer keeps from step to step, of a policy of this shape; a critic's with it."""
    own = STATES[settings.optimizer](settings, shape)
    return own + (state_bytes(settings, shape.critic) if shape.critic else 0)


# --- by name ----------------------------------------------------------------------------------------------------------


def _adamw(settings: TorchOptimizer, device: torch.device, groups: list[ParameterGroup]) -> torch.optim.Optimizer:
    """In one kernel where the device has it."""
    common: dict[str, Any] = {"betas": settings.betas, "eps": settings.eps, "weight_decay": settings.weight_decay}
    return torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda"), **common)


def _sgd(settings: TorchOptimizer, device: torch.device, groups: list[ParameterGroup]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=settings.momentum, weight_decay=settings.weight_decay)


def _adafactor(settings: TorchOptimizer, device: torch.device, groups: list[ParameterGroup]) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(groups, weight_decay=settings.weight_decay)


def _muon(settings: TorchOptimizer, device: torch.device, groups: list[ParameterGroup]) -> torch.optim.Optimizer:
    return Muon(groups, settings, device)


def _adamw8bit(settings: TorchOptimizer, device: torch.device, groups: list[ParameterGroup]) -> torch.optim.Optimizer:
    common = {"betas": settings.betas, "eps": settings.eps, "weight_decay": settings.weight_decay}
    made: torch.optim.Optimizer = in_slices(_bitsandbytes().optim.AdamW8bit)(groups, **common)
    return made


def in_slices(kind: type[Any]) -> type[Any]:
    """A class of bitsandbytes' that steps large tables on a processor slice by slice, to the same result: it widens
    what it steps to several copies in float32 there, which of an embedding are more than all of its moments."""

    class InSlices(kind):  # type: ignore[misc]
        def update_step(self, group: Any, p: Tensor, gindex: int, pindex: int) -> None:
            state, size = self.state[p], SLICE
            if p.device.type != "cpu" or p.numel() <= size or state["state1"].dtype != torch.uint8:
                super().update_step(group, p, gindex, pindex)
                return
            p.data = p.data.contiguous()
            whole, gradient = p.data.view(-1), p.grad.contiguous().view(-1)  # type: ignore[union-attr]
            moments = {name: state[name].view(-1) for name in ("state1", "state2")}
            for start in range(0, len(whole), size):
                part, end = whole[start : start + size], start + size
                part.grad = gradient[start:end]
                self.state[part] = {
                    **state,
                    **{name: each[start:end] for name, each in moments.items()},
                    **{name: state[name][start // BLOCK : end // BLOCK] for name in ("absmax1", "absmax2")},
                }
                super().update_step(group, part, gindex, pindex)
                del self.state[part]
            state["step"] += 1

    return InSlices


def _bitsandbytes() -> Any:
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise RunError(
            "schedule.optimizer = 'adamw8bit' needs the package bitsandbytes, which cannot be imported "
            f"({error}): pip install bitsandbytes, or take schedule.optimizer=adafactor, which needs as little memory"
        ) from error


class Muon(torch.optim.Optimizer):
    """Muon for matrices, and AdamW for embeddings, heads, norms and biases, in one torch optimizer.

    The momentum of a matrix is made orthogonal by five Newton-Schulz iterations (Jordan et al. 2024), and scaled to the
    root mean square of AdamW's updates, so that one learning rate serves both (Liu et al. 2025, arXiv:2502.16982,
    sec. 2.2). Both are torch's own; here their parameter groups and their state are one, as a checkpoint has them.
    """

    def __init__(self, groups: list[ParameterGroup], settings: TorchOptimizer, device: torch.device) -> None:
        split = [part for group in groups for part in _by_shape(group)]
        matrices = [group for group in split if group[MATRICES]]
        others = [group for group in split if not group[MATRICES]]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            common: dict[str, Any] = {"momentum": settings.momentum, "weight_decay": settings.weight_decay}
            self.parts.append(torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **common))
        if others:
            self.parts.append(_adamw(settings, device, others))
        super().__init__(split, {"lr": settings.lr})
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of either."""
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(dict(state_dict))
        self._share()

    def _share(self) -> None:
        """The parts step this optimizer's own groups and state: loading replaces these."""
        for part in self.parts:
            is_muon = isinstance(part, torch.optim.Muon)
            part.param_groups = [group for group in self.param_groups if group[MATRICES] == is_muon]
            part.state = self.state


MATRICES = "matrices"
"""The key that says of a group of `Muon` whether it is one of matrices."""


def _by_shape(group: ParameterGroup) -> list[ParameterGroup]:
    """A group as one of matrices and one of everything else, those that have any parameters."""
    matrices = [each for each in group["params"] if each.ndim == 2 and not group.get(EMBEDDING)]
    known = {id(each) for each in matrices}
    others = [each for each in group["params"] if id(each) not in known]
    parts = ((matrices, True), (others, False))
    return [group | {"params": params, MATRICES: is_matrix} for params, is_matrix in parts if params]


MAKERS: Mapping[str, Callable[[TorchOptimizer, torch.device, list[ParameterGroup]], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "sgd": _sgd,
    "adafactor": _adafactor,
    "muon": _muon,
    "adamw8bit": _adamw8bit,
}

# --- what they keep ---------------------------------------------------------------------------------------------------


def _two_moments(settings: TorchOptimizer, shape: ModelShape) -> int:
    """Loshchilov & Hutter 2019 (arXiv:1711.05101), algorithm 2."""
    return 2 * FLOAT32 * shape.trained


def _momentum(settings: TorchOptimizer, shape: ModelShape) -> int:
    return FLOAT32 * shape.trained if settings.momentum else 0


def _factored(settings: TorchOptimizer, shape: ModelShape) -> int:
    """A row and a column for each matrix (Shazeer & Stern 2018, arXiv:1804.04235, algorithm 4). Of an adapter these are
    nearly as many as its weights."""
    if shape.adapted:
        return FLOAT32 * shape.trained
    hidden, inner = shape.hidden, shape.intermediate
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = 2 * (hidden + queries) + 2 * (hidden + keys) + (3 if shape.gated else 2) * (hidden + inner)
    tables = (1 if shape.tied else 2) * (shape.vocab + hidden)
    return FLOAT32 * (shape.layers * (layer + 2 * hidden) + tables + hidden)


def _momentum_and_tables(settings: TorchOptimizer, shape: ModelShape) -> int:
    """One moment for matrices, two for embeddings and heads."""
    tables = 0 if shape.adapted else (1 if shape.tied else 2) * shape.head
    return FLOAT32 * (shape.trained + min(tables, shape.trained))


def _two_bytes(settings: TorchOptimizer, shape: ModelShape) -> int:
    """Dettmers et al. 2022 (arXiv:2110.02861): a byte for each moment, and a scale for each block."""
    return 2 * shape.trained + 2 * FLOAT32 * shape.trained // BLOCK


SHARDED = ("adamw", "sgd", "muon")
"""Those that step on parameters which are spread over processes."""

STATES: Mapping[str, Callable[[TorchOptimizer, ModelShape], int]] = {
    "adamw": _two_moments,
    "sgd": _momentum,
    "adafactor": _factored,
    "muon": _momentum_and_tables,
    "adamw8bit": _two_bytes,
}
