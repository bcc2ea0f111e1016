"""The contracts of what works with a policy: samplers, rewards, judges, optimizers and tasks, and how they live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch

from alignzoo.interfaces.policies import Policy
from alignzoo.types import Batch, Completion, Forward, Group, Prompt, Question, Score, StepReport, Terms, Text, Verdict


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
class HasQuestions(Protocol):
    """A reward that asks a judge, and knows beforehand how often."""

    def questions(self, prompts: int, completions: int) -> int:
        """How many questions it asks about so many prompts with so many completions each, of which none are alike."""
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
