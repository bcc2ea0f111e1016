"""What a stage learns from, and what it is examined on."""

from __future__ import annotations

from pathlib import Path

from alignzoo.errors import RunError
from alignzoo.evaluate import Gold, Heldout, Rates
from alignzoo.interfaces import HasRates
from alignzoo.prompts import Data, from_rows, split, train_and_heldout
from alignzoo.recipe import Stage
from alignzoo.rewards import WeightedReward
from alignzoo.types import Prompt


def data_of(stage: Stage) -> tuple[list[Prompt], list[Prompt], list[Prompt]]:
    """Training prompts, held-out prompts to answer, and held-out data of the kind that is learnt from."""
    if stage.data is None:
        assert stage.task is not None
        train = stage.task.data(stage.kind, "train")
        return train, stage.task.data("prompts", "heldout"), stage.task.data(stage.kind, "heldout")
    if isinstance(stage.data, Data):
        train, heldout = train_and_heldout(stage.data)
    elif isinstance(stage.data, str | Path):
        train, heldout = train_and_heldout(Data(path=str(stage.data)))
    else:
        rows = list(stage.data)
        given = rows if all(isinstance(row, Prompt) for row in rows) else from_rows(rows)
        train, heldout = split(given, Data.heldout)
    if not train:
        raise RunError(f"{stage.name}: no training prompts: all of the data are held out; lower data.heldout")
    return train, heldout, [prompt for prompt in heldout if prompt.completions]


def heldout_of(stage: Stage, prompts: list[Prompt], shown: list[Prompt]) -> Heldout:
    """What the stage is examined on, of the held-out prompts and data."""
    return Heldout(stage.evaluate, prompts, shown, _judges(stage), _gold(stage), _rates(stage))


def examination(stage: Stage) -> tuple[list[Prompt], tuple[WeightedReward, ...], Gold | None]:
    """Held-out prompts, what scores answers to them, and their gold, whatever the stage itself learns from."""
    rewards = stage.task_rewards if _own(stage) else stage.rewards if stage.sampler.online else ()
    return data_of(stage)[1], rewards, _gold(stage)


def _own(stage: Stage) -> bool:
    """Whether the stage is about its task's own data, so that the task's gold and reward speak of it."""
    return stage.task is not None and stage.data is None


def _gold(stage: Stage) -> Gold | None:
    return stage.task.gold if stage.task is not None and _own(stage) else None


def _rates(stage: Stage) -> Rates | None:
    return stage.task.rates if _own(stage) and isinstance(stage.task, HasRates) else None


def _judges(stage: Stage) -> tuple[WeightedReward, ...]:
    """What scores the answers to held-out prompts: the stage's reward, or its task's where it learns from labels."""
    if not stage.evaluate.reward:
        return ()
    if stage.sampler.online:
        return stage.rewards
    return stage.task_rewards if _own(stage) else ()
