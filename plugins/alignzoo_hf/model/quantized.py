"""Frozen weights in 4 or 8 bits, by transformers' quantisation and the package bitsandbytes."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import torch

from alignzoo.cost import ModelShape
from alignzoo.errors import ModelError
from alignzoo_hf.model import adapters
from alignzoo_hf.model.spec import HF

BYTES = {"none": 0.0, "4bit": 0.52, "8bit": 1.01}
"""Bytes of a weight of a linear layer, its share of the scales with it: 4-bit blocks of 64 have a scale in 8 bits."""


def is_quantized(model: Any) -> bool:
    """Whether a model's linear layers hold their weights in few bits."""
    return getattr(model, "quantization_method", None) is not None


def check(spec: HF) -> None:
    """Raise ModelError where a policy of these settings cannot be loaded with quantised weights."""
    if spec.quantization == "none":
        return
    if not isinstance(spec.model, str):
        raise ModelError(
            f"policy.quantization = {spec.quantization!r} is for a model that is loaded from its directory: quantise a "
            "live one as it is loaded, by transformers' BitsAndBytesConfig, and leave the setting out"
        )
    if not (spec.lora_rank or adapters.is_adapter(spec.model)):
        raise ModelError(
            f"policy.quantization = {spec.quantization!r} holds frozen weights in few bits, which cannot be trained: "
            "set policy.lora_rank, 16 say, to train an adapter on them"
        )
    _check_package(spec)


def _check_package(spec: HF) -> None:
    try:
        importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise ModelError(
            f"policy.quantization = {spec.quantization!r} needs the package bitsandbytes, which cannot be imported "
            f"({error}): pip install bitsandbytes, or take policy.dtype=bf16, which needs two bytes a weight"
        ) from error


def check_scorer(spec: HF) -> None:
    """Raise ModelError for a reward model, or a critic of its own model, which would be saved or started otherwise."""
    if spec.quantization != "none":
        raise ModelError(
            f"policy.quantization = {spec.quantization!r} is for language models and for critics on their frozen "
            "weights: leave it out for a reward model, or leave policy.critic_model out"
        )


def options(spec: HF, place: torch.device, compute: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` is given: nothing where nothing is quantised."""
    if spec.quantization == "none":
        return {}
    _check_package(spec)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # of 8 bits it tells in every pass how it computes
    from transformers import BitsAndBytesConfig

    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": compute}
    config = (
        BitsAndBytesConfig(load_in_4bit=True, **four)
        if spec.quantization == "4bit"
        else BitsAndBytesConfig(load_in_8bit=True)
    )
    return {"quantization_config": config, "device_map": {"": str(place)}}


def bytes_of(spec: HF, shape: ModelShape, width: int) -> float:
    """Bytes of a frozen weight on average: embeddings, heads and norms keep their own precision."""
    if spec.quantization == "none":
        return width
    multiplied = shape.trunk - shape.trained_trunk * shape.adapted
    own = max(1, shape.parameters - shape.trained)
    return (BYTES[spec.quantization] * multiplied + width * (own - multiplied)) / own


def placed(model: Any, place: torch.device) -> Any:
    """The model on a device; a quantised one was loaded there, and cannot be moved."""
    return model if is_quantized(_bare(model)) else model.to(place)


def _bare(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
