"""One stage, live: its parts, its data in their order, and where it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from alignzoo import functional as fn
from alignzoo.batching import collate
from alignzoo.errors import PluginError
from alignzoo.evaluation.heldout import Heldout
from alignzoo.interfaces import Chooses, Optimizer, Policy, RewardSource, Sampler
from alignzoo.lifecycle import successor
from alignzoo.rewards import WeightedReward, source_weights
from alignzoo.schedule import Schedule
from alignzoo.training.journal import Journal
from alignzoo.traits import traits_of
from alignzoo.types import Alert, Batch, Group, Prompt, Score, StepReport

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Told of everything that takes time: what is done, how much of it, of how much, and the latest figures."""

Warn = Callable[[str, int, Alert], None]
"""Told of what an observer warns of: in which stage, after which step."""


@dataclass(frozen=True)
class Run:
    """Everything that the loop needs."""

    name: str
    prompts: Sequence[Prompt]
    heldout: Heldout
    policy: Policy
    sampler: Sampler
    rewards: Sequence[WeightedReward]
    optimizer: Optimizer
    schedule: Schedule
    seed: int
    journal: Journal
    checkpoints: Path
    observe: Callable[[StepReport], Sequence[Alert]] = lambda report: ()
    progress: Progress = lambda *told: None
    warn: Warn = lambda *told: None
    interrupted: Callable[[], bool] = lambda: False

    @property
    def steps(self) -> int:
        return self.schedule.total(len(self.prompts))

    @property
    def trains_policy(self) -> bool:
        """Whether what is trained generates text; a reward model does not."""
        return traits_of(self.optimizer).trains == "policy"

    def following(self, report: StepReport) -> Run:
        """The stage of the next step: its sampler and its rewards have made way for their successors."""
        return self.with_parts(
            successor(self.sampler, report), [successor(each.source, report) for each in self.rewards]
        )

    def with_parts(self, sampler: Sampler, sources: Sequence[RewardSource]) -> Run:
        """With this sampler and these rewards' sources; an evaluation by the same rewards has the same sources."""
        rewards = [replace(each, source=source) for each, source in zip(self.rewards, sources, strict=True)]
        now = {id(each.source): source for each, source in zip(self.rewards, sources, strict=True)}
        shown = [replace(each, source=now.get(id(each.source), each.source)) for each in self.heldout.rewards]
        return replace(self, sampler=sampler, rewards=rewards, heldout=replace(self.heldout, rewards=shown))

    def collated(self, groups: Sequence[Group], *, version: int | None = None) -> Batch:
        """These scored groups as a batch, with a column for each of the rewards; `version` is the policy's."""
        weights = source_weights(self.rewards)
        if not traits_of(self.optimizer).reads_rewards:
            groups = [replace(group, scores=tuple(map(_counted, group.scores or ()))) for group in groups]
        return collate(groups, self.policy.device, source_weights=weights, version=version)

    def keeps_samples(self, step: int) -> bool:
        """Whether what this step samples is written down."""
        every = self.schedule.samples_every
        return bool(every) and (step % every == 0 or step in (1, self.steps))


def _counted(score: Score) -> Score:
    """A score for who does not read it: 0 where every reward abstained."""
    return replace(score, value=0.0) if score.value is None else score


def prompts_of(stage: Run, step: int) -> list[Prompt]:
    """The prompts of a step: an endless row of shuffled passes over the data, read off by position."""
    return drawn(stage.prompts, stage.schedule.prompts, stage.seed, step)


def drawn(prompts: Sequence[Prompt], size: int, seed: int, step: int) -> list[Prompt]:
    """The prompts of a step of `size` prompts, for a stage of this seed."""
    n = len(prompts)
    positions = range(step * size, (step + 1) * size)
    return [_numbered(prompts, int(_order(n, seed, position // n)[position % n])) for position in positions]


def used(stage: Run) -> Sequence[Prompt]:
    """The prompts that come by in all of a stage's steps, in the order of the data: all of them, or those of less than
    one pass."""
    n, drawn_in_all = len(stage.prompts), stage.steps * stage.schedule.prompts
    if drawn_in_all >= n:
        return stage.prompts
    return [stage.prompts[i] for i in sorted(_order(n, stage.seed, 0)[:drawn_in_all].tolist())]


@lru_cache(maxsize=2)
def _order(n: int, seed: int, turn: int) -> torch.Tensor:
    """The order of n prompts in a pass. Two are kept, as steps go on from where the last one ended."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(fn.derive(seed, "order", turn)))
    return order.to(torch.int32) if n < 2**31 else order  # half of the memory


def other_prompts(stage: Run, step: int, attempt: int, n: int) -> list[Prompt]:
    """Prompts in the place of n that came to nothing: a draw of the step's own, so that it depends on no other step."""
    rng = torch.Generator().manual_seed(fn.derive(stage.seed, "again", step, attempt))
    order = torch.randperm(len(stage.prompts), generator=rng)[:n].tolist()
    return [_numbered(stage.prompts, i) for i in order]


def chosen_prompts(stage: Run, sampler: Chooses, step: int, attempt: int, n: int) -> list[Prompt]:
    """The prompts that the sampler chooses for a step. Raises PluginError where these are not n of the stage's."""
    seed = fn.derive(stage.seed, step, "choose", attempt)
    places = list(sampler.choose(stage.prompts, n, seed=seed))
    known = len(stage.prompts)
    if len(places) != n or not all(isinstance(i, int) and 0 <= i < known for i in places):
        raise PluginError(
            f"{type(sampler).__name__}.choose() gave {str(places)[:80]}, expected {n} whole numbers from 0 to "
            f"{known - 1}, the places of {n} of {known} prompts"
        )
    return [_numbered(stage.prompts, i) for i in places]


def _numbered(prompts: Sequence[Prompt], index: int) -> Prompt:
    return replace(prompts[index], index=index)
