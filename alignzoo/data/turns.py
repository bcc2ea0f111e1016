"""Prompts as turns: texts made turns, a system's turn put first, and completions cut down to what is learnt of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from alignzoo.errors import DataError
from alignzoo.types import Message, Prompt, Text

Chat = Literal["auto", "user", "plain"]
"""What a text is: a user's turn where the model has a chat template, in any case, or a text to be continued."""


def as_messages(text: Text, role: str = "user") -> tuple[Message, ...]:
    """A text as turns; a string is this speaker's only one."""
    return ({"role": role, "content": text},) if isinstance(text, str) else text


def as_turns(prompt: Prompt) -> Prompt:
    """The prompt as a conversation: what was asked is the user's turn, what was answered the assistant's."""
    answers = tuple(as_messages(text, "assistant") for text in prompt.completions)
    return replace(prompt, messages=as_messages(prompt.messages), completions=answers)


def with_system(prompt: Prompt, system: str, wrong: Callable[[str], DataError] = DataError) -> Prompt:
    """The prompt with a system's turn before it. One that it has already must say the same."""
    if not prompt.messages:
        raise wrong("a text without a prompt has no turns, and so none of the system.")
    turns = as_messages(prompt.messages)
    own = [turn["content"] for turn in turns if turn["role"] == "system"]
    if own and own != [system]:
        raise wrong(f"the conversation has another system's turn, {own[0][:60]!r}.")
    prompt = as_turns(prompt)
    return prompt if own else replace(prompt, messages=({"role": "system", "content": system}, *turns))


def settled(prompt: Prompt) -> Prompt:
    """The prompt with the turns that its completions share before their last: of these only the assistant's words at
    their end are learnt, and what stands before is asked."""
    turns = [text for text in prompt.completions if not isinstance(text, str)]
    if not turns or len(turns) < len(prompt.completions):
        return prompt
    most = min(map(len, turns)) - 1
    shared = next((n for n in range(most) if any(text[n] != turns[0][n] for text in turns)), most)
    while shared and turns[0][shared - 1]["role"] == "assistant":
        shared -= 1
    begins = (*as_messages(prompt.messages), *turns[0][:shared]) if shared else prompt.messages
    return replace(prompt, messages=begins, completions=tuple(text[shared:] for text in turns))


def opened(prompt: Prompt) -> Prompt:
    """The prompt up to the first answer of the assistant; all that follows is the completion, of which each of the
    assistant's turns is learnt."""
    turns, asked = as_messages(prompt.messages), False
    for place, turn in enumerate(turns):
        if asked and turn["role"] == "assistant":
            answers = tuple((*turns[place:], *as_messages(text, "assistant")) for text in prompt.completions)
            return replace(prompt, messages=turns[:place], completions=answers)
        asked = asked or turn["role"] == "user"
    return prompt


def are_answers(prompt: Prompt) -> bool:
    """Whether every completion is a text, or turns that begin and end with the assistant's."""
    ends = [(text[0], text[-1]) for text in prompt.completions if not isinstance(text, str)]
    return all(turn["role"] == "assistant" for pair in ends for turn in pair)


def heard(chat: Chat, system: str) -> Callable[[Prompt], Prompt]:
    """Makes of a prompt one whose texts are read as the recipe says, with its system's turn where it has none."""
    if system and chat == "plain":
        raise DataError("data.system is a turn, and data.chat=plain has none: leave one of them out")
    return partial(_heard, chat=chat, system=system)


def _heard(prompt: Prompt, chat: Chat, system: str) -> Prompt:
    if chat == "plain" and not isinstance(prompt.messages, str):
        return prompt
    if system and not _has_system(prompt):
        prompt = with_system(prompt, system, lambda problem: DataError(f"data.system: {problem}"))
    return replace(prompt, chat=chat) if prompt.chat is None and isinstance(prompt.messages, str) else prompt


def _has_system(prompt: Prompt) -> bool:
    return not isinstance(prompt.messages, str) and any(turn["role"] == "system" for turn in prompt.messages)
