"""From votes to data and back: several raters resolved, every format written and read again, soft labels trained on."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alignzoo import Batch, DataError, Forward, RunError
from alignzoo.data import from_rows
from alignzoo.data.formats import FORMATS
from alignzoo_human import export as exporting
from alignzoo_human.items import Item, Settings
from alignzoo_human.sources import Answers, gathered, items
from alignzoo_human.store import Given, Store
from alignzoo_preference.dpo import DPO
from alignzoo_reward_models.bradley_terry import RewardModel

CHAT = ({"role": "user", "content": "how?"},)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "votes.sqlite", Settings(("kind",), salt="s")) as made:
        yield made


def vote(store: Store, item: Item, **values: Any) -> None:
    """What each rater says of an item, in the item's own order."""
    store.add([item], wanted=len(values), priority=float(len(store.refresh().items) + 1))
    for rater, value in values.items():
        asked = store.next(rater, "t")
        assert asked is not None
        said = [value[i] for i in asked.screen] if isinstance(value, tuple) else value
        said = 1 - said if item.kind == "pair" and asked.screen == (1, 0) else said
        store.say(
            rater, Given(asked.number, f"{rater}{asked.number}", value=tuple(said) if isinstance(said, list) else said)
        )


def rows(store: Store, format: str, how: str = "majority") -> list[dict[str, Any]]:
    return exporting.export(store, format, how).rows


def test_a_pair_of_three_raters_by_hand(store: Store) -> None:
    vote(store, Item.made("pair", "q", ("a", "b")), ann=1.0, bob=0.0, cyd=1.0)
    assert rows(store, "preference") == [{"prompt": "q", "chosen": "a", "rejected": "b"}]
    assert rows(store, "preference", "rater=bob") == [{"prompt": "q", "chosen": "b", "rejected": "a"}]
    assert rows(store, "preference", "soft") == [
        {"prompt": "q", "chosen": "a", "rejected": "b", "confidence": 0.666667}
    ]
    assert rows(store, "alpaca-eval", "soft")[0]["preference"] == pytest.approx(2 - 2 / 3)
    panda = rows(store, "pandalm")[0]
    assert [panda[f"annotator{k}"] for k in (1, 2, 3)] == [1, 2, 1] and panda["annotators"] == "ann, bob, cyd"
    with pytest.raises(DataError, match=r"no votes of 'bop'. Did you mean 'bob'"):
        rows(store, "preference", "rater=bop")
    with pytest.raises(DataError, match="Did you mean 'preference'"):
        rows(store, "preferences")


def test_a_tie_is_told_or_soft_and_never_dropped_in_silence(store: Store) -> None:
    vote(store, Item.made("pair", "q", ("a", "b")), ann=1.0, bob=0.0)
    vote(store, Item.made("pair", "r", ("a", "b")), ann=1.0)
    found = exporting.export(store, "preference")
    assert len(found.rows) == 1 and sum(found.left_out.values()) == 1 and "tie" in str(found.left_out)
    assert [row["confidence"] for row in rows(store, "preference", "soft")] == [0.5, 1.0]
    assert rows(store, "ranks")[0]["ranks"] == [1, 1]


def test_what_was_not_compared_follows_from_what_was(store: Store) -> None:
    """With `--pairs 3` a prompt's four answers are compared in a chain, and no verdict may be lost in their order."""
    for better, worse in ("ab", "bc", "cd"):
        vote(store, Item.made("pair", "q", (better, worse)), ann=1.0)
    assert rows(store, "ranks") == [{"prompt": "q", "completions": list("abcd"), "ranks": [1, 2, 3, 4]}]
    assert rows(store, "prompt-completion")[0]["completion"] == "a"


def test_who_won_stands_above_who_lost_though_it_lost_more_often(store: Store) -> None:
    for better, worse in ("ci", "di", "ij", "jk", "jl", "jm"):  # i won 1 of 3, and j, which lost to i, 3 of 4
        vote(store, Item.made("pair", "q", (better, worse)), ann=float(better < worse))
    (row,) = rows(store, "scores")
    scores = dict(zip(row["completions"], row["scores"], strict=True))
    assert min(scores["c"], scores["d"]) > scores["i"] > scores["j"] > max(scores["k"], scores["l"], scores["m"])


def test_answers_that_no_comparison_connects_are_no_ranking(store: Store) -> None:
    vote(store, Item.made("pair", "q", ("a", "b")), ann=1.0)
    vote(store, Item.made("pair", "q", ("c", "d")), ann=1.0)
    with pytest.raises(DataError, match="in two parts that nobody compared with one another"):
        rows(store, "ranks")
    assert [(row["chosen"], row["rejected"]) for row in rows(store, "preference")] == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize("format", ["prompt-completion", "messages", "alpaca", "text"])
def test_an_answer_that_people_call_bad_is_no_demonstration(store: Store, format: str) -> None:
    vote(store, Item.made("grade", "q", ("worst",)), ann=1)
    vote(store, Item.made("grade", "r", ("good",)), ann=4)
    found = exporting.export(store, format)
    assert len(found.rows) == 1 and "worst" not in str(found.rows)
    assert found.left_out == {
        "answers that people called bad, and that are not to be imitated: --as unpaired keeps them": 1
    }


def test_the_better_of_two_that_most_call_bad_is_no_demonstration(store: Store) -> None:
    item = Item.made("pair", "q", ("a", "b"))
    store.add([item], wanted=3)
    for rater in ("ann", "bob", "cyd"):
        asked = store.next(rater, "t")
        assert asked is not None
        a_wins = float(asked.screen == (0, 1))
        said = {"value": a_wins} if rater == "ann" else {"value": 0.5, "reasons": {"bad": True}}
        store.say(rater, Given(asked.number, rater, **said))
    assert rows(store, "preference") == [{"prompt": "q", "chosen": "a", "rejected": "b"}]
    with pytest.raises(DataError, match="people called bad"):
        rows(store, "messages")


def test_grades_of_two_scales_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    with Store(path, Settings(grades=9)) as store:
        vote(store, Item.made("grade", "q", ("a",)), ann=9)
    with pytest.raises(RunError, match=r"has grades from 1 to 9, .* say --grades 9"):
        Store(path, Settings(grades=5))
    with Store(path, Settings(grades=9, reasons="required")) as store:
        assert store.settings.reasons == "required"
    with Store(tmp_path / "pairs.sqlite", Settings(grades=9)) as store:
        vote(store, Item.made("pair", "q", ("a", "b")), ann=1.0)
    Store(tmp_path / "pairs.sqlite", Settings(grades=5)).close()  # nobody has graded anything


def test_rankings_grades_and_reasons(store: Store) -> None:
    vote(store, Item.made("ranking", "q", ("a", "b", "c")), ann=(1, 2, 2), bob=(2, 1, 3))
    # a above b: 1 of 2; a above c: 2 of 2; b above c: ann has a tie, so 1.5 of 2
    (ranked,) = rows(store, "scores", "soft")
    assert ranked["scores"] == [
        0.75,
        0.625,
        0.125,
    ]  # the mean over the two others: (1/2 + 1)/2, (1/2 + 3/4)/2, (0 + 1/4)/2
    assert rows(store, "ranks", "rater=ann")[0]["ranks"] == [1, 2, 2]
    pairs = rows(store, "preference")
    assert [(row["chosen"], row["rejected"]) for row in pairs] == [("a", "c"), ("b", "c")]
    vote(store, Item.made("grade", "g", ("good",)), ann=5, bob=4)
    vote(store, Item.made("grade", "g", ("bad",)), ann=1)
    vote(store, Item.made("grade", "g", ("so-so",)), ann=3)
    labels = {row["completion"]: row["label"] for row in rows(store, "unpaired") if row["prompt"] == "g"}
    assert labels == {"good": True, "bad": False}
    assert rows(store, "scores")[1]["scores"] == [4.5, 1.0, 3.0]
    store.add([Item.made("pair", "why", ("x", "y"))], priority=99.0)
    asked = store.next("ann", "t")
    assert asked is not None
    why = {"all": {"text": "shorter", "criteria": {"kind": 1}}, "answers": [{"text": "left"}, {}]}
    store.say("ann", Given(asked.number, "k" * 9, value=1, reasons=why, comment="odd"))
    row = next(row for row in rows(store, "preference") if row["prompt"] == "why")
    told = json.loads(row["reasons"])
    answers = sorted(("x", "y")).index(row["chosen"])
    assert told == [{"rater": "ann", "all": why["all"], "answers": {str(answers): {"text": "left"}}, "comment": "odd"}]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("format", [name for name, form in FORMATS.items() if not form.named])
def test_every_format_is_read_back_as_it_was_said(store: Store, format: str, chat: bool) -> None:
    prompt: Any = CHAT if chat else "how? "
    texts = ("well", "badly")
    answers = [({"role": "assistant", "content": text},) if chat else text for text in texts]
    item = Item.made("pair", prompt, answers)
    best = 1.0 if item.answers[0] == answers[0] else 0.0
    vote(store, item, ann=best, bob=best)
    if format == "text" and chat:
        with pytest.raises(DataError, match="no text"):
            rows(store, format)
        return
    read = from_rows(json.loads(json.dumps(rows(store, format))), format=format)
    said = json.dumps([[each.messages, *each.completions] for each in read])
    assert "how?" in said and (format == "prompt-only" or "well" in said)
    labels = {
        json.dumps(text): label for each in read for text, label in zip(each.completions, each.labels, strict=True)
    }
    good = [label for text, label in labels.items() if "well" in text]
    bad = [label for text, label in labels.items() if "badly" in text]
    assert not good or not bad or good > bad
    assert bool(bad) == (
        format in ("scores", "ranks", "preference", "hh", "preference-implicit", "unpaired", "pandalm", "alpaca-eval")
    )


def test_sources_join_answers_and_keep_who_gave_them(tmp_path: Path) -> None:
    one, other, run = tmp_path / "one.jsonl", tmp_path / "other.jsonl", tmp_path / "run"
    one.write_text(
        json.dumps({"prompt": "q", "completions": ["a", "b"], "origins": [{"model": "m"}, {"model": "m"}]}) + "\n"
    )
    other.write_text(json.dumps({"prompt": "q", "chosen": "c", "rejected": "a"}) + "\n")
    run.mkdir()
    sample = {
        "when": "training",
        "prompt": "q",
        "reward": 0.5,
        "parts": {},
        "note": "",
        "finished": True,
        "step": 3,
        "stage": "rl",
    }
    (run / "samples.jsonl").write_text("".join(json.dumps(sample | {"completion": text}) + "\n" for text in ("a", "d")))
    (answers,) = gathered([one, other, run])
    assert set(answers.texts.values()) == {"a", "b", "c", "d"}
    files = [Path(origin["file"]).name for origin in answers.origins[json.dumps("a")]["from"]]
    assert files == ["one.jsonl", "other.jsonl", "run"]
    (ranking,) = items([answers])
    assert ranking.kind == "ranking" and len(ranking.answers) == 4 and len(items([answers], kind="pair")) == 6
    chain = items([answers], kind="pair", pairs=3)
    assert len({text for item in chain for text in item.answers}) == 4  # three pairs lead through all four
    (gold,) = items(gathered([other]), gold=True)
    assert gold.answers == ("a", "c") and gold.gold == 0.0
    with pytest.raises(DataError, match="no labels"):
        items(gathered([one]), gold=True)
    alone = Answers("q")
    alone.add("a", {})
    assert items([alone])[0].kind == "grade"
    with pytest.raises(DataError, match="--kind grade"), pytest.warns(UserWarning, match="1 of 1 prompts"):
        items([alone], kind="pair")


def batch(confidence: list[float]) -> Batch:
    n = 2 * len(confidence)
    mask = torch.ones(n, 1, dtype=torch.bool)
    return Batch(
        tokens=torch.ones(n, 1, dtype=torch.long),
        attend=mask,
        mask=mask,
        group=torch.arange(n) // 2,
        rewards=torch.tensor([1.0, 0.0] * len(confidence)),
        weights=torch.ones(n),
        ref_logprobs=torch.zeros(n, 1),
        extra={"confidence": torch.tensor(confidence).repeat_interleave(2)},
    )


def test_soft_labels_weigh_both_ways_round() -> None:
    softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731  -log σ(-x)
    logprobs = torch.tensor([[-1.0], [-3.0], [-2.0], [-1.0]])
    terms = DPO(beta=1.0, confidence="confidence").loss(batch([0.75, 1.0]), Forward(logprobs=logprobs))
    first = 0.75 * softplus(-2.0) + 0.25 * softplus(2.0)  # margins 2 and -1
    assert terms.loss.tolist() == pytest.approx([first, first, softplus(1.0), softplus(1.0)], rel=1e-5)
    scores = torch.tensor([2.0, 0.0, -1.0, 0.0])
    model = RewardModel(confidence="confidence").loss(batch([0.75, 1.0]), Forward(scores=scores))
    assert model.loss.tolist() == pytest.approx([first, first, softplus(1.0), softplus(1.0)], rel=1e-5)
    with pytest.raises(ValueError, match="one of the two"):
        DPO(confidence="confidence", label_smoothing=0.1)


def test_at_even_confidence_a_margin_of_zero_is_best() -> None:
    for gap, sign in itertools.product((0.5, 2.0), (1, -1)):
        even = RewardModel(confidence="confidence")
        costs = [
            float(even.loss(batch([0.5]), Forward(scores=torch.tensor([s * sign, 0.0]))).loss.mean())
            for s in (0.0, gap)
        ]
        assert costs[0] == pytest.approx(math.log(2)) and costs[1] > costs[0]


def test_an_empty_answer_is_ranked_but_is_no_half_of_a_pair(store: Store) -> None:
    vote(store, Item.made("ranking", "q", ("a", "", "b")), ann=(3, 1, 2))  # sorted: the empty one, a, b
    assert rows(store, "ranks")[0] == {"prompt": "q", "completions": ["", "a", "b"], "ranks": [3, 1, 2]}
    found = exporting.export(store, "preference")
    assert [(row["chosen"], row["rejected"]) for row in found.rows] == [("a", "b")]
    assert list(found.left_out) == ["what this format cannot hold, column 'rejected': it is empty: --as ranks may"]


def test_raters_count_by_their_quality_only_where_that_is_asked_for(store: Store) -> None:
    # ann and bob are right, cyd answers at random: her vote must not lift the answer that they both refuse
    for n in range(30):
        right = float(n % 3 > 0)
        vote(store, Item.made("pair", f"q{n}", ("a", "b")), ann=right, bob=right, cyd=float(n % 2))
        vote(store, Item.made("grade", f"g{n}", ("a",)), ann=5 - n % 2, bob=5 - n % 2, cyd=1)
    soft, quality = (rows(store, "preference", how) for how in ("soft", "quality"))
    assert {row["confidence"] for row in soft} == {0.666667, 1.0}
    assert len(quality) == 30 and all(row["confidence"] > 0.9 for row in quality)
    assert sum(row["chosen"] == "a" for row in quality) == 20
    good = {
        how: [row for row in rows(store, "unpaired", how) if row["prompt"][0] == "g"] for how in ("soft", "quality")
    }
    assert (len(good["soft"]), len(good["quality"])) == (15, 30)  # (4 + 4 + 1)/3 is the middle, neither good nor bad
    assert all(row["label"] for row in good["quality"])


def test_two_raters_cannot_tell_who_is_right(store: Store) -> None:
    vote(store, Item.made("pair", "q", ("a", "b")), ann=1.0, bob=0.0)
    with pytest.raises(DataError, match="votes of ann, bob: take --resolve soft"):
        rows(store, "preference", "quality")
    with pytest.raises(DataError, match="Known: majority, soft, quality, rater=NAME"):
        rows(store, "preference", "qualty")
