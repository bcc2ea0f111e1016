"""The page's requests: who is let in, what they may see, and what happens when the server is killed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripted_rater import Rater

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from alignzoo_human.items import Item, Settings
from alignzoo_human.serving import Serving
from alignzoo_human.store import Store

SECRET = "generated-by-the-great-model"
TOKEN = re.compile(r"t=([0-9a-f]{32})")


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Serving]]:
    store = Store(tmp_path_factory.mktemp("page") / "votes.sqlite", Settings(("good",), show_others=True, salt="s"))
    served = Serving(store, ["ann", "bob"], rate=1000).start()
    yield store, served
    served.close()
    store.close()


def add(store: Store, name: str, n: int = 1, **more: Any) -> None:
    origins = ({"model": SECRET, "reward": 1.5, "step": 7}, {"model": "other"})
    store.add([Item.made("pair", f"{name} {i}", ("x", "y"), origins=origins) for i in range(n)], **more)


def test_nothing_tells_where_an_answer_comes_from(serving: tuple[Store, Serving]) -> None:
    store, served = serving
    add(store, "blind", wanted=2, priority=9)
    ann, bob = Rater(served.links["ann"], lambda q: 1), Rater(served.links["bob"], lambda q: 1)
    question = ann.next()
    assert SECRET not in json.dumps(question) and not {"origins", "gold", "again", "item", "key"} & question.keys()
    assert question["kind"] == "pair" and sorted(a[0]["content"] for a in question["answers"]) == ["x", "y"]
    ann.vote(
        question, 1, reasons={"all": {"text": "because", "criteria": {"good": 1}}, "answers": [{}, {"text": "no"}]}
    )
    theirs = bob.next()
    assert theirs["prompt"] == question["prompt"]
    assert bob.call("others", {"ask": theirs["ask"]})[0] == 403  # not before one's own is in
    assert bob.call("others", {"ask": question["ask"]})[0] == 404  # and not by the other's question
    assert "because" not in json.dumps(theirs)
    bob.vote(theirs, 0.5)
    status, found = bob.call("others", {"ask": theirs["ask"]})
    mine = [a[0]["content"] for a in theirs["answers"]] == [a[0]["content"] for a in question["answers"]]
    assert status == 200 and found == {"others": [{"value": 1.0 if mine else 0.0}]}  # in the order of one's own screen
    (voted, more), _ = store.answered()[-2:]
    place = 1 if voted.left == "first" else 0  # the second on the screen, in the item's order
    assert more["reasons"]["answers"][place] == {"text": "no"} and more["reasons"]["all"]["criteria"] == {"good": 1}


def test_who_has_no_link_is_not_let_in(serving: tuple[Store, Serving]) -> None:
    store, served = serving
    add(store, "guarded")
    ann = Rater(served.links["ann"], lambda q: 1)
    port = served.port
    own, cookie = {"tab": "t"}, ann.cookie

    def post(path: str = "/api/next", **headers: str) -> int:
        return ann.request("POST", path, own, **headers)[0]

    assert post() == 200
    assert post(Cookie="") == 403 and post(Cookie=cookie[:-1] + "0" if cookie[-1] != "0" else cookie[:-1] + "1") == 403
    assert (
        ann.request("GET", "/?t=" + "0" * 32, Cookie="")[0] == 403
        and ann.request("GET", "/page.js", Cookie="")[0] == 403
    )
    assert post(Host="evil.example") == 403 and post(Host=f"evil.example:{port}") == 403
    assert post(Host=f"localhost:{port}", Origin=f"http://localhost:{port}") == 200
    for origin in ("", "null", "http://evil.example", f"http://127.0.0.1:{port + 1}", "http://127.0.0.1"):
        assert post(Origin=origin) == 403, origin
    assert ann.request("GET", "/api/next")[0] == 405 and ann.request("GET", "/../../etc/passwd")[0] == 404
    status, headers, _ = ann.request("GET", served.links["ann"].partition(str(port))[2], Cookie="")
    assert status == 200 and re.search("HttpOnly.*SameSite=strict", headers["set-cookie"], re.I)
    assert (
        headers["content-security-policy"].startswith("default-src 'self'") and headers["cache-control"] == "no-store"
    )
    tokens = {TOKEN.search(link)[1] for link in served.links.values()}  # type: ignore[index]
    assert len(tokens) == 2 and not any(token.encode() in store.path.read_bytes() for token in tokens)


def test_wrong_tokens_are_slowed_down_and_raters_limited(tmp_path: Path) -> None:
    with Store(tmp_path / "votes.sqlite", Settings(salt="s")) as store:
        served = Serving(store, ["ann"], rate=2).start()
        try:
            ann = Rater(served.links["ann"], lambda q: 1)
            tried = [ann.request("GET", f"/?t={n:032x}", Cookie="")[0] for n in range(14)]
            assert tried[:10] == [403] * 10 and 429 in tried
            assert ann.call("settings", {})[0] == 200  # whoever has a link is let in all the same
            assert 429 in [ann.call("settings", {})[0] for _ in range(20)]
        finally:
            served.close()


def test_nonsense_is_refused_and_stores_nothing(serving: tuple[Store, Serving]) -> None:
    store, served = serving
    add(store, "nonsense", 2)
    ann = Rater(served.links["ann"], lambda q: 1)
    question, before = ann.next(), len(store.votes())
    bodies: list[Any] = [
        b"{",
        b"[]",
        b"[" * 100_000,
        {"ask": "1"},
        {"ask": True},
        {"ask": 2**70},
        {"ask": question["ask"]},
    ]
    for more in (
        {"value": 7},
        {"value": "left"},
        {"reasons": []},
        {"reasons": {"all": {"criteria": {"evil": 1}}}},
        {"reasons": {"answers": [{}]}},
        {"comment": "x" * 10_001},
        {"comment": 5},
        {"action": "drop"},
        {"seconds": "x"},
    ):
        bodies.append({"ask": question["ask"], "key": "k" * 16, "value": 1} | more)
    for body in bodies:
        assert ann.request("POST", "/api/vote", body)[0] == 400, str(body)[:80]
    assert ann.request("POST", "/api/vote", {"ask": question["ask"], "comment": "x" * 300_000})[0] == 413
    assert ann.vote({"ask": 10**6}, 1)[0] == 404 and len(store.votes()) == before
    hostile = "<script>alert(1)</script>\u202e 🗼 \ud800" + "x" * 5000
    status, _ = ann.vote(question, 1, comment=hostile, key="k" * 20)
    assert status == 200 and store.answered()[-1][1]["comment"] == hostile.replace("\ud800", "?")
    assert ann.vote(question, 1, comment=hostile, key="k" * 20)[0] == 200 and len(store.votes()) == before + 1


def test_an_undo_shows_the_last_question_again(serving: tuple[Store, Serving]) -> None:
    store, served = serving
    add(store, "undone", 3)
    bob = Rater(served.links["bob"], lambda q: 1)
    question = bob.next()
    bob.vote(question, 0)
    bob.next()
    status, again = bob.call("undo", {"key": "u" * 16})
    assert (
        status == 200 and again["ask"] == question["ask"] and again["before"]["value"] == 0.0 and again["said"] is None
    )
    assert again["answers"] == question["answers"]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Any]:
    """`alignzoo label`, which can be killed and started again on its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running: list[subprocess.Popen[str]] = []

    def start(questions: int = 30) -> tuple[subprocess.Popen[str], str]:
        rows = [{"prompt": f"question {i}", "chosen": "good", "rejected": f"bad {i}"} for i in range(questions)]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        code = "from alignzoo.cli import main; main()"
        words = ["label", "pairs.jsonl", "--rater", "ann", "--port", str(port), "--no-browser"]
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        running.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                return process, found[0]
        raise AssertionError("the command printed no link")

    yield start
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.mark.parametrize(("kills", "questions"), [(1, 30), pytest.param(50, 1500, marks=pytest.mark.slow)])
def test_a_killed_server_loses_no_vote_and_doubles_none(
    kills: int, questions: int, command: Any, tmp_path: Path
) -> None:
    rng, told, shown = random.Random(5), [], []
    process, link = command(questions)
    for kill in [True] * kills + [False]:
        rater = Rater(link, lambda q: 1)
        if kill:
            threading.Timer(rng.uniform(0.05, 0.3), os.kill, (process.pid, signal.SIGKILL)).start()
        left = True
        while left:
            try:
                while not (question := rater.next()).get("done"):
                    shown.append(question["ask"])
                    key = f"key of ask {question['ask']}"  # as the page keeps it until the server has answered
                    if rater.vote(question, 1, key=key)[0] == 200:
                        told.append(question["ask"])
                left = False
            except (OSError, AssertionError):  # it is gone, or there were too many requests at once
                left = not kill and process.poll() is None
                time.sleep(left)
        if kill:
            process.wait()
            process, again = command(questions)
            assert again == link  # a tab that is open goes on
    with Store(tmp_path / "pairs.labels.sqlite") as store:
        votes = store.votes()
        asks = {asked.number for asked in store.state.asks.values() if asked.action == "vote"}
    assert len(votes) == questions and max(Counter(vote.item for vote in votes).values()) == 1
    assert set(told) <= asks and len(asks) == questions  # all that was acknowledged, and nothing twice
    assert kills > 1 or max(Counter(shown).values()) <= 2  # what was on the screen when it died is shown again
