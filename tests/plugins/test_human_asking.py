"""What people are asked first: drawn by what reward models know, once each, with its probability kept beside it."""

from __future__ import annotations

import itertools
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alignzoo import Group, RecipeError, Score
from alignzoo_human import asking
from alignzoo_human.items import Item, Settings
from alignzoo_human.store import Given, Store

PAIRS = [Item.made("pair", f"q{i}", ("b" * i + "!", "a" * 5)) for i in range(12)]


@dataclass(frozen=True)
class Length:
    """A reward that likes long answers, times a slope."""

    slope: float = 1.0

    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        return [tuple(Score(self.slope * len(each.text)) for each in group.completions) for group in groups]


def test_a_pair_is_worth_what_the_model_does_not_know_of_it() -> None:
    p = [1 / (1 + math.exp(-abs(i + 1 - 5))) for i in range(12)]
    assert asking.worth(PAIRS, [Length()], "uncertainty").tolist() == pytest.approx([2 - 2 * each for each in p])
    both = asking.worth(PAIRS, [Length(), Length(-1.0)], "disagreement")  # p and 1 - p: the deviation is |p - 1/2|
    assert both.tolist() == pytest.approx([each - 0.5 for each in p])


def test_a_ranking_is_worth_the_mean_of_its_pairs() -> None:
    item = Item.made("ranking", "q", ("a", "bb", "cccc"))
    gaps = [1, 3, 2]
    expected = sum(2 / (1 + math.exp(gap)) for gap in gaps) / 3  # 1 - 2·|σ(d) - 1/2| = 2·σ(-d)
    assert asking.worth([item], [Length()], "uncertainty").tolist() == pytest.approx([expected])


def test_one_model_never_disagrees_and_grades_are_refused() -> None:
    with pytest.raises(RecipeError, match="2 reward models or more, found 1"):
        asking.worth(PAIRS, [Length()], "disagreement")
    with pytest.raises(RecipeError, match="1 single answers to be graded"):
        asking.worth([Item.made("grade", "q", ("a",))], [Length()], "uncertainty")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(tmp_path / "votes.sqlite", Settings(salt="s")) as made:
        yield made


def drawn_into(store: Store, n: int) -> list[str]:
    how: dict[str, Any] = {"by": "uncertainty", "n": n, "random": 0.2, "seed": 0}
    drawn = asking.draw_new(store, PAIRS, [Length()], **how)
    columns = [
        list(column) for column in zip(*((d.how, d.propensity, d.left, float(d.left)) for _, d in drawn), strict=True)
    ]
    chosen, propensity, pool, priority = columns or [[]] * 4
    return store.add([i for i, _ in drawn], chosen=chosen, propensity=propensity, pool=pool, priority=priority)


def test_each_question_is_drawn_once_and_asked_in_the_order_of_the_draws(store: Store) -> None:
    keys = [*drawn_into(store, 5), *drawn_into(store, 5), *drawn_into(store, 5)]
    assert len(keys) == len(set(keys)) == 12 and drawn_into(store, 5) == []
    asked = list(itertools.takewhile(bool, (next_of(store) for _ in range(13))))
    assert asked == keys
    assert [each.left for each in store.drawn().values()] == list(range(12, 0, -1))
    assert list(store.drawn()) == keys


def next_of(store: Store) -> str:
    """The key of what is asked next; it is answered, the second answer on the screen being better."""
    asked = store.next("ann", "tab")
    if asked is None:
        return ""
    store.say("ann", Given(asked.number, f"k{asked.number}", value=0))
    return store.refresh().items[asked.item].key


def test_what_holds_of_all_is_estimated_when_all_drawn_are_answered(store: Store) -> None:
    assert asking.estimates(store) == []
    drawn_into(store, 6)
    assert "6 of them have no vote" in asking.estimates(store)[1]
    while next_of(store):
        pass
    assert asking.estimates(store)[1].startswith("of all 12 questions, estimated: ties 0% ± 0")
    store.add([PAIRS[0]], pool=[99], priority=7.0)
    with pytest.raises(ValueError, match="99 items left"):
        asking.active.weights(list(store.drawn().values()))


def test_a_store_of_the_first_form_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    with Store(path, Settings(salt="s")) as made:
        made.add(PAIRS[:2])
    file = sqlite3.connect(path)
    file.execute("ALTER TABLE request DROP COLUMN pool")
    file.execute("INSERT INTO meta (key, value, at) VALUES ('form', '1', 0)")
    file.commit()
    file.close()
    with Store(path) as again:
        assert len(again.items()) == 2 and again.drawn() == {}
        assert len(drawn_into(again, 3)) == 3
