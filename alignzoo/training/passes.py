"""Which forward passes a step runs, and a step's batch with the columns that they fill.

`passes` is the one answer to the first: the loop, the budget, the plan and the cards read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from alignzoo import columns, processes
from alignzoo.batching import fill, only, trim
from alignzoo.interfaces import Optimizer, Policy
from alignzoo.microbatch import MicroBatcher, MicroBatchTooLarge
from alignzoo.schedule import Steps
from alignzoo.training.reference_cache import Remembered
from alignzoo.training.update import NONE, Deferred, Updated, asked, before_update
from alignzoo.traits import prepare_reads
from alignzoo.types import Batch, Group

STALENESS = frozenset({"old_logprobs"})
"""What is measured by it: how far an earlier policy, which generated, is from the present one."""

WATCHED = STALENESS | {"ref_logprobs"}
"""What the KL to the reference is measured by."""

How = Literal["own", "remembered", "recorded", "ahead", "update"]


@dataclass(frozen=True)
class Pass:
    """Answers of one role to one batch, and where they come from."""

    role: str
    """Whose: "" the trained policy's, with gradient; "old", "ref", or another's."""
    answers: frozenset[str]
    """What is answered; of the trained policy, its columns."""
    how: How
    """"own": a pass without gradient before `prepare`. "remembered": known of an earlier pass over the same data.
    "update": the trained policy's pass, which of an only update answers for the time before it, too. "ahead": that
    pass, computed before `prepare`, which reads it. "recorded": that pass, while `prepare` reads what the policy
    recorded as it generated."""

    @property
    def computed(self) -> bool:
        """Whether it is a forward pass of its own: of what is read off the update's pass, that pass is the one."""
        return self.role == columns.POLICY or self.how in ("own", "remembered")


@dataclass(frozen=True)
class Facts:
    """What is known of a step's batch before anything of it is computed."""

    groups: int
    """How many groups it has."""
    watched: frozenset[str] = NONE
    """Columns that the shared metrics need, whoever needs them besides."""
    remembered: frozenset[str] = NONE
    """Columns that are known of an earlier pass over the same data."""
    recorded: bool = False
    """The policy as it is has generated all of it, and recorded what its forward pass answers."""
    one_piece: bool = False
    """It is computed by one process in one micro-batch."""


def passes(optimizer: Optimizer, steps: Steps, facts: Facts) -> tuple[Pass, ...]:
    """The passes over one step's batch, the trained policy's last.

    Where a batch is used for one update, what the policy says before it is what the update's own forward pass says: a
    pass of its own would compute the same again. Where `prepare` does not read these columns, they are taken from
    there. Where it reads the log-probabilities alone, it is shown what the policy recorded as it generated, if that is
    the same. Where neither helps and the batch is computed in one piece, that pass is computed first. All else is
    computed before `prepare`, without gradient.
    """
    needs = frozenset(optimizer.needs)
    own = columns.trained(needs)
    once = optimizer.epochs == 1 and not 0 < steps.minibatch < facts.groups
    found: list[Pass] = []
    for role, answers in columns.by_role(columns.filled(needs) | facts.watched).items():
        if role != columns.OLD:
            known = columns.named(role, answers) <= facts.remembered
            found.append(Pass(role, answers, "remembered" if known else "own"))
            continue
        shared = answers & own if once else NONE
        if answers - shared:
            found.append(Pass(role, answers - shared, "own"))
        if shared:
            reads = columns.named(role, shared) & prepare_reads(optimizer)
            recorded = facts.recorded and reads == {"old_logprobs"}
            how: How = "update" if not reads else "recorded" if recorded else "ahead" if facts.one_piece else "own"
            found.append(Pass(role, shared, how))
    return (*found, Pass(columns.POLICY, own, "update"))


@dataclass(frozen=True)
class Ready:
    """A step's batch, and what its optimizer makes of it."""

    batch: Batch
    """All that was scored, with the columns that passes of their own have filled."""
    prepared: Batch
    """What is trained on."""
    plan: tuple[Pass, ...]
    """Where the columns come from."""
    deferred: Deferred = field(default_factory=Deferred)
    """What the step's only update answers besides, where there is only one."""

    def after(self, done: Sequence[Updated]) -> Batch:
        """The batch with the log-probabilities before the step, where only the step's one update has computed them."""
        if "old_logprobs" not in self.deferred.names or not len(self.batch):
            return self.batch
        told = {number: values for each in done for number, values in each.logprobs_by_row()}
        column = self.batch.old_logprobs
        if column is None and not told.keys() >= set(self.batch.row.tolist()):
            return self.batch  # no pass has answered the rows that `prepare` left out, and 0 would pass for an answer
        column = self.batch.rewards.new_zeros(self.batch.tokens.shape) if column is None else column.clone()
        for place, number in enumerate(self.batch.row.tolist()):
            if number in told:
                column[place, : len(told[number])] = told[number].to(column)
        return replace(self.batch, old_logprobs=column)


@dataclass(frozen=True)
class Passes:
    """Computes what a step's plan says."""

    policy: Policy
    steps: Steps
    batcher: MicroBatcher
    remembered: Remembered = field(default_factory=Remembered)
    """The reference's log-probabilities of data that come by again; empty where they are computed each time."""

    def ready(self, optimizer: Optimizer, batch: Batch, groups: Sequence[Group], *, watched: frozenset[str]) -> Ready:
        """The batch of these groups as the optimizer prepares it, with the columns that are `watched`, whoever needs
        them."""
        needs, wanted = frozenset(optimizer.needs), watched
        batch, known = self._remember(batch, groups, needs | wanted)
        exact = self.policy.info().exact_samples and len(batch) > 0
        facts = Facts(
            groups=len(batch.group_sizes()),
            watched=wanted,
            remembered=known,
            recorded=exact and _is_recorded(batch),
            one_piece=processes.count() == 1 and self.batcher.holds(batch),
        )
        plan = passes(optimizer, self.steps, facts)
        batch = fill(batch, self.policy, _filled(plan, "own") if len(batch) else needs | wanted, batcher=self.batcher)
        late = [each for each in plan if each.role == columns.OLD and each.how not in ("own", "remembered")]
        if not late or not len(batch):
            return Ready(batch, optimizer.prepare(only(batch, needs)), plan)
        names, how = columns.named(columns.OLD, late[0].answers), late[0].how
        if how == "ahead":
            return self._ahead(optimizer, batch, plan, names)
        shown = replace(batch, old_logprobs=batch.extra["sampled_logprobs"]) if how == "recorded" else batch
        prepared = optimizer.prepare(only(shown, needs))
        return Ready(self._with_left_out(batch, prepared, names & wanted), prepared, plan, Deferred(names))

    def _ahead(self, optimizer: Optimizer, batch: Batch, plan: tuple[Pass, ...], names: frozenset[str]) -> Ready:
        """The update's forward pass first, from which `prepare` reads; and which the update then trains on."""
        needs = frozenset(optimizer.needs)
        apart = tuple(replace(each, how="own") if each.how == "ahead" else each for each in plan)
        try:
            with self.batcher.trying(batch):
                out = self.policy.forward(trim(batch), asked(needs))
        except MicroBatchTooLarge:
            batch = fill(batch, self.policy, names, batcher=self.batcher)
            return Ready(batch, optimizer.prepare(only(batch, needs)), apart)
        shown = batch.answered(before_update(out, names, batch))
        prepared = optimizer.prepare(only(shown, needs))
        if not torch.equal(prepared.row, batch.row):
            return Ready(shown, prepared, apart)
        return Ready(batch, prepared, plan, Deferred(names, [out]))

    def _remember(self, batch: Batch, groups: Sequence[Group], wanted: frozenset[str]) -> tuple[Batch, frozenset[str]]:
        """The batch with the reference's answers that are remembered, of all rows or of none, and which these are."""
        column = self.remembered.column(batch, groups) if "ref_logprobs" in wanted and len(batch) else None
        if column is None:
            return batch, NONE
        return replace(batch, ref_logprobs=column), frozenset({"ref_logprobs"})

    def _with_left_out(self, batch: Batch, prepared: Batch, names: frozenset[str]) -> Batch:
        """The batch with these columns of the rows that `prepare` has left out, which no update will answer."""
        left_out = ~torch.isin(batch.row, prepared.row)
        if not names or not left_out.any():
            return batch
        rest = fill(batch.select(left_out), self.policy, names, batcher=self.batcher)
        found: dict[str, torch.Tensor] = {}
        for name in names:
            found[name] = rest[name].new_zeros(batch.tokens.shape)
            found[name][left_out] = rest[name]
        return batch.answered(found)


def _filled(plan: Iterable[Pass], how: How) -> frozenset[str]:
    """The columns that come from there."""
    found = (columns.named(each.role, each.answers) for each in plan if each.role and each.how == how)
    return frozenset(name for names in found for name in names)


def _is_recorded(batch: Batch) -> bool:
    """Whether the present policy has recorded how likely each token is that is trained on."""
    stale, foreign = batch.extra["staleness"].any(), (batch.mask & ~batch.own).any()
    return "sampled_logprobs" in batch.extra and not stale and not foreign


def fresh_enough(batch: Batch, most: int) -> tuple[Batch, int | None]:
    """The batch without the completions that a policy of more than so many steps ago generated, and how many these are;
    the whole batch, and None, where there is no such limit."""
    if not most:
        return batch, None
    kept = batch.extra["staleness"] <= most
    return batch.select(kept), int((~kept).sum())


def generated_by_policy(groups: Sequence[Group]) -> bool:
    """Whether the policy itself has generated all of it, so that a KL of what is new is the policy's."""
    return all(completion.logprobs is not None for group in groups for completion in group.completions)
