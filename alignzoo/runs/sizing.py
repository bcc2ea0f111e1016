"""How much a run evaluates: in proportion to what it trains on, where a recipe does not say how many prompts."""

from __future__ import annotations

from dataclasses import dataclass

from alignzoo.interfaces import HasQuestions
from alignzoo.recipe import Stage
from alignzoo.requirements import generated_per_prompt
from alignzoo.schedule import Evaluation, Schedule
from alignzoo.traits import traits_of

SHARE = 0.5
"""All evaluations together generate, and read, at most this share of the completions that are trained on, ..."""

LEAST = 8
"""... but each has so many prompts at least, below which it says nothing, ..."""

ANSWERED, READ = 64, 256
"""... and so many at most: to answer, which takes long, and to read."""


@dataclass(frozen=True)
class Amount:
    """What the evaluations of a stage come to, beside its training."""

    trained: int
    """Completions that are trained on; 0 where a budget decides."""
    evaluations: int
    """Before, during and after the training."""
    prompts: int
    """Held-out prompts that each answers."""
    rows: int
    """Held-out rows whose given completions each reads."""
    answers: int
    """What all of them generate."""
    read: int
    """Given completions that all of them read."""
    questions: int = 0
    """What a judge is asked in all, about training and evaluation; 0 where a budget decides."""

    def __str__(self) -> str:
        parts = [f"{self.answers:,} answers to {self.prompts} held-out prompts"] if self.answers else []
        parts += [f"{self.read:,} held-out completions read"] if self.read else []
        told = f"evaluation: {' and '.join(parts) or 'none'}, {self.evaluations} times" if parts else "evaluation: none"
        told += f"; training: {self.trained:,} completions" if self.trained else ""
        return told + (f"; {self.questions:,} questions to a judge" if self.questions else "")


def amount(stage: Stage, train: int, prompts: int, rows: int) -> Amount:
    """For so many training prompts, held-out prompts, and held-out rows with completions."""
    settings, schedule, online = stage.evaluate, stage.schedule, stage.sampler.online
    traits = traits_of(stage.optimizer)
    given = max(1, traits.completions)
    steps = schedule.total(train)
    completions = generated_per_prompt(stage.sampler) or given
    trained = 0 if schedule.has_budget else steps * schedule.prompts * completions
    evaluations = _evaluations(schedule, steps)
    writes = traits.trains == "policy"
    each = (settings.n + settings.greedy) * writes
    all_answers = each * evaluations + settings.best_of * writes
    answered = min(prompts, _most(settings, trained, all_answers, ANSWERED)) if writes else 0
    read = min(rows, _most(settings, trained, given * evaluations, READ)) if not online else 0
    asked = 0
    for source in (reward.source for reward in stage.rewards):
        if trained and isinstance(source, HasQuestions):
            asked += steps * source.questions(schedule.prompts, completions)
            sampled, greedy = (source.questions(answered, n) for n in (settings.n, 1))
            asked += evaluations * (sampled + greedy * settings.greedy) * settings.reward
    return Amount(trained, evaluations, answered, read, answered * all_answers, read * given * evaluations, asked)


def _most(settings: Evaluation, trained: int, each: int, most: int) -> int:
    """Prompts of which each costs so many completions."""
    if settings.prompts != "auto":
        return settings.prompts
    return max(LEAST, min(most, int(SHARE * trained / max(1, each)))) if trained else most


def _evaluations(schedule: Schedule, steps: int) -> int:
    """How many there are: before, after, and on the way."""
    regular = (steps - 1) // schedule.eval_every if schedule.eval_every else 0
    return 2 + regular + schedule.evaluations
