"""Conversations -> text, by the model's chat template: the prompt that is generated from, and what an answer adds."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from os.path import commonprefix
from pathlib import Path
from typing import Any

from alignzoo.calling import OutOfTime, interrupted_after
from alignzoo.errors import DataError, ModelError
from alignzoo.files import check_kind
from alignzoo.types import Message

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "dialogue": (
        "{{ bos_token or '' }}{% for m in messages %}"
        "{% if m['role'] == 'system' %}{{ m['content'] }}"
        "{% else %}{{ '\n\nHuman: ' if m['role'] == 'user' else '\n\nAssistant: ' }}{{ m['content'] }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
    ),
}
"""By name. transformers drops a newline that follows a block, so these stand in expressions."""

MARK = "qzAnswerzq"
"""A content that no template changes, to find what stands before and after an answer."""

SECONDS = 30
"""How long a template may take for a conversation, which is a millisecond's work."""

MOST = 100_000_000
"""Characters at most that a template may make of a conversation."""

Turns = tuple[Message, ...]


@dataclass(frozen=True)
class Template:
    """A model's chat template, or the one that the recipe gives."""

    tokenizer: Any
    source: str | None
    """The template; None for the tokenizer's own."""
    tell: Callable[[str], None]
    """Tells the user of something, once."""

    @property
    def exists(self) -> bool:
        """Whether the model can read conversations."""
        return bool(self.source or self.tokenizer.chat_template)

    def opened(self, turns: Turns) -> str:
        """The text from which the assistant's answer is generated.

        A conversation that ends with the assistant's words is gone on with. A template that ignores
        `add_generation_prompt` has its assistant's turn opened as it would write one.
        """
        if self._prefilled(turns):
            said = turns[-1]["content"]
            if "<think>" in said and "</think>" not in said:  # begun reasoning stands in the place of an empty one
                return re.sub(r"<think>\s*</think>\s*$", "", self._frame(turns[:-1])[0]) + said
            text, mark, _ = self.render((*turns[:-1], _assistant(said + MARK))).rpartition(MARK)
            return text if mark and _keeps(text, said) else self._frame(turns[:-1])[0] + said
        turns = _without_empty_end(turns)
        opened, closed = self.render(turns, opens=True), self.render(turns)
        if opened != closed:
            return opened
        pre, _ = self._frame(turns)
        header = pre[len(closed) :] if pre.startswith(closed) else ""
        # A space before the answer is the answer's own: most tokenizers make one token of it and the next word.
        return closed + header.rstrip(" ") if header.strip() else opened

    def answer(self, turns: Turns, text: str, opened: str) -> str:
        """What follows `opened`, the open conversation, when the assistant answers `text`."""
        said = turns[-1]["content"] if self._prefilled(turns) else ""
        base = turns[:-1] if said else _without_empty_end(turns)
        whole = self.render((*base, _assistant(said + text)))
        if not (whole.startswith(opened) and _keeps(whole[len(opened) :], text)):
            whole = self._whole(base, said + text, whole)
        if whole.startswith(opened):
            return whole[len(opened) :]
        if said:
            return text + self._frame(base)[1]
        closed = self.render(base) if base else ""
        if not whole.startswith(closed) or not opened.startswith(closed):
            raise ModelError(
                "the chat template rewrites earlier turns when an answer is added, so prompt and completion cannot be "
                "told apart: give another one with policy.chat_template"
            )
        opening, answer = opened[len(closed) :], whole[len(closed) :]
        shared = commonprefix([opening, answer])  # noqa: RUF071 - characters are what is compared
        shared = re.sub(r"<[^<>]*$", "", shared)  # <think> and an answer's <table> share no half of a tag
        return self._joined(opening[len(shared) :], answer[len(shared) :])

    def _joined(self, left: str, answer: str) -> str:
        """The answer after what the prompt alone has opened in its own way: reasoning, as a rule, which an answer
        without any ends at once."""
        closed = re.search(r"</(\w+)>\s*$", left)
        if closed and f"</{closed[1]}>" in answer:
            raise DataError(
                f"the chat template ends the reasoning before the answer ({left.strip()!r}), and the answer "
                f"{answer[:80]!r} brings reasoning: take it out, or give a template that leaves room for it with "
                "policy.chat_template"
            )
        tag = re.search(r"<(\w+)>\s*$", left)
        if tag is None or f"</{tag[1]}>" in answer:
            return answer
        self.tell(
            f"the chat template opens every answer with <{tag[1]}>, and given answers bring no reasoning: they are "
            f"trained on after an empty one. Put the reasoning into the answers, as <{tag[1]}>...</{tag[1]}>, or "
            "give a template without it with policy.chat_template"
        )
        return f"\n</{tag[1]}>\n\n{answer}"

    def _whole(self, base: Turns, text: str, whole: str) -> str:
        """The conversation with its answer. A template that drops some of the answer (its reasoning) only frames it."""
        closed = self.render(base) if base else ""
        if whole.startswith(closed) and _keeps(whole[len(closed) :], text):
            return whole
        pre, post = self._frame(base)
        if "</think>" in text:  # it brings its own reasoning, in the place of the template's empty one
            opening = "" if text.lstrip().startswith("<think>") else "<think>\n"
            pre = re.sub(r"<think>\s*</think>\s*$", opening, pre)
        return pre + text + post

    def _frame(self, turns: Turns) -> tuple[str, str]:
        """What the template writes before and after an assistant's answer to these turns."""
        before, mark, after = self.render((*turns, _assistant(MARK))).rpartition(MARK)
        if not mark:
            raise ModelError(
                "the chat template does not write what the assistant says: give another one with policy.chat_template"
            )
        return before, after

    @staticmethod
    def _prefilled(turns: Turns) -> bool:
        return bool(turns) and turns[-1]["role"] == "assistant" and bool(turns[-1]["content"])

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """What stands after a user's words in text that has gone through the template."""
        try:
            asked = ({"role": "user", "content": MARK},)
            texts = [self.render(asked, opens=True), self.render(asked)]
        except (DataError, ModelError):
            return ()
        return tuple({text.rpartition(MARK)[2].strip() for text in texts} - {""})

    @cached_property
    def after(self) -> str:
        """What the template writes after an answer."""
        return self._frame(({"role": "user", "content": "a"},))[1]

    @property
    def example(self) -> str:
        """A conversation of a user and the assistant, for the tokens that stand around turns."""
        return self.render(({"role": "user", "content": "a"}, _assistant("b")))

    def has_written(self, text: str) -> bool:
        """Whether a text has gone through this template already."""
        start = self.tokenizer.bos_token
        return any(mark in text for mark in self.marks) or bool(start and text.startswith(start))

    def render(self, turns: Turns, *, opens: bool = False) -> str:
        """The conversation as text; `opens` asks the template to open the assistant's next turn."""
        if not self.exists:
            raise ModelError(
                "the data are conversations but the tokenizer has no chat template: set policy.chat_template to "
                f"{', '.join(map(repr, TEMPLATES))} or a Jinja file, or give prompts as plain text"
            )
        if "strftime_now" in str(self.source or self.tokenizer.chat_template):
            self.tell(
                "the chat template writes the time at which it runs (strftime_now): a run that is resumed or repeated "
                "on another day has other prompts. Give a template with a fixed date with policy.chat_template"
            )
        try:
            with interrupted_after(SECONDS):
                text = self._rendered(turns, opens)
        except OutOfTime:
            raise DataError(
                f"the chat template has not written the conversation {_short(turns)} ({', '.join(_roles(turns))}) "
                f"within {SECONDS} s: does it loop? Give another template with policy.chat_template"
            ) from None
        except Exception as error:  # a template is a program, and may fail in any way
            words = str(error).strip() or type(error).__name__
            raise DataError(
                f"the chat template cannot write the conversation {_short(turns)} ({', '.join(_roles(turns))}): it "
                f"says {words!r}. Change the conversation, or give another template with policy.chat_template"
            ) from error
        if len(text) > MOST:
            raise DataError(
                f"the chat template makes {len(text):,} characters of the conversation {_short(turns)}, where {MOST:,} "
                "are the most that are taken: give another template with policy.chat_template"
            )
        for turn in turns:
            if turn["role"] == "assistant" or _keeps(text, turn["content"]):
                continue
            if turn["role"] != "user":
                raise DataError(
                    f"the chat template leaves out the {turn['role']}'s turn of the conversation {_short(turns)}: take "
                    "it out of the data, or give another template with policy.chat_template"
                )
            self.tell(
                "the chat template leaves out or changes what the user says, so that the model does not read it as it "
                "stands: give another template with policy.chat_template, if it is not meant"
            )
        return text

    def _rendered(self, turns: Turns, opens: bool) -> str:
        given = [dict(turn) for turn in turns]
        asked: dict[str, Any] = {"tokenize": False, "add_generation_prompt": opens}
        return str(self.tokenizer.apply_chat_template(given, chat_template=self.source, **asked))


def read_template(name: str) -> str | None:
    """A chat template by name or from a file; None for the tokenizer's own."""
    if not name:
        return None
    if name in TEMPLATES:
        return TEMPLATES[name]
    check_kind(Path(name), ModelError)
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"policy.chat_template {name!r} is neither one of {', '.join(TEMPLATES)} nor a readable file: {error}"
        ) from error


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _without_empty_end(turns: Turns) -> Turns:
    """Without an assistant's turn at the end that says nothing yet."""
    return turns[:-1] if len(turns) > 1 and turns[-1]["role"] == "assistant" and not turns[-1]["content"] else turns


def _keeps(rendered: str, text: str) -> bool:
    """Whether a rendered conversation has this text in it; white space may have been trimmed or added."""
    return text in rendered or "".join(text.split()) in "".join(rendered.split())


def _roles(turns: Turns) -> list[str]:
    return [str(turn["role"]) for turn in turns]


def _short(turns: Turns) -> str:
    asked = next((turn["content"] for turn in turns if turn["role"] == "user"), turns[0]["content"] if turns else "")
    return repr(asked[:80])
