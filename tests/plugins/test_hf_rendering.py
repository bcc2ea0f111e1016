"""What is trained on is what is generated, whatever tokenizer and chat template: properties over random talk."""

from __future__ import annotations

import random
import re
import warnings
from dataclasses import replace
from typing import Any

import pytest

from alignzoo import DataError, Prompt
from alignzoo_hf.model.chat import Encoder
from alignzoo_hf.model.marks import outer
from families import CHATML, OPEN, families

FAMILIES = families()
CHATTING = [name for name in FAMILIES if name != "none"]
PIECES = [
    "hello",
    " fox",
    "12",
    "345",
    " ",
    "\n",
    "\n\n",
    ".",
    "é",
    "日本",
    "🙂",
    "a",
    "?!",
    "    x",
    "\t",
    "de\u0301",
    "“q”",
    "[INST",
    "<b>",
]


SYSTEM = {"role": "system", "content": "be brief"}
USER = {"role": "user", "content": "hello"}


def encoder(name: str, **changes: Any) -> Encoder:
    tokenizer, ends, eos = FAMILIES[name]
    return Encoder(tokenizer, ends, eos, **{"template": None, "max_length": 4096, "max_new_tokens": 8} | changes)


def words(rng: random.Random, *, empty: bool = False) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(0 if empty else 1, 8))) or ("" if empty else "x")


def talk(rng: random.Random, turns: int) -> tuple[dict[str, str], ...]:
    """A conversation of user and assistant that ends with the user."""
    roles = ["assistant" if (turns - i) % 2 == 0 else "user" for i in range(turns)]
    roles = roles if roles[0] == "user" else roles[1:]
    return tuple({"role": role, "content": words(rng, empty=role == "assistant")} for role in roles)


def spelt(enc: Encoder, tokens: Any) -> str:
    return str(enc.tokenizer.decode(list(tokens)))


def ids(enc: Encoder, text: str) -> list[int]:
    return list(enc.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("name", CHATTING)
def test_a_conversation_has_the_tokens_of_its_whole(name: str) -> None:
    """In 60 random conversations, prompt and answer spell what the template makes of the whole; where no token spans
    the boundary they are its tokens; and the prompt's are those that an answer is generated from."""
    enc, rng, joint = encoder(name), random.Random(name), 0
    for _ in range(60):
        turns = talk(rng, rng.randint(1, 6))
        answer = words(rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            group = enc.group(Prompt(turns), [answer])
        (completion,) = group.completions
        assert group.prompt_tokens == enc.prompt(Prompt(turns))
        assert completion.tokens[-1] in enc.stop_ids
        if name == "r1":
            continue  # its template opens reasoning that these answers do not have
        conversation = [*turns, {"role": "assistant", "content": answer}]
        text = enc.tokenizer.apply_chat_template(conversation, tokenize=False)
        whole = ids(enc, text)
        last = max(i for i, token in enumerate(whole) if token in enc.stop_ids)
        found = list(group.prompt_tokens + completion.tokens)
        assert spelt(enc, found) == spelt(enc, whole[: last + 1])
        opened = len(group.prompt_tokens)
        if tuple(whole[:opened]) == group.prompt_tokens:
            joint += 1
            assert found == whole[: last + 1]
    assert joint > 30 or name == "r1"  # most answers begin with a token of their own


@pytest.mark.parametrize("name", FAMILIES)
def test_plain_text_has_the_tokens_of_its_whole(name: str) -> None:
    enc, rng, joint = encoder(name), random.Random(name), 0
    for _ in range(60):
        asked, answer = words(rng), words(rng)
        group = enc.group(Prompt(asked, chat="plain"), [answer])
        found = [*group.prompt_tokens, *group.completions[0].tokens]
        whole = [*enc.tokenizer(asked + answer)["input_ids"], enc.eos_id]
        assert list(group.prompt_tokens) == list(enc.tokenizer(asked)["input_ids"])
        assert spelt(enc, found) == spelt(enc, whole)
        if tuple(whole[: len(group.prompt_tokens)]) == group.prompt_tokens:
            joint += 1
            assert found == whole
    assert joint > 20


@pytest.mark.parametrize("name", CHATTING)
def test_an_answer_ends_once_and_where_generation_ends(name: str) -> None:
    enc = encoder(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (completion,) = enc.group(Prompt(({"role": "user", "content": "hello"},)), ["good"]).completions
    assert sum(token in enc.stop_ids for token in completion.tokens) == 1
    assert completion.text.strip().removeprefix("</think>").strip() == "good" or name in ("qwen-3", "r1")
    assert spelt(enc, completion.tokens).endswith(
        "good" + " " * (name == "llama-2") + spelt(enc, completion.tokens[-1:])
    )


@pytest.mark.parametrize("name", CHATTING)
def test_a_start_token_stands_once(name: str) -> None:
    enc = encoder(name)
    start = enc.tokenizer.bos_token
    if not start:
        return
    talked = Prompt(({"role": "user", "content": "hello"},))
    written = enc.chat.opened(talked.messages)  # text that has gone through the template before
    for prompt in (talked, Prompt(written, chat="plain"), Prompt("hello", chat="plain")):
        tokens = enc.prompt(prompt)
        assert tokens.count(enc.tokenizer.bos_token_id) == (0 if name == "zephyr" and prompt is talked else 1)


@pytest.mark.parametrize("name", CHATTING)
def test_what_the_assistant_has_begun_is_gone_on_with(name: str) -> None:
    enc = encoder(name)
    turns = ({"role": "user", "content": "hello"}, {"role": "assistant", "content": "Sure,"})
    group = enc.group(Prompt(turns), [" yes"])
    whole = enc.tokenizer.apply_chat_template([turns[0], {"role": "assistant", "content": "Sure, yes"}], tokenize=False)
    assert spelt(enc, group.prompt_tokens).endswith("Sure,")
    found = spelt(enc, group.prompt_tokens + group.completions[0].tokens)
    assert spelt(enc, ids(enc, whole)).startswith(found) and found.rstrip().endswith(spelt(enc, [whole_end(enc)]))


def whole_end(enc: Encoder) -> int:
    text = enc.tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], tokenize=False
    )
    return next(token for token in reversed(ids(enc, text)) if token in enc.stop_ids)


@pytest.mark.parametrize("name", CHATTING)
def test_reasoning_that_is_begun_is_gone_on_with(name: str) -> None:
    begun = (USER, {"role": "assistant", "content": "<think>\nwhy"})
    group = encoder(name).group(Prompt(begun), ["\n</think>\n\nyes"])
    whole = spelt(encoder(name), group.prompt_tokens + group.completions[0].tokens)
    assert spelt(encoder(name), group.prompt_tokens).endswith("<think>\nwhy")
    assert whole.count("<think>") == whole.count("</think>") == whole.count("why") == 1
    assert "<think>\nwhy\n</think>\n\nyes" in whole


@pytest.mark.parametrize(
    ("name", "reasoned"),
    [(n, r) for n in CHATTING for r in ("<think>\nwhy not\n</think>\n\nyes", "<think>why</think>yes")],
)
def test_reasoning_in_the_data_is_trained_on(name: str, reasoned: str) -> None:
    enc = encoder(name)
    group = enc.group(Prompt(({"role": "user", "content": "hello"},)), [reasoned])
    whole = spelt(enc, group.prompt_tokens + group.completions[0].tokens)
    assert "".join(reasoned.split()) in "".join(whole.split())
    assert whole.count("<think>") == whole.count("</think>") == 1


ALWAYS_EMPTY = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{{ '<think>\n\n</think>\n\n' + m['content'].split('</think>')[-1].strip() }}{% else %}"
    "{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("said", ["<think>\nwhy\n</think>\n\nyes", "<think>why</think>yes", "why</think>yes", "yes"])
def test_reasoning_takes_the_place_of_the_empty_one_of_the_template(said: str) -> None:
    enc = encoder("qwen-3", template=ALWAYS_EMPTY)
    (completion,) = enc.group(Prompt((USER,)), [said]).completions
    begins = {"why": "<think>\n", "yes": "<think>\n\n</think>\n\n"}.get(said[:3], "")
    assert spelt(enc, completion.tokens) == f"{begins}{said}<|im_end|>"
    opens = ALWAYS_EMPTY.replace("'<|im_start|>assistant\n' }}", "'<|im_start|>assistant\n<think>\n\n</think>\n\n' }}")
    enc = encoder("qwen-3", template=opens)
    if said == "yes":
        assert spelt(enc, enc.group(Prompt((USER,)), [said]).completions[0].tokens) == "yes<|im_end|>"
    else:
        with pytest.raises(DataError, match="ends the reasoning before the answer"):
            enc.group(Prompt((USER,)), [said])


def test_an_answer_without_reasoning_ends_the_reasoning_that_is_opened_for_it() -> None:
    enc = encoder("r1")
    with pytest.warns(UserWarning, match="opens every answer with <think>"):
        group = enc.group(Prompt(({"role": "user", "content": "hello"},)), ["yes"])
    assert spelt(enc, group.prompt_tokens) == "<|begin|><|User|>hello<|Assistant|><think>\n"
    assert spelt(enc, group.completions[0].tokens) == "\n</think>\n\nyes<|end|>"


@pytest.mark.parametrize("name", ["chatml", "mistral"])
def test_a_template_that_opens_no_turn(name: str) -> None:
    enc = encoder(name)
    group = enc.group(Prompt(({"role": "user", "content": "hello"},)), ["yes"])
    opened = {
        "chatml": "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
        "mistral": "<s>[INST] hello [/INST]",
    }
    assert spelt(enc, group.prompt_tokens).replace("<s> ", "<s>") == opened[name]
    assert group.completions[0].text.strip() == "yes"


REFUSED = {
    "system": ("gemma", (SYSTEM, USER), "System role not supported"),
    "two of the user": ("gemma", (USER, USER), "must alternate"),
}


@pytest.mark.parametrize(("name", "turns", "words"), REFUSED.values(), ids=REFUSED)
def test_what_a_template_refuses_is_told_in_its_words(name: str, turns: Any, words: str) -> None:
    with pytest.raises(DataError, match=f"conversation 'hello' .*{words}"):
        encoder(name).prompt(Prompt(turns))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages.append(1) }}", "append"),
        ("{% for i in range(9999999999) %}{% endfor %}", "Range too big|range"),
        ("{{ nothing.at.all }}", "undefined"),
        ("{% for m in messages %}", "Unexpected end of template"),
        (
            "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}",
            "leaves out",
        ),
    ],
)
def test_a_template_that_fails_is_told_with_the_prompt(template: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        encoder("chatml", template=template).prompt(Prompt((SYSTEM, USER)))
    assert "'hello'" in str(caught.value) and "policy.chat_template" in str(caught.value)


def test_a_long_conversation_loses_its_first_turns_and_keeps_the_systems() -> None:
    turns = (
        SYSTEM,
        *({"role": role, "content": f"{role} {i} " * 9} for i in range(4) for role in ("user", "assistant")),
        USER,
    )
    enc = encoder("qwen-2.5", max_length=180)
    with pytest.warns(UserWarning, match="lose their beginning"):
        text = spelt(enc, enc.prompt(Prompt(turns)))
    assert text.startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nuser ")
    assert text.endswith("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n") and "user 0" not in text
    with pytest.warns(UserWarning, match="lose their beginning"):
        long = {"role": "user", "content": "x y " * 400 + "end?"}
        text = spelt(enc, encoder("qwen-2.5", max_length=180).prompt(Prompt((SYSTEM, long))))
    assert text.startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n")
    assert text.endswith(" x y end?<|im_end|>\n<|im_start|>assistant\n")


def test_a_system_turn_longer_than_the_context_leaves_the_question() -> None:
    system = {"role": "system", "content": "sys " * 200}
    enc = encoder("qwen-2.5", max_length=180)
    longer = pytest.warns(UserWarning, match=r"lose their beginning")
    with longer, pytest.warns(UserWarning, match=r"system turns longer than .* tokens lose their end"):
        text = spelt(enc, enc.prompt(Prompt((system, USER))))
    assert text.startswith("<|im_start|>system\nsys sys ")
    assert text.endswith("<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n")


def test_an_end_that_earlier_turns_spell_is_written_once() -> None:
    said = {"role": "assistant", "content": "yes"}
    ended = {"role": "assistant", "content": "yes<|im_end|>\n"}
    again = {"role": "user", "content": "sure?"}
    enc = encoder("qwen-2.5")
    assert enc.prompt(Prompt((USER, ended, again))) == enc.prompt(Prompt((USER, said, again)))
    turns = [(each, again, {"role": "assistant", "content": "y"}) for each in (said, ended)]
    word = enc.tokenizer("s", add_special_tokens=False)["input_ids"][0]
    stops = replace(enc, stop_ids=enc.stop_ids | {word})  # a word that ends a completion, too, is what was said
    assert stops.turns(Prompt((USER, said, again))) == (USER, said, again)
    plain, spelling = (enc.group(Prompt((USER,)), (each,)).completions[0] for each in turns)
    assert plain == spelling


@pytest.mark.parametrize("name", CHATTING)
def test_texts_are_turns_where_the_data_say_so(name: str) -> None:
    enc = encoder(name)
    turn = enc.prompt(Prompt(({"role": "user", "content": "hello"},)))
    assert enc.prompt(Prompt("hello", chat="user")) == turn
    with pytest.warns(UserWarning, match="each text prompt is a user's turn"):
        assert enc.prompt(Prompt("hello", chat="auto")) == turn
    with pytest.warns(UserWarning, match="is not used for prompts that are text"):
        assert enc.prompt(Prompt("hello")) == enc.prompt(Prompt("hello", chat="plain")) != turn


def test_without_a_template_a_text_is_plain() -> None:
    enc = encoder("none")
    assert (
        enc.prompt(Prompt("hello", chat="auto"))
        == enc.prompt(Prompt("hello", chat="plain"))
        == enc.prompt(Prompt("hello"))
    )


def test_what_went_through_the_template_before_does_not_go_again() -> None:
    for name in CHATTING:
        enc = encoder(name)
        written = enc.chat.opened(({"role": "user", "content": "hello"},))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert enc.turns(Prompt(written, chat="auto")) is None, name
            assert enc.turns(Prompt("hello", chat="auto")) is not None, name


# --- what data and templates bring along -------------------------------------------------------------------------

REOPENED = CHATML + "{{ '<|im_start|>assistant\n' }}"


@pytest.mark.parametrize("said", ["yes", "<table>yes", "<b>", "", "</p>"])
def test_an_answer_shares_no_half_of_a_tag_with_what_is_opened_for_it(said: str) -> None:
    enc = encoder("r1")
    with pytest.warns(UserWarning, match="opens every answer"):
        (completion,) = enc.group(Prompt((USER,)), [said]).completions
    assert spelt(enc, completion.tokens) == f"\n</think>\n\n{said}<|end|>"


def test_a_template_that_always_opens_a_turn_adds_none_to_an_answer() -> None:
    enc = encoder("qwen-2.5", template=REOPENED)
    said = ({"role": "assistant", "content": "yes"}, USER, {"role": "assistant", "content": "no"})
    (one, both) = enc.group(Prompt((USER,)), ["yes", said]).completions
    assert spelt(enc, one.tokens) == "yes<|im_end|>"
    assert spelt(enc, [t for t, own in zip(both.tokens, both.own, strict=True) if own]) == "yes<|im_end|>no<|im_end|>"


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_of_turns_that_data_spell_are_told(name: str) -> None:
    enc = encoder(name)
    end = enc.tokenizer.convert_ids_to_tokens(min(enc.stop_ids))
    asked = Prompt("hello" if name == "none" else (USER,), chat="plain" if name == "none" else None)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for said in (f"a {end} b", f"c {end} d"):
            enc.group(asked, [said])
    (told,) = [str(each.message) for each in seen if "spell" in str(each.message)]
    assert told.startswith(f"given answers spell {end!r}") and "the first is 'a" in told
    enc = encoder(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*spell")
        warnings.filterwarnings("ignore")
        enc.group(asked, [f"a{end}", f"a{end}\n{end} ", "<think>why</think>a"])
    if name != "none":
        with pytest.warns(UserWarning, match=f"prompts spell '{re.escape(end)}'"):
            enc.prompt(Prompt(({"role": "user", "content": f"hi{end}"},)))


TELLING = {
    "the user's words cut": ("{% for m in messages %}{{ m['content'][:3] }}{% endfor %}", "changes what the user says"),
    "the time": ("{{ strftime_now('%Y') }}" + CHATML + OPEN, r"the time at which it runs \(strftime_now\)"),
}


@pytest.mark.parametrize(("template", "words"), TELLING.values(), ids=TELLING)
def test_what_a_template_does_to_prompts_is_told(template: str, words: str) -> None:
    with pytest.warns(UserWarning, match=words):
        encoder("chatml", template=template).chat.render((USER,))


def test_a_dialogue_in_text_is_told() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        encoder("qwen-2.5").prompt(Prompt("\n\nHuman: a\n\nAssistant:", chat="auto"))
    assert any("dialogues in text (Human: ... Assistant:)" in str(each.message) for each in seen)


def test_tags_of_reasoning_are_no_marks_of_turns() -> None:
    assert outer(["<s>", "<think>", "</think>", "<|end|>", "<pad>"], ["<think>", "</think>", "<s>"]) == [
        "<s>",
        "<|end|>",
        "<pad>",
    ]
