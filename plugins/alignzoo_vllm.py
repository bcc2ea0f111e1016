"""Engine `vllm`: vLLM in this process, given the policy's weights before it generates. Written against vLLM 0.33's API
and tried against a stand-in only: no machine with vLLM was at hand."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Le

import alignzoo
from alignzoo import processes
from alignzoo.decoding import CompleteDecoding
from alignzoo.engines import EngineModel, Generated, Tokens, adapted, until_stop
from alignzoo.errors import ModelError

ADAPTERS = "policy.engine with adapters=true"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM keeps room for."""
LENGTHS = 1024
"""The longest text that an engine is started for is a multiple of so many tokens."""


@dataclass(frozen=True)
class VLLM:
    """vLLM in this process, on an NVIDIA GPU: with its own copy of the weights, which is renewed when they change."""

    memory: Annotated[float, Gt(0), Le(1)] = 0.3
    """Share of the GPU's memory for vLLM's copy of the weights and its cache; the rest is for training."""
    rests: bool = True
    """Give that share to the training, too, while the policy is trained (vLLM's sleep mode, level 2): the weights are
    handed over anew when something is to be generated next, and the cache is allocated again after them."""
    adapters: bool = False
    """Hand over the policy's adapter alone (`policy.lora_rank`), which vLLM computes beside the base's weights: those
    are handed over once, and wait in the host's memory while the policy is trained (sleep mode, level 1)."""
    exact: ClassVar[bool] = False
    separate: ClassVar[bool] = True
    laws: ClassVar[Mapping[str, str]] = {
        "neighbours": "its kernels round by what else is in the batch, so that near ties may fall either way"
    }
    not_ahead: ClassVar[str] = (
        "it shares the GPU with the training, and a second one for the copy that generates ahead would take as much of "
        "its memory again: let vllm-server generate, on another GPU, or set schedule.ahead to 0"
    )

    def open(self, model: EngineModel) -> OpenVLLM:
        """The engine, which starts when it is first asked. Raises ModelError where vLLM is not installed."""
        return OpenVLLM(self, model)


class OpenVLLM:
    """A vLLM engine that holds its own copy of the weights."""

    def __init__(self, settings: VLLM, model: EngineModel) -> None:
        self.settings, self.model = settings, model
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
        self.length, self.version, self.resting = 0, "", False
        self._adapter: Any = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._handed_over = 0

    def generate(
        self, prefixes: Sequence[Tokens], n: int, decoding: CompleteDecoding, *, seeds: Sequence[int], at_once: int
    ) -> list[Generated]:
        """As `OpenEngine.generate`. The same seed generates the same text as far as vLLM's kernels allow it; how many
        completions there are at once is settled when vLLM starts."""
        longest = max(map(len, prefixes), default=0) + decoding.max_new_tokens
        with torch.autocast(self.model.device.type, enabled=False):  # precisions are vLLM's own
            if longest > self.length:
                self._start(longest)
            elif self.settings.adapters:
                self._wake_with_adapter()
            elif self.resting or self.version != self.model.version():
                self._take_weights()
            return self._generate(prefixes, n, decoding, seeds)

    def rest(self) -> None:
        """As `Rests.rest`: nothing of vLLM's weights and cache stays on the GPU."""
        if self.settings.rests and self.engine is not None and not self.resting:
            self.engine.sleep(level=1 if self.settings.adapters else 2)
            self.resting = True

    def close(self) -> None:
        """Free the GPU's memory."""
        self.engine, self.length, self.version, self.resting = None, 0, "", False
        self._adapter = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        gc.collect()

    def _start(self, longest: int) -> None:
        """An engine for texts of so many tokens, with the present weights. A cache for the model's whole context, which
        vLLM wants for one text at least, may be larger than the memory; so it is as long as the texts, and the engine
        is started again when longer ones come."""
        self.close()  # its memory first
        self.length = max(longest, min(self.model.longest, -(-longest // LENGTHS) * LENGTHS))
        more: dict[str, Any] = {"distributed_executor_backend": "external_launcher"} if processes.count() > 1 else {}
        if self.settings.adapters:
            rank = adapted(self.model, ADAPTERS).adapter_rank()
            more |= {"enable_lora": True, "max_lora_rank": next((r for r in RANKS if r >= rank), rank), "max_loras": 1}
        with tempfile.TemporaryDirectory() as folder:
            if self.settings.adapters:
                adapted(self.model, ADAPTERS).save_base(Path(folder))
            else:
                self.model.save(Path(folder))
            self.engine = self.vllm.LLM(
                model=folder,
                dtype=str(self.model.dtype).removeprefix("torch."),
                max_model_len=self.length,
                max_num_seqs=self.model.at_once,
                gpu_memory_utilization=self.settings.memory,
                enable_sleep_mode=self.settings.rests,
                enable_prefix_caching=True,  # a group's prompt is computed once
                logprobs_mode="processed_logprobs",  # of the distribution that tokens are drawn from
                trust_remote_code=self.model.trust_remote_code,
                **more,  # each process its own engine on its own GPU, where several train together
            )
        if self.settings.adapters:
            self._take_adapter()
        self.version = self.model.version()

    def _generate(
        self, prefixes: Sequence[Tokens], n: int, decoding: CompleteDecoding, seeds: Sequence[int]
    ) -> list[Generated]:
        ends = self.model.stop_ids | set(decoding.stop_tokens)
        wanted = [
            self.vllm.SamplingParams(
                n=n,
                temperature=0.0 if decoding.greedy else decoding.temperature,
                top_k=decoding.top_k,
                top_p=decoding.top_p,
                min_p=decoding.min_p,
                seed=seed % (1 << 31),
                max_tokens=decoding.max_new_tokens,
                stop=list(decoding.stop),
                stop_token_ids=sorted(ends),
                logprobs=0,  # of the chosen token alone
                detokenize=bool(decoding.stop),
                skip_special_tokens=False,
            )
            for seed in seeds
        ]
        given = [{"prompt_token_ids": list(prefix)} for prefix in prefixes]
        adapter = {"lora_request": self._adapter} if self._adapter is not None else {}
        answers = self.engine.generate(given, wanted, use_tqdm=False, **adapter)
        found = [_generated(each, ends, known=not decoding.filters) for answer in answers for each in answer.outputs]
        return [until_stop(each, decoding.stop, self.model.text) for each in found]

    def _take_weights(self) -> None:
        """Load the policy's present weights into vLLM's model, and forget the prompts it computed with former ones.
        One that rests is woken in two parts, so that its cache is not there while the weights are handed over."""
        weights = list(self.model.weights())
        if self.resting:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # what torch keeps for its next tensors is vLLM's
            self.engine.wake_up(tags=["weights"])
        self.engine.apply_model(lambda model: model.load_weights(iter(weights)) and None)
        self.engine.reset_prefix_cache()
        if self.resting:
            self.engine.wake_up(tags=["kv_cache"])
        self.version, self.resting = self.model.version(), False

    def _wake_with_adapter(self) -> None:
        """As `_take_weights`, where the base's weights come back by themselves."""
        if self.resting:
            self.engine.wake_up()
            self.resting = False
        if self.version != self.model.version():
            self._take_adapter()
            self.version = self.model.version()

    def _take_adapter(self) -> None:
        """Put the present adapter where vLLM reads it, as another one than before: what it has computed of prompts is
        kept by adapter, and the former one makes room."""
        from vllm.lora.request import LoRARequest

        if self._folder is not None:
            self._folder.cleanup()
        self._folder = tempfile.TemporaryDirectory(prefix="alignzoo-adapter-")
        adapted(self.model, ADAPTERS).save_adapter(Path(self._folder.name))
        self._handed_over += 1
        self._adapter = LoRARequest(f"policy-{self._handed_over}", self._handed_over, self._folder.name)


def _generated(output: Any, ends: frozenset[int], *, known: bool) -> Generated:
    """A completion. Of filtered distributions vLLM says how likely a token is among those that are left, which is
    another number than the forward's, and so none."""
    tokens = tuple(output.token_ids)
    logprobs = tuple(chosen[token].logprob for token, chosen in zip(tokens, output.logprobs, strict=True))
    return Generated(tokens, logprobs if known else (), bool(tokens) and tokens[-1] in ends)


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.engine("vllm", VLLM)
