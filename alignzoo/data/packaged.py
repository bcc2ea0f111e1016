"""Data that a plugin brings: `package:NAME/FILE` is a file of an installed package, wherever that is."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

from alignzoo.errors import DataError
from alignzoo.importing import loose_modules

PACKAGE = "package:"
"""What a path begins with that is looked up in a Python package."""


def located(path: str) -> str:
    """Where a path's data are: itself, or the file or directory of the package that it names. Nothing is imported.

    Raises DataError where the package is not installed, or lacks the file."""
    if not path.startswith(PACKAGE):
        return path
    name, _, inside = path.removeprefix(PACKAGE).partition("/")
    if not name.isidentifier() or not inside or ".." in Path(inside).parts or Path(inside).is_absolute():
        raise DataError(
            f"{path}: expected {PACKAGE}NAME/FILE, with the name by which a package is imported and a file inside of "
            f"it, as in {PACKAGE}alignzoo_my_algo/pairs.jsonl"
        )
    folders = _folders(name)
    if not folders:
        raise DataError(
            f"{path}: no package {name!r} is installed here, nor was it given by --plugin. Install the plugin that "
            "brings the data, or give data of your own, data.path=FILE"
        )
    for folder in folders:
        if (folder / inside).exists():
            return str(folder / inside)
    raise DataError(
        f"{path}: {folders[0]} has no {inside}. {_near(folders[0], inside)}A wheel holds such a file where the "
        "pyproject.toml of the package names it as package data"
    )


def _folders(name: str) -> list[Path]:
    """The folders of a package, or that of a module which is no package, or of a loose plugin's file."""
    for module in loose_modules(name):
        return [Path(str(module.__file__)).parent]
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a module without a spec is nobody's package
        return []
    if spec is None:
        return []
    inside = list(spec.submodule_search_locations or ())
    return [Path(each) for each in inside or ([str(Path(spec.origin).parent)] if spec.origin else [])]


def _near(folder: Path, inside: str) -> str:
    """The nearest of the files that there are."""
    place = (folder / inside).parent
    names = [each.name for each in place.iterdir()] if place.is_dir() else []
    near = difflib.get_close_matches(Path(inside).name, names, n=2)
    return f"Did you mean {' or '.join(near)}? " if near else ""
