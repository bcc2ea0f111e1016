"""Weights over processes, by torch's own `fully_shard` (FSDP2): each process holds its part of every weight, of its
gradient and of the torch optimizer's state, and a layer is whole only while it is computed.

Zhao et al. 2023 (arXiv:2304.11277). Weights, gradients and sums stay in float32; with bf16 the layers are gathered, and
so computed, in bf16.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from alignzoo import processes
from alignzoo.allocator import return_freed_memory
from alignzoo.errors import ModelError
from alignzoo_hf.forward import unread
from alignzoo_hf.model import models
from alignzoo_hf.model.blank import files_of


@dataclass(frozen=True)
class Sharding:
    """How the models of a policy are sharded."""

    device: torch.device
    bf16: bool
    within: int = 0
    """As `HF.shard_within`."""

    @property
    def mesh(self) -> DeviceMesh:
        """The processes, in one line or as (copies, parts)."""
        return _mesh(self.device.type, self.within)

    def frozen(self, model: Any) -> Sharded:
        """Spread a model that is not trained. In bf16 its weights lie as they are gathered: the answers are the same to
        the bit, with half the memory."""
        for weight in model.requires_grad_(False).parameters() if self.bf16 else ():
            weight.data = weight.data.to(torch.bfloat16)  # and no buffer: positions are computed in float32
        return self.shard(lm=model)

    def shard(self, **parts: nn.Module | None) -> Sharded:
        """Spread models over the processes: each layer by itself, and all else together. Where they have no weights
        yet, these are read as they are spread."""
        root = _Root({name: part for name, part in parts.items() if part is not None})
        options: dict[str, Any] = {"mesh": self.mesh}
        if self.bf16:
            options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for weight in root.parameters():
            if any(weight.stride()) and not weight.is_contiguous():  # beneath an adapter it lies by columns
                weight.data = weight.data.contiguous()
        models_within = [part for part in root.children() if not isinstance(part, nn.Linear)]
        for model in models_within:
            self._layers(model, options)
        fully_shard(root, **options)
        sharded = Sharded(root)
        for model in models_within:
            if files_of(model) is not None and models.bare(model).get_output_embeddings() is not None:
                with torch.no_grad():
                    sharded(models.check_head, model)
                sharded.release()
        return sharded

    def _layers(self, model: Any, options: dict[str, Any]) -> None:
        base, files = models.bare(model).base_model, files_of(model)
        layers = unread.stack(base)
        for number, layer in enumerate(layers, 1):
            if files is not None:
                files.fill(model, layer)
            if number == len(layers):
                unread.feed_forward(base)  # it is tried out, while its weights are whole
            fully_shard(layer, **options)
        if files is not None:
            files.fill(model, model)


@functools.cache
def _mesh(kind: str, within: int) -> DeviceMesh:
    processes.join()
    return_freed_memory()
    size = processes.count()
    if within and size % within:
        raise ModelError(
            f"policy.shard_within = {within} does not divide the {size} processes: each copy of the weights is spread "
            "over as many. Give the number of GPUs of a machine, or 0 for one copy over all processes"
        )
    if within in (0, size):
        return init_device_mesh(kind, (size,), mesh_dim_names=("shard",))
    return init_device_mesh(kind, (size // within, within), mesh_dim_names=("replicate", "shard"))


class _Root(nn.Module):
    """Models that answer together, as one module whose forward is whatever they are asked: embeddings and heads, which
    a policy calls apart from its layers, are whole inside."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, answer: Callable[..., Any], *given: Any) -> Any:
        found = answer(*given)
        if not isinstance(found, dict):
            return found
        # The hooks of the backward pass are lost where a view is written to.
        return {name: each.clone() if each._is_view() else each for name, each in found.items()}


class Sharded:
    """Models whose weights are spread. All processes call everything here at the same time."""

    def __init__(self, root: _Root) -> None:
        self.root: Any = root
        self.units: list[Any] = [each for each in root.modules() if isinstance(each, FSDPModule)]
        self.depth = 0
        """How many times they are gathered just now."""
        for unit in self.units:  # gradients are partial sums of one mean, by gloo, too, which has no scaled sum
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)
        self.root._get_fsdp_state()._lazy_init()  # before a layer is gathered alone, and takes itself for the root

    def __call__(self, answer: Callable[..., Any], *given: Any) -> Any:
        """What a function answers of the models, whose layers are gathered one by one as it calls them."""
        with processes.exchanging():
            return self.root(answer, *given)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside, every process has all weights, and passes without gradient need nobody else."""
        self.depth += 1
        try:
            if self.depth == 1:
                self.root.set_reshard_after_forward(False)
                with processes.exchanging():
                    for unit in self.units:
                        unit.unshard()
            yield
        finally:
            self.depth -= 1
            if not self.depth:
                self.release()
                for unit in self.units:
                    unit.set_reshard_after_forward(unit is not self.root, recurse=False)

    def to_float32(self) -> None:
        """Hold the weights in float32 from now on, so that small changes are not lost; they are gathered as before."""
        self.root.float()
        for unit in self.units:
            for group in unit._get_fsdp_state()._fsdp_param_groups:
                group.lazy_init()  # it has noted the former type

    def release(self) -> None:
        """Let go of what is gathered: the embeddings and heads of the last pass, which a backward pass may have needed,
        and which are not what the weights have become."""
        if not self.depth:
            for unit in self.units:
                unit.reshard()
