"""The live policy: transformers models behind alignzoo's `Policy`."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import math
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignzoo import cost
from alignzoo import functional as fn
from alignzoo.columns import REFERENCE
from alignzoo.cost import ModelShape
from alignzoo.errors import ModelError
from alignzoo.gradients import TorchTraining
from alignzoo.interfaces import PolicyInfo
from alignzoo.microbatch import is_out_of_memory
from alignzoo.types import Batch, Completion, Forward, Group, Prompt, Text
from alignzoo_hf import checks, memory, models
from alignzoo_hf.encoding import encoder
from alignzoo_hf.engine import Tokens, Written
from alignzoo_hf.fingerprint import fingerprint
from alignzoo_hf.frozen import freeze
from alignzoo_hf.head import head_logprobs, wide
from alignzoo_hf.sampling import Sampling
from alignzoo_hf.shape import shape_of
from alignzoo_hf.spec import HF
from alignzoo_hf.trunk import States, can_pack, packed, padded
from alignzoo_hf.writers import Writer, writer

RELOADING = 0.05
"""The share of the time in which a reference is not needed that loading it again may take; else it is kept."""


class HFPolicy(TorchTraining):
    """A causal language model, and beside it the critic or the scoring head that an optimizer needs.

    Models stay in evaluation mode throughout: dropout would break the ratios' exactness and the repeatability of a
    step. Trained weights are float32; under bf16 the computation runs in autocast and frozen weights are bf16. With
    `frozen` nothing is trained: a reward model that only answers.
    """

    def __init__(self, spec: HF, needs: frozenset[str], *, frozen: bool = False) -> None:
        models.check_answers(needs)
        self.spec = spec
        if spec.deterministic:
            os.environ.setdefault(
                "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
            )  # without it cuBLAS has no deterministic products
            torch.use_deterministic_algorithms(True)
        self.device = models.device(spec)
        self.bf16 = models.wants_bf16(spec, self.device)
        self.tokenizer = models.tokenizer(spec)
        precision = torch.bfloat16 if self.bf16 else torch.float32
        writes = not models.only_scores(needs)
        self.scorer: Any = None
        if "scores" in needs:
            scorer = models.scorer(spec, spec.model, precision)
            self.scorer = (freeze(scorer, bf16=self.bf16) if frozen else scorer).to(self.device)
            self.tokenizer = models.with_padding(self.tokenizer)
            models.set_padding(self.scorer, self.tokenizer)
        self.critic: Any = None
        if "values" in needs and spec.critic == "separate":
            self.critic = self._own_critic(precision)  # before adapters are put into a live model that it copies
        self.lm = models.causal_lm(spec, precision).to(self.device) if writes else None
        if "values" in needs and spec.critic == "shared":
            self.critic = self._shared_critic()
        self._trains = self.lm is not None and bool(needs)  # who needs nothing only writes
        self._copied: Any = None
        self._beneath = bool(spec.lora_rank) and not spec.reference  # the reference is what lies beneath the adapter
        if spec.reference:
            checks.check_same_tokens(self.tokenizer, spec.reference, spec, "reference")
        if self._trains and not spec.lora_rank and not isinstance(spec.model, str) and not spec.reference:
            self._copied = freeze(copy.deepcopy(self.lm), bf16=self.bf16)  # its first weights lie nowhere else
        # Who learns from given texts alone has a reference for evaluations only, and need not keep it in between.
        self._reloads = isinstance(spec.reference or spec.model, str) and not needs & {"ref_logprobs", "old_logprobs"}
        self._let_go = -math.inf
        self._at_once = spec.generate_batch
        self._answering: Any = self.lm
        self._packable: dict[type, bool] = {}
        model = self.lm if self.lm is not None else self.scorer
        checks.check_token_ids(self.tokenizer, model)
        self.encoder = encoder(spec, model, self.tokenizer, writes=self.lm is not None)

    # --- building ------------------------------------------------------------------------------------------------

    def _shared_critic(self) -> Any:
        if self.lm is None:
            raise ModelError("a shared critic needs a policy that writes")
        return models.value_head(self.lm.config).to(self.device)

    def _own_critic(self, precision: torch.dtype) -> Any:
        if self.spec.critic_model:
            checks.check_same_tokens(self.tokenizer, self.spec.critic_model, self.spec)
        critic = models.scorer(self.spec, self.spec.critic_model or self.spec.model, precision)
        torch.nn.init.zeros_(models.score_head(critic).weight)  # the value starts at 0, whatever the trunk scored
        return critic.to(self.device)

    # --- writing -------------------------------------------------------------------------------------------------

    def encode(self, prompt: Prompt, texts: Sequence[Text]) -> Group:
        """A prompt and given completions as tokens."""
        return self.encoder.group(prompt, texts)

    def generate(self, prompts: Sequence[Prompt], n: int, *, seeds: Sequence[int], greedy: bool = False) -> list[Group]:
        """Write `n` completions of each prompt, by the sampling settings of the recipe or greedily."""
        tokens = [self.encoder.prompt(prompt) for prompt in prompts]
        found = self.go_on(tokens, n, seeds=seeds, greedy=greedy)
        return [Group(*each) for each in zip(prompts, tokens, map(tuple, found), strict=True)]

    def go_on(
        self, prefixes: Sequence[Sequence[int]], n: int, *, seeds: Sequence[int], greedy: bool = False
    ) -> list[list[Completion]]:
        """Write `n` continuations of each run of tokens, which is read as it stands."""
        if self.lm is None:
            raise ModelError("this policy only scores: it has no language-model head to write with")
        spec = self.spec
        longest = max(map(len, prefixes), default=1)
        if longest + spec.max_new_tokens > self.encoder.max_length or not all(prefixes):
            raise ModelError(
                f"a prefix of {longest} tokens leaves no room for policy.max_new_tokens = {spec.max_new_tokens} within "
                f"policy.max_length = {self.encoder.max_length}: let transcripts end earlier, or lower the former"
                if all(prefixes)
                else "a prefix of no tokens cannot be continued: there is nothing to predict from"
            )
        settings = Sampling(spec.max_new_tokens, spec.temperature, spec.top_k, spec.top_p, greedy)
        tokens = [tuple(prefix) for prefix in prefixes]
        written = self._written(tokens, n, settings, seeds)
        completions = iter([Completion(ids, self.encoder.text(ids), done, lps) for ids, lps, done in written])
        return [list(itertools.islice(completions, n)) for _ in tokens]

    def _written(self, prompts: Sequence[Tokens], n: int, settings: Sampling, seeds: Sequence[int]) -> Written:
        """By the engine, with as many completions at once as memory has room for, which changes no text."""
        while True:
            try:
                with self._autocast():
                    return self._writer.write(prompts, n, settings, seeds=seeds, slots=self._at_once)
            except Exception as error:
                if not is_out_of_memory(error) or self.spec.engine == "vllm":  # whose slots are set as it starts
                    raise
                first = self._at_once == self.spec.generate_batch
                self._at_once = memory.fewer(min(self._at_once, len(prompts) * n), error, tell=first)
                traceback.clear_frames(error.__traceback__)  # they hold on to what did not fit
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    @functools.cached_property
    def _writer(self) -> Writer:
        """The engine, made when it is first needed: it may try the model out."""
        return writer(self.spec, self.lm, self.tokenizer, self.encoder.stop_ids)

    def info(self) -> PolicyInfo:
        """What the runner may know: sizes, tokens at once, whether samples are exact, how the reference is known."""
        return PolicyInfo(
            shape=self._shape,
            tokens_per_pass=self._tokens_per_pass(),
            exact_samples=self.spec.samples_exactly(self.bf16),
            fingerprint=self._fingerprint,
            token_strings=self.encoder.pieces,
            fits=self.encoder.fits,
            chats=self.encoder.chat.exists,
        )

    # --- answering -----------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        """The columns asked for, at completion positions only; the vocabulary is never held for all of them."""
        if self._reloads and self._copied is not None and torch.is_grad_enabled() and self._answering is self.lm:
            self._copied, self._let_go = None, time.monotonic()  # the next evaluation loads it again
        batch = batch.to(self.device)
        answers: dict[str, Tensor] = {}
        with self._autocast():
            if columns & {"logprobs", "entropy"} or ("values" in columns and self.spec.critic == "shared"):
                answers |= self._language(batch, columns)
            if "values" in columns and self.spec.critic == "separate":
                states = self._states(self.critic, batch, *_predicting(batch))
                answers["values"] = self._values(models.score_head(self.critic), states, batch)
            if "scores" in columns:
                answers["scores"] = self._scores(batch)
        return Forward.of({name: column for name, column in answers.items() if name in columns})

    def _states(self, model: Any, batch: Batch, used: Tensor, read: Tensor) -> States:
        """A model's states where they are read: of the used tokens packed, or padded where its attention is its own."""
        return packed(model, batch, used, read) if self._packs(model) else padded(model, batch.tokens)

    def _packs(self, model: Any) -> bool:
        """Whether a model can be packed, found out when it is first asked."""
        if self.spec.attention != "auto":
            return False
        if type(models.bare(model)) not in self._packable:
            self._packable[type(models.bare(model))] = can_pack(model)
        return self._packable[type(models.bare(model))]

    def _language(self, batch: Batch, columns: frozenset[str]) -> dict[str, Tensor]:
        if self._answering is None:
            raise ModelError("this policy only scores: it has no language-model head to answer log-probabilities")
        states = self._states(self._answering, batch, *_predicting(batch))
        answers = {}
        if columns & {"logprobs", "entropy"}:
            where = fn.predicted(batch.mask)
            logprobs, entropy = head_logprobs(
                models.head(self._answering),
                states.hidden,
                fn.before(states.place)[where],
                batch.tokens[:, 1:][where],
                self.spec.temperature,
                with_entropy="entropy" in columns,
            )
            answers["logprobs"] = fn.scatter(logprobs, batch.mask)
            if entropy is not None:
                answers["entropy"] = fn.scatter(entropy, batch.mask)
        if "values" in columns and self.spec.critic == "shared":
            answers["values"] = self._values(self.critic, states, batch)
        return answers

    def _values(self, head: torch.nn.Module, states: States, batch: Batch) -> Tensor:
        chosen = states.hidden[fn.before(states.place)[fn.predicted(batch.mask)]]  # (M, H)
        values = head(chosen).squeeze(-1)
        return fn.scatter(values.to(wide(values.dtype)), batch.mask)

    def _scores(self, batch: Batch) -> Tensor:
        if self.scorer is None:
            raise ModelError("this policy has no scoring head: load it for an optimizer that needs 'scores'")
        label = self.spec.score_label
        if not models.reads_last_token(self.scorer):
            scores: Tensor = self.scorer(batch.tokens, attention_mask=batch.attend.long()).logits[:, label]
            return scores.float()
        last = models.read_at(self.scorer, batch.tokens, batch.attend)
        rows = torch.arange(len(batch), device=last.device)
        read = torch.zeros_like(batch.attend)
        read[rows, last] = True
        states = self._states(self.scorer, batch, batch.attend, read)
        scores = models.score_head(self.scorer)(states.hidden[states.place[rows, last]])[:, label]
        return scores.to(wide(scores.dtype))

    @contextlib.contextmanager
    def answering(self, role: str) -> Iterator[None]:
        """Inside, the language model answers as it did before training ("ref"): adapters off, or the frozen copy."""
        if role != REFERENCE:
            raise ModelError(f"this policy has no role {role!r}")
        if self.lm is None:
            raise ModelError("this policy only scores: it has no reference")
        if not self._trains and not self.spec.lora_rank:
            raise ModelError("this policy was loaded for writing only: it has no reference")
        if self._beneath:
            with self.lm.disable_adapter():
                yield
            return
        former, self._answering = self._answering, self._reference
        try:
            yield
        finally:
            self._answering = former

    @property
    def _reference(self) -> Any:
        """The frozen copy, loaded when it is first asked; it answers to the bit as the policy does at first. Where it
        is asked so often that loading it takes more than a share of the time, it stays from then on."""
        if self._copied is None:
            start = time.monotonic()
            own = self.spec.reference
            stored = replace(self.spec, model=own, lora_rank=0) if own else self.spec
            copied = models.causal_lm(stored, torch.float32)
            self._copied = freeze(copied, bf16=self.bf16).to(self.device)
            self._reloads &= time.monotonic() - start <= RELOADING * (start - self._let_go)
        return self._copied

    # --- training ------------------------------------------------------------------------------------------------

    def parameters(self) -> list[dict[str, Any]]:
        """The trained weights; a critic learns at its own multiple of the rate."""
        trained = [model for model in (self.lm, self.scorer) if model is not None]
        groups = [{"params": [p for m in trained for p in m.parameters() if p.requires_grad], "lr_scale": 1.0}]
        if self.critic is not None:
            critic = [p for p in self.critic.parameters() if p.requires_grad]
            groups.append({"params": critic, "lr_scale": self.spec.critic_lr})
        return groups

    def state(self) -> dict[str, Tensor]:
        """The trained weights by name."""
        return {name: parameter.detach() for name, parameter in self._trained()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        trained = dict(self._trained())
        if trained.keys() != state.keys():
            odd = sorted(trained.keys() ^ state.keys())
            raise ModelError(f"the checkpoint is of another model: {len(odd)} weights differ, {odd[0]!r} the first")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(state[name])

    def _trained(self) -> Iterator[tuple[str, Tensor]]:
        for part, model in (("lm", self.lm), ("scorer", self.scorer), ("critic", self.critic)):
            if model is not None:
                yield from ((f"{part}.{n}", p) for n, p in model.named_parameters() if p.requires_grad)

    def _tokens_per_pass(self) -> int:
        """Tokens per pass: on the CPU so few that tensors stay small, on a GPU what its free memory holds."""
        shape, width = self._shape, 2 if self.bf16 else 4
        if self.device.type != "cuda":
            return memory.on_cpu(shape)
        free = torch.cuda.mem_get_info(self.device)[0]
        free -= cost.reference_bytes(shape, width) if self._trains and self._copied is None else 0  # it may still come
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)  # torch's, and free
        return memory.on_gpu(shape, free + kept, width)

    def _fingerprint(self) -> str:
        """A digest of the reference's weights and configuration, the temperature, precision and kind of device."""
        model = self._reference if self._trains and not self._beneath else self.lm
        return fingerprint(model, (self.spec.temperature, self.bf16, self.device.type))

    @functools.cached_property
    def _shape(self) -> ModelShape:
        """The sizes of the language model, or of the scorer of a policy that only scores; with a critic's trunk."""
        own = self.critic is not None and self.spec.critic == "separate"
        return shape_of(self.lm if self.lm is not None else self.scorer, shape_of(self.critic) if own else None)

    def save(self, path: Path) -> None:
        """An ordinary transformers directory: the language model, or the scorer of a policy that only scores."""
        model = self.lm if self.lm is not None else self.scorer
        models.save(model, self.tokenizer, path, torch.bfloat16 if self.bf16 else torch.float32)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def _predicting(batch: Batch) -> tuple[Tensor, Tensor]:
    """The tokens whose states predict a completion token, with those before them (all but the last, as a rule), and
    these alone; (N, T) each."""
    after = batch.mask.flip(1).long().cumsum(1).flip(1) - batch.mask.long()  # completion tokens that are still to come
    return batch.attend & (after > 0), torch.nn.functional.pad(fn.predicted(batch.mask), (0, 1))
