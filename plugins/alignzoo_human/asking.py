"""Which questions are asked first: by what reward models know of the answers, with a share drawn at random."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from alignzoo import Completion, Context, Group, Prompt, RecipeError, RewardSource
from alignzoo.lifecycle import opened
from alignzoo_human import active
from alignzoo_human.active import Drawn, Floats
from alignzoo_human.items import Item, written
from alignzoo_human.quality import opinions
from alignzoo_human.store import Store

if TYPE_CHECKING:
    from alignzoo.registry import Registry

NOBODY: Any = None
"""The policy that a reward model is asked beside: it scores by itself."""

By = Literal["uncertainty", "disagreement", "information"]
WORTH = {
    "uncertainty": lambda p: active.uncertainty(p.mean(0)),
    "disagreement": active.disagreement,
    "information": active.information_gain,
}
"""What a pair is worth asking, (pairs,), from the models' probabilities that its first answer is better, (models,
pairs)."""
LEAST = {"uncertainty": 1, "disagreement": 2, "information": 2}
"""How many models each needs: a single one never disagrees with itself."""


def reward_model(zoo: Registry, model: str) -> RewardSource:
    """The reward of a model's directory or hub id."""
    from alignzoo.recipe.parts import build
    from alignzoo.recipe.tables import tree

    spec: RewardSource = build(zoo.get("reward", "model"), tree({"model": model}, lambda path: "--active"), "reward")
    return spec


def worth(items: Sequence[Item], rewards: Sequence[RewardSource], by: By) -> Floats:
    """What each item is worth asking, (items,): of a ranking, the mean over the pairs of its answers.

    A model prefers answer i to answer j with probability σ(sᵢ - sⱼ), s being its scores (Bradley and Terry 1952).
    """
    if len(rewards) < LEAST[by]:
        raise RecipeError(f"--by {by} compares {LEAST[by]} reward models or more, found {len(rewards)}: --active each")
    if grades := sum(item.kind == "grade" for item in items):
        raise RecipeError(f"--active knows what comparisons are worth, found {grades} single answers to be graded")
    p, owners = _probabilities(items, rewards)
    each: Floats = WORTH[by](p)
    return np.bincount(owners, each, len(items)) / np.bincount(owners, minlength=len(items))


def _probabilities(items: Sequence[Item], rewards: Sequence[RewardSource]) -> tuple[Floats, NDArray[np.int_]]:
    """P(the first answer is better), (models, pairs of answers), and the item that each pair is of."""
    groups = [_group(item) for item in items]
    table = []
    for number, reward in enumerate(rewards, 1):
        with opened(reward, Context(f"active{number}")) as scorer:
            scored = [[_known(score.value) for score in scores] for scores in scorer.score(groups, NOBODY)]
        table.append([_sigmoid(a - b) for scores in scored for a, b in itertools.combinations(scores, 2)])
    pairs = [math.comb(len(item.answers), 2) for item in items]
    return np.array(table), np.repeat(np.arange(len(items)), pairs)


def draw_new(
    store: Store,
    items: Sequence[Item],
    rewards: Sequence[RewardSource],
    *,
    by: By,
    n: int,
    random: float,
    seed: int,
) -> list[tuple[Item, Drawn]]:
    """The next n questions, 0 for all, of those that the store has not, in the order in which they are to be asked."""
    known = store.items()
    left = [item for item in {item.key: item for item in items}.values() if item.key not in known]
    if not left:
        return []
    drawn = active.choose(worth(left, rewards, by), n or len(left), seed=seed + len(known), random=random)
    return [(left[each.place], each) for each in drawn]


def estimates(store: Store) -> list[str]:
    """What holds of all questions that were drawn from, estimated from those that were drawn; in lines.

    Questions that a reward model is unsure of are not like the others. Weighted by how probable each draw was, their
    mean is unbiased for all (`active.weights`); the figure after ± is its standard error.
    """
    drawn, said = store.drawn(), opinions(store.votes(), "pair")
    if not drawn:
        return []
    at_random = sum(each.how == "random" for each in drawn.values())
    told = [f"{len(drawn)} questions were drawn by --active, {at_random} of them at random"]
    if lacking := len(drawn.keys() - said.keys()):
        return [*told, f"{lacking} of them have no vote on a pair yet; with all, what holds of all questions is told"]
    items, draws = store.items(), list(drawn.values())
    ties = [fmean(float(vote == 0.5) for vote in said[key].values()) for key in drawn]
    longer = [fmean(_longer(items[key], vote) for vote in said[key].values()) for key in drawn]
    try:
        shares = [active.estimated_mean(values, draws) for values in (ties, longer)]
    except ValueError:
        return [*told, "their pools do not go on from one another, so that nothing is estimated of all questions"]
    (tied, tied_error), (long, long_error) = shares
    return [
        *told,
        f"of all {draws[0].left} questions, estimated: ties {tied:.0%} ± {100 * tied_error:.0f}, "
        f"the longer answer is better {long:.0%} ± {100 * long_error:.0f}",
    ]


def _longer(item: Item, vote: Any) -> float:
    """Whether the longer answer won, a tie or equal lengths counting half."""
    first, second = (len(written(answer)) for answer in item.answers)
    return 0.5 if first == second else float(vote) if first > second else 1 - float(vote)


def _group(item: Item) -> Group:
    """The answers of an item as a reward reads them: their texts, whose tokens are the reward model's own."""
    texts = [text if isinstance(text, str) else str(text[-1].get("content", "")) for text in item.answers]
    prompt = Prompt(item.prompt, chat="auto") if isinstance(item.prompt, str) else Prompt(item.prompt)
    return Group(prompt, (), tuple(Completion((), text) for text in texts))


def _known(score: float | None) -> float:
    if score is None:
        raise RecipeError("a reward model abstained from scoring an answer, so that it says nothing of its order")
    return score


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
