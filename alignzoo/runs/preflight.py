"""A pipeline is checked whole before its first step: a mistake in its last stage costs nothing of the earlier ones.

Data are read once, here, and kept for their stage. Models are checked without their weights, by the parts that will
load them (`interfaces.HasCheck`).
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from alignzoo import columns, processes
from alignzoo.data import Data, train_and_heldout
from alignzoo.errors import AlignzooError, ModelError, RunError
from alignzoo.evaluation.answers import Figures
from alignzoo.gathering import roles_asked
from alignzoo.interfaces import CheckContext, Earlier, HasCheck, HasCosts, HasDiskUse
from alignzoo.recipe import Recipe, Stage
from alignzoo.recipe.outputs import leaves_data
from alignzoo.recipe.tables import STAGE_REFERENCE
from alignzoo.rewards import WeightedReward
from alignzoo.runs.stage_data import Read, data_of, heldout_of
from alignzoo.torch_optimizers import check_installed
from alignzoo.training.ahead import check as check_ahead
from alignzoo.training.stage import drawn
from alignzoo.types import Prompt

RESERVE = 1.02
"""Times the bytes of weights: what a model directory holds beside them."""


@dataclass(frozen=True)
class Checked:
    """A stage that has been checked, with the data that were read for it."""

    train: Sequence[Prompt]
    prompts: Sequence[Prompt]
    """Held out, to be answered."""
    shown: Sequence[Prompt]
    """Held out, of the kind that is trained on."""
    spent: Figures = field(default_factory=dict)
    """What the questions to its judges have cost."""


def check(recipe: Recipe, outputs: Mapping[str, str], folder: Path, *, ask: bool) -> dict[str, Checked]:
    """Check every stage that has no output yet, and return each with its data. Raises an AlignzooError of the kind of
    the first mistake, which names the stage and its key."""
    earlier: dict[str, Earlier] = {}
    checked: dict[str, Checked] = {}
    need: dict[str, int] = {}
    read = _reading()
    pending = [stage for stage in recipe.stages if stage.name not in outputs]
    for each in pending:
        references = dict(outputs) | {name: STAGE_REFERENCE + name for name in earlier}
        with _blamed(each.name):
            stage = each.with_outputs(references)
        with _blamed(f"{stage.name}.schedule"):
            check_installed(stage.schedule.optimizer)
            check_ahead(stage.schedule, stage.optimizer, stage.sampler, stage.rewards)
        with _blamed(f"{stage.name}.{'task' if stage.data is None else 'data'}"):
            data = Checked(*data_of(stage, read))
        _check_roles(stage)
        context = _context(stage, data, earlier, ask=ask and processes.index() == 0)
        examiners = heldout_of(stage, data.prompts, data.shown).rewards
        checked[stage.name] = replace(data, spent=_parts(stage, context, examiners))
        need[stage.name] = 0 if leaves_data(stage) else _bytes(stage, context, len(data.train))
        earlier[stage.name] = Earlier(stage.policy, stage.optimizer.needs)
    _check_disk(need, folder)
    return checked


def _check_roles(stage: Stage) -> None:
    """Raise ModelError where a part asks the policy in training, and that is a reward model, which says nothing."""
    needs = stage.optimizer.needs
    if not needs or columns.of_part(needs, "language"):
        return
    for key, part in (("sampler", stage.sampler), *(("reward", each.source) for each in stage.rewards)):
        if roles_asked(part):
            raise ModelError(
                f"{stage.name}.{key}: {type(part).__name__} asks the policy in training, here a reward model, which "
                f"cannot answer: name a model that can, as in {stage.name}.{key}.judge.model=DIRECTORY, or an earlier "
                "stage's as stage:NAME"
            )


def _reading() -> Read:
    """Reads data once: stages with the same settings share what was read."""
    known: list[tuple[Data, tuple[Sequence[Prompt], Sequence[Prompt]]]] = []

    def read(data: Data) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
        for settings, found in known:
            if settings == data:
                return found
        known.append((data, train_and_heldout(data)))
        return known[-1][1]

    return read


def _context(stage: Stage, data: Checked, earlier: Mapping[str, Earlier], *, ask: bool) -> CheckContext:
    first = drawn(data.train, stage.schedule.prompts, stage.seed, 0)
    online = stage.sampler.online
    needs, ahead = stage.optimizer.needs, stage.schedule.ahead
    rewards = tuple(each.name for each in stage.rewards)
    return CheckContext(needs, data.train, first, online, ask, dict(earlier), stage.sampler, ahead, rewards)


def _parts(stage: Stage, context: CheckContext, examiners: Sequence[WeightedReward]) -> Figures:
    """Check every part that can be checked, and those that it holds; return what the checks have cost."""
    roots: list[tuple[str, Any]] = [("policy", stage.policy), ("sampler", stage.sampler)]
    single = len(stage.rewards) == 1
    roots += [("reward" if single else f"reward.{i}", each.source) for i, each in enumerate(stage.rewards)]
    roots += [("task.reward", each.source) for each in examiners if each not in stage.rewards]
    roots += [("optimizer", stage.optimizer)]
    payers = list({id(part): part for _, part in roots if isinstance(part, HasCosts)}.values())
    seen: set[int] = set()
    parts = [each for key, root in roots for each in _held(f"{stage.name}.{key}", root, seen)]
    checked = [(path, part) for path, part in parts if isinstance(part, HasCheck)]
    payers = [each for each in payers if any(isinstance(part, HasCheck) for _, part in _held("", each, set()))]
    before = _spent(payers)
    for path, part in checked:
        with _blamed(path):
            part.check(context)
    return {name: value - before[name] for name, value in _spent(payers).items()}


def _spent(payers: Sequence[HasCosts]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in payers:
        total.update(part.costs())
    return total


def _held(path: str, part: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """A part and every dataclass in its fields, with the key of each."""
    if isinstance(part, type) or id(part) in seen:
        return
    seen.add(id(part))
    yield path, part
    if is_dataclass(part):
        for each in fields(part):
            value = getattr(part, each.name)
            if is_dataclass(value):
                yield from _held(f"{path}.{each.name}", value, seen)


@contextmanager
def _blamed(where: str) -> Iterator[None]:
    """Errors name the stage and its key."""
    try:
        yield
    except AlignzooError as error:
        if not str(error).startswith(where):
            error.args = (f"{where}: {error}",)
        raise
    except Exception as error:  # a part is a plugin's: whatever its check raises is told as what it is
        raise RunError(
            f"{where} could not be checked, its check raised {type(error).__name__}: {error}. --debug shows where"
        ) from error


# --- the disk ---------------------------------------------------------------------------------------------------------


def _bytes(stage: Stage, context: CheckContext, prompts: int) -> int:
    """What the stage will have written at most at once: its model, the checkpoints that are kept, and the next one."""
    if not isinstance(stage.policy, HasDiskUse):
        return 0
    with _blamed(f"{stage.name}.policy"):
        use = stage.policy.disk_use(context)
    schedule = stage.schedule
    written = schedule.total(prompts) // schedule.save_every if schedule.save_every else 0
    return round(RESERVE * (use.model + min(written, schedule.keep + 1) * use.checkpoint))


def _check_disk(need: Mapping[str, int], folder: Path) -> None:
    """Raise where the models and checkpoints of a run do not fit on the disk."""
    place = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free, total = shutil.disk_usage(place).free, sum(need.values())
    if total > free:
        stages = ", ".join(f"{name} {size / 1e9:.3g}" for name, size in need.items())
        raise RunError(
            f"{folder} has {free / 1e9:.3g} GB free, but models and checkpoints take about {total / 1e9:.3g} GB "
            f"({stages}): choose another --out, or keep fewer checkpoints by schedule.keep or schedule.save_every"
        )
