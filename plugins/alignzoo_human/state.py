"""What is current in a store: who was asked what, who said what, and what each rater is asked next."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from alignzoo_human.items import Settings, check, draw, shuffled
from alignzoo_human.rows import screen_of
from alignzoo_human.votes import Kind

Choice = tuple[int, int, int, tuple[int, ...]]
"""The number of an ask, 0 for a new one; its item; how often the rater was asked before; the order on the screen."""

At = Callable[[str, "int | None"], None]
"""Is told the table and the number of the row that is read."""


@dataclass
class Asked:
    """An item that a rater was asked."""

    number: int
    item: int
    kind: Kind
    rater: str
    again: int
    """0, or 1 for a repetition."""
    screen: tuple[int, ...]
    """Which of the item's answers stands at each place of the screen."""
    first_shown: float = 0.0
    last_shown: float = 0.0
    tab: str = ""
    """The tab of the browser that showed it last."""
    current: int | None = None
    """The vote or skip that stands."""
    action: str = ""
    """"vote", "skip"; empty where nothing stands."""


@dataclass
class Known:
    """An item as the queue knows it."""

    number: int
    key: str
    kind: Kind
    size: int
    gold: bool
    wanted: int = 0
    priority: float = 0.0
    asks: list[int] = field(default_factory=list)
    voted: int = 0
    """How many votes stand, repetitions aside."""

    @property
    def lacks(self) -> bool:
        """Whether it is asked of more raters."""
        return not self.gold and self.voted < self.wanted


@dataclass
class Rater:
    """A rater as the queue knows them."""

    asks: list[int] = field(default_factory=list)
    items: dict[int, int] = field(default_factory=dict)
    """How often each item was asked."""
    open: set[int] = field(default_factory=set)
    """Asks without a verdict."""
    seconds: list[float] = field(default_factory=list)
    voted: int = 0


class State:
    """The rows of a store, folded; since rows are only added, it is enough to read the new ones."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.items: dict[int, Known] = {}
        self.asks: dict[int, Asked] = {}
        self.raters: dict[str, Rater] = defaultdict(Rater)
        self._seen = dict.fromkeys(("item", "request", "ask", "shown", "vote"), 0)
        self._queue: list[int] = []
        self._stale = True
        self._lacking = 0
        self._gold: list[int] = []

    def follow(self, file: sqlite3.Connection, at: At) -> None:
        """Take in the rows that have come since; `at` is told which. One that is damaged raises, each time anew."""
        size = "CASE WHEN json_valid(asked) THEN json_array_length(asked, '$.answers') END"
        for number, key, kind, n, gold in self._new(file, at, "item", f"key, kind, {size}, gold"):
            check(kind, n or 0)
            self.items[number] = Known(number, key, kind, n, gold is not None)
            self._gold += [number] if gold is not None else []
            self._stale = True
        for _, item, wanted, priority in self._new(file, at, "request", "item, wanted, priority"):
            known = self.items[item]
            most = max(known.wanted, wanted)
            self._lacking -= known.lacks
            known.wanted, known.priority = most, priority + 0.0
            self._lacking += known.lacks
            self._stale = True
        for number, item, rater, again, screen in self._new(file, at, "ask", "item, rater, again, screen"):
            known = self.items[item]
            self.asks[number] = Asked(number, item, known.kind, rater, again, screen_of(screen, known.size))
            known.asks.append(number)
            person = self.raters[rater]
            person.asks.append(number)
            person.open.add(number)
            person.items[item] = person.items.get(item, 0) + 1
        for _, ask, tab, when in self._new(file, at, "shown", "ask, tab, at"):
            asked = self.asks[ask]
            asked.first_shown, asked.last_shown, asked.tab = asked.first_shown or when + 0.0, when + 0.0, tab
        for number, ask, action, seconds in self._new(file, at, "vote", "ask, action, seconds"):
            if action not in ("vote", "skip", "undo"):
                raise ValueError(f"its action is {action!r}")
            self._take(number, self.asks[ask], action, seconds + 0.0)

    def _new(self, file: sqlite3.Connection, at: At, table: str, columns: str) -> Iterator[tuple]:
        at(table, None)
        asked = f"SELECT id, {columns} FROM {table} WHERE id > ? ORDER BY id"
        for row in file.execute(asked, (self._seen[table],)).fetchall():
            at(table, row[0])
            yield row
            self._seen[table] = row[0]

    def _take(self, number: int, asked: Asked, action: str, seconds: float) -> None:
        person, known = self.raters[asked.rater], self.items[asked.item]
        change = (action == "vote") - (asked.action == "vote")
        person.voted += change
        self._lacking -= known.lacks
        known.voted += change if not asked.again else 0
        self._lacking += known.lacks
        if action == "undo":
            asked.current, asked.action = None, ""
            person.open.add(asked.number)
            self._stale = True
            return
        asked.current, asked.action = number, action
        person.open.discard(asked.number)
        if action == "vote":
            person.seconds.append(seconds)

    # --- the queue ----------------------------------------------------------------------------------------------------

    def chosen(self, rater: str, tab: str, now: float) -> Choice | None:
        """What a rater is asked next in this tab: what it shows already, what was left lying, something new, or what
        another tab of the rater's shows."""
        person = self.raters[rater]
        waiting = sorted(person.open)
        mine = [ask for ask in waiting if self.asks[ask].tab == tab]
        left = [ask for ask in waiting if self.asks[ask].last_shown + self.settings.lease < now]
        fresh = None if mine or left else self._fresh(rater, person, now)
        if fresh is None:  # at the end also what is open in another tab, which may have been closed
            ask = next(iter((*mine, *left, *waiting)), None)
            if ask is None:
                return None
            asked = self.asks[ask]
            return ask, asked.item, asked.again, asked.screen
        at = len(person.asks)
        if draw(self.settings.salt, rater, at, "repeat") < self.settings.repeat_share:
            again = self._repetition(person)
            if again is not None:
                return 0, again.item, 1, again.screen[::-1]
        if draw(self.settings.salt, rater, at, "gold") < self.settings.gold_share:
            fresh = self._test(rater, person) or fresh
        return 0, fresh.number, 0, shuffled(fresh.size, self.settings.salt, fresh.key, rater)

    def _fresh(self, rater: str, person: Rater, now: float) -> Known | None:
        if self._stale:
            self._queue = [n for n, known in self.items.items() if known.lacks]
            self._queue.sort(key=lambda n: (-self.items[n].priority, self.items[n].key))
            self._stale = False
        full = 0
        for number in self._queue:
            known = self.items[number]
            if known.voted >= known.wanted:
                full += 1
            elif number not in person.items and known.voted + self._leased(known, now) < known.wanted:
                break
        else:
            known = None
        self._stale = full > 100  # they are passed over again and again until the queue is made anew
        return known

    def _leased(self, known: Known, now: float) -> int:
        """How many others look at it just now."""
        asks = (self.asks[ask] for ask in known.asks)
        return sum(not each.action and each.last_shown + self.settings.lease >= now for each in asks)

    def _repetition(self, person: Rater) -> Asked | None:
        """The first question that was answered long enough ago, and was not repeated yet."""
        early = person.asks[: max(0, len(person.asks) - self.settings.repeat_after)]
        for asked in (self.asks[ask] for ask in early):
            if asked.action == "vote" and person.items[asked.item] == 1 and not self.items[asked.item].gold:
                return asked
        return None

    def _test(self, rater: str, person: Rater) -> Known | None:
        rest = [self.items[number] for number in self._gold if number not in person.items]
        return min(rest, key=lambda known: draw(self.settings.salt, rater, known.key), default=None)

    def progress(self, rater: str) -> dict[str, float]:
        """How far a rater is: voted, what may still come, and the median seconds of their last twenty votes."""
        person = self.raters[rater]
        rest = self._lacking - sum(self.items[number].lacks for number in person.items)
        last = sorted(person.seconds[-20:])
        pace = last[len(last) // 2] if last else 0.0
        return {"voted": person.voted, "left": rest + len(person.open), "pace": pace}
