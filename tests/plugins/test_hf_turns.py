"""Conversations with several answers: each is trained on as it is generated, and what others say is context."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import alignzoo
from alignzoo import Completion, DataError, Prompt
from alignzoo.batching import collate
from alignzoo.data import from_rows
from alignzoo.data.survey import survey
from alignzoo.types import Score
from alignzoo_hf.model.chat import Encoder
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF
from families import families

FAMILIES = {
    name: Encoder(tokenizer, ends, eos, template=None, max_length=4096, max_new_tokens=8)
    for name, (tokenizer, ends, eos) in families().items()
    if name != "none"
}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


TALK = (user("Is it?"), assistant("Yes."), user("Sure?"), assistant("Oh no."), user("So?"), assistant("Yes, it is."))


def spans(completion: Completion) -> list[tuple[int, int]]:
    """Where its own tokens begin and end, span by span."""
    own = [False, *(completion.own or (True,) * len(completion.tokens)), False]
    edges = [place for place in range(len(own) - 1) if own[place] != own[place + 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def test_each_answer_is_the_assistants_own(tiny_model: Path) -> None:
    policy = HFPolicy(HF(model=str(tiny_model), device="cpu"), frozenset({"logprobs"}))
    group = policy.encode(Prompt(TALK[:1]), [TALK[1:]])
    (completion,) = group.completions
    strings = policy.info().token_strings
    assert strings is not None
    told = ["".join(strings(completion.tokens[start:end])) for start, end in spans(completion)]
    assert told == ["Yes.<|end|>", "Oh no.<|end|>", "Yes, it is.<|end|>"]
    assert "".join(strings(completion.tokens)) == (
        "Yes.<|end|><|user|>Sure?<|end|><|assistant|>Oh no.<|end|><|user|>So?<|end|><|assistant|>Yes, it is.<|end|>"
    )
    assert completion.finished and completion.turns == tuple(edge for pair in spans(completion) for edge in pair)[:-1]
    batch = collate([replace(group, scores=(Score(1.0),))])
    assert int(batch.mask.sum()) == 5 + 7 + 12 and int(batch.prompt_length[0]) == len(group.prompt_tokens)


def test_what_does_not_fit_loses_its_end(tiny_model: Path) -> None:
    policy = HFPolicy(HF(model=str(tiny_model), device="cpu", max_length=32, max_new_tokens=16), frozenset())
    group = policy.encode(Prompt(TALK[:1]), [TALK[1:]])
    whole = HFPolicy(HF(model=str(tiny_model), device="cpu"), frozenset()).encode(Prompt(TALK[:1]), [TALK[1:]])
    (short,), (long,) = group.completions, whole.completions
    room = 32 - len(group.prompt_tokens)
    assert (short.tokens, short.own) == (long.tokens[:room], (long.own or ())[:room])
    assert not short.finished and short.turns == tuple(turn for turn in long.turns if turn < room)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_trained_on_is_what_is_generated(name: str) -> None:
    """For every tokenizer and template, what stands before each answer is what it is generated from."""
    encoder = replace(FAMILIES[name])  # which tells anew
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        group = encoder.group(Prompt(TALK[:1]), [TALK[1:]])
    (completion,) = group.completions
    whole, start = group.prompt_tokens + completion.tokens, len(group.prompt_tokens)
    found = [(whole[: start + begin], completion.tokens[begin:end]) for begin, end in spans(completion)]
    expected = []
    for place in (1, 3, 5):
        alone = encoder.group(Prompt(TALK[:place]), [TALK[place]["content"]])
        expected.append((alone.prompt_tokens, alone.completions[0].tokens))
    assert found and all(each in expected for each in found) and found[-1] == expected[-1]
    assert len(found) == 3 or any("answer" in str(each.message) for each in told)


def test_most_templates_train_on_every_answer() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = [
            name
            for name, each in FAMILIES.items()
            if len(spans(each.group(Prompt(TALK[:1]), [TALK[1:]]).completions[0])) == 3
        ]
    assert len(whole) >= len(FAMILIES) // 2, whole


def test_a_template_that_ends_no_answer_is_read_and_the_last_answer_trained(tiny_model: Path) -> None:
    policy = HFPolicy(HF(model=str(tiny_model), device="cpu", chat_template="dialogue"), frozenset())
    with pytest.warns(UserWarning, match="these are read, and not trained on"):
        group = policy.encode(Prompt(TALK[:1]), [TALK[1:]])
    ((start, end),) = spans(group.completions[0])
    assert policy.encoder.text(group.completions[0].tokens[start:end]).strip() == "Yes, it is."


def test_a_template_that_opens_answers_otherwise_is_told(tiny_model: Path) -> None:
    template = tiny_model.parent / "opens.jinja"
    template.write_text(
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>!{% endif %}"
    )
    policy = HFPolicy(HF(model=str(tiny_model), device="cpu", chat_template=str(template)), frozenset())
    prompt = Prompt(TALK[:1])
    with pytest.warns(UserWarning, match=r"only the last answer is trained on: data\.turns=last"):
        group = policy.encode(prompt, [TALK[1:]])
    last = policy.encode(Prompt(TALK[:-1]), [TALK[-1]["content"]])
    assert group == replace(last, prompt=prompt)
    pair = [(TALK[1], TALK[2], TALK[3]), (TALK[3], TALK[4], TALK[5])]
    with pytest.raises(alignzoo.ModelError, match="completions of several turns cannot be told apart"):
        policy.encode(prompt, pair)


def test_what_is_learnt_begins_and_ends_with_the_assistant(tiny_model: Path) -> None:
    policy = HFPolicy(HF(model=str(tiny_model), device="cpu"), frozenset())
    for wrong in (TALK[2:], TALK[1:-1], ()):
        with pytest.raises(DataError, match="what is learnt begins and ends with the assistant's"):
            policy.encode(Prompt(TALK[:1]), [wrong])


# --- the data's setting -------------------------------------------------------------------------------------------


def test_messages_are_read_with_all_answers_or_the_last() -> None:
    rows = [{"messages": list(TALK)}, {"messages": [{"role": "system", "content": "Be brief."}, *TALK[:2]]}]
    every, last = from_rows(rows, turns="all"), from_rows(rows)
    assert (every[0].messages, every[0].completions) == (TALK[:1], (TALK[1:],))
    assert (last[0].messages, last[0].completions) == (TALK[:-1], (TALK[-1:],))
    assert every[1] == last[1]
    pair = [{"prompt": list(TALK[:3]), "chosen": [TALK[3]], "rejected": [TALK[1]]}]
    assert from_rows(pair, turns="all") == from_rows(pair)  # an earlier answer in a prompt is nothing to imitate


@pytest.mark.parametrize(("settings", "trained"), [((), 24), (("data.turns=last",), 12)])
def test_sft_trains_on_them(tiny_model: Path, tmp_path: Path, settings: tuple[str, ...], trained: int) -> None:
    data = tmp_path / "talk.jsonl"
    data.write_text(json.dumps({"messages": TALK}) + "\n")
    overrides: list[Any] = ["schedule.steps=1", "schedule.prompts=1", "evaluate.prompts=0", "data.heldout=0", *settings]
    policy = {"name": "hf", "model": str(tiny_model), "device": "cpu", "max_new_tokens": 16}
    out = alignzoo.run("sft", policy=policy, data=str(data), overrides=overrides, out=tmp_path / "run").out
    (line,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert line["length"] == trained


def test_a_run_shows_which_answers_it_trains_on(tiny_model: Path) -> None:
    policy = HFPolicy(HF(model=str(tiny_model), device="cpu"), frozenset())
    kept, found = survey([Prompt(TALK[:1], (TALK[1:],), (1.0,))], policy, "cut", lambda done, total: None)
    assert len(kept) == 1 and len(found.trained) == len(found.answer)
    assert found.data()["trained"] == ["Yes.<|end|>", "Oh no.<|end|>", "Yes, it is.<|end|>"]
