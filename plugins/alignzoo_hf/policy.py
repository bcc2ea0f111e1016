"""The live policy: transformers models behind alignzoo's `Policy`."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignzoo import cost
from alignzoo import functional as fn
from alignzoo.columns import OLD, POLICY, REFERENCE, Column, answered_by, column
from alignzoo.cost import ModelShape
from alignzoo.decoding import AS_SET, CompleteDecoding, Decoding
from alignzoo.engines import EngineModel, Generated
from alignzoo.errors import ModelError, did_you_mean
from alignzoo.interfaces import NO_ROLES, PolicyInfo
from alignzoo.types import Batch, Completion, Forward, Group, Prompt, Text
from alignzoo_hf import checks, critics, heads, memory, models, roles, saving
from alignzoo_hf.adapters import share_frozen
from alignzoo_hf.divergences import Spoken, head_divergences
from alignzoo_hf.encoding import encoder
from alignzoo_hf.engines import ServedModel, engine_of
from alignzoo_hf.fingerprint import fingerprint
from alignzoo_hf.frozen import freeze
from alignzoo_hf.head import Head, head_logprobs
from alignzoo_hf.mixing import mixed
from alignzoo_hf.quantized import placed
from alignzoo_hf.roles import Beneath, Frozen, Voice, check_same
from alignzoo_hf.shape import critics_of, shape_of
from alignzoo_hf.spec import HF
from alignzoo_hf.tables import TableTraining
from alignzoo_hf.trunk import States, can_pack, packed, padded, predicting

ROLE = "role."
"""What the name of a weight in a checkpoint begins with where it is a role's."""

RELOADING = 0.05
"""The share of the time in which a reference is not needed that loading it again may take; else it is kept."""


class HFPolicy(TableTraining):
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
            # without it cuBLAS has no deterministic products
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        self.device = models.device(spec)
        self.bf16 = models.wants_bf16(spec, self.device)
        self.tokenizer = models.tokenizer(spec)
        self._stored = models.stored_dtype(spec)
        precision = torch.bfloat16 if self.bf16 else torch.float32
        writes = not models.only_scores(needs)
        self.scorer: Any = None
        if answered_by(needs, "scorer"):
            scorer = models.scorer(spec, spec.model, precision)
            self.scorer = (freeze(scorer, bf16=self.bf16) if frozen else scorer).to(self.device)
            self.tokenizer = models.with_padding(self.tokenizer)
            models.set_padding(self.scorer, self.tokenizer)
        valued = sorted(answered_by(needs, "critic"), key=lambda name: (name != "values", name))
        self.critics: dict[str, Any] = {}
        if spec.critic == "separate" and not spec.lora_rank:  # a live model before it is another's
            self.critics = {name: critics.separate(spec, None, self.tokenizer, precision) for name in valued}
        self.lm = placed(models.causal_lm(spec, precision), self.device) if writes else None
        for name in valued if not self.critics else ():
            own = spec.critic == "separate"
            made = critics.separate(spec, self.lm, self.tokenizer, precision) if own else critics.shared(self.lm)
            self.critics[name] = made
        self.critics = {name: placed(critic, self.device) for name, critic in self.critics.items()}
        self._trains = self.lm is not None and bool(needs)  # who needs nothing only writes
        if spec.reference:
            checks.check_same_tokens(self.tokenizer, spec.reference, spec, "reference")
        # Who learns from given texts alone asks it in evaluations, and where its answers are not remembered.
        stored = isinstance(spec.reference or spec.model, str)
        self._reloads = self._trains and stored and "old_logprobs" not in needs
        own_start = self._trains and stored and not spec.reference and not spec.lora_rank
        self._begun = roles.writes(self.lm) if own_start else None
        self._let_go = -math.inf
        self._at_once = spec.generate_batch
        self.roles: dict[str, Frozen] = {}
        if self.lm is not None:
            self._voice = self._own = Voice("the policy", spec, lambda: self.lm, self.tokenizer)
            self.roles |= {name: self._role(name, other) for name, other in others.items()} | self._reference()
        self._packable: dict[type, bool] = {}
        self._main = self.lm if self.lm is not None else self.scorer
        checks.check_token_ids(self.tokenizer, self._main)
        self.encoder = encoder(spec, self._main, self.tokenizer, writes=self.lm is not None)

    @property
    def critic(self) -> Any:
        """The critic that answers "values"; None where there is none."""
        return self.critics.get("values")

    # --- building ------------------------------------------------------------------------------------------------

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
        return {REFERENCE: Frozen(REFERENCE, spec, self._load_reference, self.tokenizer, first)}

    def _load_reference(self) -> Any:
        """The frozen copy; it answers to the bit as the policy does at first. Where it is asked so often that loading
        it takes more than a share of the time, it stays from then on."""
        start, own = time.monotonic(), self.spec.reference
        stored = replace(self.spec, model=own, lora_rank=0) if own else roles.stored(self.spec, REFERENCE)
        copied = freeze(models.causal_lm(stored, torch.float32), bf16=self.bf16).to(self.device)
        share_frozen(copied, self.lm)
        self._reloads &= time.monotonic() - start <= RELOADING * (start - self._let_go)
        return copied

    def _role(self, name: str, spec: Any) -> Frozen:
        """Another model beside the policy."""
        if name in (POLICY, OLD, REFERENCE):
            raise ModelError(f"a role cannot be called {name!r}: that one is the policy's own")
        return roles.load(name, spec, self.spec, self.device, self.bf16, self.tokenizer, self.lm)

    # --- writing -------------------------------------------------------------------------------------------------

    def encode(self, prompt: Prompt, texts: Sequence[Text]) -> Group:
        """A prompt and given completions as tokens."""
        return self.encoder.group(prompt, texts)

    def generate(
        self, prompts: Sequence[Prompt], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[Group]:
        """Generate `n` completions of each prompt, by the settings of the recipe where the call says nothing else."""
        tokens = [self.encoder.prompt(prompt) for prompt in prompts]
        found = self.go_on(tokens, n, seeds=seeds, decoding=decoding)
        return [Group(*each) for each in zip(prompts, tokens, map(tuple, found), strict=True)]

    def go_on(
        self, prefixes: Sequence[Sequence[int]], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[list[Completion]]:
        """Generate `n` continuations of each run of tokens, which is read as it stands."""
        if self.lm is None:
            raise ModelError("this policy only scores: it has no language-model head to write with")
        whole = decoding.over(self._decoding())
        self.encoder.check_room(prefixes, whole.max_new_tokens)
        completions = iter(map(self.encoder.completion, self._generated(prefixes, n, whole, seeds)))
        return [list(itertools.islice(completions, n)) for _ in prefixes]

    def _decoding(self) -> CompleteDecoding:
        return replace(self._voice.decoding(), max_new_tokens=self.spec.max_new_tokens)

    def _generated(
        self, prefixes: Sequence[Sequence[int]], n: int, decoding: CompleteDecoding, seeds: Sequence[int]
    ) -> list[Generated]:
        """By the engine, with as many completions at once as memory has room for, which changes no text."""

        def generate(at_once: int) -> list[Generated]:
            with self._autocast():
                engine = self._voice.engine(self.encoder.stop_ids)
                if decoding.mix:
                    engine = mixed(self.engine_model, decoding.mix, self._own, self._voice, self.roles)
                return engine.generate(prefixes, n, replace(decoding, mix=()), seeds=seeds, at_once=at_once)

        if engine_of(self.spec).separate and not decoding.mix:  # how many at once is settled as it starts
            return generate(self._at_once)
        most, of = self.spec.generate_batch, len(prefixes) * n
        found, self._at_once = memory.fitting(generate, self._at_once, of, most, self.device)
        return found

    def info(self) -> PolicyInfo:
        """What the runner may know: sizes, tokens at once, whether samples are exact, how the reference is known."""
        return PolicyInfo(
            shape=self._shape,
            roles={name: role.shape for name, role in self.roles.items() if name != REFERENCE},
            tokens_per_pass=self._tokens_per_pass(),
            exact_samples=self.spec.samples_exactly(self.bf16),
            fingerprint=self._fingerprint,
            token_strings=self.encoder.pieces,
            fits=self.encoder.fits,
            chats=self.encoder.chat.exists,
            decoding=None if self.lm is None else self._decoding(),
        )

    @property
    def engine_model(self) -> EngineModel:
        """The language model as engines see it."""
        return ServedModel(self.spec, self.lm, self.tokenizer, self.encoder.stop_ids)

    def close(self) -> None:
        """Close the engines, which open again where they are asked again."""
        for voice in self.roles.values() if self.lm is None else (self._own, *self.roles.values()):
            voice.close()

    # --- answering -----------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        """The columns asked for, at completion positions only; the vocabulary is never held for all of them."""
        if self._reloads and torch.is_grad_enabled() and self._voice is self._own and self.roles[REFERENCE].release():
            self._let_go = time.monotonic()  # the next evaluation loads it again
        batch = batch.to(self.device)
        told = [column(name) for name in sorted(columns)]
        language = [each for each in told if each.answer.of == "language"]
        valued = [each.name for each in told if each.answer.of == "critic"]
        answers: dict[str, Tensor] = {}
        with self._autocast():
            if language or (valued and self.spec.critic == "shared"):
                answers |= self._language(batch, columns, language)
            for name in valued if self.spec.critic == "separate" else ():
                states = self._states(self.spec, self.critics[name], batch, *predicting(batch))
                answers[name] = heads.values(models.score_head(self.critics[name]), states, batch)
            if "scores" in columns:
                answers["scores"] = heads.scores(self.scorer, self.spec.score_label, batch, self._states_of)
            if "token_scores" in columns:
                answers["token_scores"] = heads.token_scores(self.scorer, self.spec.score_label, batch, self._states_of)
        return Forward.of(answers)

    def _states(self, spec: HF, model: Any, batch: Batch, used: Tensor, read: Tensor) -> States:
        """A model's states where they are read: of the used tokens packed, or padded where its attention is its own."""
        if self._packs(spec, model):
            return packed(model, batch, used, read, recompute=spec.recompute)
        return padded(model, batch.tokens, recompute=spec.recompute)

    def _states_of(self, model: Any, batch: Batch, used: Tensor, read: Tensor) -> States:
        return self._states(self.spec, model, batch, used, read)

    def _packs(self, spec: HF, model: Any) -> bool:
        """Whether a model can be packed, found out when it is first asked."""
        if spec.attention != "auto":
            return False
        if type(models.bare(model)) not in self._packable:
            self._packable[type(models.bare(model))] = can_pack(model)
        return self._packable[type(models.bare(model))]

    def _language(self, batch: Batch, columns: frozenset[str], language: Sequence[Column]) -> dict[str, Tensor]:
        if self.lm is None:
            raise ModelError("this policy only scores: it has no language-model head to answer log-probabilities")
        states = self._spoken_states(batch)
        answers = {}
        whole = [each for each in language if each.name not in ("logprobs", "entropy")]
        if "logprobs" in columns or (language and not whole):
            where = fn.predicted(batch.mask)
            logprobs, entropy = head_logprobs(
                models.head(self._voice.model),
                states.hidden,
                fn.before(states.place)[where],
                batch.tokens[:, 1:][where],
                self._voice.spec.temperature,
                with_entropy="entropy" in columns,
            )
            answers["logprobs"] = fn.scatter(logprobs, batch.mask)
            if entropy is not None:
                answers["entropy"] = fn.scatter(entropy, batch.mask)
        if whole:
            answers |= self._divergences(batch, states, [each for each in language if each.name not in answers])
        if self.spec.critic == "shared":
            answers |= {name: heads.values(self.critics[name], states, batch) for name in columns & self.critics.keys()}
        return {name: column for name, column in answers.items() if name in columns}

    def _spoken_states(self, batch: Batch) -> States:
        """Those of whoever speaks: the policy, or a role."""
        voice = self._voice
        context = models.context(voice.model)
        if voice is not self._own and batch.tokens.shape[1] > context < int(batch.attend.sum(1).max()):
            raise ModelError(
                f"the role {voice.name!r} reads {context} tokens at most, and there is a prompt that has more with its "
                f"completion: set policy.max_length={context}"
            )
        return self._states(voice.spec, voice.model, batch, *predicting(batch))

    def _divergences(self, batch: Batch, states: States, asked: Sequence[Column]) -> dict[str, Tensor]:
        """What is said of whole distributions, the policy's beside the roles'."""
        others = {}
        for name in sorted({each.role for each in asked} - {POLICY}):
            with torch.no_grad(), self.answering(name):
                others[name] = self._spoken(batch, self._spoken_states(batch), self._voice.head())
        own = self._spoken(batch, states, models.head(self._voice.model))
        found = head_divergences(own, others, asked)
        return {name: fn.scatter(column, batch.mask) for name, column in found.items()}

    def _spoken(self, batch: Batch, states: States, head: Head) -> Spoken:
        where = fn.before(states.place)[fn.predicted(batch.mask)]
        return Spoken(head, states.hidden, where, self._voice.spec.temperature)

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

    def step(self, lr: float, clip: float) -> float:
        """As `TorchTraining.step`; the policy is its own reference no longer."""
        self._begun = None
        return super().step(lr, clip)

    def parameters(self) -> list[dict[str, Any]]:
        """The trained weights; a critic learns at its own multiple of the rate."""
        own = [(critic, self.spec.critic_lr) for critic in self.critics.values()]
        rates = [(self.lm, 1.0), (self.scorer, 1.0), *own]
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
        trained = dict(self._trained())
        check_same(trained, {name: tensor for name, tensor in state.items() if not name.startswith(ROLE)})
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(state[name])
        for name, role in self.roles.items():
            own = f"{ROLE}{name}."
            role.restore({key.removeprefix(own): each for key, each in state.items() if key.startswith(own)})

    def _trained(self) -> Iterator[tuple[str, Tensor]]:
        critics = [("critic" if name == "values" else name, critic) for name, critic in self.critics.items()]
        for part, model in (("lm", self.lm), ("scorer", self.scorer), *critics):
            if model is not None:
                yield from ((f"{part}.{n}", p) for n, p in model.named_parameters() if p.requires_grad)

    def _tokens_per_pass(self) -> int:
        width = 2 if self.bf16 else 4
        comes = self._trains and not self.roles[REFERENCE].is_loaded
        coming = cost.reference_bytes(self._shape, width) if comes else 0
        return memory.per_pass(self._shape, self.device, width, coming, recompute=self.spec.recompute)

    def _fingerprint(self) -> str:
        """A digest of the reference's weights and configuration, the temperature, precision and kind of device."""
        own = REFERENCE not in self.roles or (self._is_start() and not self.bf16)  # a frozen copy has bf16 matrices
        model = self.lm if own else self.roles[REFERENCE].model
        return fingerprint(model, (self.spec.temperature, self.bf16, self.device.type))

    @functools.cached_property
    def _shape(self) -> ModelShape:
        """The sizes of the language model, or of the scorer of a policy that only scores; with a critic's trunk."""
        own = self.critics.values() if self.spec.critic == "separate" else ()
        return shape_of(self._main, critics_of(self.spec, [shape_of(each) for each in own]))

    def save(self, path: Path) -> None:
        """An ordinary transformers directory: the language model, or the scorer of a policy that only scores."""
        saving.save(self._main, self.tokenizer, path, self._stored)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)
