"""The contracts: Policy, RewardSource, Optimizer, and the small ones beside them, Sampler, Judge and Task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from alignzoo.types import (
    Batch,
    Completion,
    Forward,
    Group,
    Prompt,
    Question,
    Score,
    StepReport,
    Terms,
    Text,
    Verdict,
)

if TYPE_CHECKING:
    from alignzoo.cost import ModelShape

ParameterGroup: TypeAlias = dict[str, Any]
"""As `torch.optim` takes it: {"params": [...], "lr_scale": float}; `lr_scale` multiplies the schedule's rate."""

COLUMNS = frozenset({"logprobs", "entropy", "values", "scores", "old_logprobs", "ref_logprobs", "old_values"})
"""Everything an optimizer can need. The first four are answered by `Policy.forward` with gradient; the last three
are filled into the batch before `prepare`."""


@runtime_checkable
class Policy(Protocol):
    """Writes completions, and says how likely each token was."""

    device: torch.device

    def encode(self, prompt: Prompt, texts: Sequence[Text]) -> Group:
        """Tokenise a prompt and given completions of it, each ended with the end-of-sequence token."""
        ...

    def generate(self, prompts: Sequence[Prompt], n: int, *, seed: int, greedy: bool = False) -> list[Group]:
        """Write `n` completions of each prompt. The same seed and weights write the same text."""
        ...

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        """Answer the columns asked for, of "logprobs", "entropy", "values", "scores"; zero where the mask is False."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """Inside, `forward` answers as before training."""
        ...

    def parameters(self) -> list[ParameterGroup]:
        """What is trained."""
        ...

    def state(self) -> dict[str, Tensor]:
        """The trained tensors by name, for a checkpoint."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        ...

    def save(self, path: Path) -> None:
        """Write a model directory that others can load. Adapters are merged: the next stage's reference is this."""
        ...


@runtime_checkable
class HasRoom(Protocol):
    """A policy that knows how much goes through it at once. Without it, micro-batches are whole minibatches."""

    def room(self) -> int:
        """Tokens per forward and backward pass that suit its device and its memory; 0: as many as there are."""
        ...


@runtime_checkable
class HasExactSamples(Protocol):
    """A policy that can say whether it records what `forward` answers. Without it, an algorithm that reads the
    log-probabilities before its one update may cost one forward pass more."""

    def samples_exactly(self) -> bool:
        """Whether the log-probabilities that completions carry are `forward`'s own, to float32's rounding."""
        ...


@runtime_checkable
class HasFingerprint(Protocol):
    """A policy whose reference is known again. Without it, the reference's answers are kept for the run alone."""

    def fingerprint(self) -> str:
        """The same for references that answer the same: of their weights, and of what else an answer depends on."""
        ...


@runtime_checkable
class HasShape(Protocol):
    """A policy that can say what its passes cost. Without it, operations are not counted."""

    def shape(self) -> ModelShape:
        """The sizes of the model that answers, with its critic's."""
        ...


@runtime_checkable
class HasPieces(Protocol):
    """A policy that can say what each of its tokens is as text."""

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Each token's text; together they are the text of all, but for special tokens, which show here."""
        ...


@runtime_checkable
class PolicySpec(Protocol):
    """A policy's settings: what a recipe's `policy` table becomes, and what plugins register."""

    def load(self, needs: frozenset[str]) -> Policy:
        """Build the policy with what an optimizer needs of it: a critic for "values", a scoring head for "scores"."""
        ...


@dataclass(frozen=True)
class Outline:
    """A policy as it will be, told before its weights are loaded."""

    shape: ModelShape
    device: torch.device
    width: int
    """Bytes of a number in its computation: of activations, keys and values."""
    frozen: int
    """Bytes of a weight that is not trained."""
    room: int
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
    kept: float = 1.0
    """Of `cost.activation_bytes`, what its forward pass keeps for the backward pass."""


@runtime_checkable
class HasOutline(Protocol):
    """Settings, of a policy or of a reward with a model, that can be planned with before anything is loaded."""

    def outline(self, needs: frozenset[str]) -> Outline: ...


@runtime_checkable
class Sampler(Protocol):
    """Brings the groups of a step: written by the policy, or taken from the data."""

    online: ClassVar[bool]
    """True when the policy writes; False when the same prompts always bring the same groups."""

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seed: int) -> list[Group]:
        """A group for each prompt, and any others to learn from. Groups that come with scores are not scored again."""
        ...


@runtime_checkable
class Selects(Protocol):
    """A sampler that looks at the scores before they are learnt from: rejection, filtering, dynamic sampling."""

    @property
    def attempts(self) -> int:
        """How often a step may ask, 1 or more: again, with other prompts, for as many groups as were not selected."""
        ...

    def select(self, groups: Sequence[Group]) -> list[Group]:
        """Pure: which of these scored groups to learn from, whole or with some of their completions."""
        ...


@runtime_checkable
class RewardSource(Protocol):
    """Scores whole groups, so that pairwise judges and pointwise rules have one signature."""

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        """One tuple per group, one score per completion, in order."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Says how good one answer is, or which of two is better: a model behind an endpoint, a policy, a program.

    A reward that asks a judge has it as a field, annotated `Judge`; a recipe gives that field as a table with a name.
    """

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        """One verdict per question, in order. What cannot be answered is an error verdict, not an exception."""
        ...


@runtime_checkable
class Writer(Protocol):
    """A judge that can also write text of its own: a critique, a revision."""

    def write(self, conversations: Sequence[Text], policy: Policy | None, *, seed: int) -> list[str]:
        """The next turn of each conversation, or the continuation of each text."""
        ...


@runtime_checkable
class HasCosts(Protocol):
    """A reward, sampler or judge whose work costs something."""

    def costs(self) -> Mapping[str, float]:
        """Counters since it was made, which only grow: "judge/requests", "judge/tokens", "judge/cost"."""
        ...


@runtime_checkable
class Optimizer(Protocol):
    """PPO, DPO, GRPO...: how scored groups move a policy. A frozen dataclass; its fields are its hyper-parameters.

    `torch.optim`'s optimizer is another thing and is always called `adamw` in this code.

    Optional: `couples: ClassVar[str]` says what the loss may not be split through ("row", "group" by default, or
    "minibatch" for losses that sort or rank a batch). `next(self, report) -> Self` returns the successor for the
    following step (adaptive KL, moving baselines); its fields are its state and are checkpointed.
    `kl_weight: ClassVar[str]` names the field that weighs the KL to the reference: what `compare --frontier` varies.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Which of `COLUMNS` it reads; the others are None. A class attribute, or a property where settings decide."""
        ...

    @property
    def epochs(self) -> int:
        """Passes over each batch of groups."""
        ...

    def prepare(self, batch: Batch) -> Batch:
        """No gradient: select rows, credit them, weigh them. Sees the step's whole batch."""
        ...

    def loss(self, batch: Batch, out: Forward) -> Terms:
        """Pure: what each token (N, T) or row (N,) costs."""
        ...


@runtime_checkable
class HasNext(Protocol):
    """An optimizer or a sampler with a successor for the following step; its fields are its state, and checkpointed."""

    def next(self, report: StepReport) -> Self: ...


@runtime_checkable
class Task(Protocol):
    """A named bundle to compare on: data, a starting policy, a reward, and a gold score that training never sees."""

    @property
    def policy(self) -> str:
        """The model directory that single-stage recipes start from."""
        ...

    @property
    def base(self) -> str:
        """The model directory before any fine-tuning."""
        ...

    @property
    def reward(self) -> Sequence[Mapping[str, Any]]:
        """The task's reward, as a recipe's `reward` tables."""
        ...

    def data(self, kind: str, split: str) -> list[Prompt]:
        """Kind "prompts", "demonstrations" or "comparisons"; split "train" or "heldout", which share no prompt."""
        ...

    def gold(self, prompt: Prompt, completion: Completion) -> float:
        """The hidden truth. Only `evaluate` asks."""
        ...


@runtime_checkable
class HasRates(Protocol):
    """A task that tells more of an answer than its gold score."""

    def rates(self, prompt: Prompt, completion: Completion) -> Mapping[str, float]:
        """What happened, 1 or 0 by name, and a name only where it applies: over-refusal where the request is harmless.
        Only `evaluate` asks."""
        ...
