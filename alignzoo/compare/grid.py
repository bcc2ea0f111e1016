"""A plan's cells: every algorithm, and the controls, on every task with every seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from alignzoo import functional as fn
from alignzoo.compare import also, tuning
from alignzoo.compare.answers import best_and_worst
from alignzoo.compare.plan import FIRST_TRIAL, Cell, Entry, Measure, Plan, entry, repeated, safe, unique_ids
from alignzoo.compare.results import Role
from alignzoo.errors import RecipeError
from alignzoo.interfaces import HasBest
from alignzoo.recipe import Recipe, Stage, load, part
from alignzoo.registry import Registry
from alignzoo.runs import api
from alignzoo.traits import traits_of

START, RANDOM = "start", "random reward"
"""Labels of controls."""

DRAWS = 1234
"""The base from which the evaluation's seeds are derived."""

CURVE_PROMPTS = 64
"""Held-out prompts of the evaluations on the way."""

DECODING = ("max_new_tokens", "max_length", "temperature", "top_k", "top_p", "chat_template", "tokenizer", "dtype")
"""Settings of a policy that must be the same for all, where it has them."""

Chosen = Mapping[tuple[str, str], tuple[str, ...]]
"""By task and algorithm, the overrides of the setting that tuning has chosen."""


@dataclass(frozen=True)
class Grid:
    """The cells of a plan."""

    plan: Plan
    registry: Registry

    def check(self) -> None:
        """Raise for what would go wrong in every cell, before the first is run."""
        plan = self.plan
        if not plan.algorithms:
            raise RecipeError("nothing to compare: name recipes or optimizers, as in `alignzoo compare ppo dpo`")
        also.check(plan.also, plan.also_limit, self.registry)
        for label in (*repeated(plan.algorithms), *repeated(plan.tasks)):
            raise RecipeError(f"{label!r} is given twice: another setting is written NAME[key=value,...]")
        for key in ("task", "seed"):
            if any(each.partition("=")[0] == key for each in plan.overrides):
                raise RecipeError(f"{key}=... is no override of a comparison: say --task NAME, --seeds NUMBER")
        for task in self.tasks:
            decoding: dict[str, Any] = {}
            for each in plan.algorithms:
                stage = self.recipe(each, task).stages[-1]
                _same_decoding(decoding, stage.resolved["policy"], each.label, task.label)
            self._check_measured(task)
            self._check_trials(task)
            self._check_seen(task)
        unique_ids([*self.trials(), *self.cells({})])

    @cached_property
    def _measured(self) -> Mapping[str, tuple[bool, bool, bool]]:
        """By task, whether answers have a reward, whether they have a gold score, and whether the data are the user's
        own and have held-out prompts with a better and a worse given answer."""
        found = {}
        for task in self.tasks:
            prompts, rewards, gold = api.examination(self.recipe(self.evaluator, task).stages[-1])
            asked = (prompts[number] for number in range(min(len(prompts), self.plan.prompts)))
            pairs = not self._is_task(task) and any(best_and_worst(prompt) is not None for prompt in asked)
            found[task.label] = (bool(rewards) or bool(self.plan.measure), gold is not None, pairs)
        return found

    def _check_measured(self, task: Entry) -> None:
        """Answers that nothing scores cannot be compared: that is told before they are trained for."""
        if self.plan.measure:
            given = entry(self.plan.measure)
            part(self.registry.get("reward", given.name), given.settings, given.name, registry=self.registry)
        if not any(self._measured[task.label]):
            raise RecipeError(
                f"nothing scores the answers to the held-out prompts of {task.label}: no algorithm here is trained on "
                "a reward, and the held-out data have neither a gold score nor pairs of a better and a worse answer. "
                "Give --measure with a reward, as in --measure length or --measure 'model[model=DIR]', or compare with "
                "an algorithm that is trained on one"
            )

    def _check_trials(self, task: Entry) -> None:
        """Trials are chosen by held-out prompts that the comparison does not use: there have to be some."""
        if not self.plan.trials:
            return
        prompts, _, _ = api.examination(self.recipe(self.evaluator, task).stages[-1])
        if len(prompts) <= self.plan.prompts:
            raise RecipeError(
                f"--tune: {task.label} has {len(prompts)} held-out prompts, and the comparison takes the first "
                f"{self.plan.prompts}, so that none is left to choose trials by. Give --prompts "
                f"{max(2, len(prompts) - self.plan.validation)} or less, or more held-out data"
            )

    def _check_seen(self, task: Entry) -> None:
        """A setting of the task has to reach what an algorithm is trained on, where it reaches that of any other."""
        if not self._is_task(task):
            return
        for setting in task.settings:
            key, plain = setting.partition("=")[0], [each for each in task.settings if each != setting]
            default = Entry(task.name, tuple(plain))
            if not any(self._differ(each, task, default, any_kind=True) for each in self.plan.algorithms):
                continue  # it is about the gold score alone, or says what is the default
            for each in self.plan.algorithms:
                if not self._differ(each, task, default):
                    raise RecipeError(
                        f"{task.label}: {each.label} cannot see {key}: neither its data nor its reward changes with "
                        "it, so that it would be compared under one name and trained under another. Leave the "
                        "setting out, or the algorithm"
                    )

    def _differ(self, algorithm: Entry, task: Entry, other: Entry, *, any_kind: bool = False) -> bool:
        """Whether two settings of a task differ in what an algorithm's recipe reads of it; or in data of any kind."""
        pairs = zip(self.recipe(algorithm, task).stages, self.recipe(algorithm, other).stages, strict=True)
        return any(_reads(one, any_kind=any_kind) != _reads(two, any_kind=any_kind) for one, two in pairs)

    # --- tasks and recipes --------------------------------------------------------------------------------------

    @cached_property
    def tasks(self) -> tuple[Entry, ...]:
        """The plan's; or the user's own data; or the one that the first algorithm's recipe is about."""
        if self.plan.tasks:
            return self.plan.tasks
        if any(each.startswith(("data=", "data.path=")) for each in self.plan.overrides):
            return (Entry("data"),)
        first = self.plan.algorithms[0]
        task = load(first.name, [*first.settings], registry=self.registry).stages[-1].resolved.get("task")
        if not task:
            raise RecipeError(
                f"the recipe {first.name!r} is about no task, so there is nothing to compare on: give --task NAME, or "
                "data of your own, data.path=FILE"
            )
        return (Entry(task["name"]),)

    def overrides(self, algorithm: Entry, task: Entry) -> tuple[str, ...]:
        """What makes an algorithm's recipe comparable: the task, the start, small evaluations, the budget."""
        plan = self.plan
        of_task = [f"task={task.name}", *(f"task.{each}" for each in task.settings)] if self._is_task(task) else []
        common = [each for each in plan.overrides if not each.startswith("policy.model=")]
        small = [f"evaluate.prompts={CURVE_PROMPTS}", "evaluate.n=1", "evaluate.greedy=false", "evaluate.best_of=0"]
        # A budget may end a run after few steps, and the last ones are of interest.
        small += ["schedule.samples_every=5"]
        points = [f"schedule.evaluations={plan.points}"] if plan.points else []
        budget = plan.budget.overrides if plan.budget else ()
        return (*of_task, f"policy.model={plan.start}", *small, *points, *budget, *common, *algorithm.settings)

    def recipe(self, algorithm: Entry, task: Entry) -> Recipe:
        """An algorithm's recipe, on a task."""
        return load(algorithm.name, self.overrides(algorithm, task), registry=self.registry)

    def best(self, label: str) -> float | None:
        """The highest gold score that a task says can be reached; None where it does not say."""
        task = next(each for each in self.tasks if each.label == label)
        about = self.recipe(self.plan.algorithms[0], task).stages[-1].task if self._is_task(task) else None
        return float(about.best) if isinstance(about, HasBest) else None

    def _is_task(self, task: Entry) -> bool:
        return bool(self.plan.tasks) or self.registry.has("task", task.name)

    @cached_property
    def evaluator(self) -> Entry:
        """The algorithm whose recipe says how answers are written and scored; all agree in that, and one that learns
        from a reward knows the reward."""
        by_kind = [each for each in self.plan.algorithms if self._last(each).kind == "comparisons"]
        return next(filter(self._online, self.plan.algorithms), (by_kind or [*self.plan.algorithms])[0])

    @cached_property
    def randomised(self) -> Entry | None:
        """The algorithm that also learns from a reward that says nothing: one that asks for a reward, where there is
        one, else one that learns from comparisons. None where no algorithm reads scores: who imitates demonstrations,
        or a teacher, learns the same whatever they are worth."""

        def rank(each: Entry) -> int:
            stage = self._last(each)
            if not traits_of(stage.optimizer).reads_rewards:
                return 0
            return 2 if stage.sampler.online else int(stage.kind == "comparisons")

        best = max(self.plan.algorithms, key=rank)
        return best if rank(best) else None

    def _online(self, algorithm: Entry) -> bool:
        return self._last(algorithm).sampler.online

    def _last(self, algorithm: Entry) -> Stage:
        return self.recipe(algorithm, self.tasks[0]).stages[-1]

    # --- cells --------------------------------------------------------------------------------------------------

    def trials(self) -> list[Cell]:
        """The cells that tune: the recipe's own setting first, then random ones."""
        found = []
        for task in self.tasks:
            for algorithm in self.plan.algorithms:
                for number, setting in enumerate(self.settings(algorithm, task)):
                    found.append(self._cell(algorithm.label, algorithm, task, FIRST_TRIAL, "trial", setting, number))
        return found

    def settings(self, algorithm: Entry, task: Entry) -> list[tuple[str, ...]]:
        """The overrides of each trial."""
        if not self.plan.trials:
            return []
        stage = self.recipe(algorithm, task).stages[-1]
        return tuning.settings(stage.optimizer, stage.schedule.lr, self.plan.trials)

    def cells(self, chosen: Chosen) -> list[Cell]:
        """The comparison itself, controls first."""
        found = []
        for task in self.tasks:
            for seed in self.plan.seed_numbers:
                found.append(self._control(START, task, seed, "start", 0))
                if self._measured[task.label][0]:  # else it has nothing to choose by
                    label = f"best-of-{self.plan.best_of}"
                    found.append(self._control(label, task, seed, "best-of", self.plan.best_of))
                if self.randomised is not None:
                    label, algorithm = f"{RANDOM} ({self.randomised.label})", self.randomised
                    tuned = chosen.get((task.label, algorithm.label), ())
                    setting = (*tuned, f'reward=[{{name="random", seed={seed}}}]')
                    found.append(self._cell(label, algorithm, task, seed, "random", setting))
                for algorithm in self.plan.algorithms:
                    tuned = chosen.get((task.label, algorithm.label), ())
                    found.append(self._cell(algorithm.label, algorithm, task, seed, "algorithm", tuned))
        return found

    def _cell(
        self,
        label: str,
        algorithm: Entry,
        task: Entry,
        seed: int,
        role: Role,
        setting: tuple[str, ...] = (),
        trial: int = -1,
    ) -> Cell:
        plan = self.plan
        first, last = (0, plan.prompts) if trial < 0 else (plan.prompts, plan.prompts + plan.validation)
        name = f"seed-{seed}" if trial < 0 else f"trial-{trial}"
        draws = fn.derive(DRAWS, seed)
        return Cell(
            id=f"{safe(task.label)}/{safe(label)}/{name}",
            algorithm=label,
            recipe=algorithm.name,
            task=task.label,
            seed=seed,
            role=role,
            # The evaluations on the way draw as the final one does: other seeds, other draws, so that means get better.
            overrides=(f"evaluate.seed={draws}", *self.overrides(algorithm, task), f"seed={seed}", *setting),
            measure=Measure(first, last, plan.n, draws),
            evaluator=self.evaluator.name,
            evaluator_overrides=self.overrides(self.evaluator, task),
            start=plan.start,
            budget=plan.budget,
            plugins=plan.plugins,
            scored_by=plan.measure,
            preferences=self._measured[task.label][2],
            also=plan.also if trial < 0 else (),
            also_limit=plan.also_limit,
            trial=trial,
        )

    def _control(self, label: str, task: Entry, seed: int, role: Role, best_of: int) -> Cell:
        plan = self.plan
        return Cell(
            id=f"{safe(task.label)}/{safe(label)}/seed-{seed}",
            algorithm=label,
            recipe="",
            task=task.label,
            seed=seed,
            role=role,
            overrides=(),
            measure=Measure(0, plan.prompts, plan.n, fn.derive(DRAWS, seed), best_of),
            evaluator=self.evaluator.name,
            evaluator_overrides=self.overrides(self.evaluator, task),
            start=plan.start,
            plugins=plan.plugins,
            scored_by=plan.measure,
            preferences=self._measured[task.label][2],
            # The start is one model, whatever the seed; and best-of-n is none that could be given away.
            also=plan.also if role == "start" and seed == plan.seed_numbers[0] else (),
            also_limit=plan.also_limit,
        )


def _reads(stage: Stage, *, any_kind: bool) -> Any:
    """What a stage reads of its task: training data and reward."""
    if stage.task is None or stage.data is not None:
        return None
    online = stage.sampler.online
    kinds = ("prompts", "demonstrations", "comparisons") if any_kind else (stage.kind,)
    return [stage.task.data(kind, "train") for kind in kinds], list(stage.task.reward) if any_kind or online else None


def _same_decoding(known: dict[str, Any], policy: Any, label: str, task: str) -> None:
    for name in DECODING:
        if not isinstance(policy, dict) or name not in policy:
            continue
        first, value = known.setdefault(name, (label, policy[name]))
        if policy[name] != value:
            raise RecipeError(
                f"on {task}, {first} has policy.{name}={value!r}, {label} {policy[name]!r}: a comparison decodes alike "
                f"for all. Say which with policy.{name}=..."
            )
