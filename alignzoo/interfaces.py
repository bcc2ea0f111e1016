"""The contracts: Policy, RewardSource, Optimizer, and the small ones beside them, Sampler, Judge and Task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from alignzoo.decoding import AS_SET, CompleteDecoding, Decoding
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


@runtime_checkable
class Sampler(Protocol):
    """Brings the groups of a step: written by the policy, or taken from the data."""

    online: ClassVar[bool]
    """True when the policy writes; False when the same prompts always bring the same groups."""

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        """A group for each prompt, in order; there is a seed for each. Others to train on may follow a prompt's own.

        A call with several prompts brings what calls with one each would, as each process is given a share of them.
        Groups that come with scores are not scored again."""
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
class Chooses(Protocol):
    """A sampler that says which prompts a step uses: a curriculum, prompts by their difficulty."""

    def choose(self, prompts: Sequence[Prompt], n: int, *, seed: int) -> Sequence[int]:
        """Pure: the places of n of the stage's prompts, of which one may come more than once. `Prompt.index` is the
        place by which `next` knows a prompt again."""
        ...


@runtime_checkable
class RewardSource(Protocol):
    """Scores whole groups, so that pairwise judges and pointwise rules have one signature.

    Optional: `scores_generated: ClassVar[bool]`, True by default, says whether it can score what a policy generates;
    `collective: bool`, False by default, that it is to be asked on all processes at the same time, about no groups on
    those that have none, as one whose own model is sharded.
    """

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

    def write(self, conversations: Sequence[Text], policy: Policy | None, *, seeds: Sequence[int]) -> list[str]:
        """The next turn of each conversation, or the continuation of each text; there is a seed for each."""
        ...


@runtime_checkable
class HasCosts(Protocol):
    """A reward, sampler or judge whose work costs something."""

    def costs(self) -> Mapping[str, float]:
        """Counters since it was made, which only grow: "judge/requests", "judge/tokens", "judge/cost"."""
        ...


@runtime_checkable
class Optimizer(Protocol):
    """PPO, DPO, GRPO...: how scored groups train a policy. A frozen dataclass; its fields are its hyper-parameters.

    Optional are `prepare_reads`, the columns of the batch that `prepare` reads (all of `needs` where it is not said:
    whatever only `loss` reads may cost no pass of its own), `next`, `follow`, and the traits of
    `alignzoo.traits.Traits`: what the loss couples, what it trains, whether it is online, and more.
    """

    @property
    def needs(self) -> frozenset[str]:
        """The columns of `alignzoo.columns` that it reads; the others are None. A class attribute, or a property where
        settings decide."""
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
    """An optimizer, sampler, reward or judge with a successor for the following step; its fields are its state, and
    checkpointed."""

    def next(self, report: StepReport) -> Self: ...


@dataclass(frozen=True)
class Context:
    """Where a part is opened. All of it has a default: what is opened by hand belongs to no run."""

    stage: str = ""
    """The stage's name."""
    folder: Path | None = None
    """The part's own folder in the run's, for its files; a resumed run has the same. Who writes there makes it."""
    seed: int = 0
    """The stage's."""
    device: torch.device | None = None
    """Where the policy in training computes."""


@runtime_checkable
class Opens(Protocol):
    """A sampler, reward or judge that holds something while it works: a model, connections, processes."""

    def open(self, context: Context) -> Any:
        """Open it: `alignzoo.live_of(self)` from then on. Once a stage; if it has a method `close`, that is called
        at the stage's end, after an error, too. A successor of the part takes it over as it is."""
        ...


@runtime_checkable
class HasFollow(Protocol):
    """An optimizer with roles that move: a reference that follows the policy, a teacher that is its average."""

    def follow(self, step: int) -> Mapping[str, float]:
        """Pure: which roles take how much of the policy after this step, counted from 1, and what moves by 0 or is not
        named stays. The runner calls `Policy.follow`."""
        ...


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
class HasBest(Protocol):
    """A task whose highest gold score is known."""

    @property
    def best(self) -> float:
        """It: the upper end of the scale on which a comparison puts several tasks together."""
        ...


@runtime_checkable
class HasRates(Protocol):
    """A task that tells more of an answer than its gold score."""

    def rates(self, prompt: Prompt, completion: Completion) -> Mapping[str, float]:
        """What happened, 1 or 0 by name, and a name only where it applies: over-refusal where the request is harmless.
        Only `evaluate` asks."""
        ...
