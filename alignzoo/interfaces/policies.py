"""The contract of a policy: what it generates, answers and trains, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from alignzoo.decoding import AS_SET, CompleteDecoding, Decoding
from alignzoo.types import Batch, Completion, Forward, Group, Prompt, Text

if TYPE_CHECKING:
    from alignzoo.cost import ModelShape

ParameterGroup: TypeAlias = dict[str, Any]
"""As `torch.optim` takes it: {"params": [...], "lr_scale": float, "embedding": bool}. `lr_scale` multiplies the
schedule's rate, 1 where it is missing; `embedding` says that these are embeddings or heads, which Muon leaves to
AdamW."""

NO_ROLES: Mapping[str, Any] = MappingProxyType({})
"""No other policy beside the one that is trained."""


@dataclass(frozen=True)
class PolicyInfo:
    """What a policy tells of itself. All of it has a default, with which everything works and some of it is slower."""

    shape: ModelShape | None = None
    """The sizes of the model that answers, with its critic's; None: operations are not counted."""
    roles: Mapping[str, ModelShape] = field(default_factory=dict)
    """The sizes of roles that are other models: {"teacher": ...}; the others are like the policy."""
    tokens_per_pass: int = 0
    """Tokens that go through a forward and backward pass at once, as suits its device and its memory; 0: any number."""
    exact_samples: bool = False
    """The log-probabilities that completions carry are `forward`'s own, to float32's rounding. Otherwise an algorithm
    that reads them before its one update may cost one forward pass more."""
    collective: bool = False
    """Its passes need all processes at the same time, as those of sharded weights do."""
    fingerprint: Callable[[], str] | None = None
    """The same for references that answer the same: of their weights, and of what else an answer depends on. None:
    the reference's answers are kept for the run alone."""
    token_strings: Callable[[Sequence[int]], list[str]] | None = None
    """Each token's text; together they are the text of all, but for special tokens, which show here."""
    fits: Callable[[Prompt], bool] | None = None
    """Whether a prompt is read whole, beside the longest completion. None: no prompt is known to be cut."""
    chats: bool = False
    """It has a chat template, by which a text may be a user's turn. Otherwise a text is continued as it stands."""
    decoding: CompleteDecoding | None = None
    """How it generates where a call says nothing else, by its settings; None: it does not say."""


@runtime_checkable
class Policy(Protocol):
    """Generates completions, answers how likely each token was, and trains. `alignzoo.gradients.TorchTraining` is the
    last of the three for a policy of torch parameters. Optional: `close()`, which the runner calls at a stage's end,
    and after which a policy may be asked again.

    Where there are several processes, every method but `encode` is called on all of them in the same order.
    """

    device: torch.device

    def info(self) -> PolicyInfo:
        """What is known of it."""
        ...

    def encode(self, prompt: Prompt, texts: Sequence[Text]) -> Group:
        """Tokenise a prompt and given completions of it, each ended with the end-of-sequence token."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[Group]:
        """Generate `n` completions of each prompt, in order; there is a seed for each. What is generated depends on the
        weights, the prompt, its seed, `n` and the decoding alone: not on the other prompts of the call, nor on its
        place in it. What `decoding` leaves out is as the policy's settings, or the role's, have it."""
        ...

    def go_on(
        self, prefixes: Sequence[Sequence[int]], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[list[Completion]]:
        """Generate `n` continuations of each run of tokens: a prompt, or a prompt with a transcript that goes on, whose
        tokens stay as they are. After a prompt's own tokens it generates what `generate` does. Raises ModelError for
        a prefix that leaves no room."""
        ...

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        """Answer these columns of `alignzoo.columns`: (N, T), zero where the mask is False, or (N,) of a row."""
        ...

    def answering(self, role: str) -> AbstractContextManager[None]:
        """Inside, `forward` and `generate` are the role's: "ref", the policy as before training, or another that it
        was loaded with. Raises ModelError for a role that it does not have."""
        ...

    def follow(self, role: str, mix: float) -> None:
        """Move a role: its weights become (1-mix)·its own + mix·the policy's, so that a mix of 1 is a copy. Raises
        ModelError where that cannot be done exactly. What has moved is in `state`."""
        ...

    def parameters(self) -> list[ParameterGroup]:
        """What is trained."""
        ...

    def optimize(self, make: Callable[[list[ParameterGroup]], torch.optim.Optimizer]) -> None:
        """Begin to train: make the torch optimizer of its parameters."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradient to what is there."""
        ...

    def drop_gradients(self) -> None:
        """Forget what has been added up, for another try."""
        ...

    def step(self, lr: float, clip: float) -> float:
        """Add up all processes' gradients, clip their global norm (0: never), step, and forget them. The norm before
        clipping comes back; where it is not finite, no weight moves."""
        ...

    def state(self) -> dict[str, Tensor]:
        """The trained tensors by name, for a checkpoint, with those of roles that have moved."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        ...

    def optimizer_state(self) -> dict[str, Any]:
        """The torch optimizer's moments, for a checkpoint."""
        ...

    def restore_optimizer(self, state: Mapping[str, Any]) -> None:
        """Take back what `optimizer_state` gave."""
        ...

    def save(self, path: Path) -> None:
        """Write a model directory that others can load. Adapters are merged: the next stage's reference is this."""
        ...


@runtime_checkable
class HasGathered(Protocol):
    """A policy whose weights are sharded, and can be whole for a while: where each process generates, scores and
    answers by itself, no two of them as often."""

    def gathered(self, roles: Collection[str] = ()) -> AbstractContextManager[None]:
        """Inside, `generate`, and `forward` without a gradient, need no other process; those of these roles, too.
        Entered and left by all processes together."""
        ...


@runtime_checkable
class HasBehaviour(Protocol):
    """A policy that can be generated with in one thread while it is trained in another (`schedule.ahead`)."""

    def behaviour(self) -> Policy:
        """A copy that generates, and answers without a gradient, as the policy does now, whatever the policy becomes;
        it shares nothing that either of the two changes. Its `state` has some of the policy's tensors, and `restore` of
        these brings it up to date. Raises ModelError where there can be none."""
        ...


@runtime_checkable
class PolicySpec(Protocol):
    """A policy's settings: what a recipe's `policy` table becomes, and what plugins register."""

    def load(self, needs: frozenset[str], roles: Mapping[str, PolicySpec] = NO_ROLES) -> Policy:
        """Build the policy with what an optimizer needs of it: a critic for "values", a scoring head for "scores"; and
        frozen beside it the other policies that it names, for `answering`: {"teacher": ...}."""
        ...
