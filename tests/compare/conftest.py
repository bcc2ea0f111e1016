"""A comparison of milliseconds: the toy plugin's algorithms on its task; and a browser."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import alignzoo
from alignzoo.compare import Results

PLUGIN = Path(__file__).with_name("toy_plugin.py")
SMALL = (
    "policy=toy",
    "schedule.steps=4",
    "schedule.prompts=4",
    "schedule.minibatch=0",
    "schedule.lr=0.05",
    "sampler.n=4",
)
CLIMB = {"seeds": 2, "prompts": 12, "task": "numbers", "overrides": SMALL, "plugins": [PLUGIN]}

Compare = Callable[..., Results]


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """`alignzoo.compare` with small settings, into `out`; its pictures, the dearest part, only if asked for."""

    def run(*names: str, report: bool = False, **settings: Any) -> Results:
        if not report:
            monkeypatch.setattr("alignzoo.compare.running.write_report", lambda *folder, **registry: None)
        return alignzoo.compare(*names, **{**CLIMB, "out": tmp_path / "out", **settings})

    return run


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --disable-dev-shm-usage"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium and chromedriver here")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    with tempfile.TemporaryDirectory() as profile:
        for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        yield driver
        driver.quit()
