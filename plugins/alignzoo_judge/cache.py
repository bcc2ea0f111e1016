"""Replies on disk, so that nothing is asked twice: by several processes at once, and after a kill at any moment."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from alignzoo.errors import RunError

PATIENCE = 60.0
"""Seconds to wait for another process that writes."""


def place(setting: str) -> Path | None:
    """Where a judge's `cache` setting is: the user's cache folder, a path, or nowhere."""
    if setting == "off":
        return None
    if setting != "auto":
        return Path(setting).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alignzoo" / "judges.sqlite"


def key_of(request: Mapping[str, Any]) -> str:
    """A request's key: the SHA-256 of all of it."""
    return sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Cache:
    """An SQLite file of usable replies by the key of their request. A context: it is open inside.

    Every reply is a transaction of its own in a write-ahead log, so it is there whole, or not at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Cache:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # It holds what models said: for its owner's eyes alone, as sqlite then makes its log, too.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            # A notebook's questions are asked in a thread of their own, which alone writes while it runs.
            self.file = sqlite3.connect(self.path, PATIENCE, isolation_level=None, check_same_thread=False)
            try:
                self._log_ahead()
                self.file.execute("PRAGMA synchronous = NORMAL")
                self.file.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT) WITHOUT ROWID")
            except BaseException:
                self.file.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise RunError(
                f"the judge's cache {self.path} cannot be used: {error}. Give another file with judge.cache, or 'off'"
            ) from error
        return self

    def _log_ahead(self) -> None:
        """Switch to the write-ahead log; sqlite does not wait here for another process that does the same."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self._check()  # before anything is written to it
                self.file.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def _check(self) -> None:
        """Raise where it is a database of something else."""
        tables = {row[0] for row in self.file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        columns = [row[0] for row in self.file.execute("SELECT name FROM pragma_table_info('replies')")]
        if tables and columns != ["key", "reply"]:
            raise RunError(
                f"the judge's cache {self.path} is a database of something else: give another file with judge.cache, "
                "or 'off'"
            )

    def __exit__(self, *told: object) -> None:
        self.file.close()

    def get(self, key: str) -> str | None:
        """The reply that was kept, if any."""
        with self._told():
            found = self.file.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def put(self, key: str, reply: str) -> None:
        """Keep a reply; where another process was first, its own stays."""
        with self._told():
            self.file.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", (key, reply))

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RunError(
                f"the judge's cache {self.path} failed: {error}. The replies in it are safe: make room, or mend the "
                "file, and go on with --resume, or give another file with judge.cache, or 'off'"
            ) from error
