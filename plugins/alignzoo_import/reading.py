"""A configuration file of any kind -> its keys and values."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from alignzoo.errors import RecipeError
from alignzoo.files import check_kind

EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")
"""A number that YAML 1.1 takes for text, as it wants a point and a sign: 1e-5."""

KINDS = (".yaml", ".yml", ".json", ".toml")


def read_config(path: Path, nested: tuple[str, ...]) -> dict[str, Any]:
    """The keys of a file, those within a table of `nested` as TABLE.KEY."""
    check_kind(path, RecipeError)
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not a text file in UTF-8") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    found = _decoded(path, text)
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        kind = "nothing" if found is None else f"a {type(found).__name__}"
        raise RecipeError(f"{path}: found {kind}, expected keys with values, as in learning_rate: 1.0e-6")
    flat: dict[str, Any] = {}
    for key, value in found.items():
        if key in nested and isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": _number(each) for inner, each in value.items()}
        else:
            flat[key] = _number(value)
    return flat


def _decoded(path: Path, text: str) -> Any:
    """What the file holds, by its ending; a file without one is taken for YAML, which JSON is, too."""
    ending = path.suffix.lower()
    try:
        if ending == ".toml":
            return tomllib.loads(text)
        return json.loads(text) if ending == ".json" else yaml.safe_load(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise RecipeError(f"{path}: this is no {ending.lstrip('.').upper() or 'YAML'} file: {said}") from error


def _number(value: Any) -> Any:
    if isinstance(value, str) and EXPONENT.fullmatch(value):
        return float(value)
    return [_number(each) for each in value] if isinstance(value, list) else value
