"""Who writes: the engines that `policy.engine` names, behind one signature."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import (
    ContinuousBatchingConfig,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from alignzoo import functional as fn
from alignzoo.errors import ModelError
from alignzoo_hf import slots
from alignzoo_hf.engine import Engine, Tokens, Written
from alignzoo_hf.layers import EXACT
from alignzoo_hf.models import bare
from alignzoo_hf.sampling import Sampling, draw, uniforms
from alignzoo_hf.spec import HF
from alignzoo_hf.trunk import windows

log = logging.getLogger("alignzoo")

PAGE = 32
"""Tokens in a page of transformers' paged cache on a CPU."""


class Writer(Protocol):
    """Writes completions with the policy's present weights."""

    def write(
        self, prompts: Sequence[Tokens], n: int, settings: Sampling, *, seeds: Sequence[int], slots: int
    ) -> Written:
        """`n` completions of each prompt, which has a seed of its own, prompt by prompt, at most `slots` at once."""
        ...


def writer(spec: HF, model: Any, tokenizer: Any, stop_ids: frozenset[int]) -> Writer:
    """The engine that the recipe names. Where ours cannot serve a model, transformers' `generate` does, with a line
    that says why."""
    if spec.engine in ("vllm", "continuous") and (spec.top_k or spec.top_p < 1):
        log.warning(
            "policy.engine = %r records how likely tokens are among those that policy.top_k and policy.top_p keep, and "
            "not among all, so that schedule.importance_cap would weigh them too low: leave it at 0, or use "
            "policy.engine = 'alignzoo'",
            spec.engine,
        )
    if spec.engine == "vllm":
        from alignzoo_hf.vllm_engine import VLLM

        return VLLM(spec, model, tokenizer, stop_ids)
    if spec.engine == "continuous":
        return Continuous(model, stop_ids)
    if spec.engine == "generate":
        return Generate(model, stop_ids)
    reason = unfit(model, stop_ids)
    if not reason:
        return Engine(model, stop_ids)
    log.warning("%s writes through transformers' generate, more slowly: %s", type(bare(model)).__name__, reason)
    return Generate(model, stop_ids)


def unfit(model: Any, stop_ids: frozenset[int]) -> str:
    """Why our engine cannot write with this model; empty when it can, which is tried out and compared."""
    config = bare(model).config.get_text_config()
    kinds = {type(layer) for layer in DynamicCache(config=config).layers} - {DynamicLayer, DynamicSlidingWindowLayer}
    other = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or other:
        names = sorted({kind.__name__ for kind in kinds} | other)
        return f"its cache is not of keys and values alone ({', '.join(names)})"
    try:
        answer, expected, exact = _tried(model, stop_ids)
    except Exception as error:  # a model's own code may fail in any way when its attention is not ours
        return f"its forward pass does not go through the attention interface ({type(error).__name__}: {error})"
    tolerance = 1e-3 if exact else 0.1
    if not torch.allclose(answer, expected, rtol=tolerance, atol=tolerance):
        worst = float((answer - expected).abs().max())
        return f"with a cache of our own its log-probabilities differ by {worst:.2g}"
    return ""


def _tried(model: Any, stop_ids: frozenset[int]) -> tuple[Tensor, Tensor, bool]:
    """Log-probabilities of a few greedy tokens by the engine, three prompts in two slots, and by the plain model; and
    whether it computes in float32."""
    inner = bare(model)
    vocabulary = inner.config.get_text_config().vocab_size
    prompts = [tuple((7 * i + 3 * p + 1) % vocabulary for i in range(length)) for p, length in enumerate((6, 2, 4))]
    with slots.windows_asked() as asked:
        written = Engine(model, stop_ids).write(prompts, 1, Sampling(4, greedy=True), seeds=range(3), slots=2)
    if asked != set(windows(inner.config.get_text_config())):
        raise ValueError(f"its layers ask for the windows {asked}, which are not its config's")
    expected = []
    with torch.no_grad():
        for prompt, (tokens, _, _) in zip(prompts, written, strict=True):
            logits = inner(torch.tensor([prompt + tokens], device=inner.device)).logits[0]
            exact = logits.dtype in EXACT and not torch.is_autocast_enabled(inner.device.type)
            own = torch.log_softmax(logits.float(), -1)[len(prompt) - 1 : -1]
            expected.append(own.gather(-1, torch.tensor(tokens, device=own.device)[:, None]).squeeze(-1))
    answer = torch.tensor([logprob for _, logprobs, _ in written for logprob in logprobs])
    return answer, torch.cat(expected).cpu(), exact


@contextlib.contextmanager
def unconfigured(model: Any) -> Iterator[None]:
    """Inside, a model has no generation config of its own: transformers takes from it whatever a call leaves open, a
    repetition penalty or forbidden tokens, and texts would follow another distribution than the policy's."""
    former, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = former


class Generate:
    """transformers' own `generate`: every model that transformers can write with.

    Tokens are drawn here, inside a logits processor, with the engine's own uniform numbers, so that the same seed
    writes the same text as the engine does.
    """

    def __init__(self, model: Any, stop_ids: frozenset[int]) -> None:
        self.model, self.stop_ids = bare(model), stop_ids

    def write(
        self, prompts: Sequence[Tokens], n: int, settings: Sampling, *, seeds: Sequence[int], slots: int
    ) -> Written:
        """As `Writer.write`; the prompts of a batch are padded to the longest, and it ends with its last row."""
        uniform = uniforms(seeds, n, settings.max_new_tokens)
        rows = [prompt for prompt in prompts for _ in range(n)]
        written: Written = []
        for start in range(0, len(rows), slots):
            chunk = slice(start, start + slots)
            written += self._batch(rows[chunk], uniform[chunk], settings)
        return written

    def _batch(self, rows: Sequence[Tokens], uniform: Tensor, settings: Sampling) -> Written:
        device, width = self.model.device, max(map(len, rows))
        tokens = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
        attend = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        drawing = _Drawing(uniform.to(device), settings)
        config = GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(self.stop_ids),
            pad_token_id=min(self.stop_ids),
        )
        with torch.no_grad(), unconfigured(self.model):
            out = self.model.generate(
                tokens,
                attention_mask=attend,
                generation_config=config,
                logits_processor=LogitsProcessorList([drawing]),
            )
        logprobs = torch.stack(drawing.logprobs, 1).tolist()
        return [
            _ended(row, logprob, self.stop_ids) for row, logprob in zip(out[:, width:].tolist(), logprobs, strict=True)
        ]


class _Drawing(LogitsProcessor):  # type: ignore[misc]
    """Draws the next tokens by our own sampler and leaves `generate` no other choice; keeps their log-probabilities."""

    def __init__(self, uniform: Tensor, settings: Sampling) -> None:
        self.uniform, self.settings = uniform, settings
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        tokens, logprobs = draw(scores, self.uniform[:, len(self.logprobs)], self.settings)
        self.logprobs.append(logprobs)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens[:, None], 0.0)


def _ended(tokens: Sequence[int], logprobs: Sequence[float], stop_ids: frozenset[int]) -> tuple[Any, Any, bool]:
    """A row cut after its first end."""
    end = next((i + 1 for i, token in enumerate(tokens) if token in stop_ids), None)
    return tuple(tokens[:end]), tuple(logprobs[:end]), end is not None


class Continuous:
    """transformers' own continuous batching: paged attention, made for GPUs; on a CPU the slowest of all."""

    def __init__(self, model: Any, stop_ids: frozenset[int]) -> None:
        self.model, self.stop_ids = bare(model), stop_ids

    def write(
        self, prompts: Sequence[Tokens], n: int, settings: Sampling, *, seeds: Sequence[int], slots: int
    ) -> Written:
        """As `Writer.write`. Tokens are drawn by transformers, from one seed for the call: other text than the other
        engines', which depends on what else is generated at the same time."""
        rows = [list(prompt) for prompt in prompts for _ in range(n)]
        drawn = {"temperature": settings.temperature, "top_k": settings.top_k, "top_p": settings.top_p}
        config = GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            do_sample=not settings.greedy,
            eos_token_id=sorted(self.stop_ids),
            pad_token_id=min(self.stop_ids),
            **({} if settings.greedy else drawn),
        )
        former = self.model.config._attn_implementation
        try:
            with unconfigured(self.model):
                answers = self.model.generate_batch(
                    inputs=rows,
                    generation_config=config,
                    continuous_batching_config=self._sizes(rows, settings, fn.derive(0, *seeds), slots),
                )
        finally:
            self.model.set_attn_implementation(former)  # it leaves a paged one behind
        results = list(answers.values())
        lost = len(rows) - len(results) + sum(result.error is not None for result in results)
        if lost:
            errors = {result.error for result in results} - {None} or {"no answer; its own log says why"}
            raise ModelError(
                f"transformers' continuous batching lost {lost} of {len(rows)} completions ({'; '.join(errors)}): "
                'use policy.engine = "alignzoo" or "generate"'
            )
        return [_ended(result.generated_tokens, result.logprobs, self.stop_ids) for result in results]

    def _sizes(self, rows: Sequence[Sequence[int]], settings: Sampling, seed: int, slots: int) -> Any:
        """Its budgets. Left to itself it takes most of the free memory, which on a CPU is the machine's."""
        sizes: dict[str, Any] = {"return_logprobs": True, "seed": seed % (1 << 31), "max_requests_per_batch": slots}
        if self.model.device.type == "cpu":
            pages = -(-(max(map(len, rows)) + settings.max_new_tokens) // PAGE)
            sizes |= {"page_size": PAGE, "num_blocks": 2 * pages * min(slots, len(rows)), "max_batch_tokens": 512}
        return ContinuousBatchingConfig(**sizes)
