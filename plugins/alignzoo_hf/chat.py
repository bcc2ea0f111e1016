"""Text -> tokens: chat templates, and the boundary between prompt and completion."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Any

from alignzoo.errors import ModelError
from alignzoo.types import Completion, Group, Message, Prompt, Text

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


@dataclass(frozen=True)
class Encoder:
    """Turns prompts and given completions into tokens, and tokens back into text."""

    tokenizer: Any
    stop_ids: frozenset[int]
    """Tokens that end a completion."""
    eos_id: int | None
    """The one that given completions are ended with; None for models that have no such token."""
    template: str | None
    max_length: int
    max_new_tokens: int

    def fits(self, prompt: Prompt) -> bool:
        """Whether `prompt` takes it whole."""
        return len(self._whole(prompt)) <= self._room

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """A prompt's tokens. What does not fit beside a completion loses its beginning, with one warning a run."""
        tokens, room = self._whole(prompt), self._room
        if len(tokens) > room:
            warnings.warn(
                f"prompts longer than {room} tokens (max_length {self.max_length} less max_new_tokens "
                f"{self.max_new_tokens}) lose their beginning",
                stacklevel=2,
            )
            tokens = tokens[-room:]
        return tuple(tokens)

    @property
    def _room(self) -> int:
        return max(1, self.max_length - self.max_new_tokens)

    def _whole(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt.messages, str):
            tokens = list(self.tokenizer(prompt.messages, verbose=False)["input_ids"])
            while len(tokens) > 1 and tokens[-1] in self.stop_ids and tokens[-1] != self.tokenizer.bos_token_id:
                tokens.pop()  # some tokenizers end every text; a prompt goes on
        else:
            tokens = self._plain(self._render(prompt.messages, open_turn=True))
        if not tokens:
            start = self.tokenizer.bos_token_id
            tokens = [
                start if start is not None else self.eos_id or 0
            ]  # an empty prompt still needs a token to predict from
        return tokens

    def completion(self, prompt: Prompt, text: Text, room: int) -> Completion:
        """A given completion's tokens, ended with the end-of-sequence token; cut at `room` tokens."""
        tail = text if isinstance(prompt.messages, str) else self._tail(prompt.messages, text)
        if not isinstance(tail, str):
            raise ModelError("a plain-text prompt cannot be answered by a conversation: give both in one form")
        tokens = self._ended(self._plain(tail))
        return Completion(tuple(tokens[:room]), self.text(tokens[:room]), len(tokens) <= room)

    def group(self, prompt: Prompt, texts: Sequence[Text]) -> Group:
        """A prompt with its given completions, encoded."""
        prompt_tokens = self.prompt(prompt)
        room = self.max_length - len(prompt_tokens)
        return Group(prompt, prompt_tokens, tuple(self.completion(prompt, text, room) for text in texts))

    def _ended(self, tokens: list[int]) -> list[int]:
        """With one end-of-sequence token at the end. Templates may write white space after the end of a turn, but
        generation stops at the end of the turn itself."""
        if self.eos_id is None:
            return tokens
        ends = [i for i, token in enumerate(tokens) if token == self.eos_id]
        if ends and not self.text(tokens[ends[-1] :]).strip():
            return tokens[: ends[-1] + 1]
        return [*tokens, self.eos_id]

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as text, without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Each token's text: what it adds to the text of those before it. A letter of several tokens is its last's."""
        found: list[str] = []
        start = said = 0
        for end in range(1, len(tokens) + 1):
            short, long = (str(self.tokenizer.decode(list(tokens[start:stop]))) for stop in (said, end))
            if long.endswith("\ufffd") and end < len(tokens):
                found.append("")  # half a letter
            else:
                found.append(long[len(short) :])
                start, said = said, end
        return found

    def _plain(self, text: str) -> list[int]:
        # Not verbose: it would warn of lengths that are cut here.
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _tail(self, messages: tuple[Message, ...], text: Text) -> str:
        """What the template adds to the open conversation for an answer."""
        turns: tuple[Message, ...] = ({"role": "assistant", "content": text},) if isinstance(text, str) else text
        before = self._render(messages, open_turn=True)
        whole = self._render((*messages, *turns), open_turn=False)
        if whole.startswith(before):
            return whole[len(before) :]
        closed = self._render(messages, open_turn=False)
        if not whole.startswith(closed):
            raise ModelError(
                "the chat template rewrites earlier turns when an answer is added, so prompt and completion cannot be "
                "told apart: give another one with policy.chat_template"
            )
        opening, answer = before[len(closed) :], whole[len(closed) :]
        shared = commonprefix([opening, answer])  # noqa: RUF071 - characters are what is compared
        return answer[len(shared) :]  # the prompt has opened the turn already, in its own way

    def _render(self, messages: tuple[Message, ...], *, open_turn: bool) -> str:
        if self.template is None and not self.tokenizer.chat_template:
            raise ModelError(
                "the data are conversations but the tokenizer has no chat template: set policy.chat_template to "
                f"{', '.join(map(repr, TEMPLATES))} or a Jinja file, or give prompts as plain text"
            )
        return str(
            self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=open_turn,
            )
        )


def read_template(name: str) -> str | None:
    """A chat template by name or from a file; None for the tokenizer's own."""
    if not name:
        return None
    if name in TEMPLATES:
        return TEMPLATES[name]
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(
            f"policy.chat_template {name!r} is neither one of {', '.join(TEMPLATES)} nor a readable file: {error}"
        ) from error
