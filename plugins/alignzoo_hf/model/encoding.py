"""The encoder that goes with a model: its limits, its ends, its chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignzoo.errors import ModelError
from alignzoo_hf.model import models, weights
from alignzoo_hf.model.chat import Encoder, read_template
from alignzoo_hf.model.spec import HF


def encoder(spec: HF, model: Any, tokenizer: Any, *, writes: bool) -> Encoder:
    """The encoder of a model, and of its settings where they agree."""
    ends = stop_ids(model, tokenizer)
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
    if not ends and writes:
        raise ModelError("neither generation_config.json nor the tokenizer names an end-of-sequence token")
    return Encoder(
        tokenizer=tokenizer,
        stop_ids=ends,
        eos_id=min(ends, default=None) if eos is None else eos,
        template=read_template(spec.chat_template),
        max_length=max_length,
        max_new_tokens=spec.max_new_tokens,
        special_tokens=spec.special_tokens,
        vocabulary=int(models.bare(model).get_input_embeddings().weight.shape[0]),
    )


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a text: the generation config's and the tokenizer's. Raises ModelError for what is none."""
    inner = models.bare(model)
    configured = getattr(getattr(inner, "generation_config", None), "eos_token_id", None)
    given = configured if isinstance(configured, list | tuple) else [] if configured is None else [configured]
    for number in given:
        if not _is_token(tokenizer, number):
            folder = Path(str(getattr(inner, "name_or_path", "")))
            # without a generation config of its own a model's are taken from its configuration
            file = folder / (weights.GENERATION if (folder / weights.GENERATION).is_file() else "config.json")
            raise ModelError(
                f"{file} has eos_token_id {configured!r}, but {number!r} is no token of the tokenizer, which has "
                f"{len(tokenizer)}: set it to the number of the token at which a text ends, that of "
                f"{tokenizer.eos_token!r} being {tokenizer.eos_token_id!r}, or give the tokenizer that belongs to the "
                "model"
            )
    return frozenset({*given, tokenizer.eos_token_id} - {None})


def _is_token(tokenizer: Any, number: Any) -> bool:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        return False
    try:
        return tokenizer.convert_ids_to_tokens(number) is not None
    except (LookupError, ValueError, OverflowError):  # each kind of tokenizer has its own
        return False
