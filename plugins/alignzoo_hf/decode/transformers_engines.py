"""Engines by transformers' own means, and whether ours can serve a model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ContinuousBatchingConfig,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from alignzoo import functional as fn
from alignzoo.calling import kept
from alignzoo.decoding import CompleteDecoding
from alignzoo.engines import EngineModel, Generated, stopped_at, until_stop
from alignzoo.errors import ModelError, in_words
from alignzoo_hf.decode import slots
from alignzoo_hf.decode.engine import SlotEngine
from alignzoo_hf.decode.sampling import draw, uniforms
from alignzoo_hf.forward.layers import EXACT
from alignzoo_hf.forward.trunk import windows
from alignzoo_hf.model.models import bare

PAGE = 32
"""Tokens in a page of transformers' paged cache on a CPU."""


def unfit(model: EngineModel) -> str:
    """Why our engine cannot generate with this model; empty when it can, which is tried out and compared."""
    config = bare(model.module).config.get_text_config()
    kinds = {type(layer) for layer in DynamicCache(config=config).layers} - {DynamicLayer, DynamicSlidingWindowLayer}
    other = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or other:
        names = sorted({kind.__name__ for kind in kinds} | other)
        return f"its cache is not of keys and values alone ({', '.join(names)})"
    with kept() as failed:  # a model's own code may fail in any way when its attention is not ours
        answer, expected, exact = _tried(model)
    if failed.error is not None:
        return f"its forward pass does not go through the attention interface ({in_words(failed.error)})"
    tolerance = 1e-3 if exact else 0.1
    if not torch.allclose(answer, expected, rtol=tolerance, atol=tolerance):
        worst = float((answer - expected).abs().max())
        return f"with a cache of our own its log-probabilities differ by {worst:.2g}"
    return ""


def _tried(model: EngineModel) -> tuple[Tensor, Tensor, bool]:
    """Log-probabilities of a few greedy tokens by the engine, three prompts in two slots, and by the plain model; and
    whether it computes in float32."""
    inner = bare(model.module)
    vocabulary = inner.config.get_text_config().vocab_size
    prompts = [tuple((7 * i + 3 * p + 1) % vocabulary for i in range(length)) for p, length in enumerate((6, 2, 4))]
    with slots.windows_asked() as asked:
        four = CompleteDecoding(4, greedy=True)
        written = SlotEngine(model).generate(prompts, 1, four, seeds=range(3), at_once=2)
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


class TransformersEngine:
    """transformers' own `generate`: every model that transformers can generate with.

    Tokens are drawn here, inside a logits processor, with the engine's own uniform numbers, so that the same seed
    writes the same text as the engine does.
    """

    def __init__(self, model: EngineModel) -> None:
        self.model, self.stop_ids, self.text = bare(model.module), model.stop_ids, model.text

    def generate(
        self,
        prefixes: Sequence[Sequence[int]],
        n: int,
        decoding: CompleteDecoding,
        *,
        seeds: Sequence[int],
        at_once: int,
    ) -> list[Generated]:
        """As `OpenEngine.generate`; the prefixes of a batch are padded to the longest, and it ends with its last
        row."""
        uniform = uniforms(seeds, n, decoding.max_new_tokens)
        rows = [prefix for prefix in prefixes for _ in range(n)]
        found: list[Generated] = []
        for start in range(0, len(rows), at_once):
            chunk = slice(start, start + at_once)
            found += self._batch(rows[chunk], uniform[chunk], decoding)
        return found

    def close(self) -> None:
        """It holds nothing between two calls."""

    def mixing(self, attend: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
        """What makes of the tokens so far and the model's logits those that tokens are drawn from; None: the same."""
        return None

    def _batch(self, rows: Sequence[Sequence[int]], uniform: Tensor, decoding: CompleteDecoding) -> list[Generated]:
        device, width = self.model.device, max(map(len, rows))
        tokens = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
        attend = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        drawing = _Drawing(uniform.to(device), decoding, self.mixing(attend))
        ends = self.stop_ids | set(decoding.stop_tokens)
        config = GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(ends),
            pad_token_id=min(ends),
        )
        stopping = [_Stopping(width, decoding.stop, self.text)] if decoding.stop else []
        with torch.no_grad(), unconfigured(self.model):
            out = self.model.generate(
                tokens,
                attention_mask=attend,
                generation_config=config,
                logits_processor=LogitsProcessorList([drawing]),
                stopping_criteria=StoppingCriteriaList(stopping),
            )
        logprobs = torch.stack(drawing.logprobs, 1).tolist()
        rows_out = zip(out[:, width:].tolist(), logprobs, strict=True)
        return [until_stop(_ended(row, logprob, ends), decoding.stop, self.text) for row, logprob in rows_out]


class _Stopping(StoppingCriteria):  # type: ignore[misc]
    """Ends the rows in which a stop text has come."""

    def __init__(self, width: int, stop: Sequence[str], text: Any) -> None:
        self.width, self.stop, self.text = width, stop, text

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        new = input_ids[:, self.width :].tolist()
        done = [stopped_at(row, self.stop, self.text, checked=len(row) - 1) is not None for row in new]
        return torch.tensor(done, device=input_ids.device)


class _Drawing(LogitsProcessor):  # type: ignore[misc]
    """Draws the next tokens by our own sampler and leaves `generate` no other choice; keeps their log-probabilities."""

    def __init__(
        self, uniform: Tensor, decoding: CompleteDecoding, mixing: Callable[[Tensor, Tensor], Tensor] | None
    ) -> None:
        self.uniform, self.decoding, self.mixing = uniform, decoding, mixing
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        mixed = scores if self.mixing is None else self.mixing(input_ids, scores)
        tokens, logprobs = draw(mixed, self.uniform[:, len(self.logprobs)], self.decoding)
        if self.mixing is not None:  # what is recorded is the model's own
            own = torch.log_softmax(scores.float() / self.decoding.temperature, -1)
            logprobs = own.gather(-1, tokens[:, None]).squeeze(-1)
        self.logprobs.append(logprobs)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens[:, None], 0.0)


def _gpus(model: Any) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []


def _ended(tokens: Sequence[int], logprobs: Sequence[float], stop_ids: frozenset[int]) -> Generated:
    """A row cut after its first end."""
    end = next((i + 1 for i, token in enumerate(tokens) if token in stop_ids), None)
    return Generated(tuple(tokens[:end]), tuple(logprobs[:end]), end is not None)


class PagedEngine:
    """transformers' own continuous batching: paged attention, made for GPUs; on a CPU the slowest of all."""

    def __init__(self, model: EngineModel) -> None:
        self.model, self.stop_ids, self.text = bare(model.module), model.stop_ids, model.text

    def close(self) -> None:
        """It holds nothing between two calls."""

    def generate(
        self,
        prefixes: Sequence[Sequence[int]],
        n: int,
        decoding: CompleteDecoding,
        *,
        seeds: Sequence[int],
        at_once: int,
    ) -> list[Generated]:
        """As `OpenEngine.generate`, but that tokens are drawn by transformers, from one seed for the call: other text
        than the other engines', which depends on what else is generated at the same time."""
        rows = [list(prefix) for prefix in prefixes for _ in range(n)]
        if not rows:
            return []
        ends = self.stop_ids | set(decoding.stop_tokens)
        drawn = {"temperature": decoding.temperature, "top_k": decoding.top_k, "top_p": decoding.top_p}
        if decoding.min_p:
            drawn["min_p"] = decoding.min_p
        config = GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            do_sample=not decoding.greedy,
            eos_token_id=sorted(ends),
            pad_token_id=min(ends),
            **({} if decoding.greedy else drawn),
        )
        former = self.model.config._attn_implementation
        try:
            # It seeds torch's global generators.
            with unconfigured(self.model), torch.random.fork_rng(_gpus(self.model)):
                answers = self.model.generate_batch(
                    inputs=rows,
                    generation_config=config,
                    continuous_batching_config=self._sizes(rows, decoding, fn.derive(0, *seeds), at_once),
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
        ended = [_ended(result.generated_tokens, result.logprobs, ends) for result in results]
        # Of a filtered distribution it says how likely a token is among those that are left: not the forward's number.
        known = [each._replace(logprobs=()) if decoding.filters else each for each in ended]
        return [until_stop(each, decoding.stop, self.text) for each in known]

    def _sizes(self, rows: Sequence[Sequence[int]], decoding: CompleteDecoding, seed: int, at_once: int) -> Any:
        """Its budgets. Left to itself it takes most of the free memory, which on a CPU is the machine's."""
        sizes: dict[str, Any] = {"return_logprobs": True, "seed": seed % (1 << 31), "max_requests_per_batch": at_once}
        if self.model.device.type == "cpu":
            pages = -(-(max(map(len, rows)) + decoding.max_new_tokens) // PAGE)
            sizes |= {"page_size": PAGE, "num_blocks": 2 * pages * min(at_once, len(rows)), "max_batch_tokens": 512}
        return ContinuousBatchingConfig(**sizes)
