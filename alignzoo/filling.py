"""A step's batch with the columns that its optimizer needs, nothing computed twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from alignzoo import processes
from alignzoo.collate import Known, fill, keys, known_column, only, trim
from alignzoo.interfaces import HasExactSamples, Optimizer, Policy
from alignzoo.room import NoRoomError, Room
from alignzoo.schedule import Schedule
from alignzoo.tokens import WATCHED
from alignzoo.types import Batch, Group
from alignzoo.update import NONE, Once, Updated, asked, now


@dataclass(frozen=True)
class Ready:
    """A step's batch, and what its optimizer makes of it."""

    batch: Batch
    """All that was scored, with the columns that a pass of their own has filled."""
    prepared: Batch
    """What is learnt from."""
    once: Once = field(default_factory=Once)
    """What its one update answers besides, where there is only one."""

    def after(self, done: Sequence[Updated]) -> Batch:
        """The batch with the log-probabilities before the step, where only the step's one update has computed them."""
        if "old_logprobs" not in self.once.late:
            return self.batch
        return replace(self.batch, old_logprobs=known_column(self.batch, done[0].said()))


@dataclass(frozen=True)
class Filler:
    """Fills batches by a policy."""

    policy: Policy
    schedule: Schedule
    room: Room
    reference: Known = field(default_factory=dict)
    """The reference's log-probabilities of data that come by again; empty where they are computed each time."""

    def ready(self, optimizer: Optimizer, batch: Batch, *, watched: bool) -> Ready:
        """The batch as the optimizer prepares it. `watched`: with its KL to the reference, whoever needs it.

        Where a batch is used for one update, what the policy says before it is what the update's own forward pass says:
        a pass of its own would compute the same again. Where `prepare` does not read these columns, it is shown the
        batch without them. Where it reads the log-probabilities alone, it is shown what the policy recorded as it
        wrote, if that is the same. Where neither helps, and the batch is computed in one piece, the update's forward
        pass is computed first. All else is filled before.
        """
        needs, wanted = optimizer.needs, optimizer.needs | (WATCHED if watched else NONE)
        if self.reference and len(batch):
            batch = replace(batch, ref_logprobs=known_column(batch, self.reference))
        late = frozenset({f"old_{name}" for name in needs & {"logprobs", "values"}}) & wanted
        if late and len(batch) and optimizer.epochs == 1:
            batch = self.filled(batch, wanted - late)
            prepared = _unread(optimizer, batch)
            if prepared is None:
                prepared = self._recorded(optimizer, batch, late)
            if prepared is not None and self._once(prepared) and sorted(keys(prepared)) == sorted(keys(batch)):
                return Ready(batch, prepared, Once(late))
            if prepared is None and (ready := self._ahead(optimizer, batch, late)):
                return ready
        batch = self.filled(batch, wanted)
        return Ready(batch, optimizer.prepare(only(batch, needs)))

    def filled(self, batch: Batch, needs: frozenset[str]) -> Batch:
        """The batch with the columns that are needed, each process filling its share."""
        share = batch.select(slice(processes.index(), None, processes.count()))
        return processes.same_columns(batch, fill(share, self.policy, needs, room=self.room))

    def _recorded(self, optimizer: Optimizer, batch: Batch, late: frozenset[str]) -> Batch | None:
        """What `prepare` makes of a batch with the log-probabilities of the writing; None where these are not those of
        before the update. The update itself learns against its own forward pass: ratios are exactly 1."""
        exact = isinstance(self.policy, HasExactSamples) and self.policy.samples_exactly()
        sampled = batch.extra.get("sampled_logprobs")
        if late != {"old_logprobs"} or not exact or sampled is None or batch.extra["age"].any():
            return None
        return optimizer.prepare(only(replace(batch, old_logprobs=sampled), optimizer.needs))

    def _once(self, prepared: Batch) -> bool:
        """Whether an epoch over a prepared batch is a single update."""
        return not self.schedule.minibatch or len(prepared.group_sizes()) <= self.schedule.minibatch

    def _ahead(self, optimizer: Optimizer, batch: Batch, late: frozenset[str]) -> Ready | None:
        """The update's forward pass first; None where that is not all of it. `prepare` may make a group of each row."""
        if processes.count() > 1 or 0 < self.schedule.minibatch < len(batch) or not self.room.holds(batch):
            return None
        try:
            with self.room.trying(batch):
                out = self.policy.forward(trim(batch), asked(optimizer.needs))
        except NoRoomError:
            return None
        prepared = optimizer.prepare(only(replace(batch, **now(out, late, batch)), optimizer.needs))
        if not torch.equal(prepared.tokens, batch.tokens):
            return None
        return Ready(batch, prepared, Once(late, out))


def written_by_policy(groups: Sequence[Group]) -> bool:
    """Whether the policy itself has written all of it, so that a KL of what is new is the policy's."""
    return all(completion.logprobs is not None for group in groups for completion in group.completions)


def _unread(optimizer: Optimizer, batch: Batch) -> Batch | None:
    """What `prepare` makes of a batch that lacks columns; None where it reads one, which None does not allow."""
    try:
        return optimizer.prepare(only(batch, optimizer.needs))
    except Exception:  # it is asked again with all columns, and what else is wrong with it is raised then
        return None
