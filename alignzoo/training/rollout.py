"""The groups of a step: brought by the sampler, scored, and chosen where the sampler looks at the scores."""

from __future__ import annotations

from dataclasses import dataclass, replace

from alignzoo import functional as fn
from alignzoo import processes
from alignzoo.gathering import apart
from alignzoo.interfaces import Chooses, Selects
from alignzoo.metrics import Clock
from alignzoo.rewards import score
from alignzoo.training.stage import Run, chosen_prompts, other_prompts, prompts_of
from alignzoo.types import Group


@dataclass(frozen=True)
class Rollout:
    """What a step has to learn from."""

    groups: list[Group]
    """To learn from."""
    brought: list[Group]
    """All that were brought and scored, those among them that the sampler has then dropped."""


def rollout(stage: Run, step: int, clock: Clock, version: int | None = None) -> Rollout:
    """Sample and score; a sampler that drops groups is asked again, with other prompts, for as many as it lacks. The
    policy's `version` is the step's own where it is not given."""
    sampler = stage.sampler
    chosen: list[Group] = []
    brought: list[Group] = []
    for attempt in range(sampler.attempts if isinstance(sampler, Selects) else 1):
        again = (attempt,) if attempt else ()
        missing = stage.schedule.prompts - len(chosen)
        if isinstance(sampler, Chooses):
            prompts = chosen_prompts(stage, sampler, step, attempt, missing)
        else:
            prompts = other_prompts(stage, step, attempt, missing) if attempt else prompts_of(stage, step)
        seeds = processes.dealt(fn.seeds(len(prompts), stage.seed, step, "sample", *again))
        with apart(stage.policy, sampler, stage.rewards, generates=sampler.online):
            with clock("sample"):
                groups = sampler.sample(processes.dealt(prompts), stage.policy, seeds=seeds)
            with clock("score"):
                groups = processes.gather(score(groups, stage.rewards, stage.policy))
        groups = [_noted(group, step + 1, version) for group in groups]
        brought += groups
        chosen += sampler.select(groups) if isinstance(sampler, Selects) else groups
        if len(chosen) >= stage.schedule.prompts:
            break
    return Rollout(chosen, brought)


def _noted(group: Group, step: int, version: int | None) -> Group:
    """With the step and the policy's version noted of what the policy has generated for this step."""
    return replace(group, completions=tuple(each.generated_for(step, version) for each in group.completions))
