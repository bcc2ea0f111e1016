"""A rater that is a program: it opens its link and answers by the page's own requests, as the page does."""

from __future__ import annotations

import http.client
import json
import math
import random
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Verdict = Callable[[dict[str, Any]], Any]
"""What to say of a question as the page shows it: 1, 0.5 or 0; ranks; a grade."""


class Rater:
    """One tab of one rater."""

    def __init__(self, link: str, verdict: Verdict) -> None:
        parts = urlsplit(link)
        self.host, self.verdict = parts.netloc, verdict
        self.cookie = ""
        self.tab = secrets.token_hex(8)
        self.asked: list[int] = []
        status, headers, _ = self.request("GET", f"{parts.path}?{parts.query}")
        assert status == 200, status
        self.cookie = headers["set-cookie"].partition(";")[0]

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        given = {"Host": self.host, "Origin": f"http://{self.host}", "Cookie": self.cookie} | headers
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        with closing(http.client.HTTPConnection(self.host, timeout=30)) as connection:
            try:
                connection.request(method, path, content, {name: value for name, value in given.items() if value})
                answer = connection.getresponse()
                return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
            except http.client.HTTPException as error:  # the server ended in the middle of its answer
                raise OSError(f"no whole answer: {error}") from error

    def call(self, name: str, body: Any) -> tuple[int, dict[str, Any]]:
        status, _, content = self.request("POST", f"/api/{name}", body)
        return status, json.loads(content)

    def next(self) -> dict[str, Any]:
        status, found = self.call("next", {"tab": self.tab})
        assert status == 200, found
        return found

    def vote(self, question: dict[str, Any], value: Any, **more: Any) -> tuple[int, dict[str, Any]]:
        body = {"ask": question["ask"], "key": secrets.token_hex(8), "value": value, "seconds": 1.0} | more
        return self.call("vote", body)

    def work(self, most: int = 10**9) -> int:
        """Answer what there is; how much."""
        done = 0
        while done < most and not (question := self.next()).get("done"):
            status, found = self.vote(question, self.verdict(question))
            assert status == 200, found
            self.asked.append(question["ask"])
            done += 1
        return done


def noisy(gold: Callable[[str, str], float], seed: int) -> Verdict:
    """A rater who ranks by gold with Gumbel noise, the same for the same answer, whichever question it is in: answer a
    is preferred to b with probability σ(gold(a) - gold(b)), as Bradley and Terry have it."""

    def verdict(question: dict[str, Any]) -> Any:
        asked = question["prompt"][-1]["content"]
        worth = []
        for answer in question["answers"]:
            chance = random.Random(repr((seed, asked, answer[-1]["content"]))).random()
            worth.append(gold(asked, answer[-1]["content"]) - math.log(-math.log(chance)))
        if question["kind"] == "pair":
            return float(worth[0] > worth[1])
        return [1 + sum(other > each for other in worth) for each in worth]

    return verdict


def link_of(store: Path, port: int, patience: float = 30) -> str:
    """The link that a run prints, when it is there: ann's."""
    from alignzoo_human.guard import secret_of, token_of

    until = time.monotonic() + patience
    while not store.with_name(store.name + ".key").exists() and time.monotonic() < until:
        time.sleep(0.05)
    return f"http://127.0.0.1:{port}/?t={token_of(secret_of(store), 'ann')}"


def working(link: str, verdict: Verdict, until: threading.Event) -> threading.Thread:
    """A rater that answers whatever comes, also after the page was away, until the event."""

    def run() -> None:
        rater = None
        while not until.is_set():
            try:
                rater = rater or Rater(link, verdict)
                if not rater.work():
                    time.sleep(0.1)
            except (OSError, http.client.HTTPException, AssertionError):
                rater = None  # the page is away, or another one is where it was
                time.sleep(0.1)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
