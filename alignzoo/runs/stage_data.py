"""What a stage learns from, and what it is examined on."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal, get_origin

import numpy as np
from numpy.typing import NDArray

from alignzoo.batching import OWN
from alignzoo.data import Data, Rows, train_and_heldout
from alignzoo.data.indexed import changed, chosen, fact, has_column
from alignzoo.data.row import finite
from alignzoo.data.turns import heard, settled
from alignzoo.errors import DataError, RunError
from alignzoo.evaluation.answers import Gold, Rates
from alignzoo.evaluation.heldout import Heldout
from alignzoo.interfaces import HasRates
from alignzoo.recipe import Stage
from alignzoo.recipe.parts import hints_of
from alignzoo.recipe.tables import STAGE_REFERENCE
from alignzoo.requirements import from_data
from alignzoo.rewards import WeightedReward
from alignzoo.runs.sizing import amount
from alignzoo.training.generation import generated
from alignzoo.traits import traits_of
from alignzoo.types import Prompt

Read = Callable[[Data], tuple[Sequence[Prompt], Sequence[Prompt]]]
"""Reads data, as prompts to train on and held-out ones."""


Sets = tuple[Sequence[Prompt], Sequence[Prompt], Sequence[Prompt]]
"""Training prompts, held-out prompts to answer, and held-out data of the kind that is learnt from."""


def data_of(stage: Stage, read: Read = train_and_heldout) -> Sets:
    """A stage's data: its task's, the user's own, or what an earlier stage generated; in rounds perhaps a slice."""
    if stage.origin is not None:
        return _generated(stage, stage.origin, read)
    train, heldout, shown = _given(stage, read)
    if stage.round is None or stage.round.prompts == "same":
        return train, heldout, shown
    if len(train) < stage.round.of:
        raise RunError(f"{stage.name}: {len(train)} training prompts cannot be divided among {stage.round.of} rounds")
    return train[stage.round.number - 1 :: stage.round.of], heldout, shown


def _generated(stage: Stage, origin: Stage, read: Read) -> Sets:
    """What an earlier stage generated, and the held-out data of that stage. Before it has run: the prompts that it will
    be asked, without completions."""
    asked, heldout, _ = data_of(origin, read)
    given = stage.task.data(stage.kind, "heldout") if stage.task is not None and _own(stage) else []
    shown = [prompt for prompt in given if prompt.completions]
    path = str(stage.data.path)
    if not path.startswith(STAGE_REFERENCE):
        return generated_for(stage), heldout, shown
    number = _to_come(origin, read)
    bare = [replace(prompt, completions=(), labels=()) for prompt in asked]
    return [bare[index % len(bare)] for index in range(number)], heldout, shown


def _to_come(stage: Stage, read: Read) -> int:
    """How many prompts a stage that leaves data will leave at most, those of an earlier one included."""
    own = stage.schedule.total(len(data_of(stage, read)[0])) * stage.schedule.prompts
    return own + (_to_come(stage.earlier, read) if stage.earlier is not None else 0)


def generated_for(stage: Stage) -> list[Prompt]:
    """What the stage's origin has generated, once it has run."""
    train = generated(Path(str(stage.data.path)))
    check_completions(stage, train)
    return train


def _given(stage: Stage, read: Read) -> Sets:
    if stage.data is None:
        assert stage.task is not None
        drawn = stage.task.data(stage.kind, "train")
        check_completions(stage, drawn)
        return drawn, stage.task.data("prompts", "heldout"), stage.task.data(stage.kind, "heldout")
    data = own_data(stage)
    hears = heard(data.chat, data.system)
    train, heldout = read(data)
    train, heldout = changed(train, hears), changed(heldout, hears)
    if not train:
        raise RunError(f"{stage.name}: no training prompts: all of the data are held out; lower data.heldout")
    check_completions(stage, train)
    if stage.sampler.online:  # what is asked last is answered
        train, heldout = changed(train, settled), changed(heldout, settled)
        return train, heldout, chosen(heldout, fact(heldout, "completions") > 0)
    imitates = traits_of(stage.optimizer).imitates
    unlearnable = np.any(list(_unlearnable(heldout, imitates).values()), axis=0)
    shown = chosen(heldout, (fact(heldout, "completions") > 0) & ~unlearnable)
    kept = _learnable(stage, train, imitates)
    _check_columns(stage, kept, shown)
    return kept, heldout, shown


def own_data(stage: Stage) -> Data:
    """The user's own data, whatever was given for them."""
    if isinstance(stage.data, Data):
        return stage.data
    return Data(path=str(stage.data)) if isinstance(stage.data, str | Path) else Data(rows=Rows(stage.data))


def _learnable(stage: Stage, prompts: Sequence[Prompt], imitates: bool) -> Sequence[Prompt]:
    """The rows that can be learnt from; what is left out is told, with how many."""
    why = _unlearnable(prompts, imitates)
    left_out = np.any(list(why.values()), axis=0)
    told = "; ".join(f"{n} of {len(prompts)}, {reason}" for reason, rows in why.items() if (n := int(rows.sum())))
    if left_out.all():
        raise DataError(f"no row can be learnt from: {told}")
    if not told:
        return prompts
    warnings.warn(f"{stage.name}: rows left out of training: {told}", stacklevel=2)
    return chosen(prompts, ~left_out)


def _check_columns(stage: Stage, train: Sequence[Prompt], shown: Sequence[Prompt]) -> None:
    """Raise where the optimizer names a column of the data that is no number in some row, or that it cannot have."""
    hints = hints_of(type(stage.optimizer))
    for f in fields(stage.optimizer):  # type: ignore[arg-type]
        name = getattr(stage.optimizer, f.name)
        if not isinstance(name, str) or get_origin(hints[f.name]) is Literal:  # a choice is no column
            continue
        if not (has_column(train, name) or has_column(shown, name)):
            continue
        if name in OWN:
            raise DataError(
                f"{stage.name}: optimizer.{f.name} names the column {name!r}, and batches have one of their own of "
                f"that name: rename it, with data.columns={{own_{name}={name!r}}} and optimizer.{f.name}=own_{name}"
            )
        lacking, first = 0, None
        for prompt in itertools.chain(train, shown):
            if not finite(prompt.info.get(name)):
                lacking, first = lacking + 1, first or prompt
        if first is not None:
            raise DataError(
                f"{stage.name}: optimizer.{f.name} names the column {name!r}, which is no finite number in "
                f"{lacking} of {len(train) + len(shown)} rows, first {first.info.get(name)!r} for the prompt "
                f"{str(first.messages)[:80]!r}: give every row a number, or leave such rows out"
            )


def _unlearnable(prompts: Sequence[Prompt], imitates: bool) -> dict[str, NDArray[np.bool_]]:
    """Why some rows are not learnt from, and which."""
    answers = fact(prompts, "answers")
    bad = fact(prompts, "bad") & answers & (fact(prompts, "completions") == 1) & imitates
    turns = "for an answer begins or ends with another turn than the assistant's: put what is asked into the prompt"
    return {
        turns: ~answers,
        "for their label says that the answer is bad, and it would be imitated": bad,
    }


def check_completions(stage: Stage, prompts: Sequence[Prompt]) -> None:
    """Raise DataError where the data have fewer completions of each prompt than the optimizer compares, or a prompt has
    none; warn where only some rows have enough."""
    if not from_data(stage.sampler):
        return
    least, source = traits_of(stage.optimizer).completions, _source(stage)
    completions = fact(prompts, "completions")
    lacking, empty = int((completions < least).sum()), np.flatnonzero(completions == 0)
    what = "a completion to learn from" if least == 1 else f"{least} completions to compare"
    fix = "answers" if least == 1 else "pairs (chosen and rejected) or rankings"
    cure = f"give {fix}, or let the policy generate them, by sampler={{name='policy', n={max(least, 2)}}} and a reward"
    if lacking == len(prompts):
        raise DataError(f"no row of {source} has {what}, which {_optimizer(stage)} needs: {cure}")
    if len(empty):
        raise DataError(
            f"the prompt {str(prompts[int(empty[0])].messages)[:80]!r} of {source} has no completions: {cure}"
        )
    if lacking:
        warnings.warn(
            f"{stage.name}: {lacking} of {len(prompts)} rows of {source} have fewer than {what}; they are idle",
            stacklevel=2,
        )


def _source(stage: Stage) -> str:
    """How a message calls a stage's data."""
    path = stage.data.path if isinstance(stage.data, Data) else stage.data
    if isinstance(path, str | Path) and str(path):
        return str(path)
    return f"the task's {stage.kind}" if stage.data is None else "the given rows"


def _optimizer(stage: Stage) -> str:
    """How a message calls a stage's optimizer."""
    told = stage.resolved["optimizer"]
    return repr(told["name"]) if isinstance(told, dict) else type(stage.optimizer).__name__


def heldout_of(stage: Stage, prompts: Sequence[Prompt], shown: Sequence[Prompt], train: int = 0) -> Heldout:
    """What the stage is examined on, of the held-out prompts and data, beside so many prompts to train on."""
    if stage.evaluate.prompts == "auto":
        size = amount(stage, train, len(prompts), len(shown))
        prompts, shown = prompts[: size.prompts], shown[: size.rows]
    return Heldout(stage.evaluate, prompts, shown, _judges(stage), _gold(stage), _rates(stage))


def examination(stage: Stage) -> tuple[Sequence[Prompt], tuple[WeightedReward, ...], Gold | None]:
    """Held-out prompts, what scores answers to them, and their gold, whatever the stage itself learns from."""
    rewards = stage.task_rewards if _own(stage) else stage.rewards if stage.sampler.online else ()
    return data_of(stage)[1], rewards, _gold(stage)


def _own(stage: Stage) -> bool:
    """Whether the stage is about its task's own data, so that the task's gold and reward speak of it."""
    return stage.task is not None and (_own(stage.origin) if stage.origin is not None else stage.data is None)


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
