"""What policy `hf` will be, without its weights: for `alignzoo plan`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from alignzoo import cost
from alignzoo.columns import answered_by
from alignzoo.cost import ModelShape
from alignzoo.interfaces import Outline, Policy
from alignzoo.machine import assumed
from alignzoo_hf.forward import head, layers, memory
from alignzoo_hf.forward.shape import critics_of, shape_of
from alignzoo_hf.model import adapters, models, quantized
from alignzoo_hf.model.encoding import encoder
from alignzoo_hf.model.spec import HF

RANK = 16
"""Rank of the adapter that is proposed where memory does not suffice."""

TRIAL_TOKENS = 24
"""Tokens that a trial writes of each completion."""


def outline(spec: HF, needs: frozenset[str], *, frozen: bool = False) -> Outline:
    """The sizes of everything that `load` would build, from configurations alone; with `frozen` nothing is trained."""
    place = torch.device(assumed().device) if assumed().device else models.device(spec)
    bf16 = models.wants_bf16(spec, place)
    config = models.config(spec)
    only_scores = models.only_scores(needs)
    with torch.device("meta"):
        main = _model(AutoModelForSequenceClassification if only_scores else AutoModelForCausalLM, config, spec)
        valued = answered_by(needs, "critic") if spec.critic == "separate" else ()
        critics = [_model(AutoModelForSequenceClassification, config, spec) for _ in valued]
    main = main.requires_grad_(False) if frozen else main
    shape = shape_of(main, critics_of(spec, list(map(shape_of, critics))))
    tokenizer = models.tokenizer(spec)
    width = 2 if bf16 else 4

    def logits(positions: int) -> int:
        sizes = head.on_gpu(assumed().memory, assumed().memory) if _is_assumed(place) else head.tiling(place)
        kept = positions * shape.vocab
        tile = min(kept, max(sizes.tile, shape.vocab))
        return cost.FLOAT32 * (tile + (kept if kept <= sizes.kept else 0))  # a tile at work, and what is kept

    def trial(layers: int) -> Policy:
        return _trial(spec, config, tokenizer, layers, needs)

    return Outline(
        shape=shape,
        device=place,
        width=width,
        frozen=quantized.bytes_of(spec, shape, width),
        tokens_per_pass=_tokens_per_pass(shape, place, width, recompute=spec.recompute),
        exact_samples=spec.samples_exactly(bf16),
        slots=spec.generate_batch,
        longest=spec.max_new_tokens,
        encode=encoder(spec, main, tokenizer, writes=not only_scores).group,
        logits=logits,
        trial=trial,
        copied=_copied(spec, shape, place, width),
        kept=_kept(spec, config, shape, place, bf16=bf16),
        cheaper=lambda: _cheaper(spec, needs),
        recompute=spec.recompute,
        stored=models.stored_dtype(spec).itemsize,
    )


ADAPTED = {False: 0.9, True: 1.35}
"""The share of `cost.activation_bytes` that SmolLM2's forward pass with an adapter on all linear layers keeps: in
float32 (each layer's input is one tensor for the layer and its adapter), and in bf16, where norms keep float32 too."""

LOST = 0.63
"""The share of these for which a CPU's memory is taken besides, since it lies free in places where nothing fits: as it
was measured of the same pass. With `policy.recompute` it is given back."""


def _kept(spec: HF, config: Any, shape: ModelShape, place: torch.device, *, bf16: bool) -> float:
    if shape.adapted:
        return ADAPTED[bf16] * (1 + LOST if place.type == "cpu" else 1)
    return 1.0 if bf16 or place.type != "cpu" else layers.kept(config.get_text_config(), shape)


def _copied(spec: HF, shape: ModelShape, place: torch.device, width: int) -> int:
    """Linear layers by columns, which our engine makes on a CPU; those beneath an adapter lie so already, but for a
    head that is an embedding, too."""
    if place.type != "cpu" or spec.engine != "alignzoo":
        return 0
    return width * ((shape.head if shape.tied else 0) if shape.adapted else shape.trunk + shape.head)


def _is_assumed(place: torch.device) -> bool:
    """Whether the plan is made for a GPU of a size that is given."""
    return place.type == "cuda" and bool(assumed().memory)


def sizes(spec: HF) -> ModelShape:
    """The sizes of a language model, from its configuration alone."""
    with torch.device("meta"):
        return shape_of(_model(AutoModelForCausalLM, models.config(spec), spec))


def _cheaper(spec: HF, needs: frozenset[str]) -> Mapping[str, Outline]:
    """An adapter, and the same with frozen weights in bf16."""
    others = {} if spec.recompute else {"policy.recompute=true": replace(spec, recompute=True)}
    if not spec.lora_rank:
        others[f"policy.lora_rank={RANK}"] = replace(spec, lora_rank=RANK)
        others[f"policy.lora_rank={RANK} policy.dtype=bf16"] = replace(spec, lora_rank=RANK, dtype="bf16")
    elif spec.dtype != "bf16":
        others["policy.dtype=bf16"] = replace(spec, dtype="bf16")
    if spec.quantization == "none" and isinstance(spec.model, str) and not models.only_scores(needs):
        four = replace(spec, lora_rank=spec.lora_rank or RANK, quantization="4bit", dtype="bf16")
        rank = "" if spec.lora_rank else f"policy.lora_rank={RANK} "
        others[f"{rank}policy.dtype=bf16 policy.quantization=4bit"] = four
    return {settings: outline(other, needs) for settings, other in others.items()}


def _model(auto: Any, config: Any, spec: HF) -> Any:
    """A model without weights, its adapter put in."""
    config = copy.deepcopy(config)
    if auto is AutoModelForSequenceClassification and not models.is_scorer(config):
        config.num_labels = 1
    model = auto.from_config(config, trust_remote_code=spec.trust_remote_code)
    task = "SEQ_CLS" if auto is AutoModelForSequenceClassification else "CAUSAL_LM"
    if spec.lora_rank:
        return adapters.adapted(model, spec, task)
    return adapters.outlined(model.requires_grad_(True), spec.model)


def _trial(spec: HF, config: Any, tokenizer: Any, layers: int, needs: frozenset[str]) -> Policy:
    """A policy of the same widths with so many layers and random weights."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    auto = AutoModelForSequenceClassification if models.only_scores(needs) else AutoModelForCausalLM
    with torch.random.fork_rng(), torch.device(models.device(spec)):
        torch.manual_seed(0)
        model: nn.Module = auto.from_config(config, attn_implementation="sdpa")
    room = {"max_new_tokens": min(TRIAL_TOKENS, spec.max_new_tokens)}
    spec = replace(spec, quantization="none")  # of random weights; its time is that of the wider ones
    return replace(spec, model=model, tokenizer=tokenizer, critic_model="", reference="", **room).load(needs)


def _tokens_per_pass(shape: ModelShape, place: torch.device, width: int, *, recompute: bool) -> int:
    """As the policy's own, once its weights are there."""
    if place.type != "cuda":
        return memory.on_cpu(shape)
    weights = cost.weight_bytes(shape, width) + cost.reference_bytes(shape, width)
    free = assumed().memory if _is_assumed(place) else torch.cuda.mem_get_info(place)[0]
    return memory.on_gpu(shape, free - weights, width, recompute=recompute)
