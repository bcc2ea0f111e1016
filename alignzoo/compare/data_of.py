"""What an algorithm of a comparison is trained on, in words: how many of what, and who says which is better."""

from __future__ import annotations

from collections.abc import Iterator

from alignzoo.compare.grid import Grid
from alignzoo.compare.plan import Entry
from alignzoo.recipe import Stage
from alignzoo.runs.stage_data import data_of


def told_data(grid: Grid, algorithm: Entry) -> str:
    """The data of every stage of its recipe on the first task."""
    stages = grid.recipe(algorithm, grid.tasks[0]).stages
    told = list(dict.fromkeys(_stages(stages)))
    return ", then ".join(told)


def _stages(stages: tuple[Stage, ...]) -> Iterator[str]:
    for stage in stages:
        if stage.origin is not None:
            yield f"what {stage.origin.name} has left"
            continue
        number = len(data_of(stage)[0])
        names = " and ".join(reward.name for reward in stage.rewards) or "no reward"
        if stage.sampler.online:
            yield f"{number} prompts, its own answers scored by {names}"
        elif stage.kind == "comparisons":
            by = "" if names in ("labels", "no reward") else f", scored by {names}"
            yield f"{number} given comparisons with their labels{by}"
        else:
            yield f"{number} given {stage.kind}"
