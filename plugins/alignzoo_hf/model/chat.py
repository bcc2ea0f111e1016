"""Prompts and answers -> tokens: the one place where text is rendered, for training, generation, rewards and judges."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from alignzoo import processes
from alignzoo.data.turns import settled
from alignzoo.engines import Generated
from alignzoo.errors import DataError, ModelError
from alignzoo.types import Completion, Group, Message, Prompt, Text
from alignzoo_hf.model.marks import Marks, outer, unended
from alignzoo_hf.model.shortening import shortened
from alignzoo_hf.model.splitting import Splitter
from alignzoo_hf.model.template import TEMPLATES, Template, Turns, read_template

__all__ = ["TEMPLATES", "Encoder", "read_template"]


@dataclass(frozen=True)
class Encoder:
    """Turns prompts and given completions into tokens, and tokens back into text.

    What is trained on is what is generated: a prompt's tokens are those from which an answer is generated, and the
    answer's are, token by token, what template and tokenizer make of the whole conversation, up to where generation
    ends.
    """

    tokenizer: Any
    stop_ids: frozenset[int]
    """Tokens that end a completion."""
    eos_id: int | None
    """The one that given completions are ended with where they have none; None for models that have no such token."""
    template: str | None
    max_length: int
    max_new_tokens: int
    vocabulary: int = 0
    """How many tokens the model's embedding has; 0: not known."""
    special_tokens: bool = False
    """Whether the texts of completions show special tokens."""

    @cached_property
    def chat(self) -> Template:
        """The model's chat template, or the recipe's."""
        return Template(self.tokenizer, self.template, self._tell)

    @cached_property
    def splitter(self) -> Splitter:
        """The tokenizer, which keeps the boundary between prompt and answer."""
        return Splitter(self.tokenizer)

    # --- prompts -------------------------------------------------------------------------------------------------

    def turns(self, prompt: Prompt) -> Turns | None:
        """The prompt as a conversation; None where it is plain text, to be continued.

        A text that the data give as "auto" is a user's turn where the model has a chat template, unless it has gone
        through that template already. Of a text about which nothing is said, only the user is told.
        """
        text = prompt.messages
        if not isinstance(text, str):
            return self._unended(text)
        if prompt.chat == "plain" or not text or (prompt.chat != "user" and not self.chat.exists):
            return None
        if prompt.chat is None:
            self._tell("the model has a chat template, which is not used for prompts that are text: give conversations")
            return None
        if prompt.chat == "auto" and self.chat.has_written(text):
            self._tell(
                "prompts that have gone through a chat template already are taken as they stand: "
                "data.chat=user makes each a user's turn all the same"
            )
            return None
        if prompt.chat == "auto" and _is_dialogue(text):
            self._tell(
                "prompts that are dialogues in text (Human: ... Assistant:) become a single turn of the user's each: "
                "give them as conversations, a list of role and content; pairs of whole dialogues are read as such "
                "(format hh); data.chat=plain takes texts as they stand"
            )
        if prompt.chat == "auto":
            self._tell(
                "the model has a chat template, so each text prompt is a user's turn and its answer the assistant's: "
                "data.chat=plain takes texts as they stand, data.chat=user says that turns are meant"
            )
        return ({"role": "user", "content": text},)

    def _tell(self, message: str, first: str = "") -> None:
        """Once a run, by the first of its processes, however often it is the case; with the first text of which it
        is."""
        if message not in self._told and not processes.index():
            self._told.add(message)
            warnings.warn(f"{message}; the first is {first[:80]!r}" if first else message, stacklevel=2)

    @cached_property
    def _told(self) -> set[str]:
        return set()

    def fits(self, prompt: Prompt) -> bool:
        """Whether `prompt` takes it whole."""
        turns = self.turns(prompt)
        return len(self._tokens(self._text(prompt, turns), turns)) <= self._room

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """A prompt's tokens. One that does not fit beside a completion is cut, with one warning a run: a conversation
        loses its first turns but for the system's, then the beginning of the first that is left; a text its
        beginning."""
        turns = self.turns(prompt)
        return self._fitted(self._text(prompt, turns), turns)

    def _fitted(self, text: str, turns: Turns | None) -> tuple[int, ...]:
        for turn in turns or ():
            mark = "" if turn["role"] == "assistant" else self.marks.anywhere(turn["content"])
            if mark:
                self._tell(
                    f"prompts spell {mark!r}, which the tokenizer reads as a token that ends or begins a turn, so that "
                    "others' words can pass for a turn of the assistant's: take it out of the data where that is not "
                    "meant",
                    turn["content"],
                )
        tokens = self._tokens(text, turns)
        if len(tokens) > self._room:
            self._tell(
                f"prompts longer than {self._room} tokens (max_length {self.max_length} less max_new_tokens "
                f"{self.max_new_tokens}) lose their beginning"
            )
            tokens = self._shortened(tokens, turns)
        return self._known(tokens, text)

    @property
    def _room(self) -> int:
        return max(1, self.max_length - self.max_new_tokens)

    def _text(self, prompt: Prompt, turns: Turns | None) -> str:
        return str(prompt.messages) if turns is None else self.chat.opened(turns)

    def _tokens(self, text: str, turns: Turns | None) -> list[int]:
        """A prompt's tokens, whole."""
        tokens = self.splitter.plain(text)
        if turns is None:
            after = self.splitter.around[1]  # a separator of encoders stays; an end would keep a prompt from going on
            tokens = [*self.splitter.begun(tokens), *(token for token in after if token not in self.stop_ids)]
        if not tokens:
            start = self.tokenizer.bos_token_id  # an empty prompt still needs a token to predict from
            tokens = [start if start is not None else self.eos_id or 0]
        return tokens

    def _shortened(self, tokens: list[int], turns: Turns | None) -> list[int]:
        """The end of a prompt that is too long."""
        room = self._room
        if turns is None:
            head = self.splitter.around[0][: room - 1]
            return [*head, *tokens[len(head) - room :]] if tokens[: len(head)] == head else tokens[-room:]
        return shortened(turns, room, lambda told: self._tokens(self.chat.opened(told), told), self._tell)

    def _known(self, tokens: Sequence[int], text: str) -> tuple[int, ...]:
        """The tokens, each of which the model's embedding has."""
        beyond = max(tokens, default=0)
        if self.vocabulary and beyond >= self.vocabulary:
            raise DataError(
                f"the token {self.tokenizer.convert_ids_to_tokens(beyond)!r} ({beyond}) of the text {text[:80]!r} has "
                f"no place in the model's embedding of {self.vocabulary}: enlarge it with "
                "model.resize_token_embeddings(len(tokenizer)) and save the model, or take the token out of the data"
            )
        return tuple(tokens)

    # --- answers -------------------------------------------------------------------------------------------------

    def group(self, prompt: Prompt, texts: Sequence[Text]) -> Group:
        """A prompt with its given completions, encoded. An answer that does not fit loses its end."""
        turns = self.turns(prompt)
        for text in texts:
            self._tell_of_marks(text)
        if turns is not None and not all(self._goes_on(turns, text) for text in texts):
            return self._last_turns(prompt, turns, texts)
        before = self._text(prompt, turns)
        tokens = self._fitted(before, turns)
        room = self.max_length - len(tokens)
        return Group(prompt, tokens, tuple(self._completion(before, turns, text, room) for text in texts))

    def _completion(self, before: str, turns: Turns | None, text: Text, room: int) -> Completion:
        """A given completion's tokens, ended where generation ends; cut at `room` tokens."""
        if turns is not None and not isinstance(text, str) and len(text) > 1:
            return self._transcript(turns, _answers(text), room)
        tokens = self._answer(before, turns, _said(text, turns))
        return Completion(tokens[:room], self.text(tokens[:room]), len(tokens) <= room)

    def _tell_of_marks(self, text: Text) -> None:
        """Tell of an answer that spells, before its end, a token at which a model's turn ends or begins."""
        for said in [text] if isinstance(text, str) else [turn["content"] for turn in text]:
            mark = self.marks.within(said)
            if mark:
                self._tell(
                    f"given answers spell {mark!r}, which the tokenizer reads as a token that ends or begins a turn: "
                    "what stands after it is trained on, and never generated. Take it out of the data",
                    said,
                )

    def _unended(self, turns: Turns) -> Turns:
        """Without special tokens that end the assistant's turns; a stop that is a word of a text is the text's."""
        added = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        ends = [str(token) for token in self.tokenizer.convert_ids_to_tokens(sorted(self.stop_ids & added))]
        return tuple(unended(turn, [*filter(None, ends)]) if turn["role"] == "assistant" else turn for turn in turns)

    @cached_property
    def marks(self) -> Marks:
        """The special tokens that end a text or stand around turns."""
        named = {self.tokenizer.bos_token_id, *self.stop_ids} - {None}
        spelt = [str(token) for token in self.tokenizer.convert_ids_to_tokens(sorted(self._special))]
        around = self.tokenizer.convert_ids_to_tokens(sorted((self._special & (self._around or frozenset())) - named))
        return Marks.of([*self.tokenizer.convert_ids_to_tokens(sorted(named)), *outer(map(str, around), spelt)])

    def _answer(self, before: str, turns: Turns | None, said: str) -> tuple[int, ...]:
        """The tokens of what the assistant says after this text."""
        tail = said if turns is None else self.chat.answer(turns, said, before).removesuffix(self._reopened)
        return self._known(self._ended(self.splitter.answer(before, tail)), tail)

    @cached_property
    def _reopened(self) -> str:
        """What a template writes after an answer's end that is no white space, the next turn's opening say: it is not
        the answer's."""
        try:
            after = self.chat.after
        except (DataError, ModelError):  # it writes other conversations, not this one
            return ""
        ends = [str(self.tokenizer.convert_ids_to_tokens(token)) for token in self.stop_ids]
        first = min((after.find(end) + len(end) for end in ends if end in after), default=len(after))
        return after[first:] if after[first:].strip() else ""

    def _transcript(self, turns: Turns, said: Turns, room: int) -> Completion:
        """A given completion in which others speak, too. The assistant's turns are its own, where they stand in the
        conversation token by token as they are generated; all else is context."""
        said = self._unended(said)
        spoken = [i for i, turn in enumerate(said) if turn["role"] == "assistant"]
        answers = [self._exchange((*turns, *said[:i]), said[i]) for i in spoken]
        start, tokens = len(answers[0][0]), sum(answers[-1], ())
        own, begins = [False] * len(tokens), [start]
        for head, answer in answers:
            end = len(head) + len(answer)
            if tokens[:end] == head + answer:
                own[len(head) : end] = [True] * len(answer)
                begins += [len(head), end]
            else:
                self._tell(
                    "the chat template writes some answers otherwise than they are generated once the conversation has "
                    "gone on (without an end, or without their reasoning): these are read, and not trained on. The "
                    "last answer of each conversation is"
                )
        stop = min(len(tokens), start + room)
        cut, places = tokens[start:stop], sorted({begin - start for begin in begins if begin < stop})
        whole = stop == len(tokens)
        return Completion(cut, self.text(cut), whole, own=tuple(own[start:stop]), turns=tuple(places))

    def _exchange(self, turns: Turns, answer: Message) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens of a conversation, and those of the assistant's answer to it as it is generated."""
        text = self.chat.opened(turns)
        return tuple(self._tokens(text, turns)), self._answer(text, turns, _words(answer))

    def _goes_on(self, turns: Turns, text: Text) -> bool:
        """Whether a given completion's first tokens come after those that it would be generated from."""
        if isinstance(text, str) or len(text) < 2:
            return True
        earlier = (*turns, *_answers(text)[:-1])
        before = self._tokens(self.chat.opened(turns), turns)
        return self._tokens(self.chat.opened(earlier), earlier)[: len(before)] == before

    def _last_turns(self, prompt: Prompt, turns: Turns, texts: Sequence[Text]) -> Group:
        """The prompt with all turns but the last, of which alone something can be learnt."""
        last = settled(replace(prompt, messages=turns, completions=tuple(texts)))
        if any(not isinstance(text, str) and len(text) > 1 for text in last.completions):
            raise ModelError(
                "the chat template writes answers otherwise than it opens them once the conversation has gone on, so "
                "completions of several turns cannot be told apart from their prompt: give another one with "
                "policy.chat_template"
            )
        self._tell(
            "the chat template writes answers otherwise than it opens them once the conversation has gone on, so of "
            "each conversation only the last answer is trained on: data.turns=last says that this is meant"
        )
        return replace(self.group(last, last.completions), prompt=prompt)

    def _ended(self, tokens: list[int]) -> list[int]:
        """With one end: the first that only white space and other ends follow, as generation stops there; its own
        where there is none."""
        if self.eos_id is None:
            return tokens
        ends, end = self.stop_ids | {self.eos_id}, -1
        for i in reversed(range(len(tokens))):
            if tokens[i] in ends:
                end = i
            elif str(self.tokenizer.decode([tokens[i]])).strip():
                break
        return [*tokens, self.eos_id] if end < 0 else tokens[: end + 1]

    # --- tokens as text ------------------------------------------------------------------------------------------

    def check_room(self, prefixes: Sequence[Sequence[int]], new: int) -> None:
        """Raise ModelError where a prefix of tokens cannot be continued by so many."""
        if not all(prefixes):
            raise ModelError("a prefix of no tokens cannot be continued: there is nothing to predict from")
        longest = max(map(len, prefixes), default=1)
        if longest + new > self.max_length:
            raise ModelError(
                f"a prefix of {longest} tokens leaves no room for policy.max_new_tokens = {new} within "
                f"policy.max_length = {self.max_length}: let transcripts end earlier, or lower the former"
            )

    def completion(self, found: Generated) -> Completion:
        """What an engine has generated, with its text. What it does not know is no number."""
        logprobs = found.logprobs or (math.nan,) * len(found.tokens)
        return Completion(found.tokens, self.text(found.tokens), found.finished, logprobs)

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as text, without the special tokens that make up turns and ends, unless the settings show these.
        Others stay, <think> say: they are what the model says."""
        if self.special_tokens:
            return str(self.tokenizer.decode(list(tokens)))
        return str(self.tokenizer.decode([token for token in tokens if token not in self._hidden]))

    @cached_property
    def _hidden(self) -> frozenset[int]:
        """Special tokens that are no part of what is said: starts, ends, padding, and those that the template writes
        around turns; without a template, all."""
        named = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
        own = {getattr(self.tokenizer, f"{name}_token_id") for name in named}
        if self._around is None:
            return self._special
        return self._special & (own | self.stop_ids | self._around)

    @cached_property
    def _special(self) -> frozenset[int]:
        """The special tokens."""
        added = self.tokenizer.added_tokens_decoder
        return self.stop_ids | set(self.tokenizer.all_special_ids) | {i for i, each in added.items() if each.special}

    @cached_property
    def _around(self) -> frozenset[int] | None:
        """The tokens that the template writes in a conversation; None where there is none to look at."""
        try:
            return frozenset(self.splitter.plain(self.chat.example)) if self.chat.exists else None
        except (DataError, ModelError):
            return None

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


def _said(text: Text, turns: Turns | None) -> str:
    """What the assistant says in a given completion."""
    if isinstance(text, str):
        return text
    if turns is None:
        raise ModelError("a plain-text prompt cannot be answered by a conversation: give both in one form")
    return _words(_answers(text)[0])


def _answers(text: Turns) -> Turns:
    """A completion's turns, which the assistant has begun and ends."""
    roles = [turn["role"] for turn in text]
    if not roles or {roles[0], roles[-1]} != {"assistant"}:
        raise DataError(
            f"the completion {str(text)[:80]!r} has the turns {', '.join(roles) or 'of nobody'}, and what is learnt "
            "begins and ends with the assistant's: put what is asked into the prompt"
        )
    return text


def _words(turn: Message) -> str:
    return turn["content"]


def _is_dialogue(text: str) -> bool:
    """Whether a text is several turns, and opens the assistant's."""
    return text.lstrip().startswith(("Human:", "User:")) and text.rstrip().endswith(("Assistant:", "AI:"))
