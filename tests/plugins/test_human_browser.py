"""The page in a real browser: keys alone, back, double clicks, reloads, two tabs, two raters, hostile answers."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from alignzoo_human.items import Item, Settings
from alignzoo_human.serving import Serving
from alignzoo_human.store import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --disable-dev-shm-usage"

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror=window.hacked=1><b>bold</b>",
    "\u202egnorw\u202c שלום " + "🗼" * 50,
    "[a](javascript:window.hacked=1) **b** `<i>c</i>`\n\n```\n<script>window.hacked=1</script>\n```\n- one\n- two",
    "word " * 20_000,
)


CONTRAST = """
const part = (x) => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
const rgb = (color) => color.match(/[\\d.]+/g).slice(0, 3).map(x => part(x / 255));
const light = (color) => rgb(color).reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
const back = (e) => {
  for (; e; e = e.parentElement) {
    const color = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$/.test(color)) return color;
  }
};
const shown = [...document.querySelectorAll('p, h1, h2, button, .turn, textarea')].filter(e => e.offsetParent);
return Math.min(...shown.map(e => {
  const [a, b] = [light(getComputedStyle(e).color), light(back(e))].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}));
"""
"""The least contrast of any text with what is behind it, as WCAG 2.1 has it."""


class Page:
    """A page of a rater, as keys and eyes have it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def __call__(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return [each.text for each in self.driver.find_elements("css selector", selector)]

    def tiers(self) -> list[str]:
        """The order so far: the places of the answers, those of one rank together."""
        chips = "[...li.querySelectorAll('.chip')].map(chip => chip.dataset.place).join('')"
        found: list[str] = self.driver.execute_script(
            f"return [...document.querySelectorAll('#strip li')].map(li => {chips})"
        )
        return found

    def until(self, holds: Callable[[], Any], what: str) -> None:
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            if holds():
                return
            time.sleep(0.02)
        raise AssertionError(f"{what}: {self('#title').text!r}, {self('#status').text!r}, {self.driver.current_url}")

    @property
    def at(self) -> str:
        return str(self.driver.current_url.partition("#")[2])

    def open(self, link: str) -> Page:
        self.driver.get(link)
        return self.ready("")

    def ready(self, former: str) -> Page:
        """Wait for another question than the former one, and past the moment in which keys are no verdict."""
        self.until(
            lambda: self.at and self.at != former and not self.driver.find_elements("css selector", ".busy"), "next"
        )
        time.sleep(0.3)
        return self

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def vote(self, *keys: str) -> str:
        """Press keys that end in a verdict; the question that they were about."""
        former = self.at
        self.keys(*keys)
        self.ready(former)
        return former


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
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
        found = webdriver.Chrome(options=options, service=Service(DRIVER))
        yield found
        found.quit()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., tuple[Store, Serving]]]:
    made: list[Any] = []

    def serve(items: list[Item], wanted: int = 1, **settings: Any) -> tuple[Store, Serving]:
        store = Store(tmp_path / "votes.sqlite", Settings(salt="s", **settings))
        store.add(items, wanted=wanted, priority=[-float(i) for i in range(len(items))])  # in their order
        made.extend((store, Serving(store, ["ann", "bob"]).start()))
        return store, made[-1]

    yield serve
    for each in reversed(made):
        each.close()


def pair(number: int) -> Item:
    return Item.made("pair", f"question {number}", ("left or right", "right or left"))


def checked(driver: Any) -> None:
    """The page has complained of nothing, and nothing that it showed has run."""
    assert driver.execute_script("return window.hacked") is None
    assert not [line for line in driver.get_log("browser") if "favicon" not in line["message"]]


def test_pairs_rankings_and_grades_by_keys_alone(driver: Any, served: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    ranking = Item.made("ranking", "rank", ("a", "b", "c", "d"))
    store, page_at = served(
        [pair(0), pair(1), pair(2), pair(3), ranking, Item.made("grade", "grade", ("one",))], criteria=("kind",)
    )
    page = Page(driver).open(page_at.links["ann"])
    assert "t=" not in driver.current_url
    page.vote(Keys.ARROW_LEFT)
    page.vote(Keys.ARROW_UP)
    page.keys("r")
    page.keys("It is shorter. s u 1", Keys.ESCAPE)  # letters in a text are no commands
    page.vote(Keys.ARROW_RIGHT)
    page.vote(Keys.ARROW_DOWN)
    assert page("#title").text == "Rank the answers, best first"
    page.keys("3", "1", "=", "4", Keys.ENTER)  # one is missing: nothing happens
    assert page("#verdicts button").get_attribute("disabled") and page.tiers() == ["2", "03"]
    page.keys("2", Keys.BACKSPACE, "2")
    page.vote(Keys.ENTER)
    page.keys("c")
    page.keys("fine", Keys.ESCAPE)
    page.vote("4")
    assert page.at == "done"
    by_kind = {kind: [(v, m) for v, m in store.answered() if v.kind == kind] for kind in ("pair", "ranking", "grade")}
    lefts = [v.left == "first" for v, _ in by_kind["pair"]]
    assert [v.value for v, _ in by_kind["pair"]] == [float(lefts[0]), 0.5, float(not lefts[2]), 0.5]
    assert by_kind["pair"][2][1]["reasons"]["all"]["text"] == "It is shorter. s u 1"
    assert by_kind["pair"][3][1]["reasons"] == {"bad": True} and by_kind["pair"][1][1]["reasons"] == {}
    screen = next(asked.screen for asked in store.state.asks.values() if asked.kind == "ranking")
    shown = dict(zip(screen, (2, 3, 1, 2), strict=True))
    ((ranked, _),) = by_kind["ranking"]
    assert ranked.value == tuple(shown[i] for i in range(4))
    ((graded, more),) = by_kind["grade"]
    assert graded.value == 4.0 and more["comment"] == "fine" and all(v.seconds > 0.2 for v, _ in store.answered())
    checked(driver)


@pytest.mark.slow
def test_a_session_of_twenty_pairs_and_ten_rankings_by_keys_alone(driver: Any, served: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    orders = [Item.made("ranking", f"order {number}", ("a", "b", "c", "d")) for number in range(10)]
    store, page_at = served([*(pair(number) for number in range(20)), *orders])
    page = Page(driver).open(page_at.links["ann"])
    said: dict[str, Any] = {}
    for number in range(20):
        said[page("#prompt").text] = number % 3 / 2
        page.vote((Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_LEFT)[number % 3])
    for number in range(10):
        first, second = 1 + number % 4, 1 + (number + 1) % 4
        said[page("#prompt").text] = (first, second)
        rest = [str(place) for place in range(1, 5) if place not in (first, second)]
        page.vote(str(first), str(second), rest[0], "=", rest[1], Keys.ENTER)
    assert page.at == "done" and page("#pace").text.startswith("30 of 30")
    asks = {asked.item: asked for asked in store.refresh().asks.values()}
    prompts = {known.number: store.items()[known.key].prompt for known in store.state.items.values()}
    screens = {prompts[number]: asked.screen for number, asked in asks.items()}
    votes = {store.items()[vote.item].prompt: vote for vote in store.votes()}
    assert len(votes) == len(said) == 30
    for prompt, verdict in said.items():
        vote, screen = votes[prompt], screens[prompt]
        if isinstance(verdict, tuple):
            ranks = [vote.value[i] for i in screen]  # as they stood on the screen
            assert sorted(ranks) == [1, 2, 3, 3]
            assert (ranks[verdict[0] - 1], ranks[verdict[1] - 1]) == (1, 2)
        else:
            assert vote.value == (verdict if screen == (0, 1) else 1 - verdict)
    checked(driver)


def test_back_double_click_reload_undo_and_two_tabs(driver: Any, served: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    store, page_at = served([pair(i) for i in range(6)])
    page = Page(driver).open(page_at.links["ann"])
    first = page.vote(Keys.ARROW_LEFT)
    second = page.at
    driver.back()
    page.ready(second)
    assert page.at == first and "You have answered" in page("#before").text
    page.vote(Keys.ARROW_RIGHT)  # a correction
    assert (
        page.at == second
        and len(store.votes()) == 1
        and store.votes()[0].value == float(store.votes()[0].left != "first")
    )
    driver.refresh()
    page.ready("")
    assert page.at == second
    driver.execute_script("const b = document.querySelector('#verdicts button'); b.click(); b.click(); b.click();")
    page.ready(second)
    assert len(store.votes()) == 2
    third = page.at
    page.keys("u")
    page.ready(third)
    assert page.at == second and len(store.votes()) == 1
    page.vote(Keys.ARROW_UP)
    assert page.at == third and len(store.votes()) == 2
    own = driver.current_window_handle
    driver.switch_to.new_window("tab")
    other = Page(driver).open(page_at.base)
    assert other.at not in (first, second, third)
    other.open(f"{page_at.base}/#{third}")  # the same question in both tabs
    other.vote(Keys.ARROW_LEFT)
    driver.close()
    driver.switch_to.window(own)
    page.vote(Keys.ARROW_RIGHT)
    assert "another tab" in page("#status").text and len(store.votes()) == 3
    page.vote("s")
    assert len(store.votes()) == 3 and page.at != "done"
    asks = store.refresh().asks.values()
    assert len({asked.item for asked in asks}) == len(asks)  # no question was asked twice
    assert all("409" in line["message"] for line in driver.get_log("browser"))


def test_two_raters_do_not_see_each_other(driver: Any, served: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    store, page_at = served([pair(i) for i in range(3)], wanted=2)
    page = Page(driver).open(page_at.links["ann"])
    for _ in range(3):
        page.vote(Keys.ARROW_LEFT)
    assert page.at == "done"
    page.open(page_at.links["bob"])
    assert page("#who").text == "bob" and page("#pace").text.startswith("0 of 3") and not page("#before").is_displayed()
    for _ in range(3):
        page.vote(Keys.ARROW_RIGHT)
    votes = store.votes()
    assert len(votes) == 6 and {vote.rater for vote in votes} == {"ann", "bob"}
    store.add([pair(9)])
    page.until(lambda: page.at != "done", "a new question comes by itself")
    checked(driver)


@pytest.mark.parametrize("markdown", [False, True])
def test_hostile_answers_are_text(driver: Any, served: Any, markdown: bool) -> None:
    _, page_at = served([Item.made("ranking", "what is <u>this</u>?", HOSTILE)], markdown=markdown)
    page = Page(driver).open(page_at.links["ann"])
    shown = page.texts(".answer .text")
    assert not driver.find_elements("css selector", "#answers script, #answers img, #answers b, #answers a, #answers i")
    assert "<u>this</u>" in page("#prompt").text
    if markdown:
        assert any("javascript:" in text and "**" not in text for text in shown)
        assert page.texts("#answers li") == ["one", "two"] and "<script>" in page("#answers pre").text
    else:
        assert {HOSTILE[0], HOSTILE[2]} <= set(shown)
    for width in (390, 1440):
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False},
        )
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    checked(driver)


def test_an_order_is_dragged(driver: Any, served: Any) -> None:
    from selenium.webdriver import ActionChains

    store, page_at = served([Item.made("ranking", "rank", ("a", "b", "c"))])
    page = Page(driver).open(page_at.links["ann"])

    def drag(place: int, onto: str, beside: float) -> None:
        """Drag a chip onto the middle of something, or so much of its width beside it."""
        target = page(onto)
        x = int(beside * target.size["width"])
        chip = page(f".chip[data-place='{place}']")
        ActionChains(driver).click_and_hold(chip).move_to_element_with_offset(target, x, 0).release().perform()
        time.sleep(0.1)

    drag(1, "#strip", 0)
    drag(0, "#strip .chip[data-place='1']", -0.48)
    drag(2, "#strip .chip[data-place='1']", 0)
    assert page.tiers() == ["0", "12"]
    drag(2, "#title", 0)
    assert page.tiers() == ["0", "1"]
    page(".chip[data-place='2']").click()
    former = page.at
    page("#verdicts button").click()
    page.ready(former)
    (vote,) = store.votes()
    screen = next(iter(store.state.asks.values())).screen
    assert vote.value == tuple(screen.index(i) + 1 for i in range(3))


def test_what_a_screen_reader_and_a_thumb_need(driver: Any, served: Any) -> None:
    _, page_at = served([pair(0)], criteria=("kind", "true"))
    page = Page(driver).open(page_at.links["ann"])
    unnamed = driver.execute_script(
        "return [...document.querySelectorAll('button, textarea, article, section:not([hidden])')].filter("
        "e => e.offsetParent && !(e.getAttribute('aria-label') || e.textContent.trim())).map(e => e.outerHTML)"
    )
    assert unnamed == [] and driver.execute_script("return document.activeElement.id") == "title"
    small = "[...document.querySelectorAll('footer button')].filter(e => e.offsetParent && e.offsetHeight < 40).length"
    assert driver.execute_script(f"return {small}") == 0
    assert page("[role=progressbar]").get_attribute("aria-valuemax") == "1"
    assert page("#status").get_attribute("aria-live") == "polite"
    for theme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        assert driver.execute_script(CONTRAST) >= 4.5, theme
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
