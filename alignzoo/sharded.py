"""Tensors that are spread over the processes, as torch's DTensor has them, and checkpoints that all processes write.

A checkpoint of sharded weights is torch.distributed.checkpoint's: every process writes its parts, and any number of
processes, one too, reads them again, each what it needs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignzoo import processes
from alignzoo.interfaces import Policy
from alignzoo.storage import sha256

# torch.distributed.tensor takes a second to import, which only a run with sharded weights has to wait for.

WEIGHTS, MOMENTS = "weights.", "moments."
"""What the names in a checkpoint begin with."""

OPTIMIZER = "optimizer.pt"
"""The torch optimizer's state without its tensors."""


def is_sharded(tensors: Iterable[Any]) -> bool:
    """Whether any of these is spread over the processes."""
    if "torch.distributed.tensor" not in sys.modules:
        return False  # nobody has made one
    from torch.distributed.tensor import DTensor

    return any(isinstance(each, DTensor) for each in tensors)


def whole(tensor: Any) -> Tensor:
    """All of a tensor; of a sharded one called by all processes."""
    found: Tensor = tensor.full_tensor() if is_sharded([tensor]) else tensor
    return found


@torch.no_grad()
def assign(target: Any, value: Any) -> None:
    """target ← value, where either may be sharded, and every process has all of a value that is not."""
    if not is_sharded([target]):
        target.copy_(whole(value))
    elif is_sharded([value]):
        target.copy_(value.redistribute(placements=target.placements))
    else:
        from torch.distributed.tensor import distribute_tensor

        there = value.to(target.device)
        target.copy_(distribute_tensor(there, target.device_mesh, target.placements, src_data_rank=None))


def local_bytes(tensors: Iterable[Any]) -> int:
    """The bytes that this process holds of them."""
    own = (each.to_local() if is_sharded([each]) else each for each in tensors)
    return sum(each.numel() * each.element_size() for each in own)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def write(folder: Path, weights: Mapping[str, Tensor], optimizer: Mapping[str, Any]) -> dict[str, str]:
    """Write weights and a torch optimizer's state, each process its parts, into a folder that all of them see. Called
    by all; what comes back is the SHA-256 of each file."""
    from torch.distributed.checkpoint.state_dict_saver import save

    moments, rest = _split(optimizer)
    tensors = {f"{WEIGHTS}{name}": each for name, each in weights.items()}
    tensors |= {f"{MOMENTS}{name}": each for name, each in moments.items()}
    save(tensors, checkpoint_id=folder)
    if not processes.index():
        torch.save(rest, folder / OPTIMIZER)
    names = [OPTIMIZER, ".metadata"] if not processes.index() else []
    names += [each.name for each in folder.glob(f"__{processes.index()}_*.distcp")]
    digests = processes.everyones({name: sha256(folder / name) for name in names})
    return {name: digest for each in digests for name, digest in each.items()}


def read(folder: Path, policy: Policy) -> None:
    """Put back into a policy what `write` wrote. Called by all processes, as many as there are now."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    now = policy.state()
    known = {f"{WEIGHTS}{name}": each for name, each in now.items()}
    like = next((each for each in now.values() if is_sharded([each])), None)
    found = FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors = {
        name: known[name].clone() if name in known else _blank(stored, like)
        for name, stored in found.items()
        if isinstance(stored, TensorStorageMetadata)
    }
    load(tensors, checkpoint_id=folder, no_dist=processes.count() == 1)
    policy.restore({n.removeprefix(WEIGHTS): each for n, each in tensors.items() if n.startswith(WEIGHTS)})
    moments = {n.removeprefix(MOMENTS): each for n, each in tensors.items() if n.startswith(MOMENTS)}
    policy.restore_optimizer(_joined(torch.load(folder / OPTIMIZER, weights_only=True), moments))


def _blank(stored: Any, like: Any) -> Tensor:
    """Room for a tensor of a checkpoint: spread as a policy's own tensors are, `like` one of them."""
    dtype = stored.properties.dtype
    if like is None or not len(stored.size):
        return torch.empty(stored.size, dtype=dtype)
    from torch.distributed.tensor import empty

    found: Tensor = empty(stored.size, dtype=dtype, device_mesh=like.device_mesh, placements=like.placements)
    return found


def _split(optimizer: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A torch optimizer's tensors by "parameter.name", and the rest of its state."""
    tensors: dict[str, Tensor] = {}
    rest: dict[int, dict[str, Any]] = {}
    for number, state in optimizer["state"].items():
        rest[number] = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
        tensors |= {f"{number}.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
    return tensors, {**optimizer, "state": rest}


def _joined(rest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    state = {number: dict(values) for number, values in rest["state"].items()}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        state[int(number)][key] = tensor
    return {**rest, "state": state}
