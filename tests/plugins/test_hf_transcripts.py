"""Transcripts through real models: holes in the mask change no answer, and a turn goes on from the tokens before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alignzoo import Completion, Group, ModelError, Prompt, Score
from alignzoo import functional as fn
from alignzoo.batching import collate
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF
from rounding import close, depth

COLUMNS = frozenset({"logprobs", "entropy", "values"})


def load(model: Path, **settings: Any) -> HFPolicy:
    spec = HF(model=str(model), max_new_tokens=6, device="cpu", critic="shared", **settings)
    return HFPolicy(spec, frozenset({"logprobs", "old_logprobs", "values"}))


def talks(policy: HFPolicy) -> list[Group]:
    """Two groups of two transcripts of two turns, what is heard between them of another length in each."""
    groups = policy.generate([Prompt("Count to 3: "), Prompt("Say hi")], 2, seeds=[0, 1])
    found = []
    for group in groups:
        heard = [policy.encode(Prompt(""), [text]).completions[0] for text in (" the tool says 12", " no")]
        begun = [
            each.then(Completion.observation(told.tokens[:-1], told.text))
            for each, told in zip(group.completions, heard, strict=True)
        ]
        replies = policy.go_on([group.prompt_tokens + each.tokens for each in begun], 1, seeds=fn.seeds(len(begun), 1))
        whole = tuple(each.then(reply) for each, (reply,) in zip(begun, replies, strict=True))
        found.append(replace(group, completions=whole, scores=(Score(0.0), Score(1.0))))
    return found


@pytest.mark.parametrize("attention", ["auto", "sdpa"])
def test_holes_change_no_answer(dtype: torch.dtype, plain_model: Path, attention: str) -> None:
    policy = load(plain_model, attention=attention)
    batch = collate(talks(policy), policy.device)
    whole = replace(batch, mask=batch.attend & (batch.mask.cumsum(1) > 0))
    assert (whole.mask & ~batch.mask).any(1).all()
    with torch.no_grad():
        holes, full = policy.forward(batch, COLUMNS), policy.forward(whole, COLUMNS)
    size = depth(policy.lm.config, batch.tokens.shape[1])
    for name in sorted(COLUMNS):
        close(holes[name][batch.mask], full[name][batch.mask], size)
        assert not holes[name][~batch.mask].any()
    told = batch.extra["sampled_logprobs"][batch.mask]
    close(told, holes["logprobs"][batch.mask], size)


def test_a_turn_is_not_tokenised_again(plain_model: Path) -> None:
    policy = load(plain_model)
    (group,) = policy.generate([Prompt("abc")], 3, seeds=[4])
    (again,) = policy.go_on([group.prompt_tokens], 3, seeds=[4])
    assert tuple(again) == group.completions
    (whole,) = policy.go_on([(*group.prompt_tokens, *group.completions[0].tokens, 200)], 1, seeds=[4])
    assert len(whole) == 1 and whole[0].logprobs is not None
    assert policy.go_on([], 2, seeds=[]) == []


def test_a_prefix_that_leaves_no_room_is_an_error(plain_model: Path) -> None:
    policy = load(plain_model, max_length=20)
    policy.go_on([(5,) * 14], 1, seeds=[0])
    with pytest.raises(ModelError, match=r"15 tokens leaves no room for policy.max_new_tokens = 6 within .* = 20"):
        policy.go_on([(5,), (5,) * 15], 1, seeds=[0, 1])
    with pytest.raises(ModelError, match="a prefix of no tokens"):
        policy.go_on([()], 1, seeds=[0])
