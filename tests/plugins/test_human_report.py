"""The report on raters: who stands out and who does not, in a terminal, in one HTML file and in JSON."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignzoo_human import report
from alignzoo_human.items import Item, Settings
from alignzoo_human.store import Given, Store
from alignzoo_human.votes import Vote

EVIL = '<script>alert("1")</script>\x1b[31m\u202e'
ACCURACY = {"ann": 0.9, "bob": 0.85, EVIL: 0.85, "guesses": 0.5, "leans left": 0.85}


def simulated(accuracy: dict[str, float], n: int = 60, seed: int = 0) -> tuple[list[Vote], dict[str, float]]:
    """Votes on n pairs, the first third of them gold, a fifth of them asked again; and what is true."""
    rng = np.random.default_rng(seed)
    truth = {f"item {i}": float(rng.random() < 0.5) for i in range(n)}
    votes: list[Vote] = []
    for place, (item, true) in enumerate(truth.items()):
        for rater, right in accuracy.items():
            for again in [False, True][: 1 + (rng.random() < 0.2)]:
                left = ("first", "second")[int(rng.random() < 0.5)]
                value = true if rng.random() < right else 1 - true
                if rater == "leans left" and rng.random() < 0.7:
                    value = float(left == "first")
                seconds = 0.3 if rater == "guesses" else 9.0
                votes.append(Vote(item, rater, "pair", value, seconds, left, place < n / 3, again, float(len(votes))))
    return votes, truth


@pytest.fixture(scope="module")
def found() -> report.Summary:
    votes, truth = simulated(ACCURACY)
    votes.append(Vote("r", "ann", "ranking", (2, 1, 1), 9.0, None, False, False, 1e6))
    votes.append(Vote("r", "bob", "ranking", (1, 2, 2), 9.0, None, False, False, 1e6))
    titles = {item: f"{EVIL} and {item} " * 30 for item in truth}
    return report.summary(votes, {item: (3, 9) for item in truth}, gold=truth, titles=titles, resamples=50)


def test_those_who_differ_are_named_with_figures_and_no_others(found: report.Summary) -> None:
    told = "\n".join(found.findings)
    assert "guesses gives gold questions the right answer less often than others" in told
    assert "guesses votes sooner than the answers can be read: 100% of the time" in told
    assert re.search(r"leans left prefers the left: the answer on the left wins \d\d% of the time", told)
    assert "ann" not in told.replace("alike", "") and "bob" not in told
    assert "Raters agree little on pair votes" in told


def test_raters_who_are_alike_are_not_named() -> None:
    named = 0
    for seed in range(12):
        votes, truth = simulated(dict.fromkeys("abcd", 0.9), n=40, seed=seed)
        shown = report.summary(votes, {item: (3, 9) for item in truth}, gold=truth, resamples=20)
        named += sum(not each.startswith("Raters agree") for each in shown.findings if "stands out" not in each)
    assert named <= 3  # four figures, each names somebody by chance in at most 1 of 20 reports: 2.4 expected at most


def test_text_fits_the_terminal_and_says_the_figures(found: report.Summary) -> None:
    text = report.to_text(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text and "\u202e" not in text
    alpha = next(each.alpha for each in found.alphas if (each.kind, each.level) == ("pair", "nominal"))
    assert alpha is not None
    assert f"{alpha.value:.2f} ({alpha.low:.2f} to {alpha.high:.2f})" in text
    assert "bob 1 > 2 = 3" in text
    assert max(map(len, report.to_text(found, width=60).splitlines())) <= 60


def test_html_is_whole_and_says_no_more_than_text(found: report.Summary) -> None:
    page = report.to_html(found)
    seen: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append(tag)
            for name, value in attrs:
                assert not name.startswith("on")
                assert name not in ("src",) and not (value or "").startswith(("http:", "https:", "//", "javascript:"))

    Tags().feed(page)
    assert "script" not in seen and "img" not in seen
    assert "&lt;script&gt;alert(" in page and "\x1b" not in page and "\u202e" not in page
    assert "color-scheme: light dark" in page
    assert page.startswith("<!doctype html>")
    for each in found.findings:
        assert each.split(":")[0].split("<script>")[0] in page.replace("&#39;", "'")


def test_json_has_every_figure(found: report.Summary) -> None:
    read = json.loads(report.to_json(found))
    assert [each["rater"] for each in read["raters"]] == sorted(ACCURACY)
    ann = next(each for each in read["raters"] if each["rater"] == "ann")
    assert ann["gold"]["n"] == 20 and 0 < ann["gold"]["low"] < ann["gold"]["value"] <= ann["gold"]["high"]
    assert read["kinds"] == {"pair": read["votes"] - 2, "ranking": 2}


def test_only_some_raters_count(found: report.Summary) -> None:
    votes, truth = simulated(ACCURACY)
    some = report.summary(votes, {}, gold=truth, raters=["ann", "bob"], resamples=20)
    assert [each.rater for each in some.raters] == ["ann", "bob"]
    assert some.votes == sum(vote.rater in ("ann", "bob") for vote in votes)
    assert some.raters[0].longer is None  # no lengths


def test_no_votes_and_one_rater_are_told() -> None:
    empty = report.summary([], {})
    assert empty.findings == ("There are no votes yet.",)
    assert "no votes" in report.to_text(empty) and report.to_html(empty)
    votes, truth = simulated({"ann": 0.9}, n=12)
    alone = report.summary(votes, {}, gold=truth)
    assert "0 of 8 items have votes of two raters" in alone.findings[0]
    assert "undefined" in report.to_text(alone)
    json.loads(report.to_json(alone))


def test_the_command_reads_a_store(alignzoo: Any, tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    with Store(path, Settings()) as store:
        pairs = [Item.made("pair", f"question {i}", [f"a {i}", f"much longer {i}"]) for i in range(6)]
        store.add(pairs, wanted=[2] * len(pairs))
        for rater in ("ann", "bob"):
            while (asked := store.next(rater, "tab")) is not None:
                store.say(rater, Given(asked.number, f"{rater}{asked.number}", value=float(asked.screen[0] == 0)))
    found = json.loads(alignzoo("label", "report", path, "--json").out)
    assert (found["votes"], found["items"], found["shared"]) == (12, 6, 6)
    page = tmp_path / "report.html"
    said = alignzoo("label", "report", path, "--html", page)
    assert said.code == 0 and "Krippendorff" in said.out and "ann" in page.read_text(encoding="utf-8")
    said = alignzoo("label", "report", path, "--rater", "eve")
    assert said.code == 1 and "no votes of eve; there are those of ann, bob" in said.err
