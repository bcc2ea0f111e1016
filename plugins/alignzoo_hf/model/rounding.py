"""What rounding leaves of a model that is trained in full precision and saved in less.

A weight of bfloat16 has a step of 0.4 to 0.8 % of its size. A change that is smaller than half of it is gone when the
model is saved, which a few steps at the learning rates of reinforcement learning do not exceed: the run's own
evaluation, in full precision, is then of another model than the one that lies on the disk.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import cached_file

from alignzoo import processes
from alignzoo.sharded import is_sharded
from alignzoo_hf.model import adapters, models, quantized
from alignzoo_hf.model.blank import Files

ENOUGH = 0.8
"""The share of the change of which nothing is said."""

LOST = 0.5
"""Where less is left, a precision that nobody has named is not kept."""

SAMPLE = 1 << 25
"""Weights that are looked at, of whole matrices."""

ROWS = 512
"""Rows of a matrix that are looked at together, so that no second copy of it is made."""


def saved_in(model: Any, start: Any, dtype: torch.dtype, *, named: bool, sharded: bool) -> torch.dtype:
    """The precision to save a model in: `dtype`, that of its base or the one that is `named`; or full precision, where
    nobody has named one and more than half of what training has changed would be rounded away. Either is told.
    `start` is what `policy.model` said. An adapter lies in full precision beside its merged model."""
    share = left(model, start, dtype, sharded=sharded)
    if share is None or share >= ENOUGH:
        return dtype
    kind = str(dtype).removeprefix("torch.")
    found = f"of what training has changed, {share:.1%} would be left in a model of {kind}, whose steps are larger "
    found += "than most of the changes"
    if named or share >= LOST or adapters.has_adapter(model):
        beside = "; the adapter beside it keeps them all" if adapters.has_adapter(model) else ""
        cure = f"it is saved so{beside}: policy.save_dtype=fp32 keeps them, in a file of twice the size"
    else:
        dtype = torch.float32
        cure = "so it is saved in float32, in a file of twice the size: policy.save_dtype=bf16 rounds it"
    if not processes.index():
        warnings.warn(f"{found}; {cure}", stacklevel=2)
    return dtype


@torch.no_grad()
def left(model: Any, start: Any, dtype: torch.dtype, *, sharded: bool = False) -> float | None:
    """⟨round(w) - w₀, w - w₀⟩ / |w - w₀|², over some of the weights: 1 where all changes are kept, about 0 where
    rounding brings the start back. None where nothing is rounded, has changed, or is known of the start."""
    kept = whole = 0.0
    for before, after in _changed(model, start):
        if after.dtype == dtype:
            continue
        change = after - before
        kept += float(((after.to(dtype).to(after.dtype) - before) * change).sum())
        whole += float(change.square().sum())
    if sharded:
        kept, whole = sum(processes.everyones(kept)), sum(processes.everyones(whole))
    return kept / whole if whole else None


def _changed(model: Any, start: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Matrices before and after, both in full precision; of sharded ones, this process's rows. Not those beneath an
    adapter that is sharded, or that lies on weights of few bits, which is saved alone."""
    if not adapters.has_adapter(model):
        return _trained(models.bare(model), start)
    apart = is_sharded(model.parameters()) or quantized.is_quantized(models.bare(model))
    return iter(()) if apart else _adapted(model)


def _trained(model: Any, start: Any) -> Iterator[tuple[Tensor, Tensor]]:
    folder = _folder(start)
    if folder is None:
        return
    files = Files(folder, exchanges=False)
    found = [(name, each) for name, each in model.named_parameters() if each.ndim == 2 and name in files.lies]
    for name, whole in found[:: _every(sum(each.numel() for _, each in found))]:
        after, rows = _here(whole.detach())
        with safe_open(files.folder / files.lies[name], "pt") as opened:
            stored = opened.get_slice(name)
            for first in range(0, len(after) if stored.get_shape() == list(whole.shape) else 0, ROWS):
                some = after[first : first + ROWS]
                before = stored[rows.start + first : rows.start + first + len(some)]
                yield before.to(after.device, after.dtype), some


def _folder(start: Any) -> Path | None:
    """Where the weights of a directory, or of a model of the hub that has been fetched, lie; None for a live model."""
    if not isinstance(start, str) or Path(start).is_dir():
        return Path(start) if isinstance(start, str) else None
    fetched = cached_file(start, "config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
    return Path(fetched).parent if fetched else None


def _here(weight: Tensor) -> tuple[Tensor, slice]:
    """What this process has of a matrix, and which rows these are."""
    if not is_sharded([weight]):
        return weight, slice(0, len(weight))
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    whole: Any = weight
    shape, offset = compute_local_shape_and_global_offset(whole.shape, whole.device_mesh, whole.placements)
    return whole.to_local(), slice(offset[0], offset[0] + shape[0])


def _adapted(model: Any) -> Iterator[tuple[Tensor, Tensor]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = [each for each in model.modules() if isinstance(each, BaseTunerLayer) and hasattr(each, "get_delta_weight")]
    layers = [(each, each.get_base_layer().weight) for each in found]
    for layer, weight in layers[:: _every(sum(weight.numel() for _, weight in layers))]:
        for name in layer.active_adapters:
            change = layer.get_delta_weight(name)  # type: ignore[operator]
            for before, more in zip(weight.detach().split(ROWS), change.split(ROWS), strict=True):
                yield before.float(), before.float() + more.float()


def _every(weights: int) -> int:
    """Which matrices are looked at where there are so many weights: each, or every second, third, ..."""
    return -(-weights // SAMPLE) or 1
