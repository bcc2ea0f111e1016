"""Labels as data: a row for each format that `alignzoo` reads, with what people gave as reasons beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignzoo.data import from_rows
from alignzoo.data.formats import FORMATS
from alignzoo.errors import DataError, did_you_mean
from alignzoo.files import line_of
from alignzoo.storage import write_text
from alignzoo.types import Text
from alignzoo_human.resolve import SOFT, How, Labelled, labelled
from alignzoo_human.store import Store

Row = dict[str, Any]
CONFIDENCE = "confidence"
"""The column of soft labels: which share of the raters prefers the chosen answer, from 0.5 to 1."""

ALIASES = {"ranking": "ranks"}
"""Further names of formats."""


@dataclass
class Exported:
    """Rows, and why some labels are in none."""

    rows: list[Row] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def export(store: Store, format: str, how: How = "majority") -> Exported:
    """The store's labels as rows of this format."""
    format = ALIASES.get(format, format)
    if format not in WRITERS:
        raise DataError(f"--as: no format is called {format!r}. {did_you_mean(format, [*WRITERS, *ALIASES])}")
    found = Exported()
    for each in labelled(store.items(), store.answered(), how, best=store.settings.grades):
        rows = [row for row in WRITERS[format](each, how, found.left_out) if _holds(format, row, found.left_out)]
        if rows and each.reasons:
            rows[0]["reasons"] = json.dumps(each.reasons, ensure_ascii=False)
        found.rows += rows
    if found.rows and any("reasons" in row for row in found.rows):
        for row in found.rows:
            row.setdefault("reasons", "")  # every row has the same columns
    if not found.rows:
        told = "; ".join(f"{n} with {why}" for why, n in found.left_out.items())
        raise DataError(f"{store.path} has no labels for the format {format!r}{': ' + told if told else ': no votes'}")
    return found


def _holds(format: str, row: Row, out: Counter[str]) -> bool:
    """Whether the format can hold it: an empty answer is a label of rankings, but no half of a pair."""
    try:
        from_rows([row], format=format)
    except DataError as error:
        what = str(error).partition("\n")[0].partition(f"({format}), ")[2].rstrip(".")
        out[f"what this format cannot hold, {what}: --as ranks may"] += 1
        return False
    return True


def save(found: Exported, path: Path) -> None:
    """The rows as JSON Lines."""
    write_text(path, "".join(map(line_of, found.rows)), private=True)


# --- a writer a format ------------------------------------------------------------------------------------------------


def _scores(each: Labelled, how: How, out: Counter[str]) -> Iterator[Row]:
    scores = _ranking(each, how, out)
    if scores is not None:
        yield {"prompt": each.prompt, "completions": each.answers, "scores": scores}


def _ranks(each: Labelled, how: How, out: Counter[str]) -> Iterator[Row]:
    scores = _ranking(each, how, out)
    if scores is not None:
        places = {score: place for place, score in enumerate(sorted(set(scores), reverse=True), 1)}
        yield {"prompt": each.prompt, "completions": each.answers, "ranks": [places[score] for score in scores]}


def _ranking(each: Labelled, how: How, out: Counter[str]) -> list[float] | None:
    if len(each.answers) < 2:
        out["a single answer, which is no ranking"] += 1
        return None
    scores = each.scores(how)
    if scores is None:
        out["answers that nobody compared"] += 1
    elif not each.connected(how):
        out["answers in two parts that nobody compared with one another: --as preference keeps what was compared"] += 1
        return None
    return scores


def _preferences(each: Labelled, how: How, out: Counter[str]) -> Iterator[tuple[Text, Text, Row]]:
    """The better and the worse answer of every two; a tie is a label only where labels are soft."""
    if len(each.answers) < 2:
        out["a single answer, which is no pair"] += 1
    for i, j, share in each.pairs(how):
        if share == 0.5 and how not in SOFT:
            out["a tie, which such pairs cannot say: --resolve soft, or --as ranks keeps them"] += 1
            continue
        yield each.answers[i], each.answers[j], {CONFIDENCE: round(share, 6)} if how in SOFT else {}


def _preference(each: Labelled, how: How, out: Counter[str]) -> Iterator[Row]:
    for better, worse, more in _preferences(each, how, out):
        yield {"prompt": each.prompt, "chosen": better, "rejected": worse} | more


def _implicit(each: Labelled, how: How, out: Counter[str]) -> Iterator[Row]:
    for better, worse, more in _preferences(each, how, out):
        yield {"chosen": _after(each.prompt, better), "rejected": _after(each.prompt, worse)} | more


def _hh(each: Labelled, how: How, out: Counter[str]) -> Iterator[Row]:
    if any(turn["role"] not in SPEAKERS for answer in each.answers for turn in _turns(each.prompt, answer)):
        out["a system's turn, which such dialogues have none of"] += 1
        return
    for better, worse, more in _preferences(each, how, out):
        yield {"chosen": _dialogue(each.prompt, better), "rejected": _dialogue(each.prompt, worse)} | more


def _unpaired(each: Labelled, how: How, out: Counter[str]) -> Iterator[Row]:
    """Good or bad: by grades, the upper half is good; of answers that were compared, what is better than most."""
    scores = each.scores(how)
    if scores is None:
        out["answers that nobody compared"] += 1
        return
    both_bad = _both_bad(each)
    middle = 0.5 if not each.graded else (1 + each.best) / 2
    for answer, score in zip(each.answers, scores, strict=True):
        if score == middle and not both_bad:
            out["an answer that is neither good nor bad"] += 1
            continue
        yield {"prompt": each.prompt, "completion": answer, "label": score > middle and not both_bad}


def _both_bad(each: Labelled) -> bool:
    """Whether most raters of a pair called both answers bad."""
    return len(each.answers) == 2 and 2 * len(each.bad) > len(each.votes)


def _best(each: Labelled, how: How, out: Counter[str]) -> Text | None:
    scores = each.scores(how)
    if scores is None or (len(scores) > 1 and max(scores) == min(scores) and not _both_bad(each)):
        out["no best answer"] += 1
        return None
    if _both_bad(each) or (each.graded and max(scores) < (1 + each.best) / 2):
        out["answers that people called bad, and that are not to be imitated: --as unpaired keeps them"] += 1
        return None
    return each.answers[scores.index(max(scores))]


def _completion(each: Labelled, how: How, out: Counter[str]) -> Iterator[Row]:
    best = _best(each, how, out)
    if best is not None:
        yield {"prompt": each.prompt, "completion": best}


def _messages(each: Labelled, how: How, out: Counter[str]) -> Iterator[Row]:
    best = _best(each, how, out)
    if best is not None:
        yield {"messages": [dict(turn) for turn in _turns(each.prompt, best)]}


def _alpaca(each: Labelled, how: How, out: Counter[str]) -> Iterator[Row]:
    asked, best = _single(each.prompt), _best(each, how, out)
    if asked is None:
        out["a conversation, which is no instruction"] += 1
    elif best is not None:
        yield {"instruction": asked, "output": _single(best)}


def _text(each: Labelled, how: How, out: Counter[str]) -> Iterator[Row]:
    best = _best(each, how, out)
    if best is not None and not (isinstance(best, str) and isinstance(each.prompt, str)):
        out["a conversation, which is no text"] += 1
    elif best is not None:
        yield {"text": f"{each.prompt}{best}"}


def _asked(each: Labelled, how: How, out: Counter[str]) -> Iterator[Row]:
    yield {"prompt": each.prompt}


def _compared(each: Labelled, out: Counter[str]) -> tuple[str, str, str] | None:
    """Instruction and two answers, of a pair that was voted on."""
    asked, texts = _single(each.prompt), [_single(answer) for answer in each.answers]
    if asked is None or None in texts:
        out["a conversation, which is no instruction"] += 1
    elif len(texts) != 2 or not each.preferred:
        out["other than two answers that were compared"] += 1
    else:
        return asked, str(texts[0]), str(texts[1])
    return None


def _pandalm(each: Labelled, how: How, out: Counter[str]) -> Iterator[Row]:
    """Every rater's vote: 1, 2, or 0 for a tie."""
    found = _compared(each, out)
    if found is None:
        return
    named = each.votes or dict.fromkeys(["ranking"], each.share(0, 1, how) or 0.0)
    votes = {f"annotator{k}": _which(vote) for k, vote in enumerate(named.values(), 1)}
    yield (
        {"instruction": found[0], "input": "", "response1": found[1], "response2": found[2]}
        | votes
        | {"annotators": ", ".join(named)}
    )


def _alpaca_eval(each: Labelled, how: How, out: Counter[str]) -> Iterator[Row]:
    """A number from 1, the first is better, to 2; 1.5 is a tie."""
    found = _compared(each, out)
    share = each.share(0, 1, how) if found is not None else None
    if found is not None and share is not None:
        preference = 2 - share
        yield {"instruction": found[0], "output_1": found[1], "output_2": found[2], "preference": preference}


WRITERS: Mapping[str, Callable[[Labelled, How, Counter[str]], Iterator[Row]]] = {
    "scores": _scores,
    "ranks": _ranks,
    "preference": _preference,
    "hh": _hh,
    "preference-implicit": _implicit,
    "unpaired": _unpaired,
    "prompt-completion": _completion,
    "alpaca": _alpaca,
    "pandalm": _pandalm,
    "alpaca-eval": _alpaca_eval,
    "messages": _messages,
    "prompt-only": _asked,
    "text": _text,
}
"""One for each format that is recognised."""
assert WRITERS.keys() == {name for name, form in FORMATS.items() if not form.named}

SPEAKERS = {"user": "Human", "assistant": "Assistant"}


def _turns(prompt: Text, answer: Text) -> Sequence[Mapping[str, str]]:
    from alignzoo.data.turns import as_messages

    return (*(as_messages(prompt) if prompt else ()), *as_messages(answer, "assistant"))


def _dialogue(prompt: Text, answer: Text) -> str:
    return "".join(f"\n\n{SPEAKERS[turn['role']]}: {turn['content']}" for turn in _turns(prompt, answer))


def _after(prompt: Text, answer: Text) -> Any:
    """Prompt and answer in one."""
    if isinstance(prompt, str) and isinstance(answer, str):
        return f"{prompt}{answer}"
    return [dict(turn) for turn in _turns(prompt, answer)]


def _single(text: Text) -> str | None:
    """The words of a text, or of a single turn; None of a conversation."""
    if isinstance(text, str):
        return text
    return text[0]["content"] if len(text) == 1 else None


def _which(vote: float) -> int:
    return 0 if vote == 0.5 else 1 if vote > 0.5 else 2
