"""How easy an English text is to read."""

import re

VOWELS = re.compile("[aeiouy]+")


def syllables(word: str) -> int:
    """Runs of vowels, a silent e at the end not counted; at least one."""
    return max(1, len(VOWELS.findall(word.lower())) - word.lower().endswith("e"))


def ease(text: str) -> float:
    """206.835 - 1.015·words/sentences - 84.6·syllables/words (Flesch 1948): the higher, the easier."""
    words = re.findall("[a-zA-Z]+", text)
    if not words:
        raise ValueError("a text without words")
    sentences = max(1, len(re.findall("[.!?]", text)))
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * sum(map(syllables, words)) / len(words)
