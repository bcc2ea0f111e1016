"""What policy `hf` says of given tokens: its columns, from the states of a trunk and the heads that read them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo.columns import POLICY, Column, column
from alignzoo.errors import ModelError
from alignzoo.types import Batch
from alignzoo_hf.forward import heads
from alignzoo_hf.forward.divergences import Spoken, head_divergences
from alignzoo_hf.forward.head import Head, head_logprobs
from alignzoo_hf.forward.trunk import States, can_pack, packed, padded, predicting
from alignzoo_hf.model import models
from alignzoo_hf.model.roles import Frozen, Voice
from alignzoo_hf.model.spec import HF


class Answering:
    """The half of the policy that answers columns; the other half loads, generates and trains."""

    spec: HF
    lm: Any
    scorer: Any
    critics: dict[str, Any]
    roles: dict[str, Frozen]
    _voice: Voice
    """Who speaks: the policy, or a role."""
    _own: Voice
    """The policy's own."""
    _packable: dict[type, bool]

    def answering(self, role: str) -> AbstractContextManager[None]:
        """As `Policy.answering`."""
        raise NotImplementedError

    def _autocast(self) -> AbstractContextManager[Any]:
        raise NotImplementedError

    def _answers(self, batch: Batch, columns: frozenset[str]) -> dict[str, Tensor]:
        """The columns asked for; nothing but tensors, which is what sharded weights are gathered for once more on the
        way back."""
        told = [column(name) for name in sorted(columns)]
        language = [each for each in told if each.answer.of == "language"]
        valued = [each.name for each in told if each.answer.of == "critic"]
        answers: dict[str, Tensor] = {}
        scored = [each for each in told if each.answer.name == "scores"]
        with self._autocast():
            both = self._both(batch) if language and scored else None
            if language or (valued and self.spec.critic == "shared"):
                answers |= self._language(batch, columns, language, both)
            for name in valued if self.spec.critic == "separate" else ():
                states = self._states(self.spec, self.critics[name], batch, *predicting(batch))
                answers[name] = heads.values(models.score_head(self.critics[name]), states, batch)
            if scored:
                found = heads.scores(self.scorer, batch, self._states_of if both is None else lambda *_: both)
                labels = {each.name: self.spec.score_label if each.option is None else each.option for each in scored}
                answers |= {name: found[:, int(label)] for name, label in labels.items()}
            if "token_scores" in columns:
                answers["token_scores"] = heads.token_scores(self.scorer, self.spec.score_label, batch, self._states_of)
        return answers

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

    def _both(self, batch: Batch) -> States | None:
        """The states that both heads read, where they stand on one trunk: what is said is computed once."""
        if self.lm is None or self.scorer is None:
            return None
        read = predicting(batch)[1] | heads.ended(self.scorer, batch)
        return self._states(self.spec, self.lm, batch, batch.attend, read)

    def _language(
        self, batch: Batch, columns: frozenset[str], language: Sequence[Column], states: States | None = None
    ) -> dict[str, Tensor]:
        if self.lm is None:
            raise ModelError("this policy only scores: it has no language-model head to answer log-probabilities")
        states = states or self._spoken_states(batch)
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
            here = self._voice.sharded
            with torch.no_grad(), self.answering(name):
                there = self._voice.sharded
                inside = there is None or there is here
                found = self._spoken_states(batch) if inside else there(self._spoken_states, batch)
                others[name] = self._spoken(batch, found, self._voice.head())
        own = self._spoken(batch, states, models.head(self._voice.model))
        found = head_divergences(own, others, asked)
        return {name: fn.scatter(column, batch.mask) for name, column in found.items()}

    def _spoken(self, batch: Batch, states: States, head: Head) -> Spoken:
        where = fn.before(states.place)[fn.predicted(batch.mask)]
        return Spoken(head, states.hidden, where, self._voice.spec.temperature)
