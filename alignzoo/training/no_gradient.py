"""Steps that gave no gradient: which they are, why, and what to do. Each is counted, the first is told, and a run of
nothing but such steps ends in an error before its model is saved."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from alignzoo.errors import RunError
from alignzoo.interfaces import Optimizer
from alignzoo.training.stage import Run
from alignzoo.traits import traits_of
from alignzoo.types import Alert, Group

FIRST, STALLED = "no-gradient", "stalled"
"""The kinds of alert: of the first step without a gradient, and of the third in a row."""

IN_A_ROW = 3
"""From how many steps without a gradient on a run is said to have stalled."""

LONGEST = 200
"""Characters of a reward's note, at most, that are told."""

ROUNDING = 1e-4
"""A gradient's norm at most, where no group has completions to compare: what rounding leaves of terms that cancel, or
of a KL of 0. Training clips norms to about 1."""


@dataclass(frozen=True)
class Step:
    """The figures by which the cause is found."""

    groups: int
    """Groups that the step could learn from."""
    completions: int
    """All of theirs."""
    scored: int
    """Completions that have a score, and at least one token."""
    rows: int
    """Completions that the optimizer kept."""
    compared: bool
    """Some group has two scored completions."""
    tied: float
    """The share of those groups whose rewards are all equal."""
    identical: float
    """The share of those groups whose rewards differ but whose completions are, token by token, the same."""
    mean: float
    """The mean reward."""
    spread: float
    """The standard deviation of the rewards, over all completions."""
    norm: float
    """The gradient's norm; 0 where there was no update."""
    least: int
    """How many completions of a prompt the optimizer compares at least."""
    online: bool
    """The completions were generated in this run."""
    converged: bool
    """Steps before had a gradient, and none had a higher mean reward."""
    stale: int = 0
    """Completions that `schedule.max_staleness` has left out."""
    weight: float = 1.0
    """The mean importance weight of a token."""

    @property
    def uncompared(self) -> bool:
        """The optimizer compares completions of a prompt, and nowhere is there anything to compare."""
        return self.least > 1 and (not self.compared or self.tied + self.identical >= 1)

    @property
    def without_gradient(self) -> bool:
        """Nothing was trained on, or its gradient is 0; within rounding where nothing could be compared."""
        return not self.rows or self.norm == 0 or (self.uncompared and self.norm <= ROUNDING)


@dataclass(frozen=True)
class Cause:
    """Why a step gave no gradient; `found` and the fixes are filled in from the step's figures."""

    name: str
    applies: Callable[[Step], bool]
    found: str
    online: str
    """What to do where the completions were generated."""
    offline: str
    """What to do where they came with the data."""

    def message(self, step: Step) -> str:
        """What was found, and what to do, in two sentences."""
        fix = self.online if step.online else self.offline
        return f"{self.found}. {fix[0].upper()}{fix[1:]}.".format(**asdict(step))


REWARD = "call the reward on one answer by hand, and see that it reads the answer as the model gives it"
MORE_VARIED = "sample at a higher temperature, and raise policy.max_new_tokens if answers are cut before they differ"
DISTINCT = "look for rows whose answers are equal, and raise policy.max_length if answers are cut before they differ"

CAUSES = (
    Cause(
        "no-groups",
        lambda s: not s.groups,
        "the sampler kept none of the groups that it sampled",
        "take prompts on which rewards differ, raise sampler.n, or let it try more often",
        "look at what the sampler drops",
    ),
    Cause(
        "stale",
        lambda s: not s.rows and 0 < s.scored <= s.stale,
        "all {stale} scored completions are by a policy of more steps ago than schedule.max_staleness allows",
        "raise it, or let the sampler bring newer ones",
        "raise it, or set it to 0",
    ),
    Cause(
        "not-scored",
        lambda s: not s.scored,
        "none of the {completions} completions has a score (the reward abstained from it, or it has no tokens)",
        REWARD + "; a reward that scores only the data's own answers abstains from what a policy generates",
        "give every row answers and labels, and raise policy.max_length if answers are cut to nothing",
    ),
    Cause(
        "one-completion",
        lambda s: s.least > 1 and not s.compared and s.completions <= s.groups,
        "each of the {groups} prompts has one completion, and the algorithm compares at least {least} of a prompt",
        "set sampler.n={least} or more",
        "give data with at least {least} answers to a prompt: chosen and rejected, or a ranking",
    ),
    Cause(
        "one-scored",
        lambda s: s.least > 1 and not s.compared,
        "no prompt has two scored completions ({scored} of {completions} are scored), and the algorithm compares at "
        "least {least} of a prompt",
        "raise sampler.n, or give a reward that abstains less often",
        "give every answer a label",
    ),
    Cause(
        "converged",
        lambda s: s.converged and s.compared and s.tied >= 1,
        "in each of the {groups} groups all rewards are equal, and their mean, {mean:.6g}, is the best so far",
        "if it cannot rise any more the run has converged: end it by schedule.reward_stop, or give harder prompts",
        "if it cannot rise any more the run has converged: take fewer schedule.steps",
    ),
    Cause(
        "constant",
        lambda s: s.online and s.scored > 1 and s.spread == 0,
        "all {scored} completions got the same reward, {mean:.6g}",
        REWARD + "; if it does, take easier prompts, a reward that gives part marks, or a larger sampler.n",
        "give labels that differ",
    ),
    Cause(
        "tied",
        lambda s: s.compared and s.tied >= 1,
        "in each of the {groups} groups all completions have the same reward (the mean is {mean:.6g}), so that none is "
        "preferred",
        "take a reward that tells the answers to a prompt apart, or a larger sampler.n",
        "give labels that differ within a row: the better answer the higher one",
    ),
    Cause(
        "identical",
        lambda s: s.compared and s.identical >= 1,
        "in each of the {groups} groups the completions are the same, token by token, so that none can be preferred",
        MORE_VARIED,
        DISTINCT,
    ),
    Cause(
        "tied-or-identical",
        lambda s: s.compared and s.tied + s.identical >= 1,
        "in {tied:.0%} of the {groups} groups all completions have the same reward, and in {identical:.0%} they are "
        "the same, token by token, so that none can be preferred",
        MORE_VARIED,
        DISTINCT,
    ),
    Cause(
        "no-rows",
        lambda s: not s.rows,
        "the optimizer kept none of the {scored} scored completions",
        "see what its prepare() drops, and give it groups that it keeps",
        "see what its prepare() drops, and give it rows that it keeps",
    ),
    Cause(
        "masked",
        lambda s: s.weight == 0,
        "every importance weight is above schedule.importance_cap, so that schedule.importance_mode leaves all out",
        "raise the cap, or take token_truncate, which cuts weights to it",
        "raise the cap, or take token_truncate, which cuts weights to it",
    ),
    Cause(
        "zero",
        lambda s: True,
        "the loss of {rows} completions has a gradient of exactly 0",
        "all weights or advantages are 0, or the loss does not depend on what is trained",
        "all weights are 0, or the loss does not depend on what is trained",
    ),
)
"""In this order: the first that applies is told."""


def cause(step: Step) -> Cause:
    """Why a step gave no gradient."""
    return next(each for each in CAUSES if each.applies(step))


def step_of(metrics: Mapping[str, float], optimizer: Optimizer, *, online: bool, converged: bool = False) -> Step:
    """A step by its metrics."""
    completions = int(metrics.get("completions", 0))
    return Step(
        groups=int(metrics.get("groups", 0)),
        completions=completions,
        scored=completions - int(metrics.get("reward/abstained", 0)),
        rows=int(metrics.get("rows", 0)),
        compared="groups/tied" in metrics,
        tied=metrics.get("groups/tied", 0.0),
        identical=metrics.get("groups/identical", 0.0),
        mean=metrics.get("reward/mean", math.nan),
        spread=metrics.get("reward/std", math.nan),
        norm=metrics.get("grad_norm", 0.0),
        least=traits_of(optimizer).completions,
        online=online,
        converged=converged,
        stale=int(metrics.get("staleness/dropped", 0)),
        weight=metrics.get("importance", 1.0),
    )


def counted(metrics: Mapping[str, float], optimizer: Optimizer, *, online: bool) -> dict[str, float]:
    """The metric `no_gradient`: 1 for a step that gave none, else 0."""
    return {"no_gradient": float(step_of(metrics, optimizer, online=online).without_gradient)}


def noted(groups: Sequence[Group]) -> str:
    """The reward's note on the first completion that it gave no score, as a sentence; nothing without one."""
    scores = (score for group in groups for score in group.scores or ())
    note = next((score.note for score in scores if score.value is None and score.note), "")
    return f" Of the first the reward notes: {textwrap.shorten(note, LONGEST)}." if note else ""


@dataclass
class Watch:
    """The steps of a stage so far."""

    name: str
    optimizer: Optimizer
    online: bool
    steps: int = 0
    without: int = 0
    """Steps without a gradient, ..."""
    in_a_row: int = 0
    """... up to the latest, without one that has a gradient in between."""
    untaught: int = 0
    """Steps, from the first on, without a gradient but that of the KL, which is 0 where training starts."""
    best: float = -math.inf
    """The highest mean reward of a step."""
    why: str = ""
    """What was found in the latest step without a gradient."""
    told: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, stage: Run, start: int) -> Watch:
        """The steps that a resumed run has in its journal."""
        watch = cls(stage.name, stage.optimizer, stage.sampler.online)
        for line in stage.journal.read("metrics") if start else ():
            watch.see(line)
        return watch

    def see(self, metrics: Mapping[str, float], groups: Sequence[Group] = ()) -> list[Alert]:
        """Count a step of these groups; what is to be told of it."""
        reward = metrics.get("reward/mean", -math.inf)
        converged = self.without < self.steps and reward >= self.best
        step = step_of(metrics, self.optimizer, online=self.online, converged=converged)
        empty = step.without_gradient
        if self.untaught == self.steps and (empty or (self.steps and step.uncompared)):
            self.untaught += 1
        self.steps, self.without = self.steps + 1, self.without + empty
        self.in_a_row = self.in_a_row + 1 if empty else 0
        self.best = max(self.best, reward)
        if not empty:
            return []
        self.why = cause(step).message(step) + (noted(groups) if not step.scored else "")
        figures = {"steps": float(self.steps), "no_gradient": float(self.without), "grad_norm": step.norm}
        said = {FIRST: f"the step gave no gradient, because {self.why}"}
        if self.in_a_row == IN_A_ROW:
            said[STALLED] = f"{IN_A_ROW} steps in a row gave no gradient, the last because {self.why}"
        new = {kind: message for kind, message in said.items() if kind not in self.told}
        self.told |= new.keys()
        return [Alert(kind, message, figures) for kind, message in new.items()]

    def check(self) -> None:
        """Raise RunError where no step has taught anything."""
        if self.steps and self.untaught == self.steps:
            steps = "its one step" if self.steps == 1 else f"none of its {self.steps} steps"
            raise RunError(
                f"{self.name}: nothing was learnt, so no model is saved: {steps} gave "
                f"{'no' if self.steps == 1 else 'a'} gradient, because {self.why}"
            )
