"""Whether a stage's parts can work together, by what they declare: refused here, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from alignzoo.errors import RecipeError
from alignzoo.recipe.tables import Node
from alignzoo.requirements import brings_scores, generated_per_prompt, scores_generated
from alignzoo.traits import traits_of

if TYPE_CHECKING:
    from alignzoo.interfaces import Optimizer, Sampler
    from alignzoo.rewards import WeightedReward

TASK_REWARD = "task"
"""The name that stands for the reward of the stage's task, whichever that is: reward=task."""

UNNAMED = (
    'the recipe names no sampler, so the stage trains on the completions of its data: write sampler = "dataset" where '
    'that is meant, sampler = "policy" for what the policy generates'
)
"""Told of a stage whose sampler was filled in."""


def check_fit(
    stage: str,
    tables: Mapping[str, Node],
    where: str,
    sampler: Sampler,
    rewards: Sequence[WeightedReward],
    optimizer: Optimizer,
    known: str,
) -> None:
    """Raise RecipeError where these parts could only run in vain; `known` says which rewards there are."""
    if "sampler" not in tables and traits_of(optimizer).online:
        raise RecipeError(
            f"{where}: {stage} has no sampler, but its optimizer{_called(tables, 'optimizer')} learns from what the "
            'policy generates: write sampler = "policy"'
        )
    if not sampler.online:
        return
    useless = [reward.name for reward in rewards if not scores_generated(reward.source)]
    if useless and not brings_scores(sampler) and traits_of(optimizer).reads_rewards:
        raise RecipeError(
            f"{_where(tables, 'reward', where)}: {stage}.reward: {useless[0]!r} scores only answers that come with the "
            f"data, but the stage's sampler{_called(tables, 'sampler')} generates new ones, which it cannot score. "
            f"Give a reward that can: {known}"
        )
    least, n = traits_of(optimizer).completions, generated_per_prompt(sampler)
    if n is not None and n < least:
        raise RecipeError(
            f"{_where(tables, 'sampler', where)}: {stage}.sampler.n: found {n}, but the optimizer"
            f"{_called(tables, 'optimizer')} compares at least {least} completions of a prompt, and learns nothing "
            f"from fewer: set sampler.n={least} or more"
        )


def _where(tables: Mapping[str, Node], part: str, where: str) -> str:
    """Where a part was written: its `n` where it has one, or its name."""
    node = tables.get(part, Node(None, where))
    if node.is_list and node.value:
        node = node.value[0]
    named: dict[str, Node] = node.value if node.is_table else {}
    return named.get("n", named.get("name", node)).where


def _called(tables: Mapping[str, Node], part: str) -> str:
    """A part's name in the recipe, quoted; nothing for a live object."""
    node = tables.get(part)
    name = node.value["name"].value if node is not None and node.is_table and "name" in node.value else ""
    return f" {name!r}" if name else ""
