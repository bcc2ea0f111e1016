"""`alignzoo watch`: a run or a comparison is shown while it goes on, to whom the link was given, as text alone."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignzoo.errors import RunError
from alignzoo.watch.state import Tail, Watched, thin

pytest.importorskip("uvicorn")
from alignzoo.watch.server import Watching

EVIL = '<img src=x onerror="window.hacked=1"></script>'


def lines(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def step(number: int, reward: float, stage: str = "rl") -> dict[str, Any]:
    return {"stage": stage, "step": number, "reward/mean": reward, "loss": 1.0 / number}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "grpo-001"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    lines(folder / "metrics.jsonl", step(1, 0.1), step(2, math.nan))
    sample = {"stage": "rl", "step": 2, "when": "training", "prompt": [{"role": "user", "content": EVIL}]}
    lines(folder / "samples.jsonl", {**sample, "completion": EVIL, "reward": 0.5, "finished": False})
    lines(folder / "warnings.jsonl", {"stage": "rl", "step": 2, "kind": "length", "message": EVIL, "figures": {}})
    return folder


def test_only_whole_lines_are_read_and_only_once(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "metrics.jsonl")
    assert tail.read() == []
    lines(tail.path, {"step": 1})
    with tail.path.open("a") as file:
        file.write('{"step": 2')
    assert tail.read() == [{"step": 1}]
    with tail.path.open("a") as file:
        file.write("}\nno json\n")
    assert tail.read() == [{"step": 1}, {"step": 2}, {}]
    tail.path.write_text('{"step": 1}\n')  # a resumed run has cut it
    assert tail.read() == [{"step": 1}]


def test_long_curves_are_thinned_to_their_end() -> None:
    points = [(n, float(n)) for n in range(1, 1001)]
    found = thin(points)
    assert len(found) <= 301 and found[0] == (1, 1.0) and found[-1] == (1000, 1000.0)
    assert thin(points[:300]) == points[:300]


def test_a_runs_state(run: Path) -> None:
    state = Watched(run).state()
    assert state["kind"] == "run" and state["progress"]["steps"] == 2 and not state["progress"]["ended"]
    (series,) = state["series"]
    assert series["curves"]["reward/mean"] == [[1, 0.1], [2, None]]  # a browser's JSON knows no NaN
    assert state["metrics"] == ["reward/mean", "loss"]
    assert state["samples"][0]["completion"] == EVIL and state["samples"][0]["prompt"] == f"user: {EVIL}"
    lines(run / "evaluations.jsonl", {"stage": "rl", "step": 2, "during": {"gold": 2.5, "length": 9.0}})
    assert Watched(run).state()["series"][0]["curves"]["held-out gold"] == [[2, 2.5]]


def test_a_comparisons_state(tmp_path: Path) -> None:
    folder = tmp_path / "compare-001"
    for algorithm, seed, recipe in (("grpo", 0, "grpo"), ("grpo", 1, "grpo"), ("start", 0, "")):
        cell = folder / "cells" / "sort" / algorithm / f"seed-{seed}"
        about = {"id": f"sort/{algorithm}/seed-{seed}", "algorithm": algorithm, "task": "sort", "seed": seed}
        cell.mkdir(parents=True)
        (cell / "plan.json").write_text(json.dumps({**about, "recipe": recipe, "role": "algorithm"}))
        if recipe and seed == 0:
            lines(cell / "run" / "metrics.jsonl", step(1, 0.3))
    (cell / "cell.json").write_text(json.dumps({"status": "failed", "error": "it fell over"}))
    (folder / "progress.json").write_text(json.dumps({"done": 1, "total": 3, "left": 120.0, "statuses": {}}))
    state = Watched(folder).state()
    assert [(each["id"], each["status"], each["error"]) for each in state["cells"]] == [
        ("sort/grpo/seed-0", "running", ""),
        ("sort/grpo/seed-1", "waiting", ""),
        ("sort/start/seed-0", "failed", "it fell over"),
    ]
    assert [(each["label"], each["seed"]) for each in state["series"]] == [("grpo", "0")]
    assert state["progress"]["left"] == 120
    for text in ("{}", "[]", "{", ""):  # a damaged file costs its cell alone
        (folder / "cells" / "sort" / "grpo" / "seed-1" / "plan.json").write_text(text)
        (cell / "cell.json").write_text(text if text != "{}" else "[]")
        (folder / "progress.json").write_text(text)
        shown = Watched(folder).state()["cells"]
        assert [each["status"] for each in shown] == ["running", "failed"]
        assert "cell.json is damaged: delete this cell's folder" in shown[1]["error"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="neither a run nor a comparison"):
        Watched(tmp_path)


@pytest.fixture
def page(run: Path) -> Iterator[Watching]:
    found = Watching(run, 0).start()
    yield found
    found.close()


def asked(page: Watching, path: str, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{page.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


def test_only_the_link_opens_it_and_only_from_this_machine(page: Watching) -> None:
    token = page.link.partition("?t=")[2]
    status, headers = asked(page, f"/?t={token}")
    assert status == 200 and headers["content-security-policy"].startswith("default-src 'self'")
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=strict" in headers["set-cookie"]
    assert asked(page, f"/?t={token}", Host="evil.example")[0] == 421  # as of a name that was bound anew
    assert [asked(page, path)[0] for path in ("/", "/state", "/report", "/?t=other")] == [403] * 4
    cookie = headers["set-cookie"].partition(";")[0]
    assert asked(page, "/state", Cookie=cookie)[0] == 200 and asked(page, "/report", Cookie=cookie)[0] == 404
    (page.watched.folder / "report.html").write_text("<p>so far</p>")
    status, headers = asked(page, "/report", Cookie=cookie)
    assert status == 200 and headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")


@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_curves_grow_and_what_models_write_is_text(browser: Any, page: Watching, width: int) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(page.link)
    points = (
        "return [...document.querySelectorAll('#curves polyline')].map(p => p.getAttribute('points').split(' ').length)"
    )
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(points) == [1, 2])  # one reward was not finite
    lines(page.watched.folder / "metrics.jsonl", step(3, 0.4))
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(points) == [2, 3])
    assert browser.find_element("id", "said").text.startswith("3 steps")
    assert EVIL in browser.find_element("id", "samples").text and EVIL in browser.find_element("id", "warnings").text
    assert browser.execute_script("return window.hacked") is None and not browser.find_elements("tag name", "img")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    asked = "return performance.getEntriesByType('resource').map(e => e.name)"
    assert all(name.startswith(f"http://127.0.0.1:{page.port}/") for name in browser.execute_script(asked))
    assert browser.get_log("browser") == []
