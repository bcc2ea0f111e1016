"""Where each key of a TOML text stands: tomllib reads the values, this finds their lines.

It scans only what tomllib has accepted, so it need not notice mistakes.
"""

from __future__ import annotations

import re
import tomllib
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys and, within arrays, indices: ("stage", 0, "optimizer", "clip")."""

STRING = re.compile(r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\])*"|'[^']*\'''', re.DOTALL)
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
BARE_VALUE = re.compile(r"[^,\]}#\n]+")
BLANK = re.compile(r"(?:\s|#[^\n]*)*")


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, counted from 1, of every key, table header and array element that is a table."""
    return _Scanner(text).scan()


class _Scanner:
    """A position in the text, and what was found before it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.lengths: dict[KeyPath, int] = {}
        """The arrays of tables written as [[header]]."""

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self.take(BLANK)
        while self.at < len(self.text):
            if self.text.startswith("[", self.at):
                table = self.header()
            else:
                self.pair(table)
            self.take(BLANK)
        return self.lines

    def header(self) -> KeyPath:
        """[table] or [[table]]: where the pairs that follow belong."""
        line = self.line()
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        self.at += brackets
        *parents, last = self.keys()
        self.at += brackets
        path: KeyPath = ()
        for key in parents:
            path = self.latest((*path, key))
            self.lines.setdefault(path, line)
        path = (*path, last)
        if brackets == 2:
            self.lines.setdefault(path, line)
            self.lengths[path] = self.lengths.get(path, 0) + 1
        path = self.latest(path)
        self.lines[path] = line
        return path

    def pair(self, table: KeyPath) -> None:
        """key = value, within a table or an inline table."""
        line = self.line()
        path = table
        for key in self.keys():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self.take(BLANK)
        self.value(path)

    def keys(self) -> list[str]:
        """A dotted key, with what ends it: "=" or the first "]"."""
        keys = []
        while True:
            self.take(BLANK)
            quoted = self.take(STRING)
            keys.append(next(iter(tomllib.loads(f"{quoted} = 0"))) if quoted else self.take(BARE_KEY))
            self.take(BLANK)
            self.at += 1
            if self.text[self.at - 1] != ".":
                break
        if self.text[self.at - 1] == "]":
            self.at -= 1
        return keys

    def value(self, path: KeyPath) -> None:
        """Any value: only tables and arrays have lines of their own within."""
        opening = self.text[self.at]
        if opening not in "[{":
            if not self.take(STRING):
                self.take(BARE_VALUE)
            return
        self.at += 1
        index = 0
        self.take(BLANK)
        while self.text[self.at] not in "]}":
            if opening == "{":
                self.pair(path)
            else:
                self.lines[(*path, index)] = self.line()
                self.value((*path, index))
                index += 1
            self.take(BLANK)
            if self.text[self.at] == ",":
                self.at += 1
                self.take(BLANK)
        self.at += 1

    def take(self, pattern: re.Pattern[str]) -> str:
        """The text that the pattern matches here, stepped over; empty when it does not."""
        found = pattern.match(self.text, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found.group()

    def line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    def latest(self, path: KeyPath) -> KeyPath:
        """The last table of an array of tables, or the path itself."""
        return (*path, self.lengths[path] - 1) if path in self.lengths else path
