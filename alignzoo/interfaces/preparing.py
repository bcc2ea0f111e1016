"""What parts may be asked before a run: how large they will be, whether they can do their work, what they write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from alignzoo.interfaces.policies import Policy, PolicySpec
from alignzoo.requirements import brings
from alignzoo.types import Group, Prompt, Text

if TYPE_CHECKING:
    from alignzoo.cost import ModelShape


@dataclass(frozen=True)
class Outline:
    """A policy as it will be, told before its weights are loaded."""

    shape: ModelShape
    device: torch.device
    width: int
    """Bytes of a number in its computation: of activations, keys and values."""
    frozen: float
    """Bytes of a weight that is not trained."""
    tokens_per_pass: int
    """Tokens that go through a forward and backward pass at once."""
    slots: int
    """Completions written at once."""
    longest: int
    """Tokens that a completion has at most."""
    encode: Callable[[Prompt, Sequence[Text]], Group]
    """As `Policy.encode`."""
    logits: Callable[[int], int]
    """Bytes that the language-model head holds for so many answered positions."""
    trial: Callable[[int], Policy]
    """A live policy of the same sizes but with so many layers and random weights, to be timed."""
    cheaper: Callable[[], Mapping[str, Outline]] = dict
    """Other settings that take less memory, and what the policy is then."""
    exact_samples: bool = False
    """As in `PolicyInfo`."""
    copied: int = 0
    """Bytes of the copies of weights that are made while it generates."""
    kept: float = 1.0
    """The share of `cost.activation_bytes` that its forward pass keeps for the backward pass."""
    stored: int = 4
    """Bytes of a number in the model that is saved."""
    recompute: bool = False
    """Whether of each layer its input alone is kept, and the layer computed again."""


@runtime_checkable
class HasOutline(Protocol):
    """Settings, of a policy or of a reward with a model, that can be planned with before anything is loaded."""

    def outline(self, needs: frozenset[str]) -> Outline: ...


@runtime_checkable
class HasSizes(Protocol):
    """A policy's settings that know the sizes of its model from its configuration alone: no tokenizer, no data."""

    def sizes(self) -> ModelShape: ...


@dataclass(frozen=True)
class Earlier:
    """A stage whose model is not there yet, and which a part of a later stage refers to as "stage:NAME"."""

    policy: PolicySpec
    """What it trains; its own model may in turn be an earlier stage's."""
    needs: frozenset[str]
    """What its optimizer needs of the policy: with "scores" it trains a reward model, otherwise a language model."""


@dataclass(frozen=True)
class CheckContext:
    """A stage as it will begin, for its parts to be checked against before anything is trained."""

    needs: frozenset[str]
    """What its optimizer needs of the policy."""
    prompts: Sequence[Prompt]
    """All of its training prompts."""
    first: Sequence[Prompt]
    """Those of its first step."""
    online: bool
    """Whether the policy generates; otherwise the given completions of the prompts are trained on."""
    ask: bool
    """Whether a service may be asked a question, which may cost something."""
    earlier: Mapping[str, Earlier]
    """By name, the stages whose models are not there yet."""
    sampler: Any = None
    """The stage's sampler, for an optimizer that needs groups of a kind that only some samplers bring."""
    ahead: int = 0
    """How many steps are generated ahead, by a copy of the policy while it is trained (`schedule.ahead`)."""
    rewards: tuple[str, ...] = ()
    """The names of the stage's rewards, as they are the keys of `Batch.sources`."""

    def brings(self, column: str) -> bool:
        """Whether this column of `Batch.extra` comes with the sampler's groups, as its trait `brings` says, or with the
        data's rows."""
        return column in brings(self.sampler) or any(column in prompt.info for prompt in self.first)

    def sides(self, threshold: float) -> frozenset[bool]:
        """Whether labels of the data are above a threshold, below it, or both, by the first thousand prompts."""
        return frozenset(label > threshold for prompt in islice(self.prompts, 1000) for label in prompt.labels)


@runtime_checkable
class HasCheck(Protocol):
    """A part of any kind that can be checked before the first step of the first stage, without loading its weights.

    It is called for a stage's policy settings, sampler, rewards, optimizer, and for every part that these hold.
    """

    def check(self, context: CheckContext) -> None:
        """Raise an AlignzooError that says what is wrong and what to do, where the part could not do its work."""
        ...


@dataclass(frozen=True)
class DiskUse:
    """Bytes that a stage writes."""

    model: int
    """Its model directory."""
    checkpoint: int
    """One checkpoint."""


@runtime_checkable
class HasDiskUse(Protocol):
    """A policy's settings that can say how much a run will write. Without it, the disk's space is not checked."""

    def disk_use(self, context: CheckContext) -> DiskUse: ...
