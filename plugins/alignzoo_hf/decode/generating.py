"""What a policy generates: prompts to tokens, tokens to completions, by the engine of who speaks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from alignzoo.decoding import AS_SET, CompleteDecoding, Decoding
from alignzoo.engines import EngineModel, Generated
from alignzoo.errors import ModelError
from alignzoo.types import Completion, Group, Prompt, Text
from alignzoo_hf.decode.engines import ServedModel, engine_of
from alignzoo_hf.decode.mixing import mixed
from alignzoo_hf.forward import memory
from alignzoo_hf.model.chat import Encoder
from alignzoo_hf.model.roles import Frozen, Voice
from alignzoo_hf.model.spec import HF


class Generating:
    """The part of the policy that generates."""

    spec: HF
    device: torch.device
    lm: Any
    tokenizer: Any
    encoder: Encoder
    roles: dict[str, Frozen]
    _voice: Voice
    _own: Voice
    _at_once: int
    """Completions that are generated at once, as far as memory is known to have room."""

    def gathered(self) -> AbstractContextManager[None]:
        """As `HasGathered.gathered`."""
        raise NotImplementedError

    def _autocast(self) -> AbstractContextManager[Any]:
        raise NotImplementedError

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
            with self.gathered(), self._autocast():
                engine = self._voice.engine(self.encoder.stop_ids)
                if decoding.mix:
                    engine = mixed(self.engine_model, decoding.mix, self._own, self._voice, self.roles)
                return engine.generate(prefixes, n, replace(decoding, mix=()), seeds=seeds, at_once=at_once)

        if engine_of(self.spec).separate and not decoding.mix:  # how many at once is settled as it starts
            return generate(self._at_once)
        most, of = self.spec.generate_batch, len(prefixes) * n
        found, self._at_once = memory.fitting(generate, self._at_once, of, most, self.device)
        return found

    @property
    def engine_model(self) -> EngineModel:
        """The language model as engines see it."""
        return ServedModel(self.spec, self.lm, self.tokenizer, self.encoder.stop_ids)
