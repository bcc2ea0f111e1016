"""Held-out pairs, where nothing scores sampled answers: whether the better answer was raised more, and its loss."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alignzoo.compare import answers
from alignzoo.compare.answers import Examiner, best_and_worst, preferred
from alignzoo.types import Batch, Completion, Group, Prompt

PAIR = Prompt("p", ("good", "bad"), (1.0, 0.0))


@pytest.mark.parametrize(
    ("prompt", "pair"),
    [
        (PAIR, ("good", "bad")),
        (replace(PAIR, labels=(0.0, 1.0)), ("bad", "good")),
        (Prompt("p", ("a", "b", "c"), (0.5, 0.1, 0.9)), ("c", "b")),
        (replace(PAIR, labels=(1.0, 1.0)), None),
        (Prompt("p", ("alone",), (1.0,)), None),
        (Prompt("p"), None),
    ],
)
def test_the_best_and_the_worst_given_answer(prompt: Prompt, pair: tuple[str, str] | None) -> None:
    assert best_and_worst(prompt) == pair


def encode(prompt: Prompt, texts: tuple[str, ...]) -> Group:
    """A token a letter."""
    return Group(prompt, (1,), tuple(Completion(text=text, tokens=tuple(range(2, 2 + len(text)))) for text in texts))


def test_who_raised_the_better_answer_more_prefers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, start = (SimpleNamespace(name=name, device="cpu", encode=encode) for name in ("policy", "start"))
    raised = [0.3, 0.1, -0.2, -0.1, 0.5, 0.5]  # per row: better, worse of three prompts, each a token of the better one

    def logprobs(who: Any, batch: Batch, names: frozenset[str], **_: Any) -> dict[str, torch.Tensor]:
        assert names == {"logprobs"}
        found = torch.full(batch.tokens.shape, -1.0)
        if who is policy:
            for row, by in enumerate(raised):
                first = int(batch.prompt_length[row])
                found[row, first] += by  # the first token of the answer
        return {"logprobs": found}

    monkeypatch.setattr(answers, "answer_jointly", logprobs)
    examiner: Any = Examiner((), (), None, start)  # type: ignore[arg-type]
    prompts = [PAIR, replace(PAIR, labels=(1.0, 1.0)), PAIR, PAIR]  # the second has no better one
    found = preferred(policy, examiner, prompts, None, None)  # type: ignore[arg-type]
    assert {place: preference for place, (preference, _) in found.items()} == {0: 1.0, 2: 0.0, 3: 0.5}
    # of "good", four tokens of -1, the first raised: (4 - 0.3)/4, (4 + 0.2)/4, (4 - 0.5)/4
    assert [nll for _, nll in found.values()] == pytest.approx([0.925, 1.05, 0.875])
