"""What a run has spent: tokens, floating-point operations, seconds; and how far along its budget that is.

Counted alike for every method, from the groups and batches of each step. Tokens are those that were sampled and those
that went through an update, prompts included, once for each epoch. Operations are `alignzoo.cost`'s, of the policy's
own model: writing, the columns filled before the update (the reference's also where they are remembered from an
earlier pass), the update's forward and backward passes. A reward model's own work is not among them, nor is evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alignzoo import columns, cost, processes
from alignzoo.errors import RunError
from alignzoo.evaluation.answers import Figures
from alignzoo.interfaces import Policy
from alignzoo.schedule import Schedule
from alignzoo.training.journal import Journal
from alignzoo.training.passes import Pass
from alignzoo.types import Batch, Group


@dataclass(frozen=True)
class Spent:
    """In each currency."""

    tokens: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.tokens + other.tokens, self.flops + other.flops, self.seconds + other.seconds)

    def __mul__(self, times: float) -> Spent:
        return Spent(self.tokens * times, self.flops * times, self.seconds * times)


def check(schedule: Schedule, policy: Policy) -> None:
    """Raise RunError for a budget that no step would spend any of."""
    if schedule.budget_flops and policy.info().shape is None:
        raise RunError(
            f"schedule.budget_flops is {schedule.budget_flops:g}, but {type(policy).__name__} does not tell the sizes "
            "of its model (PolicyInfo.shape), so that its operations cannot be counted and the run would never end: "
            "set schedule.steps, budget_tokens or budget_seconds instead"
        )


def spent_in(metrics: Mapping[str, float]) -> Spent:
    """By one step, from its figures. What is generated ahead takes the time for which the step waits."""
    beside = ("seconds/sample", "seconds/score") if "seconds/wait" in metrics else ()
    return Spent(
        sum(metrics.get(name, 0.0) for name in ("tokens/generated", "tokens/trained")),
        sum(metrics.get(name, 0.0) for name in ("flops/forward", "flops/backward")),
        sum(value for name, value in metrics.items() if name.startswith("seconds/") and name not in beside),
    )


@dataclass
class Meter:
    """How far a stage has come: by its steps, or by its budget where it has one."""

    schedule: Schedule
    planned: int
    """Its steps, where there is no budget."""
    earlier: Spent = field(default_factory=Spent)
    """What the run's earlier stages have spent: it counts, too."""
    own: Spent = field(default_factory=Spent)
    last: Spent = field(default_factory=Spent)
    """By the latest step."""
    step: int = 0

    @classmethod
    def read(cls, schedule: Schedule, planned: int, journal: Journal) -> Meter:
        """Where the run's files say that it stands; what a resumed stage will do again is no longer in them."""
        mine = _lines(journal, journal.stage)
        everyone = sum(_lines(journal, None), Spent())
        own = sum(mine, Spent())
        earlier = everyone + own * -1
        return cls(schedule, planned, earlier, own, mine[-1] if mine else Spent(), len(mine))

    def add(self, metrics: Mapping[str, float]) -> None:
        """A step is finished. All processes take the first one's clock."""
        self.last = spent_in(metrics)
        if self.schedule.budget_seconds:
            seconds = processes.gather([self.last.seconds])[0]
            self.last = Spent(self.last.tokens, self.last.flops, seconds)
        self.own, self.step = self.own + self.last, self.step + 1

    @property
    def share(self) -> float:
        """The share of the run that is done, 0 to 1 or a little more."""
        return self._share(self.own)

    @property
    def total(self) -> int:
        """How many steps there will be, as far as can be told: by a budget, from what the steps so far have cost."""
        if not self.schedule.has_budget or not self.step:
            return self.planned
        return max(self.step, round(self.step / self.share)) if self.share else self.planned

    @property
    def over(self) -> str:
        """Why to stop: the budget is nearer to what is spent now than to what one more step like the last would make
        it. Empty to go on."""
        if not self.schedule.has_budget or self._share(self.own + self.last * 0.5) < 1:
            return ""
        spent = self.earlier + self.own
        told = [f"{getattr(spent, name):.4g} of {amount:.4g} {name}" for name, amount in self._budgets()]
        return f"its budget is spent ({', '.join(told)})"

    def due(self, before: float) -> bool:
        """Whether one of `schedule.evaluations` falls between a former share and now, and not at the end."""
        parts = self.schedule.evaluations + 1
        return self.share < 1 and math.floor(self.share * parts) > math.floor(before * parts)

    def _share(self, own: Spent) -> float:
        if not self.schedule.has_budget:
            return self.step / self.planned if self.planned else 1.0
        left = [(getattr(own, name), amount - getattr(self.earlier, name)) for name, amount in self._budgets()]
        return max(mine / amount if amount > 0 else math.inf for mine, amount in left)

    def _budgets(self) -> list[tuple[str, float]]:
        every = ((name, getattr(self.schedule, f"budget_{name}")) for name in ("tokens", "flops", "seconds"))
        return [(name, amount) for name, amount in every if amount]


def _lines(journal: Journal, stage: str | None) -> list[Spent]:
    """What each step has spent, of one stage or of all."""
    metrics, seconds = (journal.read_all(file) for file in ("metrics", "seconds"))
    clock = {(line["stage"], line["step"]): line for line in seconds}
    lines = [line for line in metrics if stage in (None, line["stage"])]
    return [spent_in(line | clock.get((line["stage"], line["step"]), {})) for line in lines]


def work(
    policy: Policy,
    groups: Sequence[Group],
    batch: Batch,
    prepared: Batch,
    plan: Sequence[Pass],
    *,
    epochs: int,
    step: int,
) -> Figures:
    """The operations of the step with this number, the first being 1, by the passes of its plan: `flops/forward` and
    `flops/backward`; nothing for a policy that does not tell its shape."""
    info = policy.info()
    if info.shape is None:
        return {}
    forward = cost.decode(info.shape, cost.writing_groups(groups, step))
    backward = 0
    filled, trained = cost.reading_batch(batch), cost.reading_batch(prepared) * epochs
    for each in plan:
        shape = info.roles.get(each.role, info.shape)
        if each.role and each.computed:
            forward += cost.forward(shape, filled, each.answers)
        elif not each.role and len(prepared):
            forward += cost.forward(shape, trained, each.answers)
            for role in columns.compared(each.answers):
                forward += cost.forward(info.roles.get(role, shape), trained)
            backward += cost.backward(shape, trained, each.answers)
    return {"flops/forward": float(forward), "flops/backward": float(backward)}
