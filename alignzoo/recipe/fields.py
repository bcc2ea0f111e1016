"""A part's settings, read back: each field's type, default, and the string beneath it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import typing
from dataclasses import MISSING, dataclass
from typing import Any

from alignzoo.recipe.parts import describe, plain


@dataclass(frozen=True)
class Field:
    """A setting of a part."""

    name: str
    type: str
    """What it may be, in words."""
    required: bool
    default: Any
    """As JSON has it; None where it is required."""
    meaning: str


def fields_of(cls: type[Any]) -> list[Field]:
    """The fields of a dataclass that a recipe can set."""
    hints = typing.get_type_hints(cls, include_extras=True)
    meanings = meanings_of(cls)
    found = []
    for each in dataclasses.fields(cls):
        if each.init:
            made = each.default_factory() if each.default_factory is not MISSING else each.default
            required = made is MISSING
            default = None if required else plain(made)
            found.append(Field(each.name, describe(hints[each.name]), required, default, meanings.get(each.name, "")))
    return found


def meanings_of(cls: type[Any]) -> dict[str, str]:
    """The string beneath each annotated name of a class, and of those that it inherits from."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):  # built in, or made in a notebook
            continue
        body = tree.body[0].body if tree.body and isinstance(tree.body[0], ast.ClassDef) else []
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_string(text):
                meanings[field.target.id] = paragraphs(ast.literal_eval(typing.cast(ast.Expr, text).value))
    return meanings


def paragraphs(docstring: str) -> str:
    """A docstring with each paragraph on one line, but for those that are indented: formulas, examples."""
    found = inspect.cleandoc(docstring).split("\n\n")
    return "\n\n".join(each if "\n " in each or each.startswith(" ") else each.replace("\n", " ") for each in found)


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
