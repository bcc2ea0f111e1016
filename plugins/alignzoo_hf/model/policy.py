"""The live policy: transformers models behind alignzoo's `Policy`."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignzoo import cost, processes
from alignzoo.allocator import give_back
from alignzoo.columns import OLD, POLICY, REFERENCE, answered_by, outputs
from alignzoo.cost import ModelShape
from alignzoo.errors import ModelError, did_you_mean
from alignzoo.gradients import TorchTraining
from alignzoo.interfaces import NO_ROLES, PolicyInfo
from alignzoo.sharded import assign
from alignzoo.types import Batch, Forward
from alignzoo_hf.decode.generating import Generating
from alignzoo_hf.forward import memory
from alignzoo_hf.forward.answering import Answering
from alignzoo_hf.forward.shape import critics_of, shape_of
from alignzoo_hf.forward.tables import TableTraining
from alignzoo_hf.model import behaviour, checks, critics, models, roles, rounding, saving, shards
from alignzoo_hf.model.adapters import share_frozen
from alignzoo_hf.model.encoding import encoder
from alignzoo_hf.model.fingerprint import fingerprint
from alignzoo_hf.model.frozen import freeze
from alignzoo_hf.model.quantized import placed
from alignzoo_hf.model.roles import Beneath, Frozen, Voice, check_same
from alignzoo_hf.model.spec import HF

ROLE = "role."
"""What the name of a weight in a checkpoint begins with where it is a role's."""

RELOADING = 0.05
"""The share of the time in which a reference is not needed that loading it again may take; else it is kept."""


class HFPolicy(Generating, Answering, TableTraining):
    """A causal language model, and beside it the critic or the scoring head that an optimizer needs.

    Models stay in evaluation mode throughout: dropout would break the ratios' exactness and the repeatability of a
    step. Trained weights are float32; under bf16 the computation runs in autocast and frozen weights are bf16. With
    `frozen` nothing is trained: a reward model that only answers.
    """

    def __init__(
        self, spec: HF, needs: frozenset[str], others: Mapping[str, Any] = NO_ROLES, *, frozen: bool = False
    ) -> None:
        models.check_answers(needs)
        self.spec = spec
        if spec.deterministic:
            _compute_deterministically()
        self.device = models.device(spec)
        self.bf16 = models.wants_bf16(spec, self.device)
        self.tokenizer = models.tokenizer(spec)
        self._stored = models.stored_dtype(spec)
        precision = torch.bfloat16 if self.bf16 else torch.float32
        self._sharding = shards.sharding(spec, needs, self.device, bf16=self.bf16)
        blank, writes = self._sharding is not None, not models.only_scores(needs)
        self.scorer: Any = None
        if scores := answered_by(needs, "scorer"):
            self.tokenizer = models.with_padding(self.tokenizer)
        if scores and not writes:
            scorer = models.scorer(spec, spec.model, precision, blank=blank, outputs=outputs(needs))
            self.scorer = self._placed(freeze(scorer, bf16=self.bf16) if frozen else scorer)
        valued = sorted(answered_by(needs, "critic"), key=lambda name: (name != "values", name))
        self.critics: dict[str, Any] = {}
        if spec.critic == "separate" and (blank or not spec.lora_rank):
            # a live model before it is another's; one that is sharded shares no weights
            self.critics = {n: critics.separate(spec, None, self.tokenizer, precision, blank=blank) for n in valued}
        self.lm = self._placed(models.causal_lm(spec, precision, blank=blank)) if writes else None
        if scores and writes:
            if blank:
                raise ModelError("a scoring head beside a language model is not sharded: set policy.shard=none")
            self.scorer = critics.beside(spec, self.lm, outputs(needs))
        if scores:
            models.set_padding(self.scorer, self.tokenizer)
        for name in valued if not self.critics else ():
            own = spec.critic == "separate"
            made = critics.separate(spec, self.lm, self.tokenizer, precision) if own else critics.shared(self.lm)
            self.critics[name] = made
        self.critics = {name: self._placed(critic) for name, critic in self.critics.items()}
        self._trains = self.lm is not None and bool(needs)  # who needs nothing only writes
        if spec.reference:
            checks.check_same_tokens(self.tokenizer, spec.reference, spec, "reference")
        # Who learns from given texts alone asks it in evaluations, and where its answers are not remembered.
        stored = isinstance(spec.reference or spec.model, str)
        self._reloads = self._trains and stored and "old_logprobs" not in needs and not blank
        own_start = self._trains and stored and not spec.reference and not spec.lora_rank and not blank
        self._begun = roles.writes(self.lm) if own_start else None
        self._let_go, self._updates, self._asked = -math.inf, 0, 0
        self._at_once = spec.generate_batch
        self.roles: dict[str, Frozen] = {}
        if self.lm is not None:
            self._voice = self._own = Voice("the policy", spec, lambda: self.lm, self.tokenizer)
            self.roles |= {name: self._role(name, other) for name, other in others.items()} | self._reference()
        self._copied: frozenset[str] = frozenset()
        """Weights that are brought up to date though they ask for no gradient: a copy's (`behaviour`)."""
        self._sharded = self._shard_all()
        self._packable: dict[type, bool] = {}
        self._main = self.lm if self.lm is not None else self.scorer
        checks.check_token_ids(self.tokenizer, self._main)
        self.encoder = encoder(spec, self._main, self.tokenizer, writes=self.lm is not None)
        give_back()  # as much as all weights: they were read by threads, each of which keeps what it frees

    @property
    def critic(self) -> Any:
        """The critic that answers "values"; None where there is none."""
        return self.critics.get("values")

    # --- building ------------------------------------------------------------------------------------------------

    def _placed(self, model: Any) -> Any:
        """On the device; of one that is to be sharded each layer goes there by itself."""
        return model if self._sharding else placed(model, self.device)

    def _shard_all(self) -> Any:
        """The models, sharded, where the processes share them; afterwards each has its part."""
        if self._sharding is None:
            return None
        sharded = self._sharding.shard(lm=self.lm, scorer=self.scorer, **self.critics)
        if self.lm is not None:
            beneath = [role for role in self.roles.values() if isinstance(role, Beneath)]
            for voice in (self._own, *beneath):
                voice.sharded = sharded
        return sharded

    def _reference(self) -> dict[str, Frozen]:
        """The policy as before training: what lies beneath an adapter, or a copy that is loaded when it is first asked;
        in the trained weights' own precision, as one rounded to bf16 would not answer as the policy does at first."""
        spec = self.spec
        if spec.lora_rank and not spec.reference:
            return {REFERENCE: Beneath(REFERENCE, spec, lambda: self.lm, self.tokenizer)}
        if not self._trains:
            return {}
        live = not isinstance(spec.model, str) and not spec.reference
        first = freeze(copy.deepcopy(self.lm), bf16=self.bf16) if live else None  # its first weights lie nowhere else
        return {REFERENCE: Frozen(REFERENCE, spec, self._load_reference, self.tokenizer, first, self._sharding)}

    def _load_reference(self) -> Any:
        """The frozen copy; it answers to the bit as the policy does at first. Where it is asked so often that loading
        it takes more than a share of the time, it stays from then on."""
        start, own = time.monotonic(), self.spec.reference
        stored = replace(self.spec, model=own, lora_rank=0) if own else roles.stored(self.spec, REFERENCE)
        if self._sharding:
            return models.causal_lm(stored, torch.float32, blank=True)
        copied = freeze(models.causal_lm(stored, torch.float32), bf16=self.bf16).to(self.device)
        share_frozen(copied, self.lm)
        self._reloads &= time.monotonic() - start <= RELOADING * (start - self._let_go)
        return copied

    def _role(self, name: str, spec: Any) -> Frozen:
        """Another model beside the policy."""
        if name in (POLICY, OLD, REFERENCE):
            raise ModelError(f"a role cannot be called {name!r}: that one is the policy's own")
        place, how = self.device, self._sharding
        return roles.load(name, spec, self.spec, place, self.bf16, self.tokenizer, self.lm, sharding=how)

    # --- writing -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def gathered(self, roles: Collection[str] = ()) -> Iterator[None]:
        """Inside, sharded weights are whole on every process, so that each may generate and answer without a gradient
        as often as it likes: the policy's, those of who speaks now, and those of these roles."""
        voices = [self._voice, *(self.roles[name] for name in roles)] if self.lm is not None else []
        found = {id(each): each for each in (self._sharded, *(voice.spread() for voice in voices)) if each is not None}
        with contextlib.ExitStack() as stack:
            for each in found.values():
                stack.enter_context(each.gathered())
            yield

    def _release(self) -> None:
        """Between two passes all weights are sharded."""
        for each in (self._sharded, *(role.sharded for role in self.roles.values())):
            if each is not None:
                each.release()

    def info(self) -> PolicyInfo:
        """What the runner may know: sizes, tokens at once, whether samples are exact, how the reference is known."""
        return PolicyInfo(
            shape=self._shape,
            roles={name: role.shape for name, role in self.roles.items() if name != REFERENCE},
            tokens_per_pass=self._tokens_per_pass(),
            exact_samples=self.spec.samples_exactly(self.bf16),
            collective=self._sharded is not None,
            fingerprint=self._fingerprint,
            token_strings=self.encoder.pieces,
            fits=self.encoder.fits,
            chats=self.encoder.chat.exists,
            decoding=None if self.lm is None else self._decoding(),
        )

    def close(self) -> None:
        """Close the engines, which open again where they are asked again."""
        for voice in self.roles.values() if self.lm is None else (self._own, *self.roles.values()):
            voice.close()

    def behaviour(self) -> HFPolicy:
        """As `alignzoo.interfaces.HasBehaviour`: the language model with trained weights, a tokenizer and an engine of
        its own; frozen weights lie in memory once."""
        behaviour.check(self.spec, writes=self.lm is not None, sharded=self._sharded is not None)
        own = copy.copy(self)
        own.lm, own._copied = behaviour.copied(self.lm, bf16=self.bf16)
        own._main, own.tokenizer = own.lm, copy.deepcopy(self.tokenizer)  # a fast tokenizer is not for two threads
        own.scorer, own.critics, own.roles, own._packable = None, {}, {}, {}
        own._trains, own._begun, own._reloads, own._torch_optimizer = False, None, False, None
        own.__dict__.pop("_shape", None)
        own._voice = own._own = Voice("the policy", self.spec, lambda: own.lm, own.tokenizer)
        own.encoder = encoder(self.spec, own.lm, own.tokenizer, writes=True)
        return own

    # --- answering -----------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        """The columns asked for, at completion positions only; the vocabulary is never held for all of them."""
        if self._reloads and torch.is_grad_enabled() and self._voice is self._own and self.roles[REFERENCE].release():
            self._let_go = time.monotonic()  # the next evaluation loads it again
        if self.lm is not None and torch.is_grad_enabled():
            self._own.rest()
        batch = batch.to(self.device)
        sharded = self._voice.sharded if self.lm is not None else self._sharded
        answers = (self._answers if sharded is None else partial(sharded, self._answers))(batch, columns)
        if not torch.is_grad_enabled():
            self._release()
        return Forward.of(answers)

    @contextlib.contextmanager
    def answering(self, role: str) -> Iterator[None]:
        """Inside, the language model answers and generates as a role: as before training ("ref"), adapters off or by
        the frozen copy; or by another model that the policy was loaded with."""
        if self.lm is None:
            raise ModelError("this policy only scores: it has no reference, nor another role")
        if role not in self.roles:
            if role == REFERENCE:
                raise ModelError("this policy was loaded for writing only: it has no reference")
            raise ModelError(f"this policy has no role {role!r}. {did_you_mean(role, self.roles)}")
        voice: Voice = self.roles[role]
        if role == REFERENCE:
            self._reloads &= self._updates != self._asked + 1  # who is asked after each update stays
            self._asked = self._updates
        former = self._voice
        if role == REFERENCE and self._is_start() and not voice.moved:
            voice = self._own
        with voice.speaking():
            self._voice = voice
            try:
                yield
            finally:
                self._voice = former

    def follow(self, role: str, mix: float) -> None:
        """A role's weights ← (1-mix)·its own + mix·the policy's."""
        with self.answering(role):
            pass  # raises for a role that is not there
        self.roles[role].follow(self.lm, mix)

    # --- training ------------------------------------------------------------------------------------------------

    def _is_start(self) -> bool:
        """Whether the policy still is its own reference, of which no copy is needed then."""
        return self._begun is not None and self._begun == roles.writes(self.lm)

    def backward(self, loss: Tensor) -> None:
        """As `TorchTraining.backward`."""
        if self._sharded is None:
            super().backward(loss)
            return
        with processes.exchanging():
            TorchTraining.backward(self, loss)  # a table's gradient is summed over the processes, as every other

    def step(self, lr: float, clip: float) -> float:
        """As `TorchTraining.step`; the policy is its own reference no longer."""
        self._begun, self._updates = None, self._updates + 1
        self._release()
        if self.spec.recompute:
            give_back()  # before the first moments find no room between what the last layers have left
        with processes.exchanging() if self._sharded else contextlib.nullcontext():
            return super().step(lr, clip)

    def parameters(self) -> list[dict[str, Any]]:
        """The trained weights; a critic learns at its own multiple of the rate."""
        own = [(critic, self.spec.critic_lr) for critic in self.critics.values()]
        rates = [(self.lm, 1.0), (self._scoring, 1.0), *own]
        groups = [group for model, rate in rates if model is not None for group in models.groups(model, rate)]
        return [group for group in groups if group["params"]]

    def state(self) -> dict[str, Tensor]:
        """The trained weights by name, and those of roles that have moved."""
        found = {name: parameter.detach() for name, parameter in self._trained()}
        for name, role in self.roles.items():
            found |= {f"{ROLE}{name}.{key}": tensor for key, tensor in role.state().items()}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self._begun = None
        self._release()
        trained = dict(self._trained())
        check_same(trained, {name: tensor for name, tensor in state.items() if not name.startswith(ROLE)})
        with torch.no_grad():
            for name, parameter in trained.items():
                assign(parameter, state[name])
        for name, role in self.roles.items():
            own = f"{ROLE}{name}."
            role.restore({key.removeprefix(own): each for key, each in state.items() if key.startswith(own)})

    def _trained(self) -> Iterator[tuple[str, Tensor]]:
        critics = [("critic" if name == "values" else name, critic) for name, critic in self.critics.items()]
        for part, model in (("lm", self.lm), ("scorer", self._scoring), *critics):
            if model is not None:
                found = ((f"{part}.{n}", p) for n, p in model.named_parameters())
                yield from ((name, p) for name, p in found if p.requires_grad or name in self._copied)

    @property
    def _scoring(self) -> Any:
        """What is trained of the scorer by itself: all of it, or its head where its trunk is the language model's."""
        return self.scorer if self.lm is None or self.scorer is None else models.score_head(self.scorer)

    def _tokens_per_pass(self) -> int:
        width = 2 if self.bf16 else 4
        comes = self._trains and not self.roles[REFERENCE].is_loaded
        shares = 1 if self._sharded is None else self.spec.shard_within or processes.count()
        coming = cost.reference_bytes(self._shape, width) // shares if comes else 0
        recompute = self.spec.recompute
        return memory.per_pass(self._shape, self.device, width, coming, recompute=recompute, shards=shares)

    def _fingerprint(self) -> str:
        """A digest of the reference's weights and configuration, the temperature, precision and kind of device."""
        own = REFERENCE not in self.roles or (self._is_start() and not self.bf16)  # a frozen copy has bf16 matrices
        model = self.lm if own else self.roles[REFERENCE].model
        settings = (self.spec.temperature, self.bf16, self.device.type)
        return fingerprint(model, (*settings, "sharded") if self._sharded and self.bf16 else settings)

    @functools.cached_property
    def _shape(self) -> ModelShape:
        """The sizes of the language model, or of the scorer of a policy that only scores; with a critic's trunk."""
        own = self.critics.values() if self.spec.critic == "separate" else ()
        return shape_of(self._main, critics_of(self.spec, [shape_of(each) for each in own]))

    def save(self, path: Path) -> None:
        """An ordinary transformers directory: the language model, or the scorer where there is one."""
        both = self.lm is not None and self.scorer is not None
        spec, sharded, trained = self.spec, self._sharded is not None, self.lm if both else self._main
        named = spec.save_dtype != "auto"
        dtype = rounding.saved_in(trained, spec.model, self._stored, named=named, sharded=sharded)
        whole = critics.whole(self.scorer, self.lm, dtype) if both else self._main
        (shards.save if sharded else saving.save)(whole, self.tokenizer, path, dtype)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def _compute_deterministically() -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS has no deterministic products
    torch.use_deterministic_algorithms(True)
