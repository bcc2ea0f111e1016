"""The store of votes: it only grows, nothing counts twice, nobody is asked twice, what is current is what was said."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignzoo import DataError, RunError
from alignzoo.cli import app
from alignzoo_human.items import Item, Settings, arranged, restored
from alignzoo_human.store import Conflict, Given, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "votes.sqlite", Settings(salt="s")) as made:
        yield made


def pairs(n: int) -> list[Item]:
    return [Item.made("pair", f"question {i}", ("no", f"yes {i}")) for i in range(n)]


def say(store: Store, rater: str, ask: int, value: object, key: str = "", **more: object) -> int:
    return store.say(rater, Given(ask, key or f"{rater}-{ask}-{random.random()}", value=value, **more))  # type: ignore[arg-type]


def test_a_vote_is_of_the_items_own_order_whatever_the_screen(store: Store) -> None:
    keys = store.add(pairs(12))
    screens = set()
    while (asked := store.next("ann", "t")) is not None:
        answers = [store.item(asked.item).answers[place] for place in asked.screen]
        screens.add(asked.screen)
        say(
            store, "ann", asked.number, 1 if answers[0] == "no" else 0
        )  # "no" is always the better one, and sorts first
    votes = store.votes()
    assert screens == {(0, 1), (1, 0)}
    assert {vote.item for vote in votes} == set(keys) and {vote.value for vote in votes} == {1.0}
    assert Counter(vote.left for vote in votes) == Counter(
        "first" if s == (0, 1) else "second" for s in _screens(store)
    )


def _screens(store: Store) -> list[tuple[int, ...]]:
    return [asked.screen for asked in store.state.asks.values()]


def test_ranks_come_back_through_every_order() -> None:
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        assert restored("ranking", arranged("ranking", (1, 3, 2), order), order) == (1, 3, 2)
    assert arranged("ranking", (1, 3, 2), (2, 0, 1)) == (2, 1, 3)
    assert arranged("pair", 1.0, (1, 0)) == 0.0 and arranged("pair", 0.5, (1, 0)) == 0.5
    item = Item.made("ranking", "q", ("c", "a", "b"), gold=(1, 2, 3), origins=({"n": "c"}, {"n": "a"}, {"n": "b"}))
    assert (
        item.answers == ("a", "b", "c") and item.gold == (2, 3, 1) and [o["n"] for o in item.origins] == ["a", "b", "c"]
    )


def test_the_same_question_is_one_in_whichever_order_it_comes(store: Store) -> None:
    one, other = Item.made("pair", "q", ("x", "y")), Item.made("pair", "q", ("y", "x"))
    assert one.key == other.key and len({*store.add([one]), *store.add([other])}) == 1
    with pytest.raises(DataError, match="are the same"):
        Item.made("pair", "q", ("x", "x"))


def test_rows_are_only_added(store: Store, tmp_path: Path) -> None:
    store.add(pairs(1))
    say(store, "ann", store.next("ann", "t").number, 1)  # type: ignore[union-attr]
    file = sqlite3.connect(tmp_path / "votes.sqlite")
    for change in (
        "UPDATE vote SET value = '0.0'",
        "DELETE FROM vote",
        "DELETE FROM ask",
        "UPDATE item SET gold = '1'",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="only added"):
            file.execute(change)
    assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert oct((tmp_path / "votes.sqlite").stat().st_mode)[-3:] == "600"


def test_what_is_sent_twice_counts_once_and_what_differs_is_refused(store: Store) -> None:
    store.add(pairs(2))
    asked = store.next("ann", "t")
    assert asked is not None
    first = say(store, "ann", asked.number, 1, "k")
    assert say(store, "ann", asked.number, 1, "k") == first
    with pytest.raises(Conflict):  # the same key, but another verdict: it is not lost in silence
        say(store, "ann", asked.number, 0, "k")
    with pytest.raises(Conflict) as other:  # from another tab
        say(store, "ann", asked.number, 0, "k2")
    assert other.value.current == first and len(store.votes()) == 1
    second = say(store, "ann", asked.number, 0, "k3", supersedes=first)
    assert [vote.value for vote in store.votes()] == [1.0 if asked.screen == (1, 0) else 0.0] and second > first
    with pytest.raises(KeyError):
        say(store, "bob", asked.number, 1)
    for nonsense in (2, "left", None, (1, 2)):
        with pytest.raises(ValueError, match="no verdict"):
            say(store, "ann", asked.number, nonsense, supersedes=second)


def test_undo_and_skip_are_rows_of_their_own(store: Store) -> None:
    store.add(pairs(2))
    asked = store.next("ann", "t")
    assert asked is not None
    number = say(store, "ann", asked.number, 1)
    store.say("ann", Given(asked.number, "undo", "undo", supersedes=number))
    assert store.votes() == [] and store.next("ann", "t").number == asked.number  # type: ignore[union-attr]
    store.say("ann", Given(asked.number, "skip", "skip"))
    assert store.votes() == [] and store.next("ann", "t").number != asked.number  # type: ignore[union-attr]
    assert store.refresh().raters["ann"].voted == 0


def test_a_question_that_one_looks_at_is_kept_from_others_until_the_lease_is_over(store: Store) -> None:
    store.add(pairs(1))
    asked = store.next("ann", "t", now=1000.0)
    assert asked is not None
    assert store.next("ann", "t", now=1001.0).number == asked.number  # type: ignore[union-attr]  # the page is loaded again
    assert store.next("ann", "other tab", now=1002.0).number == asked.number  # type: ignore[union-attr]  # is it closed?
    assert store.next("bob", "t", now=1003.0) is None
    late = store.next("bob", "t", now=1002.0 + store.settings.lease + 2)
    assert late is not None and late.item == asked.item and late.number != asked.number


def test_several_raters_and_overlap(store: Store) -> None:
    store.add(pairs(10), wanted=[2] * 4 + [1] * 6)
    for turn in range(40):
        rater = ("ann", "bob", "cyd")[turn % 3]
        asked = store.next(rater, "t")
        if asked is not None:
            say(store, rater, asked.number, 1)
    votes = store.votes()
    assert len(votes) == 14 and max(Counter((v.item, v.rater) for v in votes).values()) == 1
    assert Counter(Counter(v.item for v in votes).values()) == {2: 4, 1: 6}


def test_tests_and_repetitions_are_silent_and_come_at_their_share(tmp_path: Path) -> None:
    how = Settings(gold_share=0.2, repeat_share=0.2, repeat_after=5, salt="s")
    with Store(tmp_path / "votes.sqlite", how) as store:
        store.add(pairs(60))
        store.add([Item.made("pair", f"test {i}", ("a", "b"), gold=1.0) for i in range(20)])
        while (asked := store.next("ann", "t")) is not None:
            say(store, "ann", asked.number, 1)
        votes = store.votes()
        asks = list(store.state.asks.values())
    gold, repeats = [v for v in votes if v.gold], [v for v in votes if v.repeat]
    assert 5 <= len(gold) <= 20 and 5 <= len(repeats) <= 25 and len(votes) == 60 + len(gold) + len(repeats)
    first = {ask.item: ask for ask in asks if not ask.again}
    for again in (ask for ask in asks if ask.again):
        assert again.screen == first[again.item].screen[::-1] and again.number - first[again.item].number >= 5
    assert max(Counter(ask.item for ask in asks).values()) == 2


def test_two_processes_on_one_store_ask_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    with Store(path, Settings(salt="s")) as one, Store(path) as other:
        one.add(pairs(6))
        asked = [store.next("ann", f"tab {i}") for i, store in enumerate((one, other, one, other, one, other))]
        assert len({ask.number for ask in asked if ask}) == 6
        say(other, "ann", asked[0].number, 1)  # type: ignore[union-attr]
        assert [vote.item for vote in one.votes()] == [one.state.items[asked[0].item].key]  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(2))
def test_a_random_session_stores_what_was_said_last(tmp_path: Path, seed: int) -> None:
    """Votes, corrections, undos, skips and reopened stores, against a dictionary."""
    rng, path = random.Random(seed), tmp_path / "votes.sqlite"
    store = Store(path, Settings(salt="s", lease=0.0))
    keys = store.add(pairs(15), wanted=2)
    stands: dict[int, tuple[int, float]] = {}
    for step in range(80):
        rater = rng.choice(["ann", "bob"])
        if rng.random() < 0.1:
            store.close()
            store = Store(path)
        mine = [ask for ask in stands if store.refresh().asks[ask].rater == rater]
        if mine and rng.random() < 0.3:
            ask = rng.choice(mine)
            number, _ = stands.pop(ask)
            if rng.random() < 0.5:
                store.say(rater, Given(ask, f"u{step}", "undo", supersedes=number))
                continue
        else:
            found = store.next(rater, rng.choice("xy"))
            if found is None:
                continue
            ask, number = found.number, None
        value = rng.choice([0.0, 0.5, 1.0])
        screen = store.state.asks[ask].screen
        stands[ask] = (say(store, rater, ask, value, supersedes=number), value if screen == (0, 1) else 1 - value)
    state = store.refresh()
    told = Counter((v.rater, v.item, v.value) for v in store.votes())
    assert told == Counter(
        (state.asks[a].rater, state.items[state.asks[a].item].key, v) for a, (_, v) in stands.items()
    )
    assert state.raters["ann"].voted + state.raters["bob"].voted == len(stands)
    assert {known.key for known in state.items.values()} == set(keys)
    store.close()


def test_other_files_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    sqlite3.connect(other).execute("CREATE TABLE mine (x)")
    with pytest.raises(RunError, match="something else"):
        Store(other, Settings())
    text = tmp_path / "text.sqlite"
    text.write_text("no database, but long enough to be read as one\n" * 9)
    with pytest.raises(RunError, match="cannot be used"):
        Store(text, Settings())
    with pytest.raises(RunError, match="there is no store"):
        Store(tmp_path / "missing.sqlite")
    assert not (tmp_path / "missing.sqlite").exists()


def test_an_empty_file_holds_no_store_and_stays_empty(tmp_path: Path) -> None:
    empty = tmp_path / "empty.sqlite"
    empty.touch()
    with pytest.raises(RunError, match=r"empty\.sqlite holds no store: give another file"):
        Store(empty)
    assert empty.read_bytes() == b"" and [path.name for path in tmp_path.iterdir()] == ["empty.sqlite"]
    with Store(empty, Settings(salt="s")) as made:
        assert made.settings.salt == "s"


def test_a_database_of_others_keeps_its_bytes(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    sqlite3.connect(other).execute("CREATE TABLE mine (x)").connection.close()
    before = other.read_bytes()
    with pytest.raises(RunError, match="something else"):
        Store(other)
    assert other.read_bytes() == before


DAMAGE = {
    "settings {}": ("meta", "INSERT INTO meta (key, value, at) VALUES ('settings', '{}', 0)"),
    "settings []": ("meta", "INSERT INTO meta (key, value, at) VALUES ('settings', '[]', 0)"),
    "settings x": ("meta", "INSERT INTO meta (key, value, at) VALUES ('settings', 'x', 0)"),
    "a setting": ("meta", 'UPDATE meta SET value = replace(value, \'"grades":5\', \'"grades":"x"\')'),
    "no settings": ("meta", "DELETE FROM meta WHERE key = 'settings'"),
    "an unknown ask": ("row 1 of its table vote", "UPDATE vote SET ask = 99"),
    "an action": ("row 1 of its table vote", "UPDATE vote SET action = 'shout'"),
    "seconds": ("row 1 of its table vote", "UPDATE vote SET seconds = 'long'"),
    "junk in a value": ("row 1 of its table vote", "UPDATE vote SET value = 'junk'"),
    "another value": ("row 1 of its table vote", "UPDATE vote SET value = '7'"),
    "no value": ("row 1 of its table vote", "UPDATE vote SET value = NULL"),
    "reasons": ("row 1 of its table vote", "UPDATE vote SET reasons = '5'"),
    "junk in asked": ("row 1 of its table item", "UPDATE item SET asked = 'junk'"),
    "asked []": ("row 1 of its table item", "UPDATE item SET asked = '[]'"),
    "a kind": ("row 1 of its table item", "UPDATE item SET kind = 'odd'"),
    "an unknown item": ("row 1 of its table request", "UPDATE request SET item = 99"),
    "a priority": ("row 1 of its table request", "UPDATE request SET priority = 'high'"),
    "a screen": ("row 1 of its table ask", "UPDATE ask SET screen = '[0,0]'"),
    "a time": ("row 1 of its table shown", "UPDATE shown SET at = 'noon'"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_row_is_named_with_its_file(what: str, store: Store, tmp_path: Path) -> None:
    store.add(pairs(1))
    say(store, "ann", store.next("ann", "t").number, 1)  # type: ignore[union-attr]
    store.close()
    path = tmp_path / "votes.sqlite"
    row, change = DAMAGE[what]
    with sqlite3.connect(path) as file:
        for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            file.execute(f"DROP TRIGGER {name}")
        file.execute(change)
    file.close()
    for arguments in (["status"], ["report"], ["export", "--out", str(tmp_path / "rows.jsonl")]):
        outcome = CliRunner().invoke(app, ["label", arguments[0], str(path), *arguments[1:]])
        told = " ".join(outcome.output.split())
        assert outcome.exit_code == 1 and "Traceback" not in told and not (tmp_path / "rows.jsonl").exists()
        assert f"the store {path} is damaged" in told and row in told and "give another file" in told
