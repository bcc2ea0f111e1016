"""How long, how much and how fast: the settings of a run that belong to no algorithm."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self, TypeAlias

from annotated_types import Ge, Gt, Le, Lt

from alignzoo.decoding import Decoding

Decay: TypeAlias = Annotated[float, Ge(0), Lt(1)]
"""An exponential decay rate."""

INVERSE_SQRT = 10_000
"""Steps after which inverse_sqrt has fallen to 1/√2 where there is no warm-up to take the scale from."""


@dataclass(frozen=True)
class Steps:
    """How many steps a run takes, of what size, and in which pieces they are computed."""

    steps: Annotated[int, Ge(0)] = 0
    """Steps to take: one step samples, scores and learns from one batch of prompts. 0: as many as `epochs` says."""
    epochs: Annotated[float, Gt(0)] = 1.0
    """Passes over the training prompts; used when `steps` is 0."""
    max_steps: Annotated[int, Ge(0)] = 0
    """Steps at most, where `epochs` would be more of them; 0: no limit."""
    prompts: Annotated[int, Ge(1), Le(2**20)] = 32
    """Prompts (groups) per step."""
    minibatch: Annotated[int, Ge(0)] = 0
    """Groups per update of the weights; 0: the whole step's batch."""
    micro_batch: Annotated[int, Ge(0)] = 0
    """Rows per forward and backward pass at most, to bound memory; it changes nothing else. 0: any number."""
    micro_tokens: Annotated[int, Ge(0)] = 0
    """Tokens per forward and backward pass at most, a group's prompt counted once; it changes nothing else. A group
    larger than that stays whole where its rows are compared. 0: what suits the policy's device and its free memory.
    Where memory does not suffice, half as many are tried."""

    def total(self, n_prompts: int) -> int:
        """The number of steps for so many training prompts."""
        if self.steps:
            return self.steps
        passes = max(1, math.ceil(self.epochs * n_prompts / self.prompts))
        return min(passes, self.max_steps or passes)


@dataclass(frozen=True)
class LearningRate:
    """How fast the weights move: the peak rate, its warm-up and its decay."""

    lr: Annotated[float, Ge(0)] = 1e-5
    """Peak learning rate."""
    warmup: Annotated[float, Ge(0)] = 0.0
    """Linear warm-up: a share of the steps below 1, a number of steps from 1 on."""
    decay: Literal["constant", "linear", "cosine", "polynomial", "inverse_sqrt", "wsd"] = "constant"
    """How the learning rate falls after the warm-up; wsd (warmup-stable-decay): not until the last `decay_steps`, then
    as cosine."""
    final_lr: Annotated[float, Ge(0), Le(1)] = 0.0
    """Where the decay ends, as a share of `lr`; inverse_sqrt does not fall below it."""
    decay_steps: Annotated[float, Gt(0)] = 0.1
    """How long wsd decays: a share of the steps below 1, a number of steps from 1 on."""
    decay_power: Annotated[float, Gt(0)] = 1.0
    """The power of a polynomial decay; 1 is linear."""

    def rate(self, step: int, total: int) -> float:
        """The learning rate of step 0, 1, ... of `total`: a pure function, so that nothing needs saving.

        After the warm-up it is that of transformers' schedulers of the same names. In the warm-up it is one step
        ahead of theirs, whose first step has the rate 0 and teaches nothing.
        """
        warm = steps_of(self.warmup, total)
        if step < warm:
            return self.lr * (step + 1) / (warm + 1)
        if self.decay == "inverse_sqrt":
            scale = warm or INVERSE_SQRT
            return self.lr * max(self.final_lr, math.sqrt(scale / (step - warm + scale)))
        return self.lr * (self.final_lr + (1 - self.final_lr) * self._left(step, warm, total))

    def _left(self, step: int, warm: float, total: int) -> float:
        """What is left of the way from the peak to the end, from 1 to 0."""
        start = warm if self.decay != "wsd" else max(warm, total - steps_of(self.decay_steps, total))
        progress = min(1.0, max(0.0, step - start) / max(1.0, total - start))
        match self.decay:
            case "constant":
                return 1.0
            case "linear":
                return 1 - progress
            case "polynomial":
                return float((1 - progress) ** self.decay_power)
            case _:
                return 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class TorchOptimizer(LearningRate):
    """What turns gradients into updates of the weights."""

    optimizer: Literal["adamw", "sgd", "adafactor", "muon", "adamw8bit"] = "adamw"
    """The torch optimizer: adamw; sgd; adafactor; muon, for matrices, at AdamW's rates, and AdamW for the rest; or
    adamw8bit, whose moments take a quarter of AdamW's memory, by the package bitsandbytes."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """AdamW's exponential decay rates."""
    eps: Annotated[float, Gt(0)] = 1e-8
    """What AdamW adds to the root of its second moment."""
    momentum: Decay = 0.95
    """Momentum of muon and of sgd; 0: sgd keeps nothing from step to step."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled weight decay; of sgd it is added to the gradient."""
    max_grad_norm: Annotated[float, Ge(0)] = 1.0
    """Gradients are scaled down to this global norm; 0: never."""


@dataclass(frozen=True)
class OffPolicy:
    """How completions are used that another engine, or an earlier policy, generated."""

    importance_cap: Annotated[float, Ge(0)] = 0.0
    """Each token's term counts min(π/μ, this) times, π by the training forward and μ as recorded when the token was
    sampled: for engines whose numbers differ from the forward's, and for completions of an earlier policy. 2 is usual;
    0: every token counts once."""
    importance_mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "token_truncate"
    """What `importance_cap` does: each token has a weight of its own, or all tokens of a completion the product of
    theirs; a larger weight is cut to the cap (truncate), or does not count at all (mask)."""
    ahead: Annotated[int, Ge(0)] = 0
    """Generate and score the completions of so many steps ahead, by a copy of the policy in a thread of its own, while
    a step trains: they are by the policy of so many steps ago. 0: each step's are by the present one."""
    max_staleness: Annotated[int, Ge(0)] = 0
    """Leave out completions that a policy of more than so many steps ago generated, and count them; 0: leave out
    none."""


@dataclass(frozen=True)
class Recording:
    """When a run evaluates, measures, and writes checkpoints and samples."""

    eval_every: Annotated[int, Ge(0)] = 0
    """Evaluate on held-out prompts every so many steps, besides before and after; 0: only then."""
    evaluations: Annotated[int, Ge(0)] = 0
    """Evaluate so many times on the way, evenly spaced by steps, or by the budget where there is one; besides
    `eval_every`."""
    kl_every: Annotated[int, Ge(0)] = 1
    """Measure the KL to the reference every so many steps, and where samples are kept, though the algorithm does
    without the reference: a forward pass more. 0: only in evaluations."""
    samples_every: Annotated[int, Ge(0)] = 10
    """Write what was sampled to samples.jsonl every so many steps, and at the last; 0: never."""
    save_every: Annotated[int, Ge(0)] = 25
    """Write a checkpoint every so many steps; 0: only when interrupted, or by `save_minutes`."""
    save_minutes: Annotated[float, Ge(0)] = 10.0
    """Also write one where the last was so many minutes ago; 0: not."""
    keep: Annotated[int, Ge(1)] = 2
    """How many checkpoints to keep."""
    keep_checkpoints: bool = False
    """Keep them when the stage has finished; else they are deleted once its model and result are on disk. A stage that
    stopped early keeps its last one in any case."""

    def measures_kl(self, step: int) -> bool:
        """Whether the KL to the reference is measured in step 1, 2, ..., whoever needs it."""
        return bool(self.kl_every) and step % self.kl_every == 0


AT_KL = "the KL reached"
"""How the reason begins why a run ended at its KL."""


@dataclass(frozen=True)
class Stopping:
    """What ends a run before its steps are taken, besides a budget."""

    kl_stop: Annotated[float, Ge(0)] = 0.0
    """Stop once the KL to the reference, in nats per sequence, reaches this in a step that measures it, or in an
    evaluation on the way: a method that learns from given answers generates in evaluations alone. 0: never."""
    reward_stop: float | None = None
    """Stop once the mean reward of a step reaches this; none: never."""
    stop_on: tuple[str, ...] = ()
    """Stop once an observer warns of one of these kinds: "divergence", "kl", ...; "any": of whichever comes first."""


BUDGETS = ("budget_tokens", "budget_flops", "budget_seconds")
"""The settings of `Budget`."""


@dataclass(frozen=True)
class Budget:
    """What a run may spend, in place of a number of steps."""

    budget_tokens: Annotated[float, Ge(0)] = 0.0
    """Train until about so many tokens have been generated and trained on, by earlier stages of the run, too. A budget
    stands in for `steps` and `epochs`: the run ends with the step that comes nearest to it. Of rounds it is what all of
    them may spend, and round k of n ends at k/n of it. 0: no such budget."""
    budget_flops: Annotated[float, Ge(0)] = 0.0
    """The same in floating-point operations of the policy, forward and backward. 0: no such budget."""
    budget_seconds: Annotated[float, Ge(0)] = 0.0
    """The same in seconds of sampling, scoring and updating; the one budget by which runs do not repeat exactly. 0: no
    such budget."""

    @property
    def has_budget(self) -> bool:
        """Whether what is spent says when to stop."""
        return any(getattr(self, name) for name in BUDGETS)

    def up_to(self, share: float) -> Self:
        """The same with so much of the budget."""
        return replace(self, **{name: share * getattr(self, name) for name in BUDGETS})


@dataclass(frozen=True)
class Schedule(Stopping, Budget, Recording, OffPolicy, TorchOptimizer, Steps):  # a dataclass has its last base first
    """How long, how much and how fast a stage trains, and when it evaluates, saves and stops."""


def steps_of(amount: float, total: int) -> float:
    """A number of steps, that may be given as a share of them all."""
    return amount if amount >= 1 else amount * total


@dataclass(frozen=True)
class Evaluation:
    """How held-out prompts measure a policy: the same for every method."""

    prompts: Annotated[int, Ge(0)] | Literal["auto"] = "auto"
    """Held-out prompts, the first so many; 0: no evaluation. auto: at most 64 to answer and 256 given ones to read, and
    so few that all evaluations together generate, and read, half as many completions as the run trains on; 8 at
    least."""
    n: Annotated[int, Ge(1)] = 1
    """Sampled completions of each."""
    decoding: Decoding | None = None
    """How they are generated, where it is otherwise than in training: {"temperature": 0.7}."""
    greedy: bool = True
    """Also write one greedy completion of each: sampling alone hides what mere sharpening gains."""
    reward: bool = True
    """Score the answers with the reward, too."""
    best_of: Annotated[int, Ge(0)] = 0
    """Before training, also the best of so many samples by the reward, as a baseline without training; 0: not."""
    seed: int = 1234
    """Seed of the evaluation's sampling: the same for every method, so that comparisons are paired."""

    @property
    def most(self) -> int | None:
        """The number of prompts; None where it has been left to the run, which has chosen them."""
        return None if self.prompts == "auto" else self.prompts
