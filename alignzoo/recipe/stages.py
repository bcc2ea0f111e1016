"""A stage of a recipe: its parts, built from their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from annotated_types import Ge

from alignzoo.errors import RecipeError, did_you_mean
from alignzoo.recipe.fit import TASK_REWARD, UNNAMED, check_fit
from alignzoo.recipe.layers import Layered, check_references
from alignzoo.recipe.merge import Merge
from alignzoo.recipe.named import Plain, build_part
from alignzoo.recipe.nothing import Nothing
from alignzoo.recipe.overrides import normal
from alignzoo.recipe.parts import build, check_settings, checked, settings, show
from alignzoo.recipe.rounds import ROUND, Round
from alignzoo.recipe.tables import STAGE_REFERENCE, TASK_REFERENCE, Node, merge, tree
from alignzoo.recipe.trust import Code, code_of
from alignzoo.registry import Registry
from alignzoo.registry.registrar import MERGE, NOTHING
from alignzoo.requirements import brings_scores
from alignzoo.traits import traits_of

if TYPE_CHECKING:
    from alignzoo.interfaces import Optimizer, PolicySpec, Sampler, Task
    from alignzoo.rewards import WeightedReward
    from alignzoo.schedule import Evaluation, Schedule

DataKind = Literal["prompts", "demonstrations", "comparisons"]
"""What a stage wants of its task's data."""

SAMPLER = "dataset"
"""The sampler of a stage that names none."""

REWARD = "labels"
"""The reward of a stage that names none, learns from given answers, and has no task with a reward of its own."""

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """One run: its parts, built."""

    name: str
    task: Task | None
    """Brings data, a starting policy, a reward and a gold score; None where the user's data stand alone."""
    kind: DataKind
    """Which of the task's data are wanted."""
    data: Any
    """The user's own data, which stand in for the task's: a `Data`, in Python also live rows; None: the task's."""
    seed: int
    policy: PolicySpec
    sampler: Sampler
    rewards: tuple[WeightedReward, ...]
    task_rewards: tuple[WeightedReward, ...]
    """The task's own reward, by which also those are measured that learn from labels."""
    optimizer: Optimizer
    schedule: Schedule
    evaluate: Evaluation
    resolved: Plain = field(compare=False, repr=False)
    """The same as plain data, with the names under which the parts are registered."""
    round: Round | None = None
    """Which round it is, of a stage that the recipe repeats."""
    origin: Stage | None = field(default=None, compare=False, repr=False)
    """The earlier stage that generates its data, where its data's path is "stage:NAME"."""
    earlier: Stage | None = field(default=None, compare=False, repr=False)
    """The earlier stage whose data are left again, of a stage that leaves data."""
    code: tuple[Code, ...] = field(default=(), compare=False, repr=False)
    """The settings that name code, which a run would run."""
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """What the recipe leaves open, and what was taken for it: a run tells it."""

    def with_outputs(self, outputs: Mapping[str, Any]) -> Stage:
        """The stage with every "stage:NAME" in its parts replaced by `outputs[NAME]`, that stage's model, and every
        "task:policy" and "task:base" by the task's."""
        models = {STAGE_REFERENCE + name: model for name, model in outputs.items()}
        if self.task is not None:
            models |= {TASK_REFERENCE + "policy": self.task.policy, TASK_REFERENCE + "base": self.task.base}
        return replace(
            self,
            policy=_filled(self.policy, models),
            sampler=_filled(self.sampler, models),
            rewards=tuple(replace(each, source=_filled(each.source, models)) for each in self.rewards),
            optimizer=_filled(self.optimizer, models),
            data=self.data if self.origin is None else _filled(self.data, models),
        )


def build_stage(stage: Layered, registry: Registry) -> Stage:
    """The parts of a stage, checked; every RecipeError says where."""
    return _Builder(stage, registry).stage()


class _Builder:
    """The parts of one stage, from their tables."""

    def __init__(self, stage: Layered, registry: Registry) -> None:
        self.name = stage.name
        self.earlier = stage.earlier
        self.tables: dict[str, Node] = stage.table.value
        self.where = stage.table.where
        self.changed_rewards = stage.changed_rewards
        self.registry = registry
        self.round = stage.round
        self.resolved: Plain = {"name": stage.name} | ({ROUND: settings(stage.round)} if stage.round else {})
        self.code: list[Code] = []

    def stage(self) -> Stage:
        from alignzoo.schedule import Evaluation, Schedule

        task = self.part("task") if "task" in self.tables else None
        kind, data = self.data()
        if task is None and data is None:
            raise RecipeError(f"{self.where}: {self.name} has no data: give data.path=... or task=...")
        seed = self.seed()
        policy = self.part("policy")
        sampler = self.part("sampler", default=SAMPLER)
        optimizer = self.optimizer()
        rewards = self.rewards(task if data is None else None, sampler, optimizer, task if _of_its_task(data) else None)
        schedule = self.settings("schedule", Schedule)
        check_fit(self.name, self.tables, self.where, sampler, rewards, optimizer, self.known_rewards(task, data))
        return Stage(
            name=self.name,
            task=task,
            kind=kind,
            data=data,
            seed=seed,
            policy=policy,
            sampler=sampler,
            rewards=rewards,
            task_rewards=self.weighted(_of_task(task), f"{self.name}.task.reward")[0] if task is not None else (),
            optimizer=optimizer,
            schedule=schedule if self.round is None else schedule.up_to(self.round.number / self.round.of),
            evaluate=self.settings("evaluate", Evaluation),
            resolved=self.resolved,
            round=self.round,
            code=tuple(self.code),
            notes=() if "sampler" in self.tables else (UNNAMED,),
        )

    def part(self, kind: str, default: str = "") -> Any:
        """A named part."""
        if kind not in self.tables and not default:
            known = ", ".join(self.registry.names(kind))
            raise RecipeError(f"{self.where}: {self.name} has no {kind}. Known: {known or 'none'}.")
        node = self.tables.get(kind) or normal(kind, Node(default, self.where))
        policy = self.resolved.get("policy")
        own = policy["name"] if isinstance(policy, dict) else ""
        part, self.resolved[kind] = build_part(self.registry, kind, node, f"{self.name}.{kind}", own)
        self.code += code_of(self.registry, kind, node, f"{self.name}.{kind}")
        return part

    def optimizer(self) -> Any:
        """The registered optimizer, with every other policy that its columns speak of; or the one that trains
        nothing."""
        node = self.tables.get("optimizer")
        given = node.value.get("name") if node is not None and node.is_table else None
        if node is not None and given is not None and given.value == MERGE:
            return self._merging(node)
        if node is None or given is None or given.value != NOTHING:
            return self._trained()
        built: Nothing = build(Nothing, node.without("name"), f"{self.name}.optimizer")
        if built.earlier == NOTHING:  # of a first round
            built = Nothing()
        if built.earlier and not built.earlier.startswith(STAGE_REFERENCE):
            raise RecipeError(
                f"{node.where}: {self.name}.optimizer.earlier: found {built.earlier!r}, allowed: an earlier stage that "
                "leaves data, as stage:NAME"
            )
        self.resolved["optimizer"] = {"name": NOTHING} | ({"earlier": built.earlier} if built.earlier else {})
        return built

    def _merging(self, node: Node) -> Merge:
        """The settings of a merge, of which no adapter is: merging needs whole models."""
        built: Merge = build(Merge, node.without("name"), f"{self.name}.optimizer")
        for model in built.models:
            if model.startswith(STAGE_REFERENCE) and model.removeprefix(STAGE_REFERENCE) not in self.earlier:
                hint = did_you_mean(model.removeprefix(STAGE_REFERENCE), self.earlier)
                raise RecipeError(f"{node.where}: {self.name}.optimizer.models: {model!r} is no earlier stage. {hint}")
        policy = self.resolved.get("policy")
        if isinstance(policy, dict) and policy.get("lora_rank"):
            raise RecipeError(f"{node.where}: {self.name}: whole models are merged: leave policy.lora_rank out")
        self.resolved["optimizer"] = {"name": MERGE} | settings(built)
        return built

    def _trained(self) -> Any:
        from alignzoo.roles import missing

        optimizer = self.part("optimizer")
        for role, column in missing(optimizer).items():
            raise RecipeError(
                f"{self.tables['optimizer'].where}: {self.name}.optimizer.{role} is missing: "
                f"{type(optimizer).__name__} needs {column!r}. Give the model: optimizer.{role}=DIRECTORY, or "
                f"optimizer.{role}=stage:NAME for what an earlier stage has trained"
            )
        return optimizer

    def seed(self) -> int:
        """The seed that is given; each round after the first has one of its own, derived from it."""
        seed: int = checked(Annotated[int, Ge(0)], self.tables.get("seed", Node(0, self.where)), f"{self.name}.seed")
        self.resolved["seed"] = seed
        if self.round is None or self.round.number == 1:
            return seed
        from alignzoo import functional as fn

        return fn.derive(seed, "round", self.round.number)

    def settings(self, key: str, cls: type[T]) -> T:
        """A part without a name: one dataclass."""
        node = self.tables.get(key, Node({}, self.where))
        path = f"{self.name}.{key}"
        if not node.is_table and not isinstance(node.value, cls):
            raise RecipeError(f"{node.where}: {path}: found {show(node.plain())}, allowed: a table")
        if not node.is_table:
            check_settings(node.value, node, path)
        built: T = build(cls, node, path) if node.is_table else node.value
        self.resolved[key] = settings(built)
        return built

    def data(self) -> tuple[DataKind, Any]:
        """The kind of data wanted, and the user's own data."""
        from alignzoo.data import Data

        node = self.tables.get("data", Node({}, self.where))
        path = f"{self.name}.data"
        if not node.is_table:
            raise RecipeError(f"{node.where}: {path}: found {show(node.plain())}, allowed: a table or a path")
        kind: DataKind = checked(DataKind, node.value.get("kind", Node("prompts", node.where)), f"{path}.kind")
        table = node.without("kind")
        data = build(Data, table, path) if table.value else None
        shown = {key: value for key, value in settings(data).items() if value is not None} if data else {}
        self.resolved["data"] = {"kind": kind} | shown
        return kind, data

    def rewards(self, task: Any, sampler: Any, optimizer: Any, named: Any) -> tuple[WeightedReward, ...]:
        """The stage's own rewards, or else its task's, or else the labels of given answers; `named` is the task that
        `reward = "task"` stands for."""
        path = f"{self.name}.reward"
        unscored = brings_scores(sampler) or not traits_of(optimizer).reads_rewards
        nodes = self.reward_tables(task, sampler.online and not unscored, path, named)
        for keys, node in self.changed_rewards:
            nodes = _patched(nodes, keys, node, path)
        rewards, self.resolved["reward"] = self.weighted(nodes, path)
        return rewards

    def weighted(self, nodes: Sequence[Node], path: str) -> tuple[tuple[WeightedReward, ...], list[Any]]:
        """Rewards, built, and as plain data."""
        from alignzoo.rewards import WeightedReward

        rewards: list[WeightedReward] = []
        plain: list[Any] = []
        for index, node in enumerate(nodes):
            at = path if len(nodes) == 1 else f"{path}.{index}"
            check_references(at, node, self.earlier)
            weight = 1.0
            if node.is_table and "weight" in node.value:
                weight = checked(float, node.value["weight"], f"{at}.weight")
                node = node.without("weight")
            source, resolved = build_part(self.registry, "reward", node, at)
            self.code += code_of(self.registry, "reward", node, at)
            name = resolved["name"].rpartition("/")[2] if node.is_table else type(source).__name__
            times = sum(name == other.name.partition("#")[0] for other in rewards)
            rewards.append(WeightedReward(f"{name}#{times + 1}" if times else name, source, weight))
            plain.append(resolved | {"weight": weight} if node.is_table else resolved)
        return tuple(rewards), plain

    def reward_tables(self, task: Any, needed: bool, path: str, named: Any) -> list[Node]:
        if "reward" in self.tables:
            given: list[Node] = self.tables["reward"].value
            if not given:
                raise RecipeError(f"{self.tables['reward'].where}: {path}: found an empty list, allowed: one or more")
            replaced = {keys[0] for keys, _ in self.changed_rewards if len(keys) == 1}
            nodes = ([n] if str(i) in replaced else self.task_reward(n, named, path) for i, n in enumerate(given))
            return [each for some in nodes for each in some]
        if task is not None:
            return _of_task(task)
        if any(keys == ["name"] for keys, _ in self.changed_rewards):
            return [Node({}, self.where)]  # the overrides make it: reward.name=python reward.function=...
        if needed:
            raise RecipeError(
                f"{self.where}: {self.name} has no reward, but its sampler generates new completions, which nothing "
                f"scores: give {self.known_rewards(None, None)}"
            )
        return list(normal("reward", Node(REWARD, self.where)).value)

    def task_reward(self, node: Node, task: Any, path: str) -> list[Node]:
        """The task's own reward in the place of its stand-in; any other reward as it is."""
        stands = node.is_table and node.value.keys() == {"name"} and node.value["name"].value == TASK_REWARD
        if not stands or self.registry.has("reward", TASK_REWARD):
            return [node]
        if task is None:
            raise RecipeError(
                f"{node.where}: {path}: {TASK_REWARD!r} stands for the reward of the stage's task, and this stage has "
                f"{'data of its own' if 'task' in self.tables else 'no task'}: give {self.known_rewards(None, None)}"
            )
        return _of_task(task)

    def known_rewards(self, task: Any, data: Any) -> str:
        """What a stage may be given that needs a reward for what its policy generates."""
        own = f"reward={TASK_REWARD} (that of its task), or " if task is not None and data is None else ""
        others = [name for name in self.registry.names("reward") if name != REWARD]
        return f"{own}reward=... Known: {', '.join(others)}."


def _of_its_task(data: Any) -> bool:
    """Whether a stage's prompts may be its task's: those of the task itself, or what an earlier stage answered."""
    return data is None or str(data.path).startswith(STAGE_REFERENCE)


def _of_task(task: Task) -> list[Node]:
    """The tables of a task's own reward."""
    where = f"the reward of the task {type(task).__name__}"
    return list(normal("reward", tree(list(task.reward), lambda key: where, ("reward",))).value)


def _patched(rewards: list[Node], keys: Sequence[str], node: Node, path: str) -> list[Node]:
    """The rewards with one of them changed: by its index, or without one where it is the only one."""
    first, *rest = keys
    names = [str(each.value["name"].value) if each.is_table and "name" in each.value else "?" for each in rewards]
    if not first.isdigit():
        if len(rewards) > 1:
            choices = ", ".join(f"reward.{index} ({name})" for index, name in enumerate(names))
            raise RecipeError(f"{node.where}: {path} has {len(rewards)} entries; say which: {choices}")
        first, rest = "0", list(keys)
    index = int(first)
    if index >= len(rewards):
        raise RecipeError(f"{node.where}: {path}.{index}: there are only {len(rewards)}, counted from 0")
    if not rest:
        return [*rewards[:index], normal("reward", node).value[0], *rewards[index + 1 :]]
    for key in reversed(rest):
        node = Node({key: node}, node.where)
    return [*rewards[:index], merge(rewards[index], node), *rewards[index + 1 :]]


def _filled(part: Any, models: Mapping[str, Any]) -> Any:
    """The part with references to models replaced."""
    if isinstance(part, tuple) and any(isinstance(each, str) for each in part):
        return tuple(models.get(each, each) for each in part)
    if not is_dataclass(part) or isinstance(part, type):
        return part
    changes = {}
    for f in fields(part):
        value = getattr(part, f.name) if f.init else None
        if isinstance(value, str) and value.startswith((STAGE_REFERENCE, TASK_REFERENCE)):
            if value not in models:
                raise RecipeError(f"{f.name} = {value!r}: there is no such model. {did_you_mean(value, models)}")
            changes[f.name] = models[value]
        elif (inner := _filled(value, models)) is not value:
            changes[f.name] = inner
    return replace(part, **changes) if changes else part
