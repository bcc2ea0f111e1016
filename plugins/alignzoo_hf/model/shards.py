"""Which models are sharded; and a sharded model as an ordinary transformers directory: written tensor by tensor, a file
at a time, so that no process ever holds all of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GenerationConfig

from alignzoo import processes
from alignzoo.sharded import whole
from alignzoo_hf.decode.engines import engine_of
from alignzoo_hf.model import adapters, models, saving, weights
from alignzoo_hf.model.spec import HF

FILE = 2_000_000_000
"""Bytes of a file of weights at most, which the first process holds until it is written."""


def is_sharded(spec: HF, needs: frozenset[str]) -> bool:
    """Whether a policy's weights are spread over the processes."""
    if processes.count() == 1 or spec.shard == "none":
        return False
    if spec.shard == "fsdp":
        return True
    stored = isinstance(spec.model, str) and not engine_of(spec).separate
    return bool(needs) and stored and models.device(spec).type != "cpu"


def sharding(spec: HF, needs: frozenset[str], place: torch.device, *, bf16: bool) -> Any:
    """How a policy's weights are spread over the processes; None: each process has them whole."""
    if not is_sharded(spec, needs):
        return None
    from alignzoo_hf.model.sharding import Sharding  # torch's own modules for it take a second to import

    return Sharding(place, bf16, spec.shard_within)


def save(model: Any, tokenizer: Any, path: Path, dtype: torch.dtype) -> None:
    """As `models.save`; called by all processes, of which the first writes."""
    inner = models.bare(model)
    first = not processes.index()
    files = _Files(path) if first else None
    for name, tensor in _tensors(model, inner):
        if files is not None:
            files.add(name, tensor.to("cpu", dtype if tensor.is_floating_point() else tensor.dtype))
    adapter = _adapter(model)
    if files is None:
        return
    files.close()
    models.set_padding(model, tokenizer)
    config = copy.deepcopy(inner.config)
    config.architectures, config.dtype = [_plain_name(inner)], dtype
    with weights.quietly():
        config.save_pretrained(path)
        if isinstance(getattr(inner, "generation_config", None), GenerationConfig):
            saving.ended(inner, tokenizer).save_pretrained(path)
        if adapter:
            model.save_pretrained(path / adapters.ADAPTER, state_dict=adapter, save_embedding_layers=False)
            adapters.finish(tokenizer, path / adapters.ADAPTER)
    tokenizer.save_pretrained(path)


def _plain_name(model: Any) -> str:
    return type(model).__name__


def _tensors(model: Any, inner: Any) -> Iterator[tuple[str, Tensor]]:
    """Each weight and each stored buffer by its name in the transformers model, whole, with adapters merged."""
    within = {id(layer): f"{name}." for name, layer in inner.named_modules() if hasattr(layer, "base_layer")}
    seen: set[int] = set()
    for name, module in inner.named_modules():
        if id(module) in within:
            for key, tensor in _merged(module).items():
                yield f"{within[id(module)]}{key}", tensor
            seen |= {id(each) for each in module.parameters()}
            continue
        for key, weight in module.named_parameters(recurse=False):
            if id(weight) not in seen:
                seen.add(id(weight))
                yield f"{name}.{key}" if name else key, whole(weight.detach())
    stored = inner.state_dict().keys()
    for name, buffer in inner.named_buffers():
        if name in stored:
            yield name, whole(buffer)


def _merged(layer: Any) -> dict[str, Tensor]:
    """The weights of a linear layer of peft's with its adapter merged into them."""
    with _whole(layer):
        base = layer.get_base_layer()
        former = {key: each.detach().clone() for key, each in base.named_parameters(recurse=False)}
        layer.merge(safe_merge=False)
        found = {key: each.detach().clone() for key, each in base.named_parameters(recurse=False)}
        layer.merged_adapters.clear()
        assert former.keys() == found.keys()
    return found


@contextmanager
def _whole(module: nn.Module) -> Iterator[None]:
    """Inside, a module has its weights whole, as copies."""
    former: list[tuple[nn.Module, str, nn.Parameter]] = []
    for part in module.modules():
        for key, weight in part.named_parameters(recurse=False):
            former.append((part, key, weight))
    try:
        for part, key, weight in former:
            part._parameters[key] = nn.Parameter(whole(weight.detach()).clone(), requires_grad=False)
        yield
    finally:
        for part, key, weight in former:
            part._parameters[key] = weight


def _adapter(model: Any) -> dict[str, Tensor]:
    """The adapter's own weights, whole; empty where there is none."""
    if not hasattr(model, "merge_and_unload"):
        return {}
    return {name: whole(each.detach()).cpu() for name, each in model.named_parameters() if "lora_" in name}


class _Files:
    """The files of a directory's weights, and which weight lies in which of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: dict[str, Tensor] = {}
        self.size = self.total = 0
        self.written: list[tuple[Path, list[str]]] = []
        path.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if self.held and self.size + size > FILE:
            self._write()
        self.held[name] = tensor.contiguous()
        self.size += size
        self.total += size

    def _write(self) -> None:
        file = self.path / f".{len(self.written)}.safetensors"
        save_file(self.held, file, metadata={"format": "pt"})
        self.written.append((file, list(self.held)))
        self.held, self.size = {}, 0

    def close(self) -> None:
        """Write the last file, and give all of them the names that transformers reads."""
        self._write()
        count = len(self.written)
        if count == 1:
            self.written[0][0].rename(self.path / "model.safetensors")
            return
        lies: dict[str, str] = {}
        for number, (file, names) in enumerate(self.written, 1):
            named = f"model-{number:05d}-of-{count:05d}.safetensors"
            file.rename(self.path / named)
            lies |= dict.fromkeys(names, named)
        index = {"metadata": {"total_size": self.total}, "weight_map": lies}
        (self.path / weights.INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
