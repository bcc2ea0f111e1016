"""The roles beside the policy that is trained: its reference, and the other models that an optimizer names."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from alignzoo.allocator import give_back
from alignzoo.cost import ModelShape
from alignzoo.decoding import CompleteDecoding
from alignzoo.engines import OpenEngine, Rests
from alignzoo.errors import ModelError
from alignzoo.sharded import assign
from alignzoo_hf.decode import engines
from alignzoo_hf.forward.head import Head
from alignzoo_hf.forward.shape import shape_of
from alignzoo_hf.model import models
from alignzoo_hf.model.spec import HF

log = logging.getLogger("alignzoo")


class Voice:
    """A language model and the settings by which it answers and generates: the policy's own, or a role's.

    What is asked is tokenised as the policy does it, and the policy's settings say how long a completion may be and how
    many are generated at once; temperature, top_k and top_p are each model's own.
    """

    def __init__(
        self,
        name: str,
        spec: HF,
        load: Callable[[], Any],
        tokenizer: Any,
        model: Any = None,
        sharding: Any = None,
    ) -> None:
        self.name, self.spec, self.tokenizer = name, spec, tokenizer
        self.moved = False
        """Whether it has followed the policy."""
        self.sharded: Any = None
        """Its weights, where they are spread over the processes."""
        self._load, self._sharding = load, sharding
        self._model: Any = None
        if model is not None:
            self._take(model)
        self._engine: OpenEngine | None = None

    @property
    def is_loaded(self) -> bool:
        return self._model is not None

    @property
    def model(self) -> Any:
        """The model, loaded when it is first asked."""
        if self._model is None:
            give_back()  # what a step has left free between what stays: no weights fit in there
            self._take(self._load())
            give_back()
        return self._model

    def _take(self, model: Any) -> None:
        self._model = model
        if self._sharding is not None:
            self.sharded = self._sharding.frozen(model)

    def spread(self) -> Any:
        """Its weights, loaded, where they are spread over the processes."""
        return self.sharded if self.model is not None else None

    @contextlib.contextmanager
    def speaking(self) -> Iterator[Any]:
        """Inside, the model answers as this role."""
        yield self.model

    @property
    def shape(self) -> ModelShape:
        """The sizes of its model."""
        return shape_of(self.model)

    def head(self) -> Head:
        """The head as it is now, for answers without gradient that are given when the role speaks no longer."""
        return models.head(self.model)

    def engine(self, stop_ids: frozenset[int]) -> OpenEngine:
        """What generates with this model, opened when it is first needed: it may try the model out."""
        if self._engine is None:
            self._engine = engines.opened(self._generating(), self.model, self.tokenizer, stop_ids)
        return self._engine

    def rest(self) -> None:
        """Let the engine's memory be the training's, where it has some to give."""
        if isinstance(self._engine, Rests):
            self._engine.rest()

    def close(self) -> None:
        """Close the engine, which is opened again where it is asked again."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def decoding(self) -> CompleteDecoding:
        """As its own settings have it."""
        spec = self.spec
        return CompleteDecoding(spec.max_new_tokens, spec.temperature, spec.top_k, spec.top_p, spec.min_p)

    def _generating(self) -> HF:
        return self.spec


class Frozen(Voice):
    """A model of its own that is not trained, but may follow the policy."""

    def _generating(self) -> HF:
        engine = engines.engine_of(self.spec)
        if not engine.separate:
            return self.spec
        log.warning(
            "%s generates by alignzoo's own engine: the engine %s holds one model, the policy's",
            self.name,
            type(engine).__name__,
        )
        return replace(self.spec, engine=engines.DEFAULT)

    def release(self) -> bool:
        """Let the model go where it can be loaded again as it is; whether it was there."""
        if self._model is None or self.moved or not isinstance(self.spec.reference or self.spec.model, str):
            return False
        self.close()
        self._model = None
        return True

    def follow(self, policy: Any, mix: float) -> None:
        """Every weight ← (1-mix)·weight + mix·the policy's, in float32."""
        self._to_float32()
        own, others = dict(self.model.named_parameters()), dict(policy.named_parameters())
        differ = sorted(own.keys() ^ others.keys())
        differ += [name for name in own.keys() & others.keys() if own[name].shape != others[name].shape]
        if differ:
            raise ModelError(
                f"{self.name!r} cannot follow the policy: {len(differ)} weights of the two differ in name or shape, "
                f"{differ[0]} the first. Only a model of the policy's own architecture can, and none beside an adapter"
            )
        with torch.no_grad():
            for name, weight in own.items():
                if mix == 1:
                    assign(weight, others[name].detach())
                else:
                    weight.lerp_(others[name].detach().to(weight), mix)
        self.moved = True

    def state(self) -> dict[str, Tensor]:
        """Its weights by name, where it has moved."""
        return {name: weight.detach() for name, weight in self.model.named_parameters()} if self.moved else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave; nothing: as it was before it moved."""
        if not state:
            if self.moved:
                self.close()
                self._model, self.sharded, self.moved = None, None, False
            return
        self._to_float32()
        own = dict(self.model.named_parameters())
        check_same(own, state, f"'s role {self.name!r}")
        with torch.no_grad():
            for name, weight in own.items():
                assign(weight, state[name])
        self.moved = True

    def _to_float32(self) -> None:
        """Small steps would be lost in bf16."""
        if self.model is not None and self.sharded is not None:
            self.sharded.to_float32()
        else:
            self.model.float()


class Beneath(Frozen):
    """The reference of an adapter: the frozen weights beneath it; where it has moved, with a copy of the adapter."""

    def __init__(self, name: str, spec: HF, load: Callable[[], Any], tokenizer: Any) -> None:
        super().__init__(name, spec, load, tokenizer)
        self.adapter: dict[str, Tensor] = {}
        """The adapter's weights of when it was last copied."""
        self._inside = False

    @contextlib.contextmanager
    def speaking(self) -> Iterator[Any]:
        if not self.moved:
            with self.model.disable_adapter():
                yield self.model
            return
        if self._inside:
            yield self.model
            return
        self._exchange()
        try:
            yield self.model
        finally:
            self._exchange()

    def _exchange(self) -> None:
        """The adapter's weights and their copy change places, and no tensor is touched; of sharded ones, from which
        whole ones are gathered for every pass, the numbers do."""
        if self.sharded is not None and self.sharded.depth:
            raise ModelError(
                f"the role {self.name!r} has moved, and cannot answer while the policy generates or is scored: its "
                "adapter is sharded, and gathered before. Set policy.shard=none, or let another model judge"
            )
        for name, weight in _adapter(self.model).items():
            if self.sharded is None:
                weight.data, self.adapter[name] = self.adapter[name], weight.data
                continue
            with torch.no_grad():
                former = weight.detach().clone()
                weight.copy_(self.adapter[name])
            self.adapter[name] = former
        self._inside = not self._inside

    def head(self) -> Head:
        head = super().head()
        linear: Any = head.linear
        if not hasattr(linear, "get_base_layer"):
            return head
        base, delta = linear.get_base_layer(), 0.0
        if self.moved:
            delta = linear.get_delta_weight(linear.active_adapters[0])
        plain = nn.Linear(*base.weight.shape[::-1], bias=base.bias is not None, device="meta")
        plain.weight = nn.Parameter(base.weight.detach() + delta, requires_grad=False)
        plain.bias = None if base.bias is None else nn.Parameter(base.bias.detach(), requires_grad=False)
        return replace(head, linear=plain)

    def follow(self, policy: Any, mix: float) -> None:
        """Copy the adapter. Between two adapters no third lies: the weights between them have a higher rank."""
        if mix != 1:
            raise ModelError(
                f"the reference of a LoRA policy cannot take a share of {mix:g} of the policy: what lies between two "
                "adapters is no adapter of their rank. Copy it whole now and then (a mix of 1), or train every weight "
                "(policy.lora_rank=0)"
            )
        if not self.moved:
            self.adapter = {name: weight.detach().clone() for name, weight in _adapter(policy).items()}
        for name, weight in _adapter(policy).items():
            self.adapter[name].copy_(weight.detach())
        self.moved = True

    def state(self) -> dict[str, Tensor]:
        return dict(self.adapter) if self.moved else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        own = _adapter(self.model)
        if state:
            check_same(own, state, f"'s role {self.name!r}")
        self.adapter = {name: torch.empty_like(own[name]).detach() for name in state}
        for name, copy_of in self.adapter.items():
            assign(copy_of, state[name])
        self.moved = bool(state)


def _adapter(model: Any) -> dict[str, Tensor]:
    """Its trained weights; and inside `speaking` the same, though they may not ask for a gradient."""
    return {name: weight for name, weight in model.named_parameters() if "lora_" in name}


def check_same(own: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str = "") -> None:
    """Raise ModelError where a checkpoint has other weights."""
    odd = sorted(own.keys() ^ state.keys())
    odd += [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if odd:
        raise ModelError(f"the checkpoint{what} is of another model: {len(odd)} weights differ, {odd[0]!r} the first")


def writes(model: Any) -> int:
    """How often torch has written to its weights, as far as it counts: fused optimizers and `data` are not counted."""
    return sum(each._version for each in model.parameters())


# --- loading ----------------------------------------------------------------------------------------------------------

READ = ("model", "tokenizer", "temperature", "top_k", "top_p", "min_p", "device", "dtype", "attention", "engine")
"""The settings of a role that are its own, beside `trust_remote_code`; the others are the policy's."""


def load(
    name: str,
    spec: Any,
    policy: HF,
    place: torch.device,
    bf16: bool,
    tokenizer: Any,
    live: Any,
    *,
    sharding: Any = None,
) -> Frozen:
    """The role of these settings beside a policy, frozen; `live` is the policy's model, which a role must not share."""
    _check_settings(name, spec, policy, place)
    dtype = torch.bfloat16 if (bf16 if spec.dtype == "auto" else spec.dtype == "bf16") else torch.float32

    def loaded(spec: HF) -> Any:
        model = models.frozen_lm(spec, dtype, blank=sharding is not None)
        return model if sharding else model.to(place)

    def again() -> Any:
        return loaded(stored(spec, name))

    try:
        if isinstance(spec.model, str) or spec.tokenizer:
            check_tokens(tokenizer, models.tokenizer(spec))
        own = replace(spec, model=copy.deepcopy(live)) if spec.model is live else spec
        model = loaded(own)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    return Frozen(name, spec, again, tokenizer, model, sharding)


def stored(spec: HF, name: str) -> HF:
    """The settings of a model that lies somewhere. Raises ModelError for a live one."""
    if not isinstance(spec.model, str):
        raise ModelError(f"{name} was a live model, whose first weights lie nowhere: it cannot go back to them")
    return spec


def _check_settings(name: str, spec: Any, policy: HF, place: torch.device) -> None:
    if not isinstance(spec, HF):
        raise ModelError(f"{name} is a {type(spec).__name__}: beside policy 'hf' a role is another policy 'hf'")
    for f in fields(HF):
        value = getattr(spec, f.name)
        own = f.name in (*READ, "trust_remote_code")
        if not own and value not in (f.default, getattr(policy, f.name)):
            raise ModelError(f"{name}.{f.name} = {value!r} is not read: of a role only {', '.join(READ)} are its own")
    if spec.device != "auto" and models.device(spec).type != place.type:
        raise ModelError(f"{name}.device is {spec.device!r}, but the policy's is {place.type!r}: leave it out")


def check_tokens(mine: Any, theirs: Any) -> None:
    """Raise ModelError where a role's token ids stand for other tokens than the policy's."""
    own, other = ({i: token for token, i in each.get_vocab().items()} for each in (mine, theirs))
    differ = sorted(i for i in own.keys() | other.keys() if own.get(i) != other.get(i))
    if not differ:
        return
    shown = ", ".join(f"{i} ({own.get(i, 'none')!r} here, {other.get(i, 'none')!r} there)" for i in differ[:3])
    raise ModelError(
        f"its tokenizer is not the policy's: {len(differ)} of {max(len(own), len(other))} token ids stand for other "
        f"tokens, {shown}{' and more' if len(differ) > 3 else ''}. It would be asked about tokens that mean something "
        "else to it: take a model with the policy's tokenizer, or learn from text that it generates, by sampler.writer"
    )
