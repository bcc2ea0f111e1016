"""A model becomes a transformers directory, and no second copy of it in full precision is made on the way."""

from __future__ import annotations

import copy
import gc
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from alignzoo.allocator import give_back
from alignzoo.errors import ModelError
from alignzoo_hf.forward.head import drop_buffer
from alignzoo_hf.model import adapters, models, quantized, weights
from alignzoo_hf.model.encoding import stop_ids

SMALL = 1 << 24
"""Bytes that may lie free while a model is merged, which is done once and takes its time in any case."""


def save(model: Any, tokenizer: Any, path: Path, dtype: torch.dtype) -> None:
    """A transformers directory with model, tokenizer and generation config; an adapter is merged into a copy, and lies
    beside it. On weights of few bits it is saved alone: merged, it would be rounded to them."""
    if quantized.is_quantized(models.bare(model)):
        with weights.quietly():
            adapters.save_adapter(model, tokenizer, path)
        return
    drop_buffer()
    give_back()
    whole = models.bare(stored(model, dtype))
    if isinstance(getattr(whole, "generation_config", None), GenerationConfig):
        ended(whole, tokenizer)
    models.set_padding(whole, tokenizer)
    with weights.quietly():
        whole.save_pretrained(path)
        if adapters.has_adapter(model):
            adapters.save_adapter(model, tokenizer, path / adapters.ADAPTER)
    tokenizer.save_pretrained(path)
    if whole is not models.bare(model):
        del whole
        gc.collect()  # a copy of peft's refers to itself
        give_back()


def save_base(model: Any, tokenizer: Any, path: Path, dtype: torch.dtype) -> None:
    """A transformers directory of what an adapter lies over. Raises ModelError where its weights have few bits: engines
    read them otherwise than transformers saves them."""
    if quantized.is_quantized(models.bare(model)):
        raise ModelError(
            "the policy's base has weights of few bits, which an engine cannot be given: let it load the adapter over "
            "the unquantized base, or take engine 'alignzoo'"
        )
    whole = adapters.sharing(model).unload().to(dtype)
    for parameter in whole.parameters():
        parameter.data = parameter.data.contiguous()  # frozen weights may lie by columns
    ended(whole, tokenizer)
    with weights.quietly():
        whole.save_pretrained(path)
    tokenizer.save_pretrained(path)


def ended(model: Any, tokenizer: Any) -> GenerationConfig:
    """A model's generation config, with the tokens at which its texts end, and its padding."""
    generation: GenerationConfig = model.generation_config
    generation.eos_token_id = sorted(stop_ids(model, tokenizer))
    if tokenizer.pad_token_id is not None:
        generation.pad_token_id = tokenizer.pad_token_id
    return generation


def stored(model: Any, dtype: torch.dtype) -> Any:
    """The model as it is saved: in this precision, its adapter merged. Weights that stay as they are share their memory
    with the model; the others are made one after the other, so that beside the model there is only what is saved."""
    if adapters.has_adapter(model):
        return _merged(adapters.sharing(model), dtype)
    if all(each.dtype == dtype for each in model.parameters()):
        return model
    return copy.deepcopy(model, _converted(model, dtype)).to(dtype)


def _converted(model: nn.Module, dtype: torch.dtype) -> dict[int, Any]:
    """What `deepcopy` takes instead of each weight."""
    return {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in model.parameters()}


def _merged(model: Any, dtype: torch.dtype) -> Any:
    """A model that shares its weights with another, its adapter merged layer by layer: in the weights' precision, and
    stored in this one."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All adapters are already merged")
        for layer in [each for each in model.modules() if isinstance(each, BaseTunerLayer)]:
            give_back(SMALL)  # of each layer more than its merged weight was made
            layer.merge(safe_merge=True)  # type: ignore[operator]  # not in place, where the other model reads
            linear = layer.get_base_layer().to(dtype)
            linear.weight.data = linear.weight.data.contiguous()  # frozen weights may lie by columns
        whole = model.merge_and_unload().to(dtype)
    for parameter in whole.parameters():
        parameter.data = parameter.data.contiguous()
    give_back(SMALL)
    return whole
