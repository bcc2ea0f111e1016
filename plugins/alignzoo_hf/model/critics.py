"""Critics: a value head on the policy's own states, or on a trunk of its own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from alignzoo.errors import ModelError
from alignzoo_hf.model import adapters, checks, models, quantized, saving
from alignzoo_hf.model.blank import start_at_zero
from alignzoo_hf.model.spec import HF


def shared(lm: Any) -> nn.Linear:
    """A value head on the policy's own trunk."""
    if lm is None:
        raise ModelError("a shared critic needs a policy that writes")
    return models.value_head(lm.config)


def separate(spec: HF, lm: Any, tokenizer: Any, precision: torch.dtype, *, blank: bool = False) -> Any:
    """A critic with a trunk of its own, whose value starts at 0, whatever the trunk scored. Beside a policy with an
    adapter it is another adapter on the same frozen weights, of which no second copy is ever made."""
    if spec.critic_model:
        checks.check_same_tokens(tokenizer, spec.critic_model, spec)
    if spec.lora_rank and not spec.critic_model and lm is not None:
        critic = adapters.adapted(_on_trunk_of(lm, spec), spec, "SEQ_CLS")
    else:
        critic = models.scorer(spec, spec.critic_model or spec.model, precision, blank=blank)
    nn.init.zeros_(models.score_head(critic).weight)
    start_at_zero(critic, "score.")
    return critic


def beside(spec: HF, lm: Any, outputs: int) -> Any:
    """A scorer on the language model's own trunk, adapter and all: both heads train the same weights."""
    quantized.check_scorer(spec)
    return _head_on(models.bare(lm), outputs).eval()


def whole(scorer: Any, lm: Any, dtype: torch.dtype) -> Any:
    """Such a scorer as it is saved: an adapter of its trunk merged."""
    if not adapters.has_adapter(lm):
        return scorer
    head = models.score_head(scorer)
    found = _head_on(models.bare(saving.stored(lm, dtype)), head.out_features)
    models.score_head(found).load_state_dict(head.state_dict())
    return found


def _head_on(bare: Any, outputs: int) -> Any:
    """A scorer with the very trunk of a language model, and a head in float32 that starts at 0."""
    config = copy.deepcopy(bare.config)
    config.num_labels = outputs
    with torch.device("meta"):
        scorer = AutoModelForSequenceClassification.from_config(config, dtype=bare.dtype)
    setattr(scorer, scorer.base_model_prefix, bare.base_model)
    old = models.score_head(scorer)
    scorer.score = nn.Linear(old.in_features, outputs, bias=old.bias is not None, device=bare.device)
    for weight in scorer.score.parameters():
        nn.init.zeros_(weight)
    return scorer


def _on_trunk_of(lm: Any, spec: HF) -> Any:
    """A scorer whose trunk is the language model's without its adapter, weight for weight the same memory."""
    bare = adapters.sharing(lm).unload()
    config = copy.deepcopy(bare.config)
    config.num_labels = 1
    with torch.device("meta"):
        critic = AutoModelForSequenceClassification.from_config(config, dtype=bare.dtype)
    setattr(critic, critic.base_model_prefix, bare.base_model)
    old = models.score_head(critic)
    critic.score = nn.Linear(old.in_features, 1, bias=old.bias is not None, dtype=bare.dtype, device=bare.device)
    return models.ready(critic, spec)
