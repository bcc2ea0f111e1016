"""How much memory of each GPU a training takes whose weights are sharded, and what travels between GPUs in a step.

Arithmetic alone, on a model's sizes: what each process holds of weights, gradients and moments (FSDP: Zhao et al. 2023,
arXiv:2304.11277; ZeRO stage 3: Rajbhandari et al. 2020, arXiv:1910.02054), what is gathered for a moment, and what the
tokens of a pass take. Weights are trained in float32 and computed in bf16, as policy `hf` does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from alignzoo import cost
from alignzoo.cost import FLOAT32, ModelShape

BF16 = 2
"""Bytes."""

FOUR_BITS = 0.516
"""Bytes of a weight in four bits, with the scales of its blocks, which are quantised, too (Dettmers et al. 2023,
arXiv:2305.14314, sec. 3): 4 + 8/64 + 32/(64·256) bits."""

RESERVE = 2_000_000_000
"""Bytes of a GPU that torch, its kernels and what allocators lose take."""

TILE = 1 << 30
"""Bytes that the language-model head holds of logits at a time, of float32; it needs three such."""

AT_LEAST = 1024
"""Tokens at once, below which a GPU has little to do."""

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Numbers of GPUs that are proposed."""

Trained = Literal["full", "lora", "qlora"]


@dataclass(frozen=True)
class Training:
    """What is trained, how, and on which GPUs."""

    shape: ModelShape
    gpus: int = 1
    within: int = 0
    """GPUs over which one copy is sharded; 0: all."""
    trained: Trained = "full"
    rank: int = 16
    """The rank of the adapter, on every linear layer of the trunk."""
    critic: bool = False
    """Whether there is a critic with a trunk of its own."""
    reference: bool = True
    """Whether there is a frozen reference; an adapter needs none."""
    recompute: bool = False
    tokens: int = 16_384
    """Tokens of a micro-batch."""
    cached: int = 0
    """Tokens of the key-value cache, on each GPU; 0: nothing is generated here."""

    @property
    def shards(self) -> int:
        return self.within or self.gpus

    @property
    def adapter(self) -> int:
        """Weights of the adapter: a layer's queries, keys, values and output, and its feed-forward matrices."""
        shape = self.shape
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        widths = 2 * (shape.hidden + queries) + 2 * (shape.hidden + keys)
        widths += (3 if shape.gated else 2) * (shape.hidden + shape.intermediate)
        return self.rank * widths * shape.layers

    @property
    def updated(self) -> int:
        """Weights that are trained, a critic's too."""
        return (self.shape.parameters if self.trained == "full" else self.adapter) * (2 if self.critic else 1)


@dataclass(frozen=True)
class GPUPlan:
    """What one GPU holds."""

    training: Training
    parts: Mapping[str, int]
    """Bytes by what takes them; of GATHERED and MOMENTARY only the larger is there at a time."""
    available: int
    wire: Mapping[str, int] = field(default_factory=dict)
    """Bytes that a GPU receives: in a micro-batch, and in a step."""

    @property
    def peak(self) -> int:
        learning = sum(self.parts[name] for name in LEARNING)
        generating = sum(self.parts[name] for name in GENERATING)
        return sum(self.parts.values()) - min(learning, generating)

    @property
    def fits(self) -> bool:
        return self.peak <= self.available


LEARNING = ("gathered layers", "activations", "logits")
GENERATING = ("gathered for generating", "key-value cache")
"""Parts that are there while the policy learns, or while it generates."""


def plan_gpu(training: Training, gigabytes: float) -> GPUPlan:
    """One GPU's bytes, and what it receives."""
    shape, shards = training.shape, training.shards
    parts = {
        "weights": (_weights(training) + shards - 1) // shards if training.trained != "qlora" else _weights(training),
        "gradients": _share(FLOAT32 * training.updated, shards),
        "adamw": _share(2 * FLOAT32 * training.updated, shards),
        "reference": _share(BF16 * shape.parameters, shards) if _has_reference(training) else 0,
        "gathered layers": _gathered(training),
        "activations": _activations(training),
        "logits": 3 * min(TILE, FLOAT32 * training.tokens * shape.vocab),
        "gathered for generating": BF16 * shape.parameters if training.cached and _is_spread(training) else 0,
        "key-value cache": cost.cache_bytes(shape, training.cached, BF16),
    }
    return GPUPlan(training, parts, int(gigabytes * 1e9) - RESERVE, _wire(training))


def _share(total: int, shards: int) -> int:
    return -(-total // shards)


def _is_spread(training: Training) -> bool:
    return training.shards > 1 and training.trained != "qlora"


def _has_reference(training: Training) -> bool:
    return training.reference and training.trained == "full"


def _weights(training: Training) -> int:
    """Bytes of the weights, on all GPUs of a copy together."""
    shape, trunks = training.shape, 2 if training.critic else 1
    if training.trained == "full":
        return FLOAT32 * shape.parameters * trunks
    adapters = FLOAT32 * training.adapter * trunks
    if training.trained == "lora":
        return BF16 * shape.parameters + adapters
    return round(FOUR_BITS * shape.trunk) + BF16 * (shape.parameters - shape.trunk) + adapters


def _layer(shape: ModelShape) -> int:
    return shape.trunk // shape.layers


def _gathered(training: Training) -> int:
    """A layer at work and the next one on its way, with the first one's gradient; embeddings and head, and theirs."""
    if not _is_spread(training):
        # autocast keeps a bf16 copy of each trained matrix from the forward to the backward pass
        return BF16 * training.shape.trunk if training.trained == "full" else 0
    shape, own = training.shape, training.trained == "full"
    tables = shape.parameters - shape.trunk
    layer = _layer(shape) * (2 * BF16 + (BF16 + FLOAT32 if own else 0))
    return layer + tables * (BF16 + (BF16 if own else 0))


def _activations(training: Training) -> int:
    count = cost.recompute_bytes if training.recompute else cost.activation_bytes
    trunks = 2 if training.critic else 1
    return trunks * count(training.shape, training.tokens, BF16)


def _wire(training: Training) -> dict[str, int]:
    """What a GPU receives of the others: an all-gather brings it all parts but its own, and so does a reduce-scatter
    of what it has to add up."""
    shape, shards, trunks = training.shape, training.shards, 2 if training.critic else 1
    if not _is_spread(training):
        copies = training.gpus
        return {"a step": 2 * FLOAT32 * training.updated * (copies - 1) // copies} if copies > 1 else {}
    others, copies = (shards - 1) / shards, training.gpus // shards
    gathered = BF16 * shape.parameters * trunks * others
    reduced = FLOAT32 * training.updated * others
    step = (gathered if training.cached else 0) + (gathered / trunks if _has_reference(training) else 0)
    between = 2 * FLOAT32 * training.updated / shards * (copies - 1) / copies
    return {
        "a micro-batch": round(2 * gathered + reduced),  # forward, and again on the way back
        "a micro-batch, between machines": round(between),
        "a step, besides": round(step),
    }


def advice(training: Training, gigabytes: float) -> list[tuple[str, GPUPlan]]:
    """What to change where it does not fit: single changes, then more GPUs, each with what it comes to; those that
    suffice first."""
    found = [(text, plan_gpu(other, gigabytes)) for text, other in _changes(training)]
    for more, other in (("", training), (" and policy.recompute=true", replace(training, recompute=True))):
        plans = {n: plan_gpu(replace(other, gpus=n, within=0), gigabytes) for n in SIZES if n > training.gpus}
        enough = [(f"{n} GPUs{more}", plan) for n, plan in plans.items() if plan.fits]
        if enough:
            found.append(enough[0])
            break
    now = plan_gpu(training, gigabytes).peak
    return sorted([each for each in found if each[1].peak < now], key=lambda each: not each[1].fits)


def _changes(training: Training) -> Iterator[tuple[str, Training]]:
    if not training.recompute:
        yield "policy.recompute=true", replace(training, recompute=True)
    if training.tokens > AT_LEAST:
        recomputed = replace(training, recompute=True, tokens=max(AT_LEAST, training.tokens // 4))
        yield f"policy.recompute=true schedule.micro_tokens={recomputed.tokens}", recomputed
    if training.cached:
        yield "generating elsewhere (a vLLM server)", replace(training, cached=0)
    if training.trained == "full":
        lora = replace(training, trained="lora", recompute=True)
        yield f"policy.lora_rank={training.rank} policy.recompute=true", lora
    if training.trained != "qlora":
        qlora = replace(training, trained="qlora", recompute=True)
        yield "an adapter on a base in four bits, policy.recompute=true", qlora
