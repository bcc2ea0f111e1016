"""Text that others wrote, as a terminal or a report may show it: data, answers of models, names of files, errors."""

from __future__ import annotations

import re

SHOWN = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
"""C0 control characters, but for line feed and tab, as the pictures that Unicode has of them: ESC as ␛."""
SHOWN |= {0x7F: "\u2421"}
SHOWN |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], "\ufffd")
"""C1 control characters, which some terminals obey, and halves of surrogate pairs, which no terminal can be sent."""
SHOWN |= dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C], "\ufffd")
"""Marks and overrides of the writing direction, by which text can be shown in another order than it has."""

CONTROL = re.compile("[" + "".join(map(re.escape, map(chr, SHOWN))) + "]")


def printable(text: str) -> str:
    """The text without what a terminal obeys instead of showing it. Carriage returns before line feeds are dropped."""
    return text.replace("\r\n", "\n").translate(SHOWN) if CONTROL.search(text) else text


def escaped(json: str) -> str:
    """The same of a JSON text, whose strings keep their value: as \\uXXXX."""
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", json)


def fenced(text: str, language: str = "") -> str:
    """A Markdown block of code that nothing in the text can end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{printable(text)}\n{fence}"
