"""Engine `vllm`: vLLM in this process, given the policy's weights before it writes. Written against vLLM 0.33's API and
tried against a stand-in only: no machine with vLLM was at hand."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo.errors import ModelError
from alignzoo_hf import models
from alignzoo_hf.engine import Tokens, Written
from alignzoo_hf.sampling import Sampling
from alignzoo_hf.spec import HF

SHARE = 0.3
"""Of the GPU's memory, for vLLM's copy of the weights and its cache; the rest is for training."""


class VLLM:
    """Writes through a vLLM engine that holds its own copy of the weights."""

    def __init__(self, spec: HF, model: Any, tokenizer: Any, stop_ids: frozenset[int]) -> None:
        self.model, self.stop_ids = model, stop_ids
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # so that weights are handed over, not sent
        try:
            import vllm
        except ImportError as error:
            raise ModelError(
                "policy.engine is 'vllm', but vLLM is not installed: pip install 'alignzoo[vllm]' (it needs an NVIDIA "
                "GPU), or leave policy.engine out"
            ) from error
        self.vllm = vllm
        with tempfile.TemporaryDirectory() as folder:
            dtype = torch.bfloat16 if models.wants_bf16(spec, models.bare(model).device) else torch.float32
            models.save(model, tokenizer, Path(folder), dtype)
            self.engine = vllm.LLM(
                model=folder,
                dtype=str(dtype).removeprefix("torch."),
                max_model_len=spec.max_length or models.context(model),
                max_num_seqs=spec.generate_batch,
                gpu_memory_utilization=SHARE,
                enable_prefix_caching=True,  # a group's prompt is computed once
                logprobs_mode="processed_logprobs",  # of the distribution that tokens are drawn from
                trust_remote_code=spec.trust_remote_code,
            )

    def write(self, prompts: Sequence[Tokens], n: int, settings: Sampling, *, seed: int, slots: int) -> Written:
        """As `Writer.write`. The same seed writes the same text as far as vLLM's kernels allow it."""
        self._take_weights()
        wanted = [
            self.vllm.SamplingParams(
                n=n,
                temperature=0.0 if settings.greedy else settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                seed=fn.derive(seed, i) % (1 << 31),
                max_tokens=settings.max_new_tokens,
                stop_token_ids=sorted(self.stop_ids),
                logprobs=0,  # of the chosen token alone
                detokenize=False,
            )
            for i in range(len(prompts))
        ]
        given = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        answers = self.engine.generate(given, wanted, use_tqdm=False)
        return [_written(each, self.stop_ids) for answer in answers for each in answer.outputs]

    def _take_weights(self) -> None:
        """Load the policy's present weights into vLLM's model, and forget the prompts it computed with former ones."""
        weights = list(_merged(self.model).items())
        self.engine.apply_model(lambda model: model.load_weights(iter(weights)) and None)
        self.engine.reset_prefix_cache()


def _merged(model: Any) -> dict[str, Tensor]:
    """The weights by the names that a saved model has; adapters are merged into a copy."""
    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    return {name: weight.detach() for name, weight in models.bare(model).state_dict().items()}


def _written(output: Any, stop_ids: frozenset[int]) -> tuple[Tokens, tuple[float, ...], bool]:
    tokens = tuple(output.token_ids)
    logprobs = tuple(chosen[token].logprob for token, chosen in zip(tokens, output.logprobs, strict=True))
    return tokens, logprobs, tokens[-1] in stop_ids
