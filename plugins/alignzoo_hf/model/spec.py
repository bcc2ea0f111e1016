"""The settings of policy `hf`, and how they become models."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from alignzoo.columns import answered_by
from alignzoo.engines import Engine
from alignzoo.errors import ModelError
from alignzoo.interfaces import NO_ROLES, CheckContext, DiskUse, Outline, Policy, PolicySpec

if TYPE_CHECKING:
    from alignzoo.cost import ModelShape


@dataclass(frozen=True)
class HF:
    """A causal language model of transformers: loads, writes, answers log-probabilities, trains, saves."""

    model: Any = ""
    """Directory, hub id, or in Python a live transformers model."""
    reference: str = ""
    """Directory whose policy is the reference, that of the first round say; empty: what the policy starts from."""
    tokenizer: Any = ""
    """Directory, hub id or live tokenizer, when it is not the model's own."""
    max_new_tokens: Annotated[int, Ge(1)] = 128
    """Length limit of what it writes, in tokens."""
    max_length: Annotated[int, Ge(0)] = 0
    """Limit of prompt and completion together; 0: the model's own context. Long prompts lose their beginning, long
    given completions their end."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Sampling temperature; log-probabilities are those of the tempered distribution."""
    top_k: Annotated[int, Ge(0)] = 0
    """Sample among the k most likely tokens; 0: all."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Sample among the fewest tokens whose probabilities add up to p."""
    min_p: Annotated[float, Ge(0), Le(1)] = 0.0
    """Sample among the tokens that are at least min_p times as likely as the likeliest; 0: all."""
    special_tokens: bool = False
    """Show special tokens, ends and turn markers, in the texts of completions, so that rewards see them."""
    chat_template: str = ""
    """For conversations: "chatml", "dialogue" (Human/Assistant), a Jinja file; empty: the tokenizer's own."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto: a GPU when there is one."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the computation; trained weights stay in fp32. auto: bf16 on CUDA, fp32 elsewhere."""
    save_dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of saved models; auto: the one that `model` lies in, or fp32 where rounding to it would take more than
    half of what training has changed, as it does after few steps at a small rate. The run says so, with figures."""
    deterministic: bool = False
    """Only torch's deterministic algorithms, slower on a GPU, so that a run there repeats to the bit on the same card
    and versions; on a CPU runs do in any case. An operation that has none is an error."""
    attention: str = "auto"
    """transformers' attention implementation (sdpa, eager, flash_attention_2...); auto: packed, without padding,
    where the model allows it."""
    lora_rank: Annotated[int, Ge(0)] = 0
    """Rank of a LoRA adapter; 0: train every weight."""
    lora_alpha: Annotated[float, Gt(0)] = 32.0
    """LoRA's scale is alpha / rank."""
    lora_targets: str = "all-linear"
    """Which modules get an adapter: "all-linear", names separated by commas, or a regular expression of whole names."""
    lora_rslora: bool = False
    """Scale by alpha / √rank instead, so that high ranks learn as fast (rsLoRA, arXiv:2312.03732)."""
    lora_dora: bool = False
    """Train each weight's magnitude apart from its direction (DoRA, arXiv:2402.09353); slower."""
    lora_dropout: float = 0.0
    """Nothing but 0: models stay in evaluation mode, as dropout would make each forward pass another model."""
    quantization: Literal["none", "4bit", "8bit"] = "none"
    """Hold the frozen weights beneath an adapter in 4 bits (nf4, QLoRA, arXiv:2305.14314) or 8 (LLM.int8(),
    arXiv:2208.07339), by the package bitsandbytes. The model's directory is the adapter then."""
    recompute: bool = False
    """Keep of each layer its input alone, and compute the layer again on the way back (gradient checkpointing): the
    same gradients to the bit, less memory, about a third more time."""
    critic: Literal["separate", "shared"] = "separate"
    """The critic, when an algorithm needs one: a value head on its own trunk, or on the policy's. With an adapter
    (`lora_rank`) its own trunk is another adapter on the policy's frozen weights."""
    critic_model: str = ""
    """Directory whose trunk a separate critic starts from, a reward model say; empty: the policy's own start."""
    critic_lr: Annotated[float, Gt(0)] = 1.0
    """The critic's learning rate, as a multiple of the schedule's."""
    score_label: Annotated[int, Ge(0)] = 0
    """Which output of a sequence-classification model is the score."""
    engine: Engine | str = "alignzoo"
    """What generates: a name of `alignzoo list --kind engine`, or a table with a name and its settings."""
    generate_batch: Annotated[int, Ge(1)] = 512
    """Completions written at once: the slots of the engine. It changes speed and memory, never the text."""
    shard: Literal["auto", "none", "fsdp"] = "auto"
    """Who holds weights, gradients and the torch optimizer's state where there are several processes: each of them its
    part (fsdp: torch's fully_shard), or all of them everything (none). auto: fsdp on GPUs, but for a live model, for a
    policy that only generates, and with an engine that holds a copy of its own, which need them whole. On a CPU it is
    none, since processes of one machine share its memory, and fsdp was measured to hold no less there."""
    shard_within: Annotated[int, Ge(0)] = 0
    """Processes over which one copy of the weights is spread: on several machines the GPUs of one, so that only
    gradients travel between machines (hybrid sharding, HSDP); 0: all of them."""
    trust_remote_code: bool = False
    """Run the model repository's own code."""
    runs_code: ClassVar[tuple[str, ...]] = ("trust_remote_code",)

    def __post_init__(self) -> None:
        if self.lora_dropout:
            raise ModelError(
                f"lora_dropout = {self.lora_dropout:g} is not supported: with dropout the log-probabilities before an "
                "update would be another model's, so that ratios do not start at 1 and steps do not repeat. Leave it "
                "out; against over-fitting, take fewer epochs, a smaller lora_rank, or schedule.weight_decay"
            )
        for name in ("model", "tokenizer"):
            value = getattr(self, name)
            if isinstance(value, bool | int | float | list | tuple | dict):
                raise ValueError(f"{name}: found {value!r}, expected a directory, a hub id, or in Python a live {name}")

    def unused(self) -> list[str]:
        """The settings of an adapter that are given where there is none."""
        own = [each for each in fields(self) if each.name.startswith("lora_") and each.name != "lora_rank"]
        return [] if self.lora_rank else [each.name for each in own if getattr(self, each.name) != each.default]

    def samples_exactly(self, bf16: bool) -> bool:
        """Whether what is recorded of tokens is what `forward` says: in float32, by an engine whose numbers are its
        own."""
        from alignzoo_hf.decode.engines import engine_of

        return not bf16 and engine_of(self).exact

    def load(self, needs: frozenset[str], roles: Mapping[str, PolicySpec] = NO_ROLES) -> Policy:
        """The live policy, with a critic for "values", a scoring head for "scores", a frozen model for each role."""
        from alignzoo_hf.model.policy import HFPolicy

        if self.critic_model and not answered_by(needs, "critic"):
            warnings.warn("policy.critic_model is not used: this stage's optimizer needs no critic", stacklevel=2)
        return HFPolicy(self, needs, roles)

    def outline(self, needs: frozenset[str]) -> Outline:
        """What `load` would build, without its weights."""
        from alignzoo_hf.model.outline import outline

        return outline(self, needs)

    def sizes(self) -> ModelShape:
        """The model's sizes, of which config.json is enough."""
        from alignzoo_hf.model.outline import sizes

        return sizes(self)

    def check(self, context: CheckContext) -> None:
        """Raise ModelError where `load` could not, or the tokenizer could not render the first step's prompts."""
        from alignzoo_hf.model.checks import check_policy

        check_policy(self, context)

    def disk_use(self, context: CheckContext) -> DiskUse:
        """The bytes of the model directory and of a checkpoint."""
        from alignzoo_hf.model.checks import disk_use

        return disk_use(self, context)
