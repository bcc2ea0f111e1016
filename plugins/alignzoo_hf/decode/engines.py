"""The engines of this package, and how a policy opens one: `alignzoo`, `generate` and `continuous`."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from alignzoo.engines import Engine, EngineModel, OpenEngine, Tokens
from alignzoo.registry import Registry
from alignzoo_hf.model import adapters, models, saving, weights
from alignzoo_hf.model.spec import HF

log = logging.getLogger("alignzoo")

DEFAULT = "alignzoo"
"""The engine that keeps no weights of its own, by which roles generate where the policy's engine holds one model."""


@dataclass(frozen=True)
class Slots:
    """Our own: continuous batching in this process, with the policy's own weights; the default."""

    exact: ClassVar[bool] = True
    separate: ClassVar[bool] = False

    def open(self, model: EngineModel) -> OpenEngine:
        """The engine. Where it cannot serve a model, transformers' `generate` does, with a line that says why."""
        from alignzoo_hf.decode.engine import SlotEngine
        from alignzoo_hf.decode.transformers_engines import TransformersEngine, unfit

        reason = unfit(model)
        if not reason:
            return SlotEngine(model)
        name = type(models.bare(model.module)).__name__
        log.warning("%s writes through transformers' generate, more slowly: %s", name, reason)
        return TransformersEngine(model)


@dataclass(frozen=True)
class Generate:
    """transformers' own `generate`: every model that transformers can generate with, and the same texts."""

    exact: ClassVar[bool] = True
    separate: ClassVar[bool] = False

    def open(self, model: EngineModel) -> OpenEngine:
        from alignzoo_hf.decode.transformers_engines import TransformersEngine

        return TransformersEngine(model)


@dataclass(frozen=True)
class Continuous:
    """transformers' own continuous batching: paged attention, made for GPUs; on a CPU the slowest of all."""

    exact: ClassVar[bool] = False
    separate: ClassVar[bool] = False
    laws: ClassVar[Mapping[str, str]] = {
        "neighbours": "it draws for a whole call from one seed, in the order in which it schedules completions"
    }

    def open(self, model: EngineModel) -> OpenEngine:
        from alignzoo_hf.decode.transformers_engines import PagedEngine

        return PagedEngine(model)


class ServedModel:
    """A language model of transformers as engines see it: `alignzoo.engines.EngineModel`."""

    def __init__(self, spec: HF, module: Any, tokenizer: Any, stop_ids: frozenset[int]) -> None:
        self.module, self.tokenizer, self.stop_ids = module, tokenizer, stop_ids
        self.device: torch.device = models.bare(module).device
        self.dtype = torch.bfloat16 if models.wants_bf16(spec, self.device) else torch.float32
        self.longest = spec.max_length or models.context(module)
        self.at_once, self.trust_remote_code = spec.generate_batch, spec.trust_remote_code

    @torch.no_grad()
    def version(self) -> str:
        """A digest of sums and norms of the trained weights, in one reading of them. torch's own counters do not see
        what a fused AdamW writes."""
        trained = [weight for weight in self.module.parameters() if weight.requires_grad]
        if not trained:
            return "frozen"
        sums = [weight.sum(dtype=torch.float64) for weight in trained]
        norms = [torch.linalg.vector_norm(weight, dtype=torch.float64) for weight in trained]
        return hashlib.sha256(torch.stack([*sums, *norms]).cpu().numpy().tobytes()).hexdigest()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The weights by the names that a saved model has; adapters are merged into a copy."""
        whole = saving.stored(self.module, self.dtype) if adapters.has_adapter(self.module) else self.module
        yield from models.bare(whole).state_dict().items()

    def save(self, path: Path) -> None:
        """As transformers saves it, in the precision of the computation."""
        saving.save(self.module, self.tokenizer, path, self.dtype)

    def adapter_rank(self) -> int:
        """As `HasAdapter` has it."""
        return adapters.rank(self.module)

    def save_adapter(self, path: Path) -> None:
        """As peft saves it."""
        with weights.quietly():
            adapters.save_adapter(self.module, self.tokenizer, path)

    def save_base(self, path: Path) -> None:
        """In the precision of the computation."""
        saving.save_base(self.module, self.tokenizer, path, self.dtype)

    @torch.no_grad()
    def logits(self, rows: Sequence[Tokens]) -> Tensor:
        """Each row by itself: no padding that a model could read."""
        model = models.bare(self.module)
        return torch.cat([model(torch.tensor([list(row)], device=self.device)).logits[:, -1] for row in rows])

    def text(self, tokens: Tokens) -> str:
        """As the tokenizer decodes them."""
        return str(self.tokenizer.decode(list(tokens)))


def engine_of(spec: HF) -> Engine:
    """The engine that the settings name. A recipe's is a part already; Python may give a name."""
    return _named(spec.engine) if isinstance(spec.engine, str) else spec.engine


def opened(spec: HF, module: Any, tokenizer: Any, stop_ids: frozenset[int]) -> OpenEngine:
    """The settings' engine, open for this model."""
    return engine_of(spec).open(ServedModel(spec, module, tokenizer, stop_ids))


@functools.cache
def _named(name: str) -> Engine:
    target: Any = Registry().get("engine", name)
    engine: Engine = target() if isinstance(target, type) else target
    return engine
