"""What docs/compatibility.md promises: every public name with its signature, held to tests/promise.txt.

A line that is gone or changed there breaks somebody's plugin: it needs a new first number of `alignzoo.API_VERSION`. A
line that is new needs a new second number once the first release is out. To write the file anew:
python tests/test_promise.py
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import alignzoo
from alignzoo.cli import app
from alignzoo.data import Data
from alignzoo.schedule import Evaluation, Schedule

PINNED = Path(__file__).with_name("promise.txt")
REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
MODULES = sorted(f"alignzoo.{page.stem}" for page in REFERENCE.glob("*.md") if page.stem != "alignzoo")
PLAIN = (str, int, float, bool, tuple, type(None))
"""Defaults that are told; of others only that there is one."""


def surface() -> list[str]:
    """Everything public, a line each."""
    lines = [f"API {alignzoo.API_VERSION}", *(f"alignzoo.{name}" for name in alignzoo.__all__)]
    lines += described("alignzoo.run", alignzoo.run)
    for module in MODULES:
        for name, value in public(module):
            lines += described(f"{module}.{name}", value)
    for table, settings in (("schedule", Schedule), ("evaluate", Evaluation), ("data", Data)):
        lines += [f"recipe: {table}.{line}" for line in fields(settings)]
    return sorted({*lines, *commands()})


def public(module: str) -> Iterator[tuple[str, Any]]:
    """A module's public names: its `__all__`, or else the classes and functions that it defines."""
    found = importlib.import_module(module)
    mine = [name for name, value in vars(found).items() if getattr(value, "__module__", "") == module]
    for name in getattr(found, "__all__", mine):
        if not name.startswith("_"):
            yield name, getattr(found, name)


def described(path: str, value: Any) -> Iterator[str]:
    """A name, and each of its arguments, fields and methods."""
    if inspect.isroutine(value):
        yield from called(path, value)
    elif inspect.isclass(value):
        yield path
        if dataclasses.is_dataclass(value):
            yield from (f"{path}.{line}" for line in fields(value))
        elif "__init__" in vars(value) and not getattr(value, "_is_protocol", False):
            yield from called(path, value)
        for name, member in vars(value).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                yield from called(f"{path}.{name}", member)
            elif isinstance(member, property) and not name.startswith("_"):
                yield f"{path}.{name}: {inspect.get_annotations(member.fget or described).get('return')}"
    else:
        yield f"{path}: {type(value).__name__}"


def called(path: str, function: Any) -> Iterator[str]:
    """A function, a line for what it returns and one for each argument, so that a new one is a new line."""
    signature = inspect.signature(function)
    returns = "" if inspect.isclass(function) else f" -> {told(signature.return_annotation)}"
    yield f"{path}(){returns}"
    for place, each in enumerate(signature.parameters.values()):
        if each.name in ("self", "cls"):
            continue
        named = each.kind in (each.KEYWORD_ONLY, each.VAR_KEYWORD, each.VAR_POSITIONAL)
        default = "" if each.default is each.empty else f" = {plain(each.default)}"
        star = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        argument = f"{star}{each.name}: {told(each.annotation)}{default}"
        yield f"{path}({'by name' if named else place}: {argument})"


def fields(cls: Any) -> Iterator[str]:
    """The fields of a dataclass, with their defaults."""
    for each in dataclasses.fields(cls):
        has = each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING
        default = f" = {plain(each.default)}" if has else ""
        yield f"{each.name}: {told(each.type)}{default}"


def told(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def plain(default: Any) -> str:
    return repr(default) if isinstance(default, PLAIN) else "..."


def commands() -> Iterator[str]:
    """Each command, its arguments and its options."""
    group: Any = typer.main.get_command(app)
    whole = dict(group.commands)
    for name, command in group.commands.items():
        whole |= {f"{name} {inner}": each for inner, each in getattr(command, "commands", {}).items()}
    for name, command in whole.items():
        yield f"$ alignzoo {name}"
        for each in command.params:
            if "--help" not in each.opts:
                yield f"$ alignzoo {name} {'/'.join(sorted(each.opts))}"


def test_what_is_public_is_what_was_promised() -> None:
    now, promised = surface(), PINNED.read_text(encoding="utf-8").splitlines()
    gone, new = sorted(set(promised) - set(now)), sorted(set(now) - set(promised))
    assert not gone and not new, "\n".join(
        [
            "what is public has changed (see docs/compatibility.md and this file's head):",
            *(f"gone: {line}" for line in gone),
        ]
        + [f"new: {line}" for line in new]
    )


def test_the_promise_names_these_modules() -> None:
    page = (REFERENCE.parent / "compatibility.md").read_text(encoding="utf-8")
    sentence = page.partition("\n1. ")[2].partition("\n2. ")[0]
    assert sorted(f"alignzoo.{name}" for name in re.findall(r"`(\w+)`", sentence)) == MODULES
    assert f'`alignzoo.API_VERSION` is `"{alignzoo.API_VERSION}"`' in page


def test_a_changed_signature_is_seen() -> None:
    def before(batch: int, *, scale: str = "group") -> float: ...
    def after(batch: int, *, scale: str = "none") -> float: ...
    def more(batch: int, extra: int = 0, *, scale: str = "group") -> float: ...

    assert set(called("f", before)) - set(called("f", after)) == {"f(by name: scale: str = 'group')"}
    assert set(called("f", before)) < set(called("f", more))


if __name__ == "__main__":
    former = set(PINNED.read_text(encoding="utf-8").splitlines()) if PINNED.exists() else set()
    PINNED.write_text("".join(f"{line}\n" for line in surface()), encoding="utf-8")
    sys.stdout.writelines(f"gone: {line}\n" for line in sorted(former - set(surface())))
