"""The desk: where a run puts its questions to people, and waits for what they say."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from alignzoo import Context, RewardError, RunError, processes
from alignzoo.interfaces import CheckContext
from alignzoo_human.guard import check_name
from alignzoo_human.items import Item, Reasons, Settings
from alignzoo_human.resolve import Answered
from alignzoo_human.state import Known
from alignzoo_human.store import Store

POLL = 0.5
"""Seconds between two looks at the store."""

TELL = 60.0
"""Seconds between two lines that say how far people are."""

OWN = "labels.sqlite"
"""A run's own store, in its folder."""


@dataclass(frozen=True)
class AskingPeople:
    """The settings that the reward and the judge `human` share."""

    store: str = ""
    """Where votes are kept, an SQLite file that several runs and `alignzoo label` may share; empty: labels.sqlite in
    the run's folder, for all of its stages."""
    raters: Annotated[int, Ge(1)] = 1
    """How many people are asked each question."""
    names: tuple[str, ...] = ()
    """Who is asked: each name has a link of its own; empty: whoever has voted already, or is logged in."""
    serve: bool = True
    """Serve the page; off where `alignzoo label STORE` serves it."""
    port: Annotated[int, Ge(0)] = 0
    """Where the page is; 0: 8765, or a free one."""
    wait: Annotated[float, Ge(0)] = 0.0
    """Seconds to wait for people; 0: as long as it takes."""
    on_timeout: Literal["abstain", "stop"] = "stop"
    """What becomes of questions that nobody answered in that time: none counts (abstain), or the run stops, and goes on
    by --resume (stop)."""
    criteria: tuple[str, ...] = ()
    """What reasons are given by: "helpful", "harmless"."""
    reasons: Reasons = "optional"
    """Whether people are asked why."""
    instructions: str = ""
    """What people are to go by."""
    grades: Annotated[int, Ge(2)] = 5
    """The best grade of a single answer; the worst is 1."""

    def __post_init__(self) -> None:
        if self.names and self.raters > len(self.names):
            raise ValueError(f"raters is {self.raters}, but names has {len(self.names)}: nobody is asked twice")
        for name in self.names:
            try:
                check_name(name)
            except RunError as error:
                raise ValueError(f"names: {error}") from error

    def check(self, context: CheckContext) -> None:
        """Raise where the page cannot be served."""
        if self.serve:
            from alignzoo_human import serving  # noqa: F401  raises where starlette or uvicorn are missing

    def open(self, context: Context) -> Desk:
        """Open the store, and serve the page."""
        return Desk(self, Path(self.store) if self.store else _own(context))

    def costs(self) -> Mapping[str, float]:
        """Questions that people were asked, their votes, and the seconds that they took."""
        from alignzoo import live_of

        desk: Desk = live_of(self)
        return dict(desk.counts)


@dataclass(frozen=True)
class Why:
    """Why people are asked a question."""

    priority: float = 0.0
    """What is higher is asked first."""
    chosen: str = "all"
    """"all", "random", "uncertain"."""
    propensity: float = 1.0
    """How probable it was to be asked."""


@dataclass
class Answer:
    """What people say of a question: their votes with reasons; none where they skipped it, or time was over."""

    item: Item
    votes: Sequence[Answered] = field(default_factory=list)

    @property
    def note(self) -> str:
        """Their reasons, in a line."""
        told = []
        for vote, more in self.votes:
            said = (more.get("reasons") or {}).get("all") or {}
            marks = [f"{'+' if mark > 0 else '-'}{name}" for name, mark in (said.get("criteria") or {}).items()]
            words = " ".join(filter(None, [*marks, said.get("text", ""), more.get("comment", "")]))
            told += [f"{vote.rater}: {words}"] if words else []
        return "; ".join(told)


class Desk:
    """A store, and the page where people find it: both are opened with the first question."""

    def __init__(self, asking: AskingPeople, path: Path) -> None:
        self.asking = asking
        self.path = path
        self.counts = {"human/questions": 0.0, "human/votes": 0.0, "human/seconds": 0.0}
        self._serving: Any = None

    @functools.cached_property
    def store(self) -> Store:
        """The store, with the settings that are given here; what is not is as it was."""
        former = Settings()
        if self.path.exists():
            with Store(self.path) as known:
                former = known.settings
        given = replace(
            former,
            criteria=self.asking.criteria or former.criteria,
            grades=self.asking.grades,
            reasons=self.asking.reasons,
            instructions=self.asking.instructions or former.instructions,
        )
        return Store(self.path, given)

    @property
    def links(self) -> Mapping[str, str]:
        """Where people go, by their names; none where somebody else serves the page."""
        if not self.asking.serve or processes.index():
            return {}
        if self._serving is None:
            self._serving = self._served()
        found: Mapping[str, str] = self._serving.links
        return found

    def _served(self) -> Any:
        from alignzoo_human.serving import PORT, Serving, free_port, known_raters

        names = list(self.asking.names) or known_raters(self.store)
        if len(names) < self.asking.raters:
            raise RewardError(
                f"{self.asking.raters} people are to be asked each question, but {len(names)} have a link: say who by "
                'names = ["ann", "bob"]'
            )
        port = self.asking.port or free_port("127.0.0.1", PORT)
        return Serving(self.store, names, port=port).start()

    def close(self) -> None:
        """End the page and close the store, where they are open."""
        if self._serving is not None:
            self._serving.close()
        if "store" in vars(self):
            self.store.close()

    def ask(self, items: Sequence[Item], why: Mapping[str, Why] | None = None) -> dict[str, Answer]:
        """What people say of these, by the items' keys. What they have said already is not asked again."""
        distinct = {item.key: item for item in items}
        reasons = [(why or {}).get(key, Why()) for key in distinct]
        self.store.add(
            distinct.values(),
            wanted=self.asking.raters,
            priority=[each.priority for each in reasons],
            chosen=[each.chosen for each in reasons],
            propensity=[each.propensity for each in reasons],
        )
        open_at_first = self._open(distinct)
        self.counts["human/questions"] += len(open_at_first)
        if open_at_first:
            self._wait(distinct)
        found = {key: Answer(item, []) for key, item in distinct.items()}
        new = {known.key for known in open_at_first}
        for vote, more in self.store.answered():
            if vote.item in found and not vote.repeat:
                found[vote.item].votes = [*found[vote.item].votes, (vote, more)]
                if vote.item in new:
                    self.counts["human/votes"] += 1
                    self.counts["human/seconds"] += vote.seconds
        return found

    def _open(self, items: Mapping[str, Item]) -> list[Known]:
        """The questions that somebody may still answer."""
        state = self.store.refresh()
        mine = [known for known in state.items.values() if known.key in items and known.voted < known.wanted]
        return [known for known in mine if not self._given_up(known)]

    def _given_up(self, known: Known) -> bool:
        """Whether everybody who could vote on it has, or skipped it: those with a link, or whom the store knows."""
        asks = [self.store.state.asks[ask] for ask in known.asks]
        done = {asked.rater for asked in asks if asked.action}
        return bool(done) and (set(self.links) or set(self.asking.names) or set(self.store.state.raters)) <= done

    def _wait(self, items: Mapping[str, Item]) -> None:
        start, last = time.monotonic(), -TELL
        while left := self._open(items):
            now = time.monotonic() - start
            if self.asking.wait and now > self.asking.wait:
                self._give_up(left, items)
                return
            if now - last >= TELL:
                self._tell(len(items) - len(left), len(items))
                last = now
            time.sleep(POLL)

    def _give_up(self, left: Sequence[Known], items: Mapping[str, Item]) -> None:
        said = f"{len(left)} of {len(items)} questions were not answered within {self.asking.wait:g} seconds"
        if self.asking.on_timeout == "stop":
            raise RewardError(
                f"{said}: the run stops here. The votes are in {self.store.path}: go on by --resume, give people more "
                "time with wait=..., or let on_timeout=abstain go on without them"
            )
        _line(f"{said}, and count for nothing")

    def _tell(self, done: int, of: int) -> None:
        """Say where people go, and how far they are."""
        where = [f"  {rater}: {link}" for rater, link in self.links.items()]
        if not where and not processes.index():
            where = [f"  alignzoo label {self.store.path}"]
        _line(
            "\n".join(
                [f"waiting for people: {done} of {of} questions are answered. Ctrl-C twice stops; --resume", *where]
            )
        )


def _own(context: Context) -> Path:
    """A run's own store: beside the folders of its stages' parts, so that all stages share it."""
    return context.folder.parents[1] / OWN if context.folder is not None else Path(OWN)


def _line(text: str) -> None:
    from alignzoo.printable import printable

    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()
