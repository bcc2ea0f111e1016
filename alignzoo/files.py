"""The one place where JSON and TOML texts are read: journals, manifests, checkpoints, data, recipes.

A line ends with "\\n" and with nothing else: U+2028, U+2029, U+0085 and the control characters at which
`str.splitlines` cuts may stand inside a JSON string. What is JSON but no text for a tokenizer (half a surrogate pair),
no number for a float (thousands of digits) or no data at all (thousands of brackets) is refused with file and line.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from alignzoo.errors import AlignzooError, DataError, RecipeError, RunError

Hook: TypeAlias = Callable[[list[tuple[str, Any]]], Any]

DIGITS = 300
"""The most digits of an integer: a float has no more than 309."""

LARGEST = 10**DIGITS

DEPTH = 100
"""The deepest nesting of lists and objects: what reads the value afterwards recurses, too."""

LONE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]")
SURROGATE = re.compile("[\ud800-\udfff]")


def decoded(
    content: bytes | str,
    where: str | Path,
    *,
    line: int = 1,
    fix: str = "",
    error: type[AlignzooError] = DataError,
    pairs: Hook | None = None,
) -> Any:
    """The value of a JSON text. `line` is the number of its first line in the file `where`; `fix` ends the message of a
    text that is no JSON; `pairs` makes each object."""
    try:
        # "-sig" drops the mark that some editors put first
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    except UnicodeDecodeError as found:
        line += found.object.count(b"\n", 0, found.start)
        cure = fix if error is RunError and fix else _encoding(found.object)  # a run's file is not the user's to save
        raise error(f"{where}, line {line}: not UTF-8 text ({found.reason}). {cure}") from found
    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_int=_integer)
        if text.count("[") + text.count("{") > DEPTH:
            _check_depth(value)
    except json.JSONDecodeError as found:
        start = found.doc.split("\n")[found.lineno - 1].strip()[:60]
        place = f"{where}, line {line + found.lineno - 1}"
        raise error(f"{place}: not JSON ({found.msg}, column {found.colno}): {start!r}. {fix}".rstrip()) from found
    except _TooLong as found:
        line += text.count("\n", 0, max(0, text.find(found.digits)))
        raise error(f"{where}, line {line}: {_too_long(len(found.digits))}") from None
    except RecursionError:
        raise error(f"{where}, line {line}: {TOO_DEEP}") from None
    if "\\u" in text or SURROGATE.search(text):
        _check_surrogates(value, text, f"{where}", line, error)
    return value


def _encoding(content: bytes) -> str:
    """What to do with what is no UTF-8, by how it begins."""
    if content.startswith(b"\x1f\x8b"):
        return "It is packed by gzip: unpack it, or let its name end in .gz."
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "It is UTF-16, as Windows' editors and spreadsheets write it: save it as UTF-8."
    return "Save it as UTF-8."


def toml_decoded(text: str, where: str | Path, *, error: type[AlignzooError] = RecipeError) -> dict[str, Any]:
    """The tables of a TOML text; a tomllib.TOMLDecodeError goes through, for its caller to show the place."""
    try:
        value = tomllib.loads(text)
        _check_depth(value)
        return value
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        deepest = max(text.split("\n"), key=lambda line: sum(map(line.count, "[{.")))
        line = text[: text.index(deepest)].count("\n") + 1
        raise error(f"{where}, line {line}: {TOO_DEEP}") from None
    except (ValueError, _TooLong):  # Python's own limit, and ours
        found = max(re.finditer(r"[0-9][0-9_]*", text), key=lambda found: len(found[0]))
        line = text.count("\n", 0, found.start()) + 1
        raise error(f"{where}, line {line}: {_too_long(len(found[0]))}") from None


def _too_long(digits: int) -> str:
    return f"an integer of {digits} digits, where {DIGITS} are the most that are read. Write a name as a string."


TOO_DEEP = f"lists and tables are nested more than {DEPTH} deep, which nothing read here needs. Is it the right file?"


class _TooLong(Exception):
    def __init__(self, digits: str) -> None:
        self.digits = digits


def _integer(digits: str) -> int:
    if len(digits) > DIGITS:
        raise _TooLong(digits)
    return int(digits)


def _check_depth(value: Any) -> None:
    """Raise RecursionError where the value is nested too deep, and _TooLong where an integer is too large."""
    level = [value]
    for _ in range(DEPTH + 1):
        for each in level:
            if isinstance(each, int) and abs(each) >= LARGEST:
                raise _TooLong("")
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [value for values in inner for value in values]
        if not level:
            return
    raise RecursionError


def _check_surrogates(value: Any, text: str, where: str, line: int, error: type[AlignzooError]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as found:
        half = ascii(found.object[found.start]).strip("'")
        place = LONE.search(text) or SURROGATE.search(text)
        line += text.count("\n", 0, place.start() if place else 0)
        raise error(
            f"{where}, line {line}: {half} is half of a surrogate pair, which is no character and no tokenizer reads. "
            "Write the whole character, or drop it."
        ) from None


KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def check_kind(path: Path, error: type[AlignzooError] = DataError) -> None:
    """Raise where a path is there, but is nothing that can be read to its end: a link to nowhere, a pipe, a device."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError as found:
        if found.errno == errno.ELOOP:
            raise error(f"{path} is a symbolic link that leads back to itself: make it point to a file") from found
        if found.errno == errno.ENAMETOOLONG:
            raise error(f"{str(path)[:80]}... is longer than a file's name can be") from found
        if path.is_symlink():
            target = os.readlink(path)
            fix = "make it point to a file"
            raise error(f"{path} is a symbolic link to {target}, which is not there: {fix}") from found
        return  # what is missing, or may not be read, is told by who reads it
    except ValueError as found:  # a NUL in the name
        raise error(f"{str(path)!r} cannot be the name of a file: {found}") from found
    if kind in KINDS:
        raise error(f"{path} is {KINDS[kind]}, which is no file to read, perhaps twice: write its content to a file")


def read_json(path: Path, *, fix: str = "", error: type[AlignzooError] = RunError) -> Any:
    """The value of a JSON file."""
    check_kind(path, error)
    try:
        content = path.read_bytes()
    except OSError as found:
        raise error(f"{path} cannot be read: {found.strerror}") from found
    if not content.strip(b"\0 \t\r\n"):
        raise error(f"{path} is empty. {fix}".rstrip())
    return decoded(content, path, fix=fix, error=error)


def read_object(path: Path, *keys: str, fix: str = "", error: type[AlignzooError] = RunError) -> dict[str, Any]:
    """The value of a JSON file that holds an object with these keys."""
    value = read_json(path, fix=fix, error=error)
    if not isinstance(value, dict):
        raise error(f"{path} holds {type(value).__name__} where an object is expected. {fix}".rstrip())
    missing = [key for key in keys if key not in value]
    if missing:
        raise error(f"{path} has no {' and no '.join(map(repr, missing))}. {fix}".rstrip())
    return value


def read_lines(path: Path, *keys: str) -> list[dict[str, Any]]:
    """The objects, which have these keys, in the whole lines of a file that we append to."""
    if not path.exists():
        return []
    return [_object(line, path, number, keys) for number, line in _numbered(path)]


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that we append to. One that was cut off in the writing is no line yet, and the zeros that a
    power cut leaves behind are none."""
    return [line for _, line in _numbered(path)]


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip(b"\0"))


DAMAGED = "A run wrote this file and something else has changed it since: put it back, or delete that line."


def _object(line: bytes, path: Path, number: int, keys: Sequence[str]) -> dict[str, Any]:
    value = decoded(line, path, line=number, fix=DAMAGED, error=RunError)
    if not isinstance(value, dict):
        raise RunError(f"{path}, line {number}: expected an object, found {type(value).__name__}. {DAMAGED}")
    missing = [key for key in keys if key not in value]
    if missing:
        raise RunError(f"{path}, line {number}: has no {' and no '.join(map(repr, missing))}. {DAMAGED}")
    return value


def line_of(value: Mapping[str, Any]) -> str:
    """A line of such a file. Half a surrogate pair, which UTF-8 cannot hold, becomes U+FFFD."""
    return SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)) + "\n"
