"""Samples token by token: whose numbers they are, whatever becomes of the rows, and that letters stay whole."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import alignzoo
from alignzoo.batching import collate
from alignzoo.interfaces import PolicyInfo
from alignzoo.training.token_log import SHOWN, token_columns
from alignzoo.types import Batch, Completion, Group, Prompt, Score


class Speller:
    """A policy that says what its tokens are."""

    def info(self) -> PolicyInfo:
        return PolicyInfo(token_strings=lambda tokens: [f"<{token}>" for token in tokens])


class Mute:
    """A policy that does not."""

    def info(self) -> PolicyInfo:
        return PolicyInfo()


def groups(n: int = 2) -> list[Group]:
    """Groups of two: a completion of two tokens, and one of one, which is abstained from in the second group."""
    return [
        Group(
            Prompt("?"),
            prompt_tokens=(5, 10 + g),
            completions=(Completion((1, 2), "ab"), Completion((3,), "c")),
            scores=(Score(1.0), Score(None if g == 1 else 0.0)),
        )
        for g in range(n)
    ]


def filled(batch: Batch) -> Batch:
    """Log-probabilities that say where they stand: row.token, and ten times that of the reference."""
    rows, width = batch.tokens.shape
    places = torch.arange(rows)[:, None] + torch.arange(width) / 10
    return replace(batch, old_logprobs=places * batch.mask, ref_logprobs=10 * places * batch.mask)


def test_each_token_has_its_own_numbers() -> None:
    given = groups()
    batch = filled(collate(given))  # rows: (5 10 | 1 2), (5 10 | 3), (5 11 | 1 2); the abstained one has no row
    found = token_columns(given, Speller(), given, batch)  # type: ignore[arg-type]
    assert found == [
        {"tokens": ["<1>", "<2>"], "logprobs": [0.2, 0.3], "ref_logprobs": [2.0, 3.0]},
        {"tokens": ["<3>"], "logprobs": [1.2], "ref_logprobs": [12.0]},
        {"tokens": ["<1>", "<2>"], "logprobs": [2.2, 2.3], "ref_logprobs": [22.0, 23.0]},
        {"tokens": ["<3>"]},
    ]


def test_advantages_are_found_again_in_what_an_optimizer_made_of_the_rows() -> None:
    given = groups()
    batch = filled(collate(given))
    kept = batch.select(torch.tensor([2, 0]))  # turned round, and one left out
    of_rows = replace(kept, advantages=torch.tensor([0.5, -0.5]))
    found = token_columns(given[::-1], Mute(), given, batch, of_rows)  # type: ignore[arg-type]
    assert [each.get("advantages") for each in found] == [[0.5, 0.5], None, [-0.5, -0.5], None]
    assert all("tokens" not in each for each in found)  # this policy cannot say
    of_tokens = replace(kept, advantages=torch.arange(8.0).reshape(2, 4))
    found = token_columns(given, Mute(), given, batch, of_tokens)  # type: ignore[arg-type]
    assert [each.get("advantages") for each in found] == [[6.0, 7.0], None, [2.0, 3.0], None]


def test_only_the_first_groups_are_spelt_out() -> None:
    many = groups(SHOWN + 1)
    found = token_columns(many, Speller(), many, filled(collate(many)))  # type: ignore[arg-type]
    assert len(found) == 2 * (SHOWN + 1) and found[-3] and found[-2:] == [{}, {}]


def test_a_runs_samples_have_them(recipe: Path, tmp_path: Path) -> None:
    out = alignzoo.run(recipe, out=tmp_path / "run", schedule={"eval_every": 1}).out
    lines: list[dict[str, Any]] = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(line["when"] for line in lines)) == ["before", "training", "during", "after"]
    for line in lines:
        n = len(line["tokens"])
        assert re.sub(r"<\|\w+\|>", "", "".join(line["tokens"])) == line["completion"]
        assert len(line["logprobs"]) == len(line["ref_logprobs"]) == n
        assert len(line.get("advantages", ())) == (n if line["when"] == "training" else 0)
    before = [line for line in lines if line["when"] == "before"]
    assert all(line["logprobs"] == line["ref_logprobs"] for line in before)


def test_a_letter_of_several_tokens_stays_whole(plain_model: Path) -> None:
    from alignzoo_hf.model.policy import HFPolicy
    from alignzoo_hf.model.spec import HF

    policy = HFPolicy(HF(model=str(plain_model), max_new_tokens=4, device="cpu"), frozenset())
    text = "é 漢🙂!"
    tokens = policy.tokenizer(text)["input_ids"]  # a token a byte
    assert policy.info().token_strings(tokens) == ["", "é", " ", "", "", "漢", "", "", "", "🙂", "!"]
    assert policy.info().token_strings(tokens[:4]) == ["", "é", " ", "\ufffd"]  # cut in the middle of a letter
