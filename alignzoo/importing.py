"""How a loose file is imported: under which name, and where it finds its neighbours, as a script does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType

LOOSE = "alignzoo_file_"
"""What the names of modules begin with that are imported from loose files."""


@contextmanager
def beside(folder: Path) -> Iterator[None]:
    """Inside, modules of this folder are imported before others, as for a script that is run there. Afterwards they
    come after all others: what a function imports when it is called is still found, and shadows nothing."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
        if entry not in sys.path:
            sys.path.append(entry)


def loose_name(path: Path) -> str:
    """The name of a loose file's module, which can hide no installed one: each path has a name of its own."""
    return f"{LOOSE}{sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"


def loose_modules(stem: str) -> Iterator[ModuleType]:
    """The modules that have been imported from loose files of this name."""
    for name, module in list(sys.modules.items()):
        if name.startswith(LOOSE) and module.__file__ and Path(module.__file__).stem == stem:
            yield module
