"""By what a model is known again: a hash of its weights."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from alignzoo.sharded import whole
from alignzoo_hf.model import models

MOVES = ("_name_or_path", "transformers_version")
"""Keys of a configuration that differ between two places of one model."""


def fingerprint(model: Any, settings: tuple[Any, ...]) -> str:
    """The same for models of equal weights, configuration and settings, wherever they lie; adapters do not count."""
    config = {key: value for key, value in models.bare(model).config.to_dict().items() if key not in MOVES}
    digest = hashlib.blake2b(repr((sorted(config.items()), settings)).encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        if "lora_" not in name:
            tensor = whole(tensor)
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
