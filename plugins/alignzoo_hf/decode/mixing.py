"""Generation under a mixture of two or more policies' distributions: the policy's and those of roles beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from alignzoo.engines import EngineModel
from alignzoo.errors import ModelError, did_you_mean
from alignzoo_hf.decode.transformers_engines import TransformersEngine
from alignzoo_hf.model.models import bare
from alignzoo_hf.model.roles import Voice

Share = tuple[Voice, float]
"""A role, and its exponent in the mixture."""


class MixedEngine(TransformersEngine):
    """transformers' `generate`, with tokens drawn from p ∝ π^(1-Σw)·Π role^w: Munos et al. 2023 (arXiv:2312.00886)
    sec. 4.1. Recorded log-probabilities are the policy's own."""

    def __init__(self, model: EngineModel, shares: Sequence[Share]) -> None:
        super().__init__(model)
        self.shares = shares

    def mixing(self, attend: Tensor) -> Mixing:
        """What mixes the logits of one batch, whose prompts are padded on the left."""
        return Mixing(self.shares, attend)


def mixed(
    model: EngineModel, mix: Sequence[tuple[str, float]], policy: Voice, now: Voice, roles: Mapping[str, Voice]
) -> MixedEngine:
    """The engine of a policy that generates with these of its roles, whatever its own engine is."""
    if now is not policy:
        raise ModelError(f"the role {now.name!r} generates alone: only the policy generates with others")
    for name, _ in mix:
        if name not in roles:
            raise ModelError(f"this policy has no role {name!r}. {did_you_mean(name, roles)}")
    return MixedEngine(model, [(roles[name], weight) for name, weight in mix])


class Mixing:
    """Logits of a batch's next tokens -> those of the mixture; each role reads along with a cache of its own."""

    def __init__(self, shares: Sequence[Share], attend: Tensor) -> None:
        self.shares, self.attend = shares, attend
        self.caches = [DynamicCache(config=bare(role.model).config) for role, _ in shares]

    def __call__(self, tokens: Tensor, logits: Tensor) -> Tensor:
        own = 1 - sum(weight for _, weight in self.shares)
        mixed = own * torch.log_softmax(logits.float(), -1)
        self.attend = torch.nn.functional.pad(self.attend, (0, tokens.shape[1] - self.attend.shape[1]), value=1)
        for (role, weight), cache in zip(self.shares, self.caches, strict=True):
            other = self._read(role, cache, tokens)
            if other.shape != logits.shape:
                raise ModelError(
                    f"{role.name!r} answers over {other.shape[-1]} tokens and the policy over {logits.shape[-1]}: "
                    "their distributions cannot be mixed"
                )
            mixed = mixed + weight * torch.log_softmax(other.float(), -1)
        return mixed

    def _read(self, role: Voice, cache: Any, tokens: Tensor) -> Tensor:
        """A role's logits after the tokens, of which its cache holds all but the last ones."""
        known = cache.get_seq_length()
        positions = (self.attend.cumsum(-1) - 1).clamp(min=0)[:, known:]
        with role.speaking() as model:
            out = bare(model)(
                tokens[:, known:],
                attention_mask=self.attend,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        found: Tensor = out.logits[:, -1]
        return found
