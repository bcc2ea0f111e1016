"""The store: one SQLite file with what people are asked, what they were shown, and what they said.

Every table only grows. A correction, an undo and a skip are rows like a vote, each a transaction of its own that is on
disk before anybody is told so. What is current follows from the rows, and is kept in memory beside them.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignzoo.errors import DataError, RunError
from alignzoo_human.active import Drawn
from alignzoo_human.items import Item, Settings, arranged, dense, restored, written
from alignzoo_human.rows import Reading, item_of, or_null, placed, reasons_of, settings_of, verdict_of
from alignzoo_human.state import Asked, State
from alignzoo_human.votes import Value, Vote

FORM = "2"
"""The version of the tables. Form 1 had no request.pool."""

PATIENCE = 60.0
"""Seconds to wait for another process that writes."""

TABLES = {
    "meta": "key TEXT NOT NULL, value TEXT NOT NULL, at REAL NOT NULL",
    "item": "key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, asked TEXT NOT NULL, origins TEXT NOT NULL, gold TEXT",
    "request": "item INTEGER NOT NULL REFERENCES item, wanted INTEGER NOT NULL, priority REAL NOT NULL, "
    "chosen TEXT NOT NULL, propensity REAL NOT NULL, at REAL NOT NULL, pool INTEGER",
    "ask": "item INTEGER NOT NULL REFERENCES item, rater TEXT NOT NULL, again INTEGER NOT NULL, screen TEXT NOT NULL, "
    "at REAL NOT NULL, UNIQUE (item, rater, again)",
    "shown": "ask INTEGER NOT NULL REFERENCES ask, tab TEXT NOT NULL, at REAL NOT NULL",
    "vote": "ask INTEGER NOT NULL REFERENCES ask, key TEXT NOT NULL UNIQUE, action TEXT NOT NULL, value TEXT, "
    "reasons TEXT, comment TEXT NOT NULL, seconds REAL NOT NULL, at REAL NOT NULL, supersedes INTEGER REFERENCES vote",
}
"""The columns of each table."""


class Conflict(Exception):
    """Somebody, perhaps oneself in another tab, was first; `current` is the vote that stands."""

    def __init__(self, current: int | None) -> None:
        super().__init__(f"the vote that stands is {current}")
        self.current = current


@dataclass(frozen=True)
class Given:
    """What a rater says of a question."""

    ask: int
    key: str
    """Drawn by the page for each verdict, so that one that is sent twice counts once."""
    action: str = "vote"
    """"vote", "skip", or "undo"."""
    value: Value | None = None
    """In the order of the screen."""
    reasons: Mapping[str, Any] = field(default_factory=dict)
    """{"all": {"text", "criteria"}, "answers": one such for each answer, in the order of the screen}."""
    comment: str = ""
    seconds: float = 0.0
    supersedes: int | None = None
    """The vote that this one corrects."""


class Store:
    """A store that is open. A context; whoever asks and whoever answers may be different processes."""

    def __init__(self, path: Path | str, settings: Settings | None = None) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if settings is not None or self.path.exists():
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))  # what people say is their own
            else:
                raise RunError(f"there is no store {self.path}")
            self._file = sqlite3.connect(self.path, PATIENCE, isolation_level=None, check_same_thread=False)
            try:
                self._make(settings)
                self.settings = self._settings()
            except BaseException:
                self._file.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise RunError(f"the store {self.path} cannot be used: {error}. Give another file") from error
        self.state = State(self.settings)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *told: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    # --- tables -------------------------------------------------------------------------------------------------------

    def _make(self, settings: Settings | None) -> None:
        if self._others() or (settings is None and not self.path.stat().st_size):
            raise self._none()  # before anything is written to it
        _log_ahead(self._file)
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.execute("BEGIN IMMEDIATE")
        names = self._names()
        if self._others() or (settings is None and not names):
            raise self._none()
        if not names:
            for name, columns in TABLES.items():
                self._file.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, {columns})")
                for change in ("UPDATE", "DELETE"):
                    self._file.execute(
                        f"CREATE TRIGGER {name}_{change} BEFORE {change} ON {name} BEGIN "
                        "SELECT RAISE(ABORT, 'rows of this store are only added'); END"
                    )
            self._note("form", FORM)
        form = self._meta().get("form")
        if form == "1":
            self._file.execute("ALTER TABLE request ADD COLUMN pool INTEGER")
            self._note("form", form := FORM)
        if form != FORM:
            raise RunError(f"{self.path} has the form {form}, not {FORM}: use the version that made it")
        if settings is not None:
            former = self._meta().get("settings")
            salt = self._settings().salt if former else settings.salt or secrets.token_hex(8)
            if former:
                self._same_grades(self._settings().grades, settings.grades)
            now = written(asdict(settings) | {"salt": salt})
            if former != now:
                self._note("settings", now)
        self._file.execute("COMMIT")

    def _same_grades(self, former: int, now: int) -> None:
        """Raise where grades were given on another scale: a 5 of 5 is no 5 of 9."""
        graded = "SELECT 1 FROM vote JOIN ask ON vote.ask = ask.id JOIN item ON ask.item = item.id"
        if former != now and self._file.execute(f"{graded} WHERE item.kind = 'grade' LIMIT 1").fetchone():
            raise RunError(
                f"{self.path} has grades from 1 to {former}, which those from 1 to {now} could not be told from: say "
                f"--grades {former}, in a reward or judge grades={former}, or give another store"
            )

    def _names(self) -> set[str]:
        return {row[0] for row in self._file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def _others(self) -> bool:
        names = self._names()
        return bool(names) and not set(TABLES) <= names

    def _none(self) -> RunError:
        if self._others():
            return RunError(f"{self.path} is a database of something else: give another file")
        return RunError(f"{self.path} holds no store: give another file, or delete it, and a new store is made")

    def _note(self, key: str, value: str) -> None:
        self._file.execute("INSERT INTO meta (key, value, at) VALUES (?, ?, ?)", (key, value, time.time()))

    def _meta(self) -> dict[str, str]:
        return dict(self._file.execute("SELECT key, value FROM meta ORDER BY id"))

    def _settings(self) -> Settings:
        with Reading(self.path) as reading:
            reading.at("meta, which has the settings,")
            return settings_of(self._meta().get("settings", "null"))

    def _follow(self) -> State:
        with Reading(self.path) as reading:
            self.state.follow(self._file, reading.at)
        return self.state

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction, which knows all that others have written; it is on disk at its end."""
        with self._lock:
            try:
                self._file.execute("BEGIN IMMEDIATE")
                try:
                    self._follow()
                    yield
                    self._file.execute("COMMIT")
                except BaseException:
                    if self._file.in_transaction:
                        self._file.execute("ROLLBACK")
                    raise
                self._follow()
            except (sqlite3.Error, OSError) as error:
                raise RunError(f"the store {self.path} failed: {error}. What was stored in it is safe") from error

    def refresh(self) -> State:
        """What is current, with what other processes have written."""
        with self._lock:
            return self._follow()

    # --- what is asked ------------------------------------------------------------------------------------------------

    def add(
        self,
        items: Iterable[Item],
        *,
        wanted: Sequence[int] | int = 1,
        priority: Sequence[float] | float = 0.0,
        chosen: Sequence[str] | str = "given",
        propensity: Sequence[float] | float = 1.0,
        pool: Sequence[int | None] | None = None,
    ) -> list[str]:
        """Ask these, each of so many raters; their keys. One that is known is asked of more if more are wanted.

        `chosen` says how each was chosen, `propensity` how probable that was, `pool` of how many it was drawn.
        """
        made = list(items)
        columns = [_each(value, len(made)) for value in (wanted, priority, chosen, propensity, pool)]
        with self._writing():
            for item, want, rank, why, odds, of in zip(made, *columns, strict=True):
                gold = None if item.gold is None else written(item.gold)
                asked = written({"prompt": item.prompt, "answers": item.answers, "criterion": item.criterion})
                self._file.execute(
                    "INSERT OR IGNORE INTO item (key, kind, asked, origins, gold) VALUES (?, ?, ?, ?, ?)",
                    (item.key, item.kind, asked, written(item.origins), gold),
                )
                (number,) = self._file.execute("SELECT id FROM item WHERE key = ?", (item.key,)).fetchone()
                known = self.state.items.get(number)
                if known is None or known.wanted < want or known.priority != rank:
                    self._file.execute(
                        "INSERT INTO request (item, wanted, priority, chosen, propensity, at, pool) "
                        "VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (number, want, rank, why, odds, time.time(), of),
                    )
        return [item.key for item in made]

    def item(self, number: int) -> Item:
        """An item by its number."""
        with self._lock, Reading(self.path):
            row = self._file.execute("SELECT kind, asked, origins, gold FROM item WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise DataError(f"the store has no item {number}")
        with Reading(self.path) as reading:
            reading.at("item", number)
            return item_of(*row)

    def items(self) -> dict[str, Item]:
        """Every item by its key."""
        found = {}
        with self._lock, Reading(self.path) as reading:
            for number, key, *row in self._file.execute(
                "SELECT id, key, kind, asked, origins, gold FROM item ORDER BY id"
            ).fetchall():
                reading.at("item", number)
                found[key] = item_of(*row)
        return found

    def drawn(self) -> dict[str, Drawn]:
        """How the items that were drawn from a pool were drawn, by their keys, in the order of the draws."""
        with self._lock, Reading(self.path):
            rows = self._file.execute(
                "SELECT item.key, item.id, propensity, pool, chosen FROM request JOIN item ON item.id = request.item "
                "WHERE pool IS NOT NULL ORDER BY request.id"
            ).fetchall()
        return {key: Drawn(number, propensity, pool, how) for key, number, propensity, pool, how in rows}

    def next(self, rater: str, tab: str, *, now: float | None = None) -> Asked | None:
        """What this rater is asked next in this tab of the browser; None where there is nothing left."""
        now = time.time() if now is None else now
        with self._writing():
            found = self.state.chosen(rater, tab, now)
            if found is None:
                return None
            number, item, again, screen = found
            if not number:
                cursor = self._file.execute(
                    "INSERT INTO ask (item, rater, again, screen, at) VALUES (?, ?, ?, ?, ?)",
                    (item, rater, again, written(screen), now),
                )
                number = cursor.lastrowid or 0
            self._file.execute("INSERT INTO shown (ask, tab, at) VALUES (?, ?, ?)", (number, tab, now))
        return self.state.asks[number]

    def ask(self, number: int, rater: str) -> Asked:
        """A question that this rater was asked."""
        found = self.refresh().asks.get(number)
        if found is None or found.rater != rater:
            raise KeyError(number)
        return found

    # --- what is said -------------------------------------------------------------------------------------------------

    def say(self, rater: str, given: Given, *, now: float | None = None) -> int:
        """Store what a rater says; its number. Raises Conflict where another vote stands than the one corrected."""
        now = time.time() if now is None else now
        with self._writing():
            asked = self.state.asks.get(given.ask)
            if asked is None or asked.rater != rater:
                raise KeyError(given.ask)
            value = or_null(self._checked(asked, given.value)) if given.action == "vote" else None
            known = self._file.execute("SELECT id, ask, value FROM vote WHERE key = ?", (given.key,)).fetchone()
            if known is not None:
                if known[1:] != (given.ask, value):  # another verdict is not lost in silence
                    raise Conflict(known[0])
                return int(known[0])
            if asked.current != given.supersedes or (given.action == "undo" and asked.current is None):
                raise Conflict(asked.current)
            reasons = or_null(placed(given.reasons, asked.screen) or None)
            row = (given.ask, given.key, given.action, value, reasons, given.comment)
            seconds = min(max(given.seconds, 0.0), max(now - asked.first_shown, 0.0))
            cursor = self._file.execute(
                "INSERT INTO vote (ask, key, action, value, reasons, comment, seconds, at, supersedes) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, seconds, now, given.supersedes),
            )
        return cursor.lastrowid or 0

    def _checked(self, asked: Asked, value: Any) -> Value:
        """A verdict in the item's own order. Raises ValueError where it is none of this kind."""
        n = len(asked.screen)
        if asked.kind == "pair" and value in (0, 0.5, 1):
            return restored("pair", float(value), asked.screen)
        if asked.kind == "grade" and isinstance(value, int) and 1 <= value <= self.settings.grades:
            return float(value)
        ranks = value if isinstance(value, tuple | list) else ()
        if asked.kind == "ranking" and len(ranks) == n and all(type(rank) is int and 1 <= rank <= n for rank in ranks):
            return restored("ranking", dense(ranks), asked.screen)
        raise ValueError(f"{value!r} is no verdict on a {asked.kind} of {n}")

    def said(self, number: int) -> dict[str, Any]:
        """A vote by its number, in the order of its screen."""
        with self._lock, Reading(self.path) as reading:
            reading.at("vote", number)
            ask, action, value, reasons, comment = self._file.execute(
                "SELECT ask, action, value, reasons, comment FROM vote WHERE id = ?", (number,)
            ).fetchone()
            asked = self.state.asks[ask]
            found = None if value is None else arranged(asked.kind, self._verdict(value, asked), asked.screen)
            shown = placed(reasons_of(reasons), asked.screen, back=True)
        return {"id": number, "action": action, "value": found, "reasons": shown, "comment": comment}

    def said_as(self, other: Asked, mine: Asked) -> dict[str, Any]:
        """What another rater said of an item, in the order of one's own screen."""
        with self._lock, Reading(self.path) as reading:
            reading.at("vote", other.current)
            (value,) = self._file.execute("SELECT value FROM vote WHERE id = ?", (other.current,)).fetchone()
            return {"value": arranged(mine.kind, self._verdict(value, other), mine.screen)}

    def _verdict(self, value: str, asked: Asked) -> Value:
        return verdict_of(value, asked.kind, len(asked.screen))

    def votes(self) -> list[Vote]:
        """Every rater's last word on every item, in the order in which they were given."""
        return [vote for vote, _ in self.answered()]

    def answered(self) -> list[tuple[Vote, dict[str, Any]]]:
        """The votes that stand, each with its reasons and comment in the item's own order."""
        state = self.refresh()
        found = []
        with self._lock, Reading(self.path) as reading:
            for number, ask, key, value, reasons, comment, seconds, at in self._file.execute(
                "SELECT vote.id, ask, item.key, value, reasons, comment, seconds, vote.at FROM vote "
                "JOIN ask ON ask.id = vote.ask JOIN item ON item.id = ask.item WHERE action = 'vote' ORDER BY vote.id"
            ).fetchall():
                asked = state.asks[ask]
                if asked.current != number:
                    continue
                reading.at("vote", number)
                left = ("first", "second")[asked.screen[0]] if asked.kind == "pair" else None
                gold, said = state.items[asked.item].gold, self._verdict(value, asked)
                vote = Vote(key, asked.rater, asked.kind, said, seconds, left, gold, asked.again > 0, at)
                found.append((vote, {"reasons": reasons_of(reasons), "comment": comment}))
        return found


def _log_ahead(file: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; sqlite does not wait here for another process that does the same."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            file.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)


def _each(value: Any, n: int) -> Sequence[Any]:
    return [value] * n if value is None or isinstance(value, int | float | str) else list(value)
