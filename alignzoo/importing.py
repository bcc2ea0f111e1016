"""Where a file's own neighbours are found: a module that lies beside it, as for a script."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
