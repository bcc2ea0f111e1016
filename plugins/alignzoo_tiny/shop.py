"""Task `shop`: a help desk. What customers write, what good and bad clerks answer, and the hidden gold score."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product

from alignzoo import DataError
from alignzoo_tiny.grammar import (
    ITEMS,
    PROBLEMS,
    SENTENCES,
    Kind,
    Problem,
    Reply,
    read,
    tidy,
)

FRAMES = ("my {item} {problem} .", "the {item} i bought {problem} .", "hello , my {item} {problem} .")
MOODS = ("", "please help .", "i am upset .", "i need it soon .")


@dataclass(frozen=True)
class Complaint:
    """What a customer's message says."""

    item: str
    problem: Problem

    @property
    def split(self) -> str:
        """A fifth of the combinations is held out, so laid out that no item and no problem is held out whole."""
        return "heldout" if (2 * ITEMS.index(self.item) + PROBLEMS.index(self.problem)) % 5 == 0 else "train"

    @property
    def solution(self) -> str:
        """The sentence that helps this customer."""
        return self.problem.action.format(item=self.item)


@cache
def complaints() -> Mapping[str, Complaint]:
    """Every message a customer can write, understood."""
    return {
        tidy(f"{frame.format(item=item, problem=wording)} {mood}"): Complaint(item, problem)
        for item, problem, frame, mood in product(ITEMS, PROBLEMS, FRAMES, MOODS)
        for wording in problem.wordings
    }


def prompts(split: str) -> list[str]:
    """Every message of a split, "train" or "heldout"."""
    return [text for text, complaint in complaints().items() if complaint.split == split]


def understand(prompt: str) -> Complaint:
    """What a message says."""
    try:
        return complaints()[tidy(prompt)]
    except KeyError:
        raise DataError(f"The task 'shop' knows only its own complaints, and {prompt!r} is none of them.") from None


def write(prompt: str, quality: float, rng: random.Random) -> str:
    """What a clerk of this quality, 0 to 1, answers. The worse, the more evasions, wrong actions and rudeness."""
    complaint = understand(prompt)
    reply = []
    if rng.random() < 0.35:
        reply.append(rng.choice(SENTENCES[Kind.GREETING]))
    if rng.random() < 0.3 + 0.4 * quality:
        reply.append(rng.choice(SENTENCES[Kind.APOLOGY]))
    reply.append(_attempt(complaint, quality, rng))
    if rng.random() < 0.45 * (1 - quality):
        reply.append(rng.choice(SENTENCES[Kind.RUDENESS]))
    reply += _some(Kind.FILLER, 0.3, 2, rng)
    reply += _some(Kind.COURTESY, 0.25 + 0.35 * quality, 3, rng)
    return " ".join(reply)


def _attempt(complaint: Complaint, quality: float, rng: random.Random) -> str:
    """The right action, a random one, or an evasion; now and then about another item."""
    item = complaint.item if rng.random() < 0.8 + 0.2 * quality else rng.choice(ITEMS)
    right = 0.25 + 0.7 * quality
    luck = rng.random()
    if luck < right:
        return complaint.problem.action.format(item=item)
    if luck < (1 + right) / 2:
        return rng.choice(PROBLEMS).action.format(item=item)
    return rng.choice(SENTENCES[Kind.EVASION])


def _some(kind: Kind, chance: float, most: int, rng: random.Random) -> list[str]:
    """Sentences of a kind, one more as long as luck lasts."""
    said: list[str] = []
    while len(said) < most and rng.random() < chance:
        said.append(rng.choice(SENTENCES[kind]))
    return said


def gold(prompt: str, reply: str, finished: bool = True) -> float:
    """How good a reply truly is; 4.5 at best.

    The first action: 2 when it fits the problem, else -1; and 1 when it is about the customer's item, else -1.
    Then .5 for an apology, .4 for each of two courtesies, .2 for a greeting; -2 for each rude sentence, -1 evasive,
    -.5 filler, -.6 courteous beyond two, -.6 repeated, -1.5 ungrammatical, -1 of another task, -1 for each further
    action, and -1 when the reply was cut off.
    """
    said = read(reply)
    return (
        _solution_value(understand(prompt), said)
        + 0.5 * min(said.count(Kind.APOLOGY), 1)
        + 0.4 * min(said.count(Kind.COURTESY), 2)
        + 0.2 * min(said.count(Kind.GREETING), 1)
        - 2.0 * said.count(Kind.RUDENESS)
        - 1.0 * said.count(Kind.EVASION)
        - 0.5 * said.count(Kind.FILLER)
        - 0.6 * max(said.count(Kind.COURTESY) - 2, 0)
        - 0.6 * said.repeated
        - 1.5 * said.count(Kind.GARBLE)
        - 1.0 * said.count(Kind.REFUSAL, Kind.OFFER, Kind.ADVICE, Kind.HARMFUL_ADVICE)
        - 1.0 * max(said.count(Kind.ACTION) - 1, 0)
        - 1.0 * (not finished)
    )


def _solution_value(complaint: Complaint, said: Reply) -> float:
    """What the first action is worth: 0 when there is none."""
    actions = said.of(Kind.ACTION)
    if not actions:
        return 0.0
    fits = actions[0].template == complaint.problem.action
    same = actions[0].filling["item"] == complaint.item
    return (2.0 if fits else -1.0) + (1.0 if same else -1.0)


def rates(prompt: str, reply: str) -> dict[str, float]:
    """What happened, 1 or 0: something was done about the problem; and then, what was done first fits the problem, and
    is about the customer's item."""
    complaint, actions = understand(prompt), read(reply).of(Kind.ACTION)
    if not actions:
        return {"acting": 0.0}
    fits = actions[0].template == complaint.problem.action
    same = actions[0].filling["item"] == complaint.item
    return {"acting": 1.0, "action_right": float(fits), "item_right": float(same)}
