"""Rows of a dataset -> Prompt: one small function a format, in a table that is also the manual.

A text is a string, or a conversation: a list of {"role", "content"}, kept as a tuple of messages. The texts of a
row are all of one kind. Labels are higher for better: pairs (1, 0), demonstrations (1,), ranks their negative.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from alignzoo.data.row import ROLES, Row, finite, found
from alignzoo.data.turns import as_messages, as_turns, settled, with_system
from alignzoo.errors import DataError
from alignzoo.types import Message, Prompt, Text

__all__ = ["FORMATS", "ROLES", "Format", "Row", "accepted", "check_fits", "found", "parse", "recognise"]

READ = frozenset({"prompt", "instruction", "chosen", "rejected", "completion", "completions"})
"""Columns that a recognised format must read: left over, they are a shape begun and not finished."""

ASKED = frozenset(
    {"messages", "conversation", "conversations", "question", "query", "problem", "user", "input", "context", "history"}
)
"""Names under which data hold what is asked. A format that takes it from its answers would leave it out."""

SYSTEM = "system"
"""The column of any format that holds the system's turn."""

SAID = frozenset({"system_prompt", "tools", "images", "image", "videos", "chat_template_kwargs"})
"""Names under which data hold what a model is told beside the turns, which no format reads."""


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


def stepwise(row: Row) -> Prompt:
    """Steps of one solution, good (true) or bad each."""
    steps = row.items("completions")
    if not steps:
        raise row.wrong("completions", "expected the steps of a solution, found none.")
    named = {f"completions[{index}]": step for index, step in enumerate(steps)}
    labels = row.items("labels")
    values = [float(each) if isinstance(each, bool) else each for each in labels]
    row = replace(row, columns={**row.columns, "labels": values})
    prompt, completions = _asked(row, {name: row.as_text(name, value) for name, value in named.items()})
    return Prompt(prompt, completions, _numbers(row, "labels", len(steps)))


def preference(row: Row) -> Prompt:
    """A pair."""
    return Prompt(*_asked(row, {name: row.text(name) for name in ("chosen", "rejected")}), (1.0, 0.0))


def hh(row: Row) -> Prompt:
    """A pair of "Human: ... Assistant: ..." dialogues."""
    return _after_common(row, _dialogue(row, "chosen"), _dialogue(row, "rejected"))


def implicit(row: Row) -> Prompt:
    """A pair; what both begin with is the prompt."""
    chosen = row.text("chosen")
    return _after_common(row, row.reply("chosen", chosen), row.reply("rejected", chosen))


def unpaired(row: Row) -> Prompt:
    """One completion, good (true) or bad (false)."""
    label = row.truth("label")
    return Prompt(*_asked(row, {"completion": row.text("completion")}), (float(label),))


def completion(row: Row) -> Prompt:
    """A demonstration."""
    return Prompt(*_asked(row, {"completion": row.text("completion")}), (1.0,))


def alpaca(row: Row) -> Prompt:
    """A demonstration; with earlier turns in `history`, and a system's."""
    prompt = Prompt(_instruction(row), (row.reply("output", ""),), (1.0,))
    return _after(row, prompt) if row.columns.get("history") else prompt


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
    """How the first column begins, a pattern, where columns alone do not tell."""
    optional: tuple[str, ...] = ()
    """Columns that it reads where they are there."""
    whole: bool = False
    """Its first column says what is asked, too."""
    named: bool = False
    """It is read where `format` names it alone: by its columns, its parts of one answer could be taken for several."""
    answered: bool = True
    """Its rows have answers to what they ask; of those without, other columns may be there for a reward."""


FORMATS: dict[str, Format] = {
    "scores": Format(("prompt", "completions", "scores"), scores),
    "ranks": Format(("prompt", "completions", "ranks"), ranks),
    "stepwise": Format(("prompt", "completions", "labels"), stepwise, named=True),
    "preference": Format(("prompt", "chosen", "rejected"), preference),
    "hh": Format(("chosen", "rejected"), hh, opening=r"\n\n(Human|Assistant):|Human:[\s\S]*\n\nAssistant:"),
    "preference-implicit": Format(("chosen", "rejected"), implicit, whole=True),
    "unpaired": Format(("prompt", "completion", "label"), unpaired),
    "prompt-completion": Format(("prompt", "completion"), completion),
    "alpaca": Format(("instruction", "output"), alpaca, optional=("input", "history")),
    "pandalm": Format(("instruction", "response1", "response2"), pandalm, optional=("input",)),
    "alpaca-eval": Format(("instruction", "output_1", "output_2"), alpaca_eval),
    "messages": Format(("messages",), messages),
    "prompt-only": Format(("prompt",), prompt_only, answered=False),
    "text": Format(("text",), language),
}
"""Every format by name. A file is recognised as the first one that its first row fits: from many columns to few."""


def parse(row: Row, name: str) -> Prompt:
    """Read a row as the format of this name."""
    form = FORMATS[name]
    row = replace(row, where=f"{row.where} ({name})")
    prompt = settled(form.read(row))
    if row.columns.get(SYSTEM):
        prompt = with_system(prompt, row.string(SYSTEM), lambda problem: row.wrong(SYSTEM, problem))
    known = {*form.columns, *form.optional, SYSTEM}
    return replace(prompt, info={column: row.columns[column] for column in row.columns if column not in known})


def recognise(row: Row) -> str:
    """The name of the format that a file's first row fits, by its columns: one that is null there is one all the
    same, and an error when it is read."""
    name, unread = _fitting(row, set(row.columns))
    filled = {column for column, value in row.columns.items() if value is not None}
    nulls = [column for column in FORMATS[name].columns if column not in filled] if name else []
    if nulls:
        other, left = _fitting(row, filled)
        meant = f" Say format = {other!r} if the column is not meant." if other and not left else ""
        raise replace(row, where=f"{row.where} ({name})").wrong(nulls[0], f"it is null.{meant}")
    for said, form in FORMATS.items():
        if form.named and (unread or not name) and filled.issuperset(form.columns):
            raise DataError(
                f"{row.where} has the columns {', '.join(form.columns)}: say format = {said!r} if these are "
                f"{(form.read.__doc__ or '').partition('.')[0].lower()}.\n{accepted()}"
            )
    if name and unread:
        raise _leaves_out(row, name, unread)
    if name:
        return name
    columns = ", ".join(sorted(row.columns))
    raise DataError(
        f"{row.where} has {f'the columns {columns}: no format fits' if columns else 'no columns'}.\n{accepted()}"
    )


def check_fits(row: Row, name: str) -> None:
    """Raise where a later row has more to say than the format of the first row reads: a label, say."""
    filled = {column for column, value in row.columns.items() if value is not None}
    other, unread = _fitting(row, filled) if filled.issuperset(FORMATS[name].columns) else ("", [])
    if other == name and unread:
        raise _leaves_out(row, name, unread)
    if other and not set(FORMATS[other].columns).issubset(FORMATS[name].columns):
        raise DataError(
            f"{row.where} looks like {other!r}, and the first row like {name!r}: give all rows the same columns, or "
            f"say which is meant, with format = {name!r}.\n{accepted()}"
        )


def _leaves_out(row: Row, name: str, unread: Sequence[str]) -> DataError:
    """That a format would not read columns that say something."""
    renamed = f"columns = {{ {SYSTEM if unread[0] == 'system_prompt' else 'prompt'} = {unread[0]!r} }}"
    cures = ["Take them out of the data" if SAID.issuperset(unread) else "Complete the columns"]
    cures += [f"rename one with columns (as in {renamed})"] if unread[0] not in SAID - {"system_prompt"} else []
    return DataError(
        f"{row.where} looks like {name!r}, which would leave {', '.join(map(str, unread))} unread. {', '.join(cures)}, "
        f"or say format = {name!r} if it is meant.\n{accepted()}"
    )


def _fitting(row: Row, present: set[str]) -> tuple[str, list[str]]:
    """The first format that these columns fit, "" for none, and those that it would not read and must."""
    for name, (columns, _, opening, optional, whole, named, answered) in FORMATS.items():
        first = row.columns[columns[0]] if present.issuperset(columns) else None
        if present.issuperset(columns) and not named and re.match(opening, str(first)):
            meant = {column for column in present - READ if column.strip().lower() in READ}  # "Prompt", " completion"
            said = {column for column in SAID & present if row.columns[column]}
            asked = {column for column in ASKED & present if answered and _unsaid(row.columns[column], first, whole)}
            filled = {column for column in (READ & present) | meant | asked | said if row.columns[column] is not None}
            return name, sorted(filled.difference(columns, optional))
    return "", []


def _unsaid(asked: Any, text: Any, whole: bool) -> bool:
    """Whether a text does not say what another column asks; a conversation has its own question. Beside a question of
    their own, rows may have the conversation once more."""
    if not isinstance(text, str) or not asked or not (whole or isinstance(asked, str)):
        return False
    return not (isinstance(asked, str) and asked.strip() in text)


def accepted() -> str:
    """The table of formats, for errors and help."""
    lines = ['Accepted rows by `format`; a text is a string or a list of {"role", "content"}:']
    for name, form in FORMATS.items():
        meaning = (form.read.__doc__ or "").partition("\n")[0]
        lines.append(f"  {name:<20} {', '.join(form.columns):<40} {meaning}")
    return "\n".join([*lines, 'Columns of other names: columns = { prompt = "question" }. All others go to `info`.'])


_RESPONSES = ("response1", "response2")
_VOTES = {"0": (0.5, 0.5), "1": (1.0, 0.0), "2": (0.0, 1.0)}


def _vote(row: Row, column: str) -> tuple[float, float]:
    """What an annotator's vote counts for each response."""
    vote = row.value(column)
    if str(vote) not in _VOTES:
        raise row.wrong(column, f"expected 0 (a tie), 1 or 2, found {found(vote)}.")
    return _VOTES[str(vote)]


def _instruction(row: Row) -> str:
    parts = [row.string("instruction"), row.string("input") if row.columns.get("input") is not None else ""]
    if not any(parts):
        raise row.wrong("instruction", "it is empty, and so is the input.")
    return "\n\n".join(filter(None, parts))


def _ranking(row: Row) -> tuple[Text, tuple[Text, ...]]:
    """The prompt and its completions. An empty one is kept, for it was written and ranked."""
    values = row.items("completions")
    if len(values) < 2:
        raise row.wrong("completions", f"expected two or more to rank, found {len(values)}.")
    named = {f"completions[{index}]": value for index, value in enumerate(values)}
    return _asked(row, {name: row.as_text(name, value) for name, value in named.items()})


def _asked(row: Row, replies: Mapping[str, Text]) -> tuple[Text, tuple[Text, ...]]:
    """The prompt and the replies to it, by their columns; replies that are conversations may repeat the prompt."""
    prompt, texts = row.text("prompt"), list(replies.values())
    if isinstance(prompt, str) and texts and not any(isinstance(text, str) for text in texts):
        prompt = _question(row, prompt, texts)
    if isinstance(prompt, str):
        return prompt, tuple(row.as_reply(name, text, prompt) for name, text in replies.items())
    own = tuple(turn for turn in prompt if turn["role"] != SYSTEM)
    answers: list[Text] = []
    for name, text in replies.items():
        turns = row.as_reply(name, text, prompt)
        repeated = next((turns[len(each) :] for each in (prompt, own) if each and turns[: len(each)] == each), turns)
        if repeated and not isinstance(repeated, str) and repeated[0]["role"] != "assistant":
            raise row.wrong(name, "it begins with another turn than the assistant's, and does not repeat the prompt.")
        if not repeated:
            raise row.wrong(name, "it repeats the prompt and answers nothing.")
        answers.append(repeated)
    return prompt, tuple(answers)


def _question(row: Row, prompt: str, replies: Sequence[Text]) -> Text:
    """A prompt that is a string as turns, where its replies are conversations: the turns that these share before their
    last, or else the user's only turn."""
    turns = [() if isinstance(text, str) else text for text in replies]
    if all(text[0]["role"] == "assistant" for text in turns):
        return ({"role": "user", "content": prompt},)
    most = min(map(len, turns)) - 1
    shared = next((n for n in range(most) if len({str(text[n]) for text in turns}) > 1), most)
    begins = turns[0][:shared]
    asked = [turn["content"].strip() for turn in begins if turn["role"] == "user"]
    if prompt.strip() not in (asked[:1] + asked[-1:]):
        raise row.wrong(
            "prompt",
            "it is a string, and not what the user asks in the replies, which are conversations: where these have all, "
            "say format = 'preference-implicit' (of pairs) or leave the column out.",
        )
    return begins


def _after(row: Row, prompt: Prompt) -> Prompt:
    """The prompt after the turns of `history`, a list of [question, answer]."""
    turns: list[Message] = []
    for index, pair in enumerate(row.items("history")):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise row.wrong(f"history[{index}]", f"expected a question and its answer, found {found(pair)}.")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    prompt = as_turns(prompt)
    return replace(prompt, messages=(*turns, *as_messages(prompt.messages)))


def _numbers(row: Row, column: str, n: int) -> tuple[float, ...]:
    values = row.items(column)
    if len(values) != n:
        raise row.wrong(column, f"expected one number per completion, found {len(values)} for {n} completions.")
    for value in values:
        if not finite(value):
            raise row.wrong(column, f"expected finite numbers, found {found(value)}.")
    return tuple(map(float, values))


def _dialogue(row: Row, column: str) -> tuple[Message, ...]:
    """The turns of HH's notation. An empty reply is kept: the assistant said nothing, and was judged for it."""
    text = row.string(column)
    preamble, *turns = re.split(r"\n\n(Human|Assistant):", text if text.startswith("\n") else f"\n\n{text}")
    if preamble or not turns:
        raise row.wrong(column, f"expected a dialogue of '\\n\\nHuman: ...', found {found(row.value(column))}.")
    roles = {"Human": "user", "Assistant": "assistant"}
    said: list[Message] = []
    for who, what in zip(turns[::2], turns[1::2], strict=True):
        if who == "Assistant" and said and said[-1]["role"] == "assistant":  # it goes on: a model ends its turn once
            said[-1] = {"role": "assistant", "content": f"{said[-1]['content']}\n\n{what.strip()}"}
        else:
            said.append({"role": roles[who], "content": what.strip()})
    return tuple(said)


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
