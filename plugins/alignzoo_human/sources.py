"""Where questions come from: a run's samples, what `alignzoo collect` generated, data in every format that is read."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alignzoo.data import Data, from_rows, read
from alignzoo.errors import DataError
from alignzoo.files import read_lines
from alignzoo.types import Prompt, Text
from alignzoo_human.items import Item, dense, shuffled, text_of, written
from alignzoo_human.votes import Kind, Value


@dataclass
class Answers:
    """A prompt and what was answered, of one or several sources."""

    prompt: Text
    texts: dict[str, Text] = field(default_factory=dict)
    """By their JSON, so that equal ones are one."""
    origins: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: dict[str, float] = field(default_factory=dict)
    """What the data say of an answer, higher is better."""

    def add(self, text: Text, origin: Mapping[str, Any], label: float | None = None) -> None:
        key = written(text)
        self.texts[key] = text
        former = self.origins.setdefault(key, {"from": []})
        if dict(origin) not in former["from"]:
            former["from"].append(dict(origin))
        if label is not None:
            self.labels[key] = label


def gathered(paths: Sequence[Path], *, format: str = "auto", limit: int = 0) -> list[Answers]:
    """The prompts of all sources with their answers; answers to one prompt stand together, whoever gave them."""
    found: dict[str, Answers] = {}
    for path in paths:
        for prompt, text, origin, label in _read(path, format, limit):
            found.setdefault(written(prompt), Answers(prompt)).add(text, {"file": str(path)} | origin, label)
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no answers to label. `alignzoo collect` generates some")
    return list(found.values())


def items(
    answers: Sequence[Answers],
    *,
    kind: Kind | Literal["auto"] = "auto",
    size: int = 0,
    pairs: int = 0,
    gold: bool = False,
    seed: int = 0,
) -> list[Item]:
    """What people are asked about these answers: of one its grade, of two which is better, of more their order.

    `size` is how many answers a ranking has at most, `pairs` how many pairs of a prompt are compared, 0 for all; both
    are drawn from the seed. With `gold` the data's labels are the right verdicts.
    """
    made: list[Item] = []
    alone = 0
    for each in answers:
        keys = sorted(each.texts)
        asked: Kind = (
            kind if kind != "auto" else ("grade" if len(keys) == 1 else "pair" if len(keys) == 2 else "ranking")
        )
        if asked != "grade" and len(keys) < 2:
            alone += 1
            continue
        order = [keys[i] for i in shuffled(len(keys), seed, written(each.prompt))]
        for some in _chosen(asked, order, size, pairs):
            made.append(_item(asked, each, some, gold))
    if alone:
        warnings.warn(
            f"{alone} of {len(answers)} prompts have one answer only, or equal ones, and are left out: a {kind} "
            "compares two or more",
            stacklevel=2,
        )
    if not made:
        raise DataError(f"no prompt has answers that can be compared as a {kind}: label them with --kind grade")
    return made


def _chosen(kind: Kind, order: Sequence[str], size: int, pairs: int) -> Iterable[Sequence[str]]:
    if kind == "grade":
        return ((key,) for key in order)
    if kind == "ranking":
        return (order[: size or len(order)],)
    every = list(itertools.combinations(range(len(order)), 2))
    every.sort(key=lambda pair: (pair[1] - pair[0], pair[0]))  # a chain through all answers first
    return ([order[i], order[j]] for i, j in every[: pairs or len(every)])


def _item(kind: Kind, answers: Answers, keys: Sequence[str], gold: bool) -> Item:
    texts = [answers.texts[key] for key in keys]
    return Item.made(
        kind,
        answers.prompt,
        texts,
        origins=[answers.origins[key] for key in keys],
        gold=_gold(kind, answers, keys) if gold else None,
    )


def _gold(kind: Kind, answers: Answers, keys: Sequence[str]) -> Value:
    labels = [answers.labels.get(key) for key in keys]
    if any(label is None for label in labels):
        raise DataError(
            f"the answers to {str(answers.prompt)[:80]!r} have no labels, and so no right verdict to test raters by: "
            "give data in the format preference, ranks or scores"
        )
    known = [label for label in labels if label is not None]
    if kind == "grade":
        return known[0]
    if kind == "ranking":
        return dense([-label for label in known])
    first, second = known
    return 0.5 if first == second else float(first > second)


# --- files ------------------------------------------------------------------------------------------------------------

Answer = tuple[Text, Text, dict[str, Any], float | None]
"""A prompt, an answer to it, who generated it, and what the data say of it."""


def _read(path: Path, format: str, limit: int) -> Iterable[Answer]:
    path = path / "samples.jsonl" if (path / "samples.jsonl").is_file() else path
    if path.suffix == ".jsonl" and path.is_file() and format == "auto":
        rows = read_lines(path)[: limit or None]
        if rows and {"when", "prompt", "completion", "reward"} <= rows[0].keys():
            return [_sampled(row) for row in rows]
        if rows and {"prompt", "completions", "origins"} <= rows[0].keys():
            return [answer for row in rows for answer in _collected(row, path)]
    return [answer for prompt in read(Data(str(path), format=format, limit=limit)) for answer in _labelled(prompt)]


def _sampled(row: Mapping[str, Any]) -> Answer:
    """A line of a run's samples."""
    prompt = text_of(row["prompt"])
    kept = ("stage", "step", "when", "reward", "parts")
    origin = {name: row[name] for name in kept if name in row}
    return prompt, like(prompt, row["completion"]), origin, row["reward"]


def _collected(row: Mapping[str, Any], path: Path) -> list[Answer]:
    """A line of what `alignzoo collect` has generated."""
    (prompt,) = from_rows([{"prompt": row["prompt"]}], source=str(path))
    answers = [text_of(text) for text in row["completions"]]
    return [(prompt.messages, text, dict(origin), None) for text, origin in zip(answers, row["origins"], strict=True)]


def _labelled(prompt: Prompt) -> list[Answer]:
    labels = prompt.labels or (None,) * len(prompt.completions)
    return [
        (prompt.messages, text, {} if label is None else {"label": label}, label)
        for text, label in zip(prompt.completions, labels, strict=True)
    ]


def like(prompt: Text, text: str) -> Text:
    """An answer of the prompt's kind."""
    return text if isinstance(prompt, str) else ({"role": "assistant", "content": text},)
