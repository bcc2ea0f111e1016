"""Text -> tokens, and where an answer's tokens begin: prompt and answer are tokenised together, then parted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

CONTEXTS = ("", "\n", "a", ".", "0")
"""What an answer is tokenised after, where its prompt cannot be: the empty text, then texts that merge with little."""


@dataclass(frozen=True)
class Splitter:
    """A tokenizer that never lets the boundary between prompt and answer change a token.

    The tokens of prompt and answer are those of their joint text. Tokenised apart, an answer would get a space of its
    own from tokenizers that put one before every text (SentencePiece's dummy prefix). Where a token of the joint text
    spans the boundary, the prompt keeps the tokens from which a model generates, and the answer gets the tokens by
    which a model goes on from these: the answer's own, without a dummy prefix, so that both together spell the joint
    text.
    """

    tokenizer: Any

    def plain(self, text: str) -> list[int]:
        """The tokens of a text as it stands, nothing before or after it."""
        # Not verbose: it would warn of lengths that are cut elsewhere.
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after every text: a start token, as a rule, and nothing."""
        whole, own = list(self.tokenizer("a", verbose=False)["input_ids"]), self.plain("a")
        start = next((i for i in range(len(whole)) if whole[i : i + len(own)] == own), 0)
        return whole[:start], whole[start + len(own) :]

    def begun(self, tokens: list[int]) -> list[int]:
        """Tokens of a text after what the tokenizer puts before every text, once: the text may bring it along."""
        head = self.around[0]
        return tokens if tokens[: len(head)] == head else [*head, *tokens]

    def answer(self, before: str, tail: str) -> list[int]:
        """The tokens of `tail` as the continuation of `before`."""
        if not tail:
            return []
        start, joint = self.plain(before), self.plain(before + tail)
        if joint[: len(start)] == start:
            return joint[len(start) :]
        spelt = self._spelt(joint)
        for context in CONTEXTS:
            known, longer = self.plain(context), self.plain(context + tail)
            tokens = longer[len(known) :]
            if longer[: len(known)] == known and self._spelt([*start, *tokens]) == spelt:
                return tokens
        return self.plain(tail)  # a tokenizer that does not keep the text, and so has no joint text to spell

    def _spelt(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))
