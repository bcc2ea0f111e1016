"""Rows of a dataset -> Prompt: one small function a format, in a table that is also the manual.

A text is a string, or a conversation: a list of {"role", "content"}, kept as a tuple of messages. The texts of a
row are all of one kind. Labels are higher for better: pairs (1, 0), demonstrations (1,), ranks their negative.
"""

from __future__ import annotations

import math
import re
import reprlib
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from alignzoo.errors import DataError, did_you_mean
from alignzoo.types import Message, Prompt, Text

ROLES = ("system", "user", "assistant")
"""Who speaks in a conversation."""

ANSWERS = frozenset({"chosen", "rejected", "completion", "completions"})
"""Columns that a recognised format must read: left over, they are a shape begun and not finished."""


@dataclass(frozen=True)
class Row:
    """A row and where it stands, so that what is wrong with it is said with file, row and column."""

    columns: Mapping[str, Any]
    where: str
    """The file, the row counted from 1, and the format it is read as."""

    def wrong(self, column: str, problem: str) -> DataError:
        """The error to raise about a column."""
        return DataError(f"{self.where}, column {column!r}: {problem}\n{accepted()}")

    def value(self, column: str) -> Any:
        """Whatever the column holds."""
        if column not in self.columns:
            raise self.wrong(column, f"it is missing. {did_you_mean(column, self.columns)}")
        return self.columns[column]

    def string(self, column: str) -> str:
        """A string, empty or not."""
        value = self.value(column)
        if not isinstance(value, str):
            raise self.wrong(column, f"expected a string, found {found(value)}.")
        return value

    def items(self, column: str) -> list[Any]:
        """A list."""
        value = self.value(column)
        if not isinstance(value, list | tuple):
            raise self.wrong(column, f"expected a list, found {found(value)}.")
        return list(value)

    def text(self, column: str) -> Text:
        """A text that is not empty; of a conversation, the last turn is not."""
        text = self.as_text(column, self.value(column))
        if not (text if isinstance(text, str) else text[-1]["content"]):
            raise self.wrong(column, "it is empty.")
        return text

    def reply(self, column: str, to: Text) -> Text:
        """A text that is not empty, of the prompt's kind, and the assistant's."""
        return self.as_reply(column, self.text(column), to)

    def as_text(self, column: str, value: Any) -> Text:
        """A value as a text."""
        if isinstance(value, str):
            return value
        if not isinstance(value, list | tuple) or not value:
            raise self.wrong(column, f"expected a text, found {found(value)}.")
        return tuple(self.as_message(f"{column}[{index}]", turn) for index, turn in enumerate(value))

    def as_message(self, column: str, turn: Any) -> Message:
        """A turn as a message: its role and content, and nothing else that says something."""
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str):
            raise self.wrong(column, f'expected {{"role", "content"}} in text, found {found(turn)}.')
        role, content = turn.get("role"), turn["content"]
        if role not in ROLES:
            raise self.wrong(column, f"unknown role {role!r}. Known: {', '.join(ROLES)}.")
        # Parquet gives every message the keys of all, filled with nulls.
        others = sorted(key for key in turn if key not in ("role", "content") and turn[key] not in (None, "", [], {}))
        if others:
            raise self.wrong(column, f"only role and content can be kept, found {', '.join(others)}.")
        return {"role": role, "content": content}

    def as_reply(self, column: str, text: Text, to: Text) -> Text:
        """A text as a reply: of the prompt's kind, and the assistant's."""
        if isinstance(text, str) != isinstance(to, str):
            wanted, got = ("a string", "a conversation") if isinstance(to, str) else ("a conversation", "a string")
            raise self.wrong(column, f"expected {wanted}, found {got}; the texts of a row are all of one kind.")
        if not isinstance(text, str) and text[-1]["role"] != "assistant":
            raise self.wrong(column, f"expected the assistant's turn at its end, found the {text[-1]['role']}'s.")
        return text

    def rename(self, columns: Mapping[str, str]) -> Row:
        """The same row under our names; `columns` maps our name to the file's."""
        for ours, theirs in columns.items():
            if theirs not in self.columns:
                hint = did_you_mean(theirs, self.columns)
                raise DataError(f"{self.where}: columns.{ours} = {theirs!r}, but there is no such column. {hint}")
        kept = {name: value for name, value in self.columns.items() if name not in columns.values()}
        for ours in sorted(kept.keys() & columns.keys()):
            raise DataError(
                f"{self.where}: columns.{ours} = {columns[ours]!r} would hide the file's own column {ours!r}. "
                f"Rename that one too: columns.old_{ours} = {ours!r}."
            )
        return replace(self, columns=kept | {ours: self.columns[theirs] for ours, theirs in columns.items()})


def scores(row: Row) -> Prompt:
    """A ranking: a number each, higher is better."""
    prompt, completions = _ranking(row)
    return Prompt(prompt, completions, _numbers(row, "scores", len(completions)))


def ranks(row: Row) -> Prompt:
    """A ranking: a place each, 1 is best, ties allowed."""
    prompt, completions = _ranking(row)
    places = _numbers(row, "ranks", len(completions))
    if min(places) < 1:
        raise row.wrong("ranks", f"expected ranks from 1 (the best) on, found {found(row.value('ranks'))}.")
    return Prompt(prompt, completions, tuple(-place for place in places))


def preference(row: Row) -> Prompt:
    """A pair."""
    prompt = row.text("prompt")
    return Prompt(prompt, (row.reply("chosen", prompt), row.reply("rejected", prompt)), (1.0, 0.0))


def hh(row: Row) -> Prompt:
    """A pair of "Human: ... Assistant: ..." dialogues."""
    return _after_common(row, _dialogue(row, "chosen"), _dialogue(row, "rejected"))


def implicit(row: Row) -> Prompt:
    """A pair; what both begin with is the prompt."""
    chosen = row.text("chosen")
    return _after_common(row, row.reply("chosen", chosen), row.reply("rejected", chosen))


def unpaired(row: Row) -> Prompt:
    """One completion, good (true) or bad (false)."""
    prompt, label = row.text("prompt"), row.value("label")
    if not isinstance(label, bool):
        raise row.wrong("label", f"expected true or false, found {found(label)}.")
    return Prompt(prompt, (row.reply("completion", prompt),), (float(label),))


def completion(row: Row) -> Prompt:
    """A demonstration."""
    prompt = row.text("prompt")
    return Prompt(prompt, (row.reply("completion", prompt),), (1.0,))


def alpaca(row: Row) -> Prompt:
    """A demonstration."""
    prompt = _instruction(row)
    return Prompt(prompt, (row.reply("output", prompt),), (1.0,))


def pandalm(row: Row) -> Prompt:
    """A ranking of two by annotators' votes.

    The columns annotator1, annotator2, ... hold 1, 2, or 0 for a tie. The labels are each response's share of the
    votes, a tie counting half to both; the single votes are in `info`. An empty response is kept, for it was
    written and judged. JSON's `true` is read as "True": PandaLM's own file has six such answers.
    """
    voters = [column for column in row.columns if re.fullmatch(r"annotator\d+", column)]
    if not voters:
        raise row.wrong("annotator1", "it is missing, and so are annotator2, annotator3, ...")
    votes = [_vote(row, column) for column in voters]
    responses = tuple(str(v) if isinstance(v := row.value(c), bool) else row.string(c) for c in _RESPONSES)
    return Prompt(_instruction(row), responses, tuple(sum(share) / len(votes) for share in zip(*votes, strict=True)))


def alpaca_eval(row: Row) -> Prompt:
    """A ranking of two by a judge's `preference`.

    It is 1, 2, or 0 for a tie, or between 1 and 2 the share of the second, as AlpacaEval has it; it stays in `info`.
    """
    prompt = row.text("instruction")
    given = row.value("preference")
    try:
        preference = float(given)
    except (TypeError, ValueError):
        preference = math.nan
    if preference != 0 and not 1 <= preference <= 2:
        raise row.wrong("preference", f"expected 0 (a tie), 1, 2 or between, found {found(given)}.")
    first = 2 - preference if preference else 0.5
    return Prompt(prompt, (row.string("output_1"), row.string("output_2")), (first, 1 - first))


def messages(row: Row) -> Prompt:
    """A demonstration: a conversation's last turn."""
    turns = row.reply("messages", to=())
    if len(turns) < 2:
        raise row.wrong("messages", "expected a question before the assistant's turn, found a single turn.")
    return Prompt(turns[:-1], (turns[-1:],), (1.0,))


def prompt_only(row: Row) -> Prompt:
    """A question for the policy."""
    return Prompt(row.text("prompt"))


def language(row: Row) -> Prompt:
    """A string to imitate, without a prompt."""
    return Prompt("", (row.reply("text", to=""),), (1.0,))


class Format(NamedTuple):
    """A shape of rows."""

    columns: tuple[str, ...]
    """The columns it needs; all others become `Prompt.info`."""
    read: Callable[[Row], Prompt]
    opening: str = ""
    """How the first column begins, where columns alone do not tell."""


FORMATS: dict[str, Format] = {
    "scores": Format(("prompt", "completions", "scores"), scores),
    "ranks": Format(("prompt", "completions", "ranks"), ranks),
    "preference": Format(("prompt", "chosen", "rejected"), preference),
    "hh": Format(("chosen", "rejected"), hh, opening="\n\nHuman:"),
    "preference-implicit": Format(("chosen", "rejected"), implicit),
    "unpaired": Format(("prompt", "completion", "label"), unpaired),
    "prompt-completion": Format(("prompt", "completion"), completion),
    "alpaca": Format(("instruction", "input", "output"), alpaca),
    "pandalm": Format(("instruction", "input", "response1", "response2"), pandalm),
    "alpaca-eval": Format(("instruction", "output_1", "output_2"), alpaca_eval),
    "messages": Format(("messages",), messages),
    "prompt-only": Format(("prompt",), prompt_only),
    "text": Format(("text",), language),
}
"""Every format by name. A file is recognised as the first one that its first row fits: from many columns to few."""


def parse(row: Row, name: str) -> Prompt:
    """Read a row as the format of this name."""
    columns, read, _ = FORMATS[name]
    prompt = read(replace(row, where=f"{row.where} ({name})"))
    return replace(prompt, info={column: row.columns[column] for column in row.columns if column not in columns})


def recognise(row: Row) -> str:
    """The name of the format that a file's first row fits."""
    present = {column for column, value in row.columns.items() if value is not None}
    for name, (columns, _, opening) in FORMATS.items():
        if not present.issuperset(columns) or not str(row.columns[columns[0]]).startswith(opening):
            continue
        if unread := sorted((ANSWERS & present).difference(columns)):
            raise DataError(
                f"{row.where} looks like {name!r}, which would leave {', '.join(unread)} unread. "
                f"Complete the columns, or say format = {name!r} if it is meant.\n{accepted()}"
            )
        return name
    raise DataError(f"{row.where} has the columns {', '.join(sorted(present))}: no format fits.\n{accepted()}")


def accepted() -> str:
    """The table of formats, for errors and help."""
    lines = ['Accepted rows by `format`; a text is a string or a list of {"role", "content"}:']
    for name, form in FORMATS.items():
        meaning = (form.read.__doc__ or "").partition("\n")[0]
        lines.append(f"  {name:<20} {', '.join(form.columns):<40} {meaning}")
    return "\n".join([*lines, 'Columns of other names: columns = { prompt = "question" }. All others go to `info`.'])


def found(value: Any) -> str:
    """A value's type and a short look at it, for errors."""
    return "null" if value is None else f"{type(value).__name__} {_SHORT.repr(value)}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60

_RESPONSES = ("response1", "response2")
_VOTES = {"0": (0.5, 0.5), "1": (1.0, 0.0), "2": (0.0, 1.0)}


def _vote(row: Row, column: str) -> tuple[float, float]:
    """What an annotator's vote counts for each response."""
    vote = row.value(column)
    if str(vote) not in _VOTES:
        raise row.wrong(column, f"expected 0 (a tie), 1 or 2, found {found(vote)}.")
    return _VOTES[str(vote)]


def _instruction(row: Row) -> str:
    parts = [row.string("instruction"), row.string("input")]
    if not any(parts):
        raise row.wrong("instruction", "it is empty, and so is the input.")
    return "\n\n".join(filter(None, parts))


def _ranking(row: Row) -> tuple[Text, tuple[Text, ...]]:
    """The prompt and its completions. An empty one is kept, for it was written and ranked."""
    prompt, values = row.text("prompt"), row.items("completions")
    if len(values) < 2:
        raise row.wrong("completions", f"expected two or more to rank, found {len(values)}.")
    named = {f"completions[{index}]": value for index, value in enumerate(values)}
    return prompt, tuple(row.as_reply(name, row.as_text(name, value), prompt) for name, value in named.items())


def _numbers(row: Row, column: str, n: int) -> tuple[float, ...]:
    values = row.items(column)
    if len(values) != n:
        raise row.wrong(column, f"expected one number per completion, found {len(values)} for {n} completions.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise row.wrong(column, f"expected finite numbers, found {found(value)}.")
    return tuple(map(float, values))


def _dialogue(row: Row, column: str) -> tuple[Message, ...]:
    """The turns of HH's notation. An empty reply is kept: the assistant said nothing, and was judged for it."""
    preamble, *turns = re.split(r"\n\n(Human|Assistant):", row.string(column))
    if preamble or not turns:
        raise row.wrong(column, f"expected a dialogue of '\\n\\nHuman: ...', found {found(row.value(column))}.")
    roles = {"Human": "user", "Assistant": "assistant"}
    said = zip(turns[::2], turns[1::2], strict=True)
    return tuple({"role": roles[who], "content": what.strip()} for who, what in said)


def _after_common(row: Row, chosen: Text, rejected: Text) -> Prompt:
    """Cut a pair where its common beginning ends.

    As in TRL's `extract_prompt`, something is left of both, and a space at the cut belongs to the completions.
    Unlike there, a string is not cut inside a word: " black" and " blue" would become "ack" and "ue".
    """
    most = min(len(chosen), len(rejected)) - 1
    # Bisection compares prefixes in C; a loop over the characters would be the slowest line of this file.
    cut = bisect_left(range(1, most + 1), True, key=lambda size: chosen[:size] != rejected[:size])
    if isinstance(chosen, str) and isinstance(rejected, str):
        while cut and any(text[cut - 1 : cut + 1].isalnum() for text in (chosen, rejected)):
            cut -= 1
        cut -= chosen[:cut].endswith(" ")
    elif not cut:
        raise row.wrong("chosen", "it shares no turn before the last with 'rejected', so there is no prompt.")
    return Prompt(chosen[:cut], (chosen[cut:], rejected[cut:]), (1.0, 0.0))
