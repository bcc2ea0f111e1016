"""A writer for the task `safe`: it criticises a reply by a principle and revises it. A program, no model.

It knows the world's grammar, so it finds every fault of the one principle that it is asked about, and mends nothing
else. What a policy learns from it is what these rules say; that a model could say it of itself is not shown by it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from alignzoo import DataError
from alignzoo_tiny.grammar import SENTENCES, Kind, Sentence, read
from alignzoo_tiny.safe import MOST_WORDS, PRINCIPLES, Request, understand

Mended = tuple[list[str], list[str]]
"""What is wrong with a reply, a sentence each, and the sentences of a better one."""

SUBSTANCE = (Kind.ADVICE, Kind.HARMFUL_ADVICE, Kind.REFUSAL)
SPARE = (Kind.GREETING, Kind.OFFER, Kind.FILLER, Kind.GARBLE)


def write(conversation: Sequence[Mapping[str, str]], rng: random.Random) -> str:
    """The next turn of a conversation that ends with a request for a critique of a reply, or for its revision.

    Request, reply, "NAME : ..." asks for the critique; critique, "NAME : ..." after that for the revision. NAME is a
    principle's.
    """
    turns = [turn["content"] for turn in conversation]
    name = turns[-1].partition(":")[0].strip()
    if len(turns) not in (3, 5) or name not in PRINCIPLES:
        raise DataError(
            "the program that writes for the task 'safe' answers a request, a reply, and 'NAME : what is wrong ?', and "
            f"then, after its critique, 'NAME : please say it again .', where NAME is one of {', '.join(PRINCIPLES)}. "
            f"Found {len(turns)} turns, the last {turns[-1][:80]!r}: use the constitution 'safe', or another writer"
        )
    wrong, better = MENDERS[name](understand(turns[0]), list(read(turns[1]).sentences), rng)
    if len(turns) == 3:
        return " ".join([f"not {name} :", *wrong]) if wrong else f"it is {name} ."
    return " ".join(better) if wrong else turns[1]


def _polite(request: Request, said: list[Sentence], rng: random.Random) -> Mended:
    """No rude sentence, and a courtesy."""
    rude = [it.text for it in said if it.kind is Kind.RUDENESS]
    kept = [it.text for it in said if it.kind is not Kind.RUDENESS]
    if any(it.kind in (Kind.COURTESY, Kind.APOLOGY) for it in said):
        return rude, kept
    return rude or ["nothing is polite ."], _with(kept, rng.choice(SENTENCES[Kind.COURTESY]))


def _harmless(request: Request, said: list[Sentence], rng: random.Random) -> Mended:
    """No harmful advice; what should be said in its place."""
    harmful = [it.text for it in said if it.kind is Kind.HARMFUL_ADVICE]
    return harmful, _instead(harmful, said, request.best)


def _non_evasive(request: Request, said: list[Sentence], rng: random.Random) -> Mended:
    """No evasion, needless refusal or untrue reason; what should be said in their place."""
    dodging = [
        it.text for it in said if it.kind is Kind.EVASION or (it.kind is Kind.REFUSAL and it.text != request.best)
    ]
    if not dodging and not any(it.kind in SUBSTANCE for it in said):
        return ["nothing is answered ."], _with([it.text for it in said], request.best)
    return dodging, _instead(dodging, said, request.best)


def _brief(request: Request, said: list[Sentence], rng: random.Random) -> Mended:
    """At most so many words: what can be spared is cut first, from the end, and last of all what should be said."""
    kept, cut = list(said), []
    for sentence in sorted(reversed(said), key=lambda it: (it.text == request.best, it.kind not in SPARE)):
        if sum(len(it.text.split()) for it in kept) > MOST_WORDS:
            kept.remove(sentence)
            cut.append(sentence.text)
    return cut, [it.text for it in kept]


def _fluent(request: Request, said: list[Sentence], rng: random.Random) -> Mended:
    """No broken, empty or repeated sentence."""
    bad = [it.text for at, it in enumerate(said) if it.kind in (Kind.GARBLE, Kind.FILLER) or it in said[:at]]
    kept = dict.fromkeys(it.text for it in said if it.kind not in (Kind.GARBLE, Kind.FILLER))
    return bad, list(kept) or [request.best]


def _with(texts: Sequence[str], sentence: str) -> list[str]:
    """One sentence more, at the end, but before what breaks off without a full stop."""
    broken = [text for text in texts[-1:] if not text.endswith(".")]
    return [*texts[: len(texts) - len(broken)], sentence, *broken]


def _instead(faults: Sequence[str], said: Sequence[Sentence], best: str) -> list[str]:
    """The reply with `best` in the place of its first fault, unless it is said already, and without the others."""
    texts = [it.text for it in said]
    if best not in texts and faults:
        texts[texts.index(faults[0])] = best
    return [text for text in texts if text not in faults]


MENDERS: Mapping[str, Callable[[Request, list[Sentence], random.Random], Mended]] = {
    "polite": _polite,
    "harmless": _harmless,
    "non_evasive": _non_evasive,
    "brief": _brief,
    "fluent": _fluent,
}
"""By principle: what is wrong with a reply, and what to say instead."""
