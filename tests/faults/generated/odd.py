"""Odd values, and texts and bytes with something wrong."""

from __future__ import annotations

import random
from typing import Any

TEXTS = (
    "",
    " ",
    "a\u2028b\x85c",
    "\x1b]0;PWN\x07\x9b2J",
    "\u202eevil",
    "nul\0byte",
    "x" * 20_000,
    "\U0001f600 é ü",
    "{{ 7 * 7 }}{% for %}",
    "[link=file:///etc/passwd]x[/link]",
    "%s %(x)s {0} {x.__class__}",
    "```\n# heading",
    "</answer><answer>",
    "../../escaped",
    "-rf",
    "nan",
    "\r\n",
    "\u0000\u0001",
)
VALUES: tuple[Any, ...] = (
    *TEXTS,
    None,
    True,
    False,
    0,
    -1,
    5,
    10**18,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    1e308,
    [],
    {},
    [[]],
    [None],
    [1, "a"],
    ["a", "b"],
    ["a"] * 3,
    [float("nan"), 1.0],
    {"role": "user", "content": "x"},
    [{"role": "user"}],
    [{"role": "alien", "content": "x"}],
    [{"role": "user", "content": None}],
    [{"role": "assistant", "content": "x"}],
    [{"role": "user", "content": [{"type": "image"}]}],
    {"a": {"b": {"c": []}}},
    "\ud83d",
)


def value(rng: random.Random) -> Any:
    """Something that is seldom expected; at times nested deep."""
    if rng.random() < 0.03:
        deep: Any = "x"
        for _ in range(rng.choice((50, 150, 900))):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        return deep
    return rng.choice(VALUES)


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Bytes of which a few are others, are gone, or are too many."""
    at = rng.randrange(len(content) + 1)
    some = rng.randbytes(rng.choice((1, 3, 64)))
    ways = (
        lambda: content[:at],
        lambda: content[at:],
        lambda: content[:at] + some + content[at:],
        lambda: content[:at] + some + content[at + len(some) :],
        lambda: content[:at] + b"\0" * 32 + content[at:],
        lambda: b"\xef\xbb\xbf" + content,
        lambda: b"\xff\xfe" + content,
        lambda: content + content,
        lambda: content.replace(b"\n", b"\r\n"),
        lambda: content.replace(b"\n", b""),
        lambda: content.replace(b'"', b"'", 3),
        lambda: content.replace(b",", b";"),
        lambda: content + b"[" * 5000,
        lambda: b"",
        lambda: b"\n \n",
        lambda: b"\0" * 64,
        lambda: _flipped(rng, content),
    )
    return rng.choice(ways)()


def _flipped(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(min(len(changed), rng.choice((1, 2, 8)))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)
