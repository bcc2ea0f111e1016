"""The encoder that goes with a model: its limits, its ends, its chat template."""

from __future__ import annotations

from typing import Any

from alignzoo.errors import ModelError
from alignzoo_hf.model import models
from alignzoo_hf.model.chat import Encoder, read_template
from alignzoo_hf.model.spec import HF


def encoder(spec: HF, model: Any, tokenizer: Any, *, writes: bool) -> Encoder:
    """The encoder of a model, and of its settings where they agree."""
    stop_ids = models.stop_ids(model, tokenizer)
    context = models.context(model)
    if spec.max_length > context:
        raise ModelError(f"policy.max_length is {spec.max_length}, but the model's context is {context} tokens")
    max_length = spec.max_length or context
    if spec.max_new_tokens >= max_length:
        raise ModelError(
            f"policy.max_new_tokens is {spec.max_new_tokens}, which leaves no room for a prompt in "
            f"{max_length} tokens: lower it" + (" or raise policy.max_length" if spec.max_length else "")
        )
    eos = tokenizer.eos_token_id
    if eos is None and not writes:
        eos = tokenizer.sep_token_id  # encoders' tokenizers end a text with a separator
    if not stop_ids and writes:
        raise ModelError("neither generation_config.json nor the tokenizer names an end-of-sequence token")
    return Encoder(
        tokenizer=tokenizer,
        stop_ids=stop_ids,
        eos_id=min(stop_ids, default=None) if eos is None else eos,
        template=read_template(spec.chat_template),
        max_length=max_length,
        max_new_tokens=spec.max_new_tokens,
        special_tokens=spec.special_tokens,
        vocabulary=int(models.bare(model).get_input_embeddings().weight.shape[0]),
    )
