"""What a stage is about to train on, looked at before its first step: what of its rows is cut, and the first of them as
the model sees it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from alignzoo.data.indexed import chosen
from alignzoo.errors import DataError
from alignzoo.interfaces import Policy
from alignzoo.types import Completion, Group, Prompt

LOOKED_AT = 10_000
"""Rows that are looked at where none is to be dropped."""

TooLong = Literal["cut", "drop", "error"]


@dataclass(frozen=True)
class Survey:
    """What a stage's own data look like to its model."""

    rows: int
    """Rows to train on."""
    looked_at: int
    """How many of them were tokenised for this: all, or the first."""
    dropped: int
    """Rows left out because they are too long."""
    prompts_cut: int
    """Prompts that lose their beginning."""
    answers_cut: int
    """Answers that lose their end, and with it the token by which the model learns to stop."""
    prompt: tuple[str, ...]
    """The first prompt, token by token, special tokens included: the policy reads it, and it is masked."""
    answer: tuple[str, ...]
    """Its first given answer; nothing where the policy generates."""
    trained: tuple[bool, ...] = ()
    """Which of the answer's tokens are trained on: all, but for what others say in it."""
    work: str = ""
    """How much is evaluated beside the training, in words; before it what a mixture of data is made of."""

    def data(self) -> dict[str, Any]:
        """The same as plain data; the example as two texts, and of the answer the parts that are trained on."""
        told = asdict(self) | {"prompt": "".join(self.prompt), "answer": "".join(self.answer)}
        runs = itertools.groupby(zip(self.answer, self.trained, strict=True), key=lambda pair: pair[1])
        return told | {"trained": ["".join(text for text, _ in run) for trained, run in runs if trained]}


def survey(
    prompts: Sequence[Prompt], policy: Policy, too_long: TooLong, progress: Callable[[int, int], None]
) -> tuple[Sequence[Prompt], Survey]:
    """The prompts to train on, and what they look like. DataError where a row is too long and may not be."""
    seen = prompts if too_long != "cut" else prompts[:LOOKED_AT]
    keep = np.ones(len(prompts), dtype=bool)
    shown: Group | None = None
    prompts_cut = answers_cut = 0
    fits = policy.info().fits
    for number, prompt in enumerate(seen):
        if number % 1000 == 0:
            progress(number, len(seen))
        group = policy.encode(prompt, prompt.completions)
        shown = shown or group
        cut = fits is not None and not fits(prompt)
        ends = sum(not completion.finished for completion in group.completions)
        if too_long == "error" and (cut or ends):
            raise DataError(
                f"the {'prompt' if cut else 'answer'} of the row {_asked(prompt)!r} does not fit into the model's "
                "context: raise policy.max_length, shorten it, or say data.too_long=cut or drop"
            )
        if too_long == "drop" and (cut or ends):
            keep[number] = False
            continue
        prompts_cut, answers_cut = prompts_cut + cut, answers_cut + ends
    if not keep.any():
        raise DataError(f"each of the {len(seen)} rows is too long for the model's context: raise policy.max_length")
    kept = prompts if keep.all() else chosen(prompts, keep)
    tokens = _pieces(policy, shown)
    return kept, Survey(len(kept), len(seen), len(prompts) - len(kept), prompts_cut, answers_cut, *tokens)


def sentences(found: Survey) -> list[str]:
    """What the user has to know of it."""
    of = f"of {found.looked_at}" + (f" (the first of {found.rows})" if found.looked_at < found.rows else "")
    longer = "raise policy.max_length where the model allows it, or leave such rows out with data.too_long=drop"
    told = []
    if found.dropped:
        told.append(f"rows left out because they do not fit into the model's context: {found.dropped} {of}")
    if found.prompts_cut:
        told.append(
            f"prompts that are cut at their beginning to fit into the model's context: {found.prompts_cut} "
            f"{of} rows; {longer}, or lower policy.max_new_tokens"
        )
    if found.answers_cut:
        told.append(
            f"given answers that are cut at their end, and do not teach to stop: {found.answers_cut} "
            f"in {of.removeprefix('of ')} rows; {longer}"
        )
    return told


def _pieces(policy: Policy, group: Group | None) -> tuple[tuple[str, ...], tuple[str, ...], tuple[bool, ...]]:
    strings = policy.info().token_strings
    if group is None or strings is None:
        return (), (), ()
    answer = group.completions[0] if group.completions else Completion((), "")
    return tuple(strings(group.prompt_tokens)), tuple(strings(answer.tokens)), answer.trained


def _asked(prompt: Prompt) -> str:
    return prompt.messages[:80] if isinstance(prompt.messages, str) else str(prompt.messages[-1]["content"])[:80]
