"""Loading and saving transformers models, and the few facts about them that alignzoo asks for."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from alignzoo import processes
from alignzoo.columns import ANSWERS, OLD, POLICY, column, of_part
from alignzoo.errors import ModelError, NoScorer
from alignzoo_hf.forward import layers
from alignzoo_hf.forward.head import Head
from alignzoo_hf.model import adapters, quantized, weights
from alignzoo_hf.model import blank as blank_models
from alignzoo_hf.model.adapters import adapted
from alignzoo_hf.model.chat import read_template
from alignzoo_hf.model.spec import HF

LANGUAGE_HEAD = r"^(lm_head|embed_out|output_layer|cls)\b"
"""The names of the weights of language-model heads, which a scorer does without."""


def device(spec: HF) -> torch.device:
    """The recipe's device, or the one that accelerate finds."""
    if spec.device == "auto":
        return _place()
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("policy.device is 'cuda' but no CUDA device is available: use 'auto' or 'cpu'")
    return torch.device("cuda", processes.local_index()) if spec.device == "cuda" else torch.device(spec.device)


@functools.cache
def _place() -> torch.device:
    """The device that accelerate finds, of each process its own."""
    return torch.device(PartialState().device)


def wants_bf16(spec: HF, place: torch.device) -> bool:
    """Whether to compute in bf16: when asked for, or by default on CUDA."""
    return spec.dtype == "bf16" or (spec.dtype == "auto" and place.type == "cuda")


def check_writes(config: Any, source: str) -> None:
    """A reward model would be given a random language-model head, silently."""
    scoring = [name for name in config.architectures or [] if "Classification" in name]
    if scoring:
        raise ModelError(
            f"{source} holds a {scoring[0]}, which scores and does not write: give a causal language model"
        )


def tokenizer(spec: HF) -> Any:
    """The model's tokenizer, or the one that the recipe names; with the recipe's chat template, so that what is saved
    has it."""
    source = spec.tokenizer or (spec.model if isinstance(spec.model, str) else spec.model.name_or_path)
    live = not isinstance(source, str)
    found = source if live else _tokenizer(source, spec)
    if spec.chat_template:
        found = copy.deepcopy(found) if live else found
        found.chat_template = read_template(spec.chat_template)
    return found


def _tokenizer(source: str, spec: HF) -> Any:
    source = adapters.tokens_of(source)
    return weights.from_pretrained(AutoTokenizer, source, trust_remote_code=spec.trust_remote_code)


def config(spec: HF) -> Any:
    """The configuration of the model that the recipe names."""
    return spec.model.config if not isinstance(spec.model, str) else _config(spec.model, spec)


def stored_dtype(spec: HF) -> torch.dtype:
    """The precision in which the model is saved: the one that it lies in, where none is named."""
    if spec.save_dtype != "auto":
        return torch.bfloat16 if spec.save_dtype == "bf16" else torch.float32
    if not isinstance(spec.model, str):
        found = next(spec.model.parameters()).dtype
    else:
        found = getattr(_config(spec.model, spec).get_text_config(), "dtype", None) or torch.float32
    return found if isinstance(found, torch.dtype) and found.is_floating_point else torch.float32


def _config(source: str, spec: HF) -> Any:
    source = adapters.base_of(source)
    return weights.from_pretrained(AutoConfig, source, trust_remote_code=spec.trust_remote_code)


def is_scorer(config: Any) -> bool:
    """Whether a directory holds a sequence-classification model."""
    return any("SequenceClassification" in name for name in config.architectures or [])


def check_answers(needs: frozenset[str]) -> None:
    """Raise ModelError for a column that an optimizer needs and no role of an `hf` policy answers."""
    for name in sorted(needs):
        wanted = column(name)
        if wanted.role not in (POLICY, OLD) and wanted.answer.of != "language":
            known = ", ".join(sorted(name for name, each in ANSWERS.items() if each.of == "language"))
            raise ModelError(
                f"the optimizer needs {name!r}, which the policy 'hf' does not answer: {wanted.role!r} is a language "
                f"model without a critic or a scoring head, and answers {known}. Take another policy, or another "
                "optimizer"
            )


def only_scores(needs: frozenset[str]) -> bool:
    """Whether a policy that an optimizer needs so much of has no language-model head. Who needs nothing only writes."""
    return bool(of_part(needs, "scorer")) and not of_part(needs, "language")


def causal_lm(spec: HF, frozen: torch.dtype, *, blank: bool = False) -> Any:
    """The language model: every weight trained in float32, or a LoRA adapter on frozen weights: a new one, or that of
    the directory which is the model. A `blank` one has no weights yet where these can be read as it is sharded."""
    quantized.check(spec)
    if isinstance(spec.model, str) and adapters.is_adapter(spec.model) and not spec.lora_rank:
        beneath = replace(spec, model=adapters.beneath(spec.model))
        return adapters.continued(_language_model(beneath, torch.float32), spec.model)
    model = _language_model(spec, _dtype(spec, frozen), blank=blank)
    return adapted(model, spec, "CAUSAL_LM") if spec.lora_rank else _trained(model)


def frozen_lm(spec: HF, dtype: torch.dtype, *, blank: bool = False) -> Any:
    """A language model that is not trained."""
    return _language_model(spec, dtype, blank=blank).requires_grad_(False)


def _language_model(spec: HF, dtype: torch.dtype, *, blank: bool = False) -> Any:
    if blank and isinstance(spec.model, str) and (model := blank_models.language_model(spec, dtype)) is not None:
        if spec.lora_rank:
            blank_models.stand_in(model)
        return model  # its head is checked once it has weights
    given = quantized.options(spec, device(spec), torch.bfloat16 if wants_bf16(spec, device(spec)) else torch.float32)
    model = loaded_lm(spec, spec.model, dtype=dtype, **given) if isinstance(spec.model, str) else _live(spec, dtype)
    ready(model, spec)
    check_head(model)
    return model


def loaded_lm(spec: HF, source: str, **options: Any) -> Any:
    """The language model of a directory or hub id, refused where its weights are not what its configuration says."""
    if adapters.is_adapter(source):
        return adapters.with_adapter(loaded_lm(spec, adapters.beneath(source), **options), source)
    config = _config(source, spec)
    check_writes(config, source)
    options |= attention(spec, config) | {"trust_remote_code": spec.trust_remote_code}
    return weights.loaded(AutoModelForCausalLM, source, **options)


def scorer(spec: HF, source: Any, frozen: torch.dtype, *, blank: bool = False, outputs: int = 1) -> Any:
    """A sequence-classification model: a reward model, or a critic's start. A causal model's trunk gets a head at 0,
    with so many outputs."""
    quantized.check_scorer(spec)
    dtype = _dtype(spec, frozen)
    if blank and isinstance(source, str) and (model := blank_models.scorer(spec, source, dtype, outputs)) is not None:
        return adapted(model, spec, "SEQ_CLS") if spec.lora_rank else _trained(model)
    if isinstance(source, str) and adapters.is_adapter(source):
        model = _scorer_on(loaded_lm(spec, source, dtype=dtype), spec, dtype, outputs)
    elif isinstance(source, str):
        model = loaded_scorer(spec, source, outputs, dtype=dtype)
        if not is_scorer(_config(source, spec)):
            nn.init.zeros_(score_head(model).weight)
    else:
        model = _scorer_on(source, spec, dtype, outputs)
    ready(model, spec)
    return adapted(model, spec, "SEQ_CLS") if spec.lora_rank else _trained(model)


def _live(spec: HF, dtype: torch.dtype) -> Any:
    """The live model that Python gave. A second adapter on one of peft's would train neither as it was meant."""
    if _has_adapter(spec.model) and spec.lora_rank:
        raise ModelError("policy.model has an adapter of peft's already: leave policy.lora_rank at 0 to train that one")
    weights.check_finite(spec.model, "the given model")
    return spec.model.to(dtype)


def _has_adapter(model: Any) -> bool:
    return hasattr(model, "get_base_model")


def _trained(model: Any) -> Any:
    """The model with its weights to be trained: all, but for those that a live model of Python's has frozen, as peft
    freezes the base of an adapter. A model with everything frozen was loaded for generation, and is trained whole."""
    if any(each.requires_grad for each in model.parameters()):
        return model
    if _has_adapter(model):
        raise ModelError("the adapter of the given model is frozen: load it with is_trainable=True")
    return model.requires_grad_(True)


def ready(model: Any, spec: HF) -> Any:
    """The model in evaluation mode, its layers exchanged for ours where they are the same."""
    model.eval()
    if spec.attention == "auto":
        layers.exchange(model)
    return model


def _scorer_on(source: Any, spec: HF, dtype: torch.dtype, outputs: int) -> Any:
    """A live scorer as it is, or a copy of a live language model's trunk with a head at 0."""
    weights.check_finite(source, "the given model")
    if "SequenceClassification" in type(bare(source)).__name__:
        _check_outputs(bare(source).config, "the given model", spec, outputs)
        return source.to(dtype)
    if _has_adapter(source):
        source = copy.deepcopy(source).merge_and_unload()
    config = copy.deepcopy(source.config)
    config.num_labels = outputs
    model = AutoModelForSequenceClassification.from_config(config, dtype=dtype)
    model.base_model.load_state_dict(source.base_model.state_dict())
    nn.init.zeros_(score_head(model).weight)
    return model


def loaded_scorer(spec: HF, source: str, outputs: int = 1, **options: Any) -> Any:
    """The scorer of a directory or hub id; of a language model its trunk, with a head that is new."""
    config, trained = scorer_config(spec, source, outputs)
    options |= attention(spec, config) | {"trust_remote_code": spec.trust_remote_code, "config": config}
    heads = {} if trained else {"new": "score.", "other": LANGUAGE_HEAD}
    return weights.loaded(AutoModelForSequenceClassification, adapters.base_of(source), **heads, **options)


def scorer_config(spec: HF, source: str, outputs: int = 1) -> tuple[Any, bool]:
    """A scorer's configuration, with so many outputs where its head is new, and whether the head is trained."""
    config = _config(source, spec)
    trained = is_scorer(config)
    if not trained:
        config.num_labels = outputs
    _check_outputs(config, source, spec, outputs)
    return config, trained


def _check_outputs(config: Any, source: str, spec: HF, outputs: int) -> None:
    if spec.score_label >= config.num_labels:
        raise ModelError(
            f"score_label is {spec.score_label}, but {source} has {config.num_labels} outputs, counted from 0"
        )
    if outputs > config.num_labels:
        raise ModelError(
            f"{outputs} scores are asked for, but {source} has a scoring head of {config.num_labels}: give a language "
            "model, whose trunk gets a new head, or as many attributes and weights as there are outputs"
        )


def check_scorer(spec: HF, source: str, *, chosen: bool = True) -> None:
    """A language model would be given a scoring head of zeros, and every score would be 0, silently. Of several outputs
    one has to be `chosen`: the first of a classifier may be what it calls bad."""
    config = _config(source, spec)
    if is_scorer(config) and config.num_labels > 1 and not chosen:
        outputs = ", ".join(f"{i} ({config.id2label.get(i)})" for i in range(config.num_labels))
        raise ModelError(
            f"{source} has {config.num_labels} outputs: {outputs}. Say by label=NUMBER which one is the score, or give "
            "weights, one for each"
        )
    if not is_scorer(config):
        kind = (config.architectures or ["a model of no named class"])[0]
        raise NoScorer(
            f"{source} is no reward model: it holds {kind}, which has no head that scores. Give the directory of a "
            "sequence-classification model, as `alignzoo run reward-model` trains one"
        )


def reads_last_token(model: Any) -> bool:
    """A decoder with a linear `score` head on each position, as transformers' causal families have it."""
    return isinstance(getattr(bare(model), "score", None), nn.Module)


def read_at(model: Any, tokens: Tensor, attend: Tensor) -> Tensor:
    """Where transformers reads a row's score, (N,): the last token that is no padding. Where the end-of-sequence token
    doubles as padding this is the token before it, and the saved model must be read at the same place."""
    pad = bare(model).config.get_text_config().pad_token_id
    real = attend if pad is None else attend & (tokens != pad)
    return (real * torch.arange(tokens.shape[1], device=tokens.device)).argmax(1)


def set_padding(model: Any, tokenizer: Any) -> None:
    """Give a model that knows no padding token its tokenizer's."""
    config = bare(model).config.get_text_config()
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id


def with_padding(tokenizer: Any) -> Any:
    """A scorer's tokenizer: transformers scores a batch of several rows only where there is a padding token. One that
    stands in no text is best; where the end doubles as padding a score is read before it, in training too."""
    if tokenizer.pad_token_id is not None:
        return tokenizer
    padded = copy.deepcopy(tokenizer)
    ends = (tokenizer.eos_token, tokenizer.bos_token, None)
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    spare = [name for name in added if ("pad" in name.lower() or "reserved" in name) and name not in ends]
    own = [] if tokenizer.unk_token in ends else [tokenizer.unk_token]
    padded.pad_token = next(iter([*spare, *own]), tokenizer.eos_token)
    return padded


def score_head(model: Any) -> Any:
    """The linear head over hidden states. Raises ModelError for models that score in another way."""
    if not reads_last_token(model):
        raise ModelError(
            f"{type(bare(model)).__name__} has no linear `score` head on its hidden states, so it cannot be trained as "
            "a reward model or start a critic; a causal model's directory can"
        )
    return bare(model).score


def attention(spec: HF, config: Any) -> dict[str, Any]:
    """How the padded path attends: as the recipe says, otherwise as transformers chooses; but some of its versions
    choose sdpa where it drops the cap on a model's scores."""
    if spec.attention != "auto":
        return {"attn_implementation": spec.attention}
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return {"attn_implementation": "eager"} if capped else {}


def _dtype(spec: HF, frozen: torch.dtype) -> torch.dtype:
    return frozen if spec.lora_rank else torch.float32


def value_head(config: Any) -> nn.Linear:
    """A linear value head that starts at 0."""
    head = nn.Linear(config.hidden_size, 1, bias=False)
    nn.init.zeros_(head.weight)
    return head


def bare(model: Any) -> PreTrainedModel:
    """The transformers model inside a peft wrapper."""
    inner: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner


def states(model: Any, tokens: Tensor) -> Tensor:
    """The last hidden states (N, T, H) of right-padded rows. Causal attention needs no padding mask for these."""
    hidden: Tensor = bare(model).base_model(tokens, use_cache=False).last_hidden_state
    return hidden


def head(model: Any) -> Head:
    """The map from hidden states to logits, with what some families add to the linear layer."""
    inner = bare(model)
    config = inner.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    cap = getattr(config, "final_logit_softcapping", None) or 0.0
    return Head(inner.get_output_embeddings(), float(scale), float(cap))


def check_head(model: Any) -> None:
    """Trunk and head, called apart, must answer as the whole model does."""
    tokens = torch.arange(4, device=model.device)[None] % model.config.get_text_config().vocab_size
    with torch.no_grad():
        whole, apart = model(tokens).logits, head(model)(states(model, tokens))
    if whole.shape != apart.shape or not torch.allclose(whole.float(), apart.float(), rtol=1e-2, atol=1e-2):
        raise ModelError(
            f"{type(model).__name__} does more between its trunk and its logits than a linear head, a scale or a soft "
            "cap; such a model is not supported yet"
        )


def context(model: Any) -> int:
    """The model's context length in tokens."""
    config = bare(model).config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 20)


def groups(model: Any, rate: float) -> list[dict[str, Any]]:
    """The trained weights, embeddings and heads apart from the others, which are maps."""
    inner, ends = bare(model), ("get_input_embeddings", "get_output_embeddings")
    tables = {id(each.weight) for name in ends if hasattr(inner, name) and (each := getattr(inner, name)()) is not None}
    tables |= {id(inner.score.weight)} if reads_last_token(model) else set()
    trained = [each for each in model.parameters() if each.requires_grad]
    tables |= set(map(id, trained)) if isinstance(inner, nn.Linear) else set()  # a value head
    apart, others = ([each for each in trained if (id(each) in tables) == table] for table in (True, False))
    parts = ({"params": apart, "lr_scale": rate, "embedding": True}, {"params": others, "lr_scale": rate})
    return [part for part in parts if part["params"]]
