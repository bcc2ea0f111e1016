"""`alignzoo collect`: models and settings take turns, who generated what is kept, and a cut collection goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from alignzoo import Policy, RunError
from alignzoo.testing import toy_policy
from alignzoo.testing.world import toy_prompts
from alignzoo_human.collect import AT_ONCE, Way, collect, ways
from alignzoo_human.items import Item
from alignzoo_human.sources import gathered, items
from alignzoo_human.votes import Value, Vote
from alignzoo_human.winners import winners

PROMPTS = toy_prompts(5)
WAYS = ways(["small", "large"], [0.7, 1.0], [], [0.9], 6)


class Cut(BaseException):
    """As sudden as a kill."""


def loader(cut_after: int = 10**9) -> Any:
    """Loads a policy, until so many were loaded; and what was."""
    loaded: list[Way] = []

    def load(way: Way) -> Policy:
        if len(loaded) == cut_after:
            raise Cut
        loaded.append(way)
        return toy_policy()

    return load, loaded


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def collected(out: Path, by: Sequence[Way] = WAYS, n: int = 3) -> list[dict[str, Any]]:
    return collect(PROMPTS, n, by, loader()[0], out)


def test_every_model_with_every_setting_has_its_share_and_is_kept_with_its_answers(tmp_path: Path) -> None:
    assert [(way.model, way.temperature) for way in WAYS] == [
        ("small", 0.7),
        ("small", 1.0),
        ("large", 0.7),
        ("large", 1.0),
    ]
    found = collected(tmp_path / "a.jsonl")
    assert found == rows(tmp_path / "a.jsonl") and [len(row["completions"]) for row in found] == [3] * 5
    origins = Counter((each["model"], each["temperature"]) for row in found for each in row["origins"])
    assert sorted(origins.values()) == [3, 4, 4, 4]  # fifteen answers of four ways
    assert all(each["top_p"] == 0.9 and each["max_new_tokens"] == 6 for row in found for each in row["origins"])
    assert all(len({(o["model"], o["temperature"]) for o in row["origins"]}) == 3 for row in found)


def test_of_two_answers_every_two_ways_have_some_prompt_together(tmp_path: Path) -> None:
    """With two answers of four ways the large model would else never be compared with the small one."""
    found = collect(toy_prompts(48), 2, WAYS, loader()[0], tmp_path / "a.jsonl", seed=3)
    pairs = Counter(frozenset((o["model"], o["temperature"]) for o in row["origins"]) for row in found)
    assert len(pairs) == 6 and all(len(pair) == 2 for pair in pairs) and min(pairs.values()) >= 3
    shares = Counter(who for pair, times in pairs.items() for who in pair for _ in range(times))
    assert set(shares.values()) == {24}  # 96 answers of four ways


def test_what_was_cut_off_goes_on_to_the_same_and_loads_no_model_again_that_was_done(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    collected(whole)
    with pytest.raises(Cut):
        collect(PROMPTS, 3, WAYS, loader(2)[0], cut)
    assert not cut.exists()
    part = cut.with_name("cut.jsonl.part")
    part.write_bytes(part.read_bytes() + b'{"way": 2, "prom')  # a line that a kill cut off
    with pytest.raises(RunError, match="with other models, prompts or settings"):
        collected(cut, n=2)
    load, loaded = loader()
    collect(PROMPTS, 3, WAYS, load, cut)
    assert cut.read_bytes() == whole.read_bytes() and not part.exists()
    assert loaded == WAYS[2:] and len(PROMPTS) < AT_ONCE


def test_answers_of_several_models_are_labelled_together_and_blindly(tmp_path: Path) -> None:
    collected(tmp_path / "one.jsonl", WAYS[:1], 2)
    collected(tmp_path / "other.jsonl", WAYS[2:3], 2)
    found = items(gathered([tmp_path / "one.jsonl", tmp_path / "other.jsonl"]))
    assert len(found) == len({json.dumps(item.prompt) for item in found})  # a prompt's answers stand together
    models = {origin["model"] for item in found for each in item.origins for origin in each["from"]}
    assert models == {"small", "large"}
    assert not any(name in json.dumps(item.answers) for item in found for name in models)


def vote(item: Item, value: Value, **known: Any) -> Vote:
    fields = {"rater": "ann", "seconds": 1.0, "left": None, "gold": False, "repeat": False, "at": 0.0} | known
    return Vote(item=item.key, kind=item.kind, value=value, **fields)


def by(*models: str, **settings: Any) -> dict[str, Any]:
    return {"from": [{"file": "a.jsonl", "model": model, "seed": 1, **settings} for model in models]}


def test_whose_answers_are_preferred() -> None:
    ranked = Item.made(
        "ranking", "q", ("a", "b", "c", "d"), origins=[by("small"), by("large"), by("large", "small"), by("large")]
    )
    pair = Item.made("pair", "r", ("a", "b"), origins=[by("large"), by("small")])
    # q: small's a is 2nd, large's b 1st and d 2nd: a loses to b and ties with d; c, which both gave, is nobody's
    votes = [vote(ranked, (2, 1, 1, 2)), vote(pair, 1.0), vote(pair, 0.0, rater="bob")]
    ignored = [vote(pair, 0.0, gold=True), vote(pair, 0.0, repeat=True)]
    found = winners({each.key: each for each in (ranked, pair)}, votes + ignored)
    assert {name: (each.value, each.n) for name, each in found.items()} == {
        "small": ((0.25 + 0.5) / 2, 2),
        "large": ((0.75 + 0.5) / 2, 2),
    }
    alone = Item.made("pair", "r", ("a", "b"), origins=[by("one", temperature=t, top_k=9) for t in (0.7, 1.0)])
    assert winners({alone.key: alone}, [vote(alone, 1.0)])["temperature 0.7"].value == 1.0
    same = Item.made("pair", "r", ("a", "b"), origins=[by("one"), by("one")])
    assert winners({same.key: same}, [vote(same, 1.0)]) == {}
