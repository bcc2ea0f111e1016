"""How long a vote takes to be stored, with many items and raters: python benchmarks/human.py [ITEMS] [RATERS] [VOTES].

The page's server runs in this process, as in a run with the reward `human`; the raters are threads of another process,
which answer by the page's own requests, with a connection for each. Measured are a vote's whole request, at whose end
the vote is on disk, and the request for the next question.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from scripted_rater import Rater

SENTENCES = "an answer of some length, as models give them, with a few sentences in it. " * 8


def main(items: int = 10_000, raters: int = 20, votes: int = 50) -> None:
    """Print the medians and the slowest of a hundred."""
    from alignzoo_human.items import Item, Settings
    from alignzoo_human.serving import Serving
    from alignzoo_human.store import Store

    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "votes.sqlite", Settings(salt="s")) as store:
        pairs = (Item.made("pair", f"question {i}", (f"{SENTENCES}{i}", SENTENCES)) for i in range(items))
        store.add(list(pairs), wanted=2)
        serving = Serving(store, [f"rater {i}" for i in range(raters)], rate=1e6).start()
        for pause, how in ((2.0, "who vote every two seconds"), (0.0, "without a pause")):
            told: Any = spawn.Queue()
            people = spawn.Process(target=rate, args=(list(serving.links.values()), votes, pause, told))
            people.start()
            stored, nexts, seconds = told.get()
            people.join()
            print(f"{items} items, {raters} raters {how}: {len(stored) / seconds:.0f} votes a second")
            report("a vote is stored", stored)
            report("the next question", nexts)
        found = store.votes()
        assert len(found) == 2 * raters * votes
        assert max(Counter((vote.item, vote.rater) for vote in found).values()) == 1
        assert max(Counter(vote.item for vote in found).values()) <= 2
        serving.close()


def rate(links: list[str], votes: int, pause: float, told: Any) -> None:
    """The raters, each a thread; what each request took."""
    stored: list[float] = []
    nexts: list[float] = []

    def work(link: str, number: int) -> None:
        rater = Rater(link, lambda question: 1)
        time.sleep(pause * number / len(links))
        for _ in range(votes):
            start = time.perf_counter()
            question = rater.next()
            nexts.append(time.perf_counter() - start)
            time.sleep(pause)
            start = time.perf_counter()
            status, _ = rater.vote(question, 1)
            stored.append(time.perf_counter() - start)
            assert status == 200

    threads = [threading.Thread(target=work, args=(link, number)) for number, link in enumerate(links)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.put((stored, nexts, time.perf_counter() - start))


def report(what: str, seconds: list[float]) -> None:
    """A line for a kind of request."""
    cut = statistics.quantiles(seconds, n=100)
    print(f"  {what:<18} median {1e3 * statistics.median(seconds):6.1f} ms, 99 of 100 within {1e3 * cut[98]:6.1f} ms")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
