"""Engine `vllm`: vLLM in this process, given the policy's weights before it writes. Written against vLLM 0.33's API and
tried against a stand-in only: no machine with vLLM was at hand."""

from __future__ import annotations

import copy
import gc
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignzoo import processes
from alignzoo.errors import ModelError
from alignzoo_hf import models, saving
from alignzoo_hf.engine import Tokens, Written
from alignzoo_hf.sampling import Sampling
from alignzoo_hf.spec import HF

LENGTHS = 1024
"""The longest text that an engine is started for is a multiple of so many tokens."""

SHARE = 0.3
"""Share of the GPU's memory for vLLM's copy of the weights and its cache; the rest is for training."""


class VLLM:
    """Writes through a vLLM engine that holds its own copy of the weights."""

    def __init__(self, spec: HF, model: Any, tokenizer: Any, stop_ids: frozenset[int]) -> None:
        self.spec, self.model, self.tokenizer, self.stop_ids = spec, model, tokenizer, stop_ids
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # so that weights are handed over, not sent
        try:
            import vllm
        except ImportError as error:
            raise ModelError(
                "policy.engine is 'vllm', but vLLM is not installed: pip install 'alignzoo[vllm]' (it needs an NVIDIA "
                "GPU), or leave policy.engine out"
            ) from error
        self.vllm = vllm
        self.engine: Any = None
        self.length, self.version = 0, torch.empty(0)

    def write(
        self, prompts: Sequence[Tokens], n: int, settings: Sampling, *, seeds: Sequence[int], slots: int
    ) -> Written:
        """As `Writer.write`. The same seed writes the same text as far as vLLM's kernels allow it."""
        longest = max(map(len, prompts), default=0) + settings.max_new_tokens
        with torch.autocast(models.bare(self.model).device.type, enabled=False):  # precisions are vLLM's own
            if longest > self.length:
                self._start(longest)
            elif not torch.equal(self.version, version_of(self.model)):
                self._take_weights()
            return self._write(prompts, n, settings, seeds)

    def _start(self, longest: int) -> None:
        """An engine for texts of so many tokens, with the present weights. A cache for the model's whole context, which
        vLLM wants for one text at least, may be larger than the memory; so it is as long as the texts, and the engine
        is started again when longer ones come."""
        limit = self.spec.max_length or models.context(self.model)
        self.engine = None  # its memory first
        gc.collect()
        self.length = max(longest, min(limit, -(-longest // LENGTHS) * LENGTHS))
        more: dict[str, Any] = {"distributed_executor_backend": "external_launcher"} if processes.count() > 1 else {}
        with tempfile.TemporaryDirectory() as folder:
            dtype = torch.bfloat16 if models.wants_bf16(self.spec, models.bare(self.model).device) else torch.float32
            saving.save(self.model, self.tokenizer, Path(folder), dtype)
            self.engine = self.vllm.LLM(
                model=folder,
                dtype=str(dtype).removeprefix("torch."),
                max_model_len=self.length,
                max_num_seqs=self.spec.generate_batch,
                gpu_memory_utilization=SHARE,
                enable_prefix_caching=True,  # a group's prompt is computed once
                logprobs_mode="processed_logprobs",  # of the distribution that tokens are drawn from
                trust_remote_code=self.spec.trust_remote_code,
                **more,  # each process its own engine on its own GPU, where several train together
            )
        self.version = version_of(self.model)

    def _write(self, prompts: Sequence[Tokens], n: int, settings: Sampling, seeds: Sequence[int]) -> Written:
        wanted = [
            self.vllm.SamplingParams(
                n=n,
                temperature=0.0 if settings.greedy else settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                seed=seed % (1 << 31),
                max_tokens=settings.max_new_tokens,
                stop_token_ids=sorted(self.stop_ids),
                logprobs=0,  # of the chosen token alone
                detokenize=False,
            )
            for seed in seeds
        ]
        given = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        answers = self.engine.generate(given, wanted, use_tqdm=False)
        return [_written(each, self.stop_ids) for answer in answers for each in answer.outputs]

    def _take_weights(self) -> None:
        """Load the policy's present weights into vLLM's model, and forget the prompts it computed with former ones."""
        weights = list(_merged(self.model).items())
        self.engine.apply_model(lambda model: model.load_weights(iter(weights)) and None)
        self.engine.reset_prefix_cache()
        self.version = version_of(self.model)


@torch.no_grad()
def version_of(model: Any) -> Tensor:
    """Numbers that are others when a trained weight is: sums and norms, in one reading of the weights. torch's own
    counters do not see what a fused AdamW writes."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    sums = [weight.sum(dtype=torch.float64) for weight in trained]
    if not trained:
        return torch.empty(0)
    return torch.stack([*sums, *(torch.linalg.vector_norm(weight, dtype=torch.float64) for weight in trained)])


def _merged(model: Any) -> dict[str, Tensor]:
    """The weights by the names that a saved model has; adapters are merged into a copy."""
    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    return {name: weight.detach() for name, weight in models.bare(model).state_dict().items()}


def _written(output: Any, stop_ids: frozenset[int]) -> tuple[Tokens, tuple[float, ...], bool]:
    tokens = tuple(output.token_ids)
    logprobs = tuple(chosen[token].logprob for token, chosen in zip(tokens, output.logprobs, strict=True))
    return tokens, logprobs, tokens[-1] in stop_ids
