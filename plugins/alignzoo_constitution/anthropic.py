"""The prompts of "Constitutional AI: Harmlessness from AI Feedback" (Bai et al. 2022), in the JSON of their repository.

CritiqueRevisionInstructions.json maps a name to {"prompt": [critique request], "edit_request": revision request};
RLMadisonInstructions.json is a list of questions that compare two answers. The two are not paired. Beside them lie
examples, which the paper shows before every request: whole dialogues for revisions, and prompts with a good and a bad
answer for comparisons.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from alignzoo.errors import DataError
from alignzoo.files import read_json
from alignzoo.types import Message
from alignzoo_constitution.principle import Example, Principle

REVISIONS, COMPARISONS = "CritiqueRevisionInstructions.json", "RLMadisonInstructions.json"
REVISION_EXAMPLES, COMPARISON_EXAMPLES = "CritiqueRevisionFewShotPrompts.json", "RLMadisonFewShotPrompts.json"
MARKS = re.compile(r"\n\n(Human|Assistant|CritiqueRequest|Critique|RevisionRequest|Revision):")
ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Request:
    """A principle for revisions."""

    prompt: list[str]
    edit_request: str


@dataclass(frozen=True)
class Comparison:
    """An example of a comparison."""

    prompt: str
    corrects: list[str]
    incorrects: list[str]


def read(path: Path) -> tuple[Principle, ...]:
    """The principles of a folder with the paper's files, or of one of the two files, then without examples."""
    if not path.is_dir():
        value = _json(path)
        return tuple(_revisions(path, value, ()) if isinstance(value, dict) else _comparisons(path, value, ()))
    found: list[Principle] = []
    if (path / REVISIONS).exists():
        found += _revisions(path / REVISIONS, _json(path / REVISIONS), _revised(path / REVISION_EXAMPLES))
    if (path / COMPARISONS).exists():
        found += _comparisons(path / COMPARISONS, _json(path / COMPARISONS), _compared(path / COMPARISON_EXAMPLES))
    if not found:
        raise DataError(f"{path} holds no constitution: neither {REVISIONS} nor {COMPARISONS} is there")
    return tuple(found)


def _revisions(path: Path, value: Any, examples: tuple[Example, ...]) -> list[Principle]:
    return [
        Principle(
            name,
            critique=_between("CritiqueRequest:", "".join(request.prompt), "Critique:"),
            revision=_between("RevisionRequest:", request.edit_request, "Revision:"),
            examples=examples,
        )
        for name, request in _checked(dict[str, Request], value, path).items()
    ]


def _comparisons(path: Path, value: Any, examples: tuple[Example, ...]) -> list[Principle]:
    questions = _checked(list[str], value, path)
    return [
        Principle(f"question{number}", question=_between("", text, "Options:"), examples=examples)
        for number, text in enumerate(questions)
    ]


def _revised(path: Path) -> tuple[Example, ...]:
    """Dialogues with the critique of their last answer and its revision, where there are some."""
    texts = _checked(list[str], _json(path), path) if path.exists() else []
    return tuple(_dialogue(text, f"{path}, example {number}") for number, text in enumerate(texts, 1))


def _dialogue(text: str, where: str) -> Example:
    """It may end by opening the next dialogue, as all are meant to be written one after another."""
    said = _said(text)
    marks = [mark for mark, _ in said]
    turns = [
        {"role": ROLES[mark], "content": what}
        for mark, what in said[: _index(marks, "CritiqueRequest")]
        if mark in ROLES
    ]
    known = dict(said)
    if not {"Critique", "Revision"} <= known.keys() or len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise DataError(
            f"{where}: expected Human, Assistant, CritiqueRequest, Critique, RevisionRequest and Revision, found "
            f"{', '.join(marks) or repr(text[:60])}"
        )
    return Example(tuple(turns[:-1]), turns[-1]["content"], known["Revision"], known["Critique"])


def _compared(path: Path) -> tuple[Example, ...]:
    """Prompts with a good and a bad answer, where there are some."""
    rows = _checked(list[Comparison], _json(path), path) if path.exists() else []
    return tuple(
        Example(_turns(row.prompt), answer=bad, revision=good)
        for row in rows
        for good, bad in zip(row.corrects, row.incorrects, strict=True)
    )


def _turns(text: str) -> tuple[Message, ...]:
    """A dialogue's turns, without the empty one that is to be answered."""
    return tuple({"role": ROLES[mark], "content": what} for mark, what in _said(text) if mark in ROLES and what)


def _said(text: str) -> list[tuple[str, str]]:
    """The marks of a text and what stands behind each."""
    _, *pieces = MARKS.split(text)
    return [(mark, piece.strip()) for mark, piece in zip(pieces[::2], pieces[1::2], strict=True)]


def _index(marks: list[str], mark: str) -> int:
    return marks.index(mark) if mark in marks else len(marks)


def _between(start: str, text: str, end: str) -> str:
    return text.strip().removeprefix(start).removesuffix(end).strip()


def _json(path: Path) -> Any:
    return read_json(path, error=DataError)


def _checked(shape: Any, value: Any, path: Path) -> Any:
    try:
        return TypeAdapter(shape).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise DataError(
            f"{path}: {place}: found {json.dumps(first['input'])[:80]}: {first['msg']}; the file must have the shape "
            "of the one in Anthropic's ConstitutionalHarmlessnessPaper/prompts"
        ) from error
