"""The checks that hold every task to the laws: data, a starting policy, a reward, a hidden gold score."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from alignzoo.errors import AlignzooError
from alignzoo.interfaces import Task
from alignzoo.registry import Registry
from alignzoo.testing.laws import Attempt, Checks, Figures, Given, checks, is_a_spec
from alignzoo.types import Completion, Prompt

KINDS = ("prompts", "demonstrations", "comparisons")
SPLITS = ("train", "heldout")
JUDGED = 200
"""Comparisons that are judged by the gold score."""


def _data(attempt: Attempt, task: Task, kind: str, split: str) -> list[Prompt]:
    with attempt.runs(f"data({kind!r}, {split!r})"):
        return task.data(kind, split)


def _all(attempt: Attempt, task: Task) -> Iterator[tuple[str, str, list[Prompt]]]:
    yield from ((kind, split, _data(attempt, task, kind, split)) for kind in KINDS for split in SPLITS)


def contract(task: Task, given: Given) -> None:
    """A frozen dataclass that can be pickled and replaced."""
    is_a_spec(task)


def data(task: Task, given: Given) -> None:
    """Prompts; demonstrations have an answer, comparisons two and a label for each, not all alike."""
    attempt = Attempt(11, "every kind and split", "answers or labels left out, or labels that are all the same")
    for kind, split, rows in _all(attempt, task):
        at = replace(attempt, given=f"data({kind!r}, {split!r})")
        wrong = next((row for row in rows if not isinstance(row, Prompt)), None)
        at.require(wrong is None, "a list of Prompt", type(wrong).__name__)
        at.require(kind != "prompts" or len(rows) > 0, "some prompts", "none")
        for row in rows:
            least = {"prompts": 0, "demonstrations": 1, "comparisons": 2}[kind]
            said = str(row.messages)[:60]
            n = len(row.completions)
            at.require(n >= least, f"{least} or more answers to {said!r}", str(n))
            if kind == "comparisons":
                at.require(len(row.labels) == n, f"{n} labels for {said!r}", str(len(row.labels)))
                at.require(len(set(row.labels)) > 1, f"labels for {said!r} that prefer one answer", str(row.labels))


def repeats(task: Task, given: Given) -> None:
    """The same data at every call."""
    attempt = Attempt(3, "every kind and split, twice", "a random draw without a seed, a set's order, or the clock")
    for kind, split, rows in _all(attempt, task):
        again = _data(attempt, task, kind, split)
        attempt.require(rows == again, f"the same data({kind!r}, {split!r}) twice", "other rows")


def held_out(task: Task, given: Given) -> None:
    """No held-out prompt is a training prompt, of whatever kind."""
    attempt = Attempt(12, "all training data beside all held-out data", "a split by row where prompts come twice")
    seen: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for _, split, rows in _all(attempt, task):
        seen[split] |= {str(row.messages) for row in rows}
    both = sorted(seen["train"] & seen["heldout"])
    attempt.require(not both, "no prompt in both", f"{len(both)}, as in {both[:1]}")


def gold(task: Task, given: Given) -> Figures:
    """The gold score is a finite number for any answer, the same each time; it mostly agrees with the labels."""
    attempt = Attempt(
        4, "answers that are good, empty, cut off, or nonsense", "an answer taken apart that has no parts"
    )
    rows = _data(attempt, task, "comparisons", "heldout") or _data(attempt, task, "comparisons", "train")
    for prompt in [*_data(attempt, task, "prompts", "heldout")[:20], *rows[:20]]:
        for text in (*map(_text, prompt.completions), "", "?", "a " * 50, "\n"):
            for finished in (True, False):
                completion = Completion((1,), text, finished)
                with attempt.runs(f"gold() of {text[:40]!r}"):
                    values = [task.gold(prompt, completion) for _ in range(2)]
                number = isinstance(values[0], int | float) and math.isfinite(values[0])
                attempt.require(number, f"a finite number for {text[:40]!r}", repr(values[0]))
                repeated = replace(attempt, law=3, cause="a gold score that draws at random")
                repeated.require(values[0] == values[1], "the same gold score twice", str(values))
    return _agreement(task, rows[:JUDGED])


def _agreement(task: Task, rows: list[Prompt]) -> Figures:
    """The share of compared pairs that gold and labels order alike; a figure, for raters may err."""
    right = total = 0.0
    for prompt in rows:
        golds = [task.gold(prompt, Completion((1,), _text(text))) for text in prompt.completions]
        for i, better in enumerate(prompt.labels):
            for j, worse in enumerate(prompt.labels):
                if better > worse and golds[i] != golds[j]:
                    right, total = right + (golds[i] > golds[j]), total + 1
    if not total:
        return {}
    share = right / total
    attempt = Attempt(6, f"{total:.0f} labelled pairs", "labels or a gold score the wrong way round")
    attempt.require(share > 0.5, "labels that agree with gold more often than not", f"in {share:.0%} of the pairs")
    return {"labels_agree_with_gold": share}


def _text(text: object) -> str:
    return text if isinstance(text, str) else "\n".join(turn["content"] for turn in text)  # type: ignore[attr-defined]


def models(task: Task, given: Given) -> None:
    """Its models are directories, or ids of a hub."""
    attempt = Attempt(11, "policy and base", "a path relative to where the author worked, or data that pip left out")
    for name in ("policy", "base"):
        with attempt.runs(name):
            model = getattr(task, name)
        attempt.require(isinstance(model, str) and bool(model), f"{name} to be a path or an id", repr(model))
        is_path = model.startswith(("/", ".", "~")) or Path(model).exists()
        there = not is_path or (Path(model) / "config.json").exists()
        attempt.require(there, f"{name} to be a model's directory", f"{model} without config.json")


def reward(task: Task, given: Given) -> None:
    """Its rewards are registered names with weights."""
    attempt = Attempt(11, "reward", "a reward of another plugin that is not installed, or a misspelt name")
    with attempt.runs("reward"):
        tables = list(task.reward)
    attempt.require(bool(tables), "one reward or more", "none")
    zoo = Registry()
    for table in tables:
        attempt.require("name" in table, "a table with a name", str(dict(table)))
        try:
            zoo.get("reward", str(table["name"]))
        except AlignzooError as error:
            attempt.fail("a registered reward", str(error).splitlines()[0])


TASK_CHECKS: Checks = checks(
    (3, contract), (11, data), (3, repeats), (12, held_out), (4, gold), (11, models), (11, reward)
)
"""Every check of a task by name, in the order in which they are made."""
