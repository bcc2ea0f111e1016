"""People in training: a run waits for them, takes their word, and asks nothing twice when it is resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripted_rater import Rater, link_of, working

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from alignzoo import Completion, Context, Group, Prompt, Question, RewardError, Score, opened
from alignzoo.data import from_rows
from alignzoo.judging import prefer
from alignzoo.judging.examine import Examiner
from alignzoo.judging.pairs import pairs_of
from alignzoo_constitution.reward import Constitution
from alignzoo_human.items import Item, Settings
from alignzoo_human.judge import HumanJudge
from alignzoo_human.reward import HumanReward, doubt
from alignzoo_human.store import Given, Store

RECIPE = """\
policy = {{ name = "hf", model = {model}, max_new_tokens = 4, device = "cpu" }}
data = {data}
evaluate = {{ prompts = 2, reward = false, greedy = false }}

[[stage]]
name = "rl"
sampler = {{ name = "policy", n = 3 }}
reward = {{ name = "human", names = ["ann"], wait = 20, port = {port} }}
optimizer = {{ name = "grpo" }}
schedule = {{ steps = 2, prompts = 2, lr = 1e-3, save_every = 1 }}
"""


def by_text(question: dict[str, Any]) -> Any:
    """A rater who likes what sorts first."""
    texts = [answer[0]["content"] for answer in question["answers"]]
    if question["kind"] == "pair":
        return float(texts[0] < texts[1])
    return [1 + sum(other < text for other in texts) for text in texts] if question["kind"] == "ranking" else 3


def group(prompt: str, *texts: str) -> Group:
    return Group(Prompt(prompt), (1,), tuple(Completion((2, 3), text) for text in texts))


@pytest.fixture
def recipe(tmp_path: Path, plain_model: Path) -> Path:
    data, path = tmp_path / "data.jsonl", tmp_path / "human.toml"
    data.write_text("".join(json.dumps({"prompt": f"Count to {number}: "}) + "\n" for number in range(12)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path.write_text(RECIPE.format(model=json.dumps(str(plain_model)), data=json.dumps(str(data)), port=port))
    return path


def rated(recipe: Path, out: Path, most: int) -> threading.Event:
    """A rater of this run, who is away after so many answers."""
    store = out / "parts" / "labels.sqlite"
    port = int(re.search(r"port = (\d+)", recipe.read_text())[1])  # type: ignore[index]
    stop = threading.Event()

    def run() -> None:
        link, left = link_of(store, port), most
        while left > 0 and not stop.is_set():
            with contextlib.suppress(OSError, AssertionError):  # the page is not there yet, or no longer
                left -= Rater(link, by_text).work(left)
            time.sleep(0.05)

    threading.Thread(target=run, daemon=True).start()
    return stop


def test_a_run_that_waits_for_people_resumes_exactly_and_asks_nothing_twice(
    alignzoo: Any, recipe: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    stop = rated(recipe, whole, 100)
    assert alignzoo("run", recipe, "--out", whole, "--quiet").code == 0
    stop.set()
    stop = rated(recipe, cut, 3)  # in the middle of the second step, which is the last
    said = alignzoo("run", recipe, "rl.reward.wait=3", "--out", cut, "--quiet")
    stop.set()
    assert (
        said.code == 1 and "1 of 2 questions were not answered within 3 seconds" in said.err and "--resume" in said.err
    )
    stop = rated(recipe, cut, 100)
    said = alignzoo("run", recipe, "rl.reward.wait=3", "--out", cut, "--quiet", "--resume")
    stop.set()
    assert said.code == 0, said.err
    assert (cut / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    with Store(cut / "parts" / "labels.sqlite") as store, Store(whole / "parts" / "labels.sqlite") as other:
        asks = store.refresh().asks.values()
        assert max(Counter((ask.item, ask.rater) for ask in asks).values()) == 1
        assert {v.item for v in store.votes()} == {v.item for v in other.votes()} and len(store.votes()) == len(asks)
    samples = map(json.loads, (cut / "samples.jsonl").read_text().splitlines())
    rewards = [sample["reward"] for sample in samples if sample["when"] == "training"]
    assert len(set(rewards)) > 2 and all(reward is not None for reward in rewards)


def test_scores_are_the_order_that_people_gave(tmp_path: Path) -> None:
    reward = HumanReward(store=str(tmp_path / "v.sqlite"), names=("ann", "bob"), raters=2)
    groups = [group("q", "b", "a", "c", "a"), group("r", "same", "same")]
    with opened(reward, Context()) as open_reward:
        desk = open_reward._live  # type: ignore[attr-defined]
        done = threading.Event()
        for link in desk.links.values():
            working(link, by_text, done)
        (first, second) = open_reward.score(groups, None)  # type: ignore[arg-type]
        done.set()
        assert first[1].value == first[3].value and first[1].value > first[0].value > first[2].value  # type: ignore[operator]
        assert sum(score.value for score in (first[0], first[1], first[2])) == pytest.approx(0, abs=1e-9)  # type: ignore[misc]
        assert [score.value for score in second] == [0.0, 0.0]
        costs = open_reward.costs()
        assert costs["human/questions"] == 1 and costs["human/votes"] == 2
        assert open_reward.score(groups, None) == [first, second]  # type: ignore[arg-type]  # nobody is asked again
        assert open_reward.costs() == costs


@pytest.fixture
def voted(tmp_path: Path) -> Iterator[Store]:
    """A store in which ann prefers "a", and bob neither, to "b"; nobody serves it."""
    with Store(tmp_path / "v.sqlite", Settings(salt="s")) as store:
        store.add([Item.made("pair", "q", ("a", "b"))], wanted=2)
        store.add([Item.made("grade", "q", ("a",))], priority=-1)
        for rater, value in (("ann", 1.0), ("bob", 0.5)):
            asked = store.next(rater, "t")
            assert asked is not None
            value = value if asked.screen == (0, 1) else 1 - value
            reasons = {"all": {"text": "why not", "criteria": {"kind": -1}}}
            store.say(rater, Given(asked.number, rater, value=value, reasons=reasons))
        asked = store.next("ann", "t")
        assert asked is not None and asked.kind == "grade"
        store.say("ann", Given(asked.number, "grade", value=4))
        yield store


def test_people_judge_a_pair_once_in_both_orders(voted: Store) -> None:
    judge = HumanJudge(store=str(voted.path), serve=False, wait=0.2, on_timeout="abstain")
    with opened(judge, Context()) as people:
        questions = [
            Question("q", ("a", "b")),
            Question("q", ("b", "a")),
            Question("q", ("a",)),
            Question("q", ("b", "b")),
        ]
        verdicts = people.judge(questions, None)
        assert [verdict.value for verdict in verdicts] == [0.75, 0.25, 0.75, 0.5]  # (1 + 0.5)/2; (4 - 1)/(5 - 1)
        assert "ann: -kind why not" in verdicts[0].note
        (both,) = prefer(people, questions[:1], None)
        assert both.value == 0.75 and both.leaning == 0 and both.consistent
        assert people.judge([Question("new", ("a", "b"))], None)[0].kind == "abstain"
        voted.add([Item.made("pair", "skipped", ("a", "b"))], wanted=2, priority=9.0)
        for rater in ("ann", "bob"):
            asked = voted.next(rater, "t")
            assert asked is not None
            voted.say(rater, Given(asked.number, f"{rater} skips", "skip"))
        patient = dataclasses.replace(judge, wait=30.0, on_timeout="stop")  # and yet it does not wait: nobody is left
        with opened(patient, Context()) as patiently:
            assert patiently.judge([Question("skipped", ("a", "b"))], None)[0].kind == "abstain"


def test_people_stand_where_an_ai_judge_does(tmp_path: Path) -> None:
    """A constitution asks them by each principle, and a judge's report compares them with other labels."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    people = HumanJudge(store=str(tmp_path / "v.sqlite"), names=("ann",), port=port, wait=20)
    by: list[str] = []

    def rater(question: dict[str, Any]) -> Any:
        by.append(question["criterion"])
        return by_text(question)

    done = threading.Event()
    threading.Thread(target=lambda: working(link_of(Path(people.store), port), rater, done), daemon=True).start()
    constitution = Constitution(constitution="safe", principles=("polite", "brief"), judge=people)
    with opened(constitution, Context("c")) as scoring:
        (scores,) = scoring.score([group("q", "b", "a")], None)  # type: ignore[arg-type]
    assert scores[1].value > 0 > scores[0].value  # type: ignore[operator]
    assert sorted(by) == ["which reply has no more than 25 words ?", "which reply is more polite ?"]
    labels = [("a", "b"), ("a", "b"), ("b", "a"), ("a", "b")]  # the third label is not the rater's
    rows = [{"prompt": f"q{n}", "chosen": chosen, "rejected": other} for n, (chosen, other) in enumerate(labels)]
    with opened(people, Context("report")) as judging:
        found = Examiner(probes=0, resamples=20).examine(judging, pairs_of(from_rows(rows)))
    done.set()
    assert found.judged[-1].agreement.value == 0.75
    assert len(by) == 2 + 4  # each pair once, in both orders and again


def test_who_waits_in_vain_stops_or_goes_on(tmp_path: Path) -> None:
    groups = [group("q", "a", "b")]
    for how in ("stop", "abstain"):
        reward = HumanReward(store=str(tmp_path / f"{how}.sqlite"), serve=False, wait=0.1, on_timeout=how)  # type: ignore[arg-type]
        with opened(reward, Context()) as waiting:
            if how == "stop":
                with pytest.raises(RewardError, match="1 of 1 questions were not answered"):
                    waiting.score(groups, None)  # type: ignore[arg-type]
            else:
                assert [score.value for score in waiting.score(groups, None)[0]] == [None, None]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nobody is asked twice"):
        HumanReward(names=("ann",), raters=2)


class Proxy:
    """A reward that is sure of all but one group."""

    def score(self, groups: Any, policy: Any) -> list[tuple[Score, ...]]:
        return [
            tuple(Score(0.0 if g.prompt.messages == "q3" else 5.0 * i) for i, _ in enumerate(g.completions))
            for g in groups
        ]


def test_people_are_asked_about_what_is_in_doubt(tmp_path: Path) -> None:
    assert doubt([Score(1.0), Score(1.0)]) == 0.25 and doubt([Score(0.0), Score(40.0)]) < 1e-9
    assert doubt([Score(0.0), Score(1.0)]) == pytest.approx(0.196612)  # σ(1)·σ(-1)
    groups = [group(f"q{i}", "a", "b") for i in range(10)]
    reward = HumanReward(
        store=str(tmp_path / "v.sqlite"), serve=False, wait=0.1, on_timeout="abstain", ask=2, by=Proxy()
    )
    with opened(reward, Context()) as asking:
        scores = asking.score(groups, None)  # type: ignore[arg-type]
        store = asking._live.store  # type: ignore[attr-defined]
        asked = {item.prompt for item in store.items().values()}
        rows = store._file.execute("SELECT chosen, propensity FROM request").fetchall()
    assert len(asked) == 2 and "q3" in asked and all(s.value is None for pair in scores for s in pair)
    assert sorted(rows) in ([("random", 0.1), ("uncertain", 1.0)], [("random", 0.1), ("random", 0.1)])
