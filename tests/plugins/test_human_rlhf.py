"""human-rlhf: each round learns from all that people have said so far, and gold rises with a noisy rater's word."""

from __future__ import annotations

import math
import socket
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scripted_rater import link_of, noisy, working

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import alignzoo
from alignzoo.recipe import load
from alignzoo.registry import Registry
from alignzoo_human.store import Store
from alignzoo_tiny.shop import gold


class Killed(BaseException):
    """As sudden as a kill."""


def test_each_reward_model_is_new_and_learns_from_the_labels_of_all_rounds() -> None:
    stages = {stage.name: stage for stage in load("human-rlhf", ["again.rounds=3"], registry=Registry()).stages}
    origin = stages["reward-model-again-3"].origin
    chain = []
    while origin is not None:
        chain.append(origin.name)
        origin = origin.earlier
    assert chain == ["label-again-3", "label-again-2", "label-again-1", "label"]
    models = [stages[f"reward-model-again-{n}"].policy.model for n in (1, 2, 3)]  # type: ignore[attr-defined]
    assert models == ["task:policy"] * 3
    policies: Any = [stages[f"ppo-again-{n}"].policy for n in (1, 2, 3)]
    assert [each.model for each in policies] == ["stage:ppo", "stage:ppo-again-1", "stage:ppo-again-2"]
    assert [each.reference for each in policies] == ["task:policy"] * 3  # the KL is to where it all began


@pytest.mark.slow
def test_gold_rises_with_a_noisy_raters_labels_and_a_killed_run_asks_nothing_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stop, store = threading.Event(), out / "parts" / "labels.sqlite"
    verdict = noisy(gold, 1)
    threading.Thread(target=lambda: working(link_of(store, port, 600), verdict, stop), daemon=True).start()
    people = ['names=["ann"]', f"port={port}"]
    asked = [f"{stage}.reward.{each}" for stage in ("label", "label-again") for each in people]
    where = [("reward-model", 5), ("label-again-1", 1), ("ppo-again-1", 2), ("reward-model-again-2", 3)]

    def kill(label: str, done: int, total: int, figures: Any) -> None:
        if where and (label, done) == where[0]:
            where.pop(0)
            raise Killed

    settings = [*asked, "evaluate.greedy=false", "evaluate.prompts=256"]
    for resume in (False, True, True, True, True):
        try:
            result = alignzoo.run("human-rlhf", seed=1, out=out, overrides=settings, resume=resume, progress=kill)
        except Killed:
            continue
    stop.set()
    assert not where
    first, last = result.stages[2], result.stages[-1]
    start = first.before
    for end in (first.after, last.after):
        assert end["gold"] - start["gold"] > 1.96 * math.hypot(end["gold_se"], start["gold_se"])
    with Store(store) as votes:
        asks = votes.refresh().asks.values()
        assert len(votes.votes()) == len(asks) == 32 + 16 + 16
        assert max(Counter(ask.item for ask in asks).values()) == 1
    rows = [(out / "data" / f"{name}.jsonl").read_text() for name in ("label", "label-again-1", "label-again-2")]
    assert [len(each.splitlines()) for each in rows] == [32, 48, 64]
    assert rows[1].startswith(rows[0]) and rows[2].startswith(rows[1])
