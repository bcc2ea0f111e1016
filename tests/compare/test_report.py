"""The report of a made-up comparison: nothing is trained here, so that every figure in it can be known beforehand."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from alignzoo.compare.report import write_report
from alignzoo.compare.report.direct import spread
from alignzoo.compare.report.drawing import Looks
from alignzoo.compare.report.forest import against_controls, differences, who_leads
from alignzoo.compare.report.gather import curves
from alignzoo.compare.report.page import cell_text, number, place, typeset
from alignzoo.compare.report.pictures import final_gain, frontier, learning, runs_of
from alignzoo.compare.report.scores import beside, distributions, proxy, told
from alignzoo.compare.report.written import breakable
from alignzoo.compare.results import (
    CellResult,
    Compared,
    Headline,
    Improvement,
    Pair,
    Profile,
    Results,
    Standing,
    WinRate,
)

EVIL = "</script><img src=x onerror=\"window.hacked=1\"> & 'so' | on"
"""What a model may write, or a judge."""

LABELS = ("start", "best-of-4", "random reward (grpo)", "grpo[optimizer.kl=0.1]", "grpo[optimizer.kl=1]", "dpo")
ROLES = ("start", "best-of", "random", "algorithm", "algorithm", "algorithm")
GAIN = dict(zip(LABELS, (0.0, 0.5, -0.1, 0.4, 0.9, 0.6), strict=True))
KL = dict(zip(LABELS, (0.0, 0.6, 0.2, 1.0, 4.0, 2.0), strict=True))


def compared(label: str, role: Any) -> Compared:
    name = "" if role in ("start", "best-of") else "dpo" if label == "dpo" else "grpo"
    return Compared(label, name, label.partition("[")[2].rstrip("]"), role, f"what {label} is", trials=0)


def figures(label: str, seed: int, share: float = 1.0) -> dict[str, float]:
    gold = 2.0 + 0.1 * seed + share * GAIN[label]
    found = {"gold": gold, "reward": 0.5 * gold, "kl": share**2 * KL[label], "length": 20 + share, "entropy": 0.3}
    return found | {"gold_se": 0.1, "reward_se": 0.1, "finished": 1.0, "distinct/2": 0.4, "gold_greedy": 3.0}


def cells() -> Iterator[CellResult]:
    for label, role in zip(LABELS, ROLES, strict=True):
        for seed in range(2):
            costs = {"tokens": 3e4, "tokens/generated": 1e4, "tokens/trained": 2e4, "flops": 5e10, "calls": 12.0}
            cell = CellResult(f"shop/{label}/seed-{seed}", label, "shop", seed, role, (), "ok", costs=costs)
            yield replace(cell, after=figures(label, seed), steps=4)
    yield CellResult("shop/dpo/seed-2", "dpo", "shop", 2, "algorithm", (), "failed", f"it fell over {EVIL}")
    yield CellResult("shop/dpo/seed-3", "dpo", "shop", 3, "algorithm", (), "diverged", "the loss is not finite")


def results() -> Results:
    standings = [
        Standing("shop", label, "gold", (2.0 + GAIN[label], 2.1 + GAIN[label]), 2.05 + GAIN[label], 2.0, 1.9, 3.1)
        for label in LABELS
    ]
    rivals = [(a, b) for a in LABELS for b in LABELS if a != b]
    profile = {
        "thresholds": (0.0, 0.5, 1.0),
        "shares": (1.0, 0.5, 0.0),
        "low": (0.8, 0.3, 0.0),
        "high": (1.0, 0.7, 0.2),
    }
    sentences = {"": "Over all tasks nothing is shown.", "shop": "grpo beats dpo on shop by 0.30 gold."}
    pair = Pair("shop", LABELS[4], "dpo", "gold", 0.3, 0.1, 0.5, 0.0001, 0.0003, "algorithms", 0.9, 2, 64, True)
    return Results(
        command="alignzoo compare 'grpo[optimizer.kl=0.1]' dpo --task shop",
        settings={"tasks": ["shop"], "level": 0.0304, "evaluation": {"prompts": 256, "curve prompts": 64}},
        metric={"shop": "gold"},
        algorithms=tuple(map(compared, LABELS, ROLES)),
        cells=tuple(cells()),
        standings=tuple(standings),
        pairs=(
            pair,
            replace(pair, a="dpo", b="start", family="controls", low=None, high=None, p=None, p_adjusted=None),
        ),
        win_rates=tuple(WinRate("shop", a, b, 0.7, 0.6, 0.8, 0.65, 0.1, 0.0, 64) for a, b in rivals),
        improvements=(Improvement("dpo", LABELS[3], 0.4, 0.2, 0.6),),
        profiles=tuple(Profile(label, **profile) for label in LABELS),
        headlines=tuple(Headline(task, text) for task, text in sentences.items()),
        notes=("Two seeds are few.",),
        versions={"alignzoo": "0.1.0"},
        plugins={"grpo": {"distribution": "alignzoo", "version": "0.1.0", "sha256": "ab" * 32}},
        machine={"threads": 1},
    )


def lines(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make(folder: Path) -> Path:
    """A comparison's folder, as if it had been run."""
    made = results()
    folder.mkdir()
    made.write(folder)
    timings = {
        cell.id: {"seconds": 9.0, "seconds/sample": 3.0, "seconds/update": 6.0, "memory": 5e8} for cell in made.cells
    }
    (folder / "timings.json").write_text(json.dumps(timings))
    tokens = ["my", " answer", " ", EVIL]
    said = {
        "asked": [{"role": "user", "content": f"what is {EVIL}?"}],
        "finished": True,
        "reward": 1.5,
        "note": f"why: {EVIL}",
    }
    for cell in made.cells:
        run = folder / cell.folder / "run"
        if not cell.has_figures:
            continue
        columns = {"pieces": tokens, "logprobs": [-0.1, -2, -0.3, -1], "start_logprobs": [-0.2, -1, -0.3, -3]}
        answer = {**said, **columns, "prompt": 0, "text": "".join(tokens), "gold": 2.5, "greedy": False}
        other = {**answer, "prompt": 1, "asked": "a second question", "note": "", "finished": False}
        if cell.algorithm == "dpo":
            other |= {"gold": 3.0, "text": "my answer indeed", "pieces": []}
        lines(folder / cell.folder / "answers.jsonl", answer, other, {**answer, "greedy": True})
        if cell.role not in ("algorithm", "random"):
            continue
        steps = [{"stage": "rl", "step": step} for step in (1, 2, 3, 4)]
        lines(run / "metrics.jsonl", *({**s, "tokens/generated": 100.0, "tokens/trained": 400.0} for s in steps))
        lines(
            run / "seconds.jsonl", *({**s, "seconds/sample": 1.0, "seconds/update": 2.0, "memory": 9.0} for s in steps)
        )
        lines(
            run / "evaluations.jsonl",
            {"stage": "rl", "step": 0, "before": figures(cell.algorithm, cell.seed, 0.0), "best_of": {}},
            {"stage": "rl", "step": 2, "during": figures(cell.algorithm, cell.seed, 0.5)},
            {"stage": "rl", "step": 4, "after": figures(cell.algorithm, cell.seed)},
        )
        sample = {
            "stage": "rl",
            "prompt": said["asked"],
            "completion": "".join(tokens),
            "finished": True,
            "reward": 1.0,
        }
        sample |= {"parts": {}, "note": "", "tokens": tokens, "logprobs": [-0.1] * 4, "ref_logprobs": [-0.2] * 4}
        lines(
            run / "samples.jsonl",
            {**sample, "step": 2, "when": "during"},
            {**sample, "step": 4, "when": "training", "advantages": [1.0, -1.0, 0.0, 2.0]},
        )
        lines(
            run / "warnings.jsonl", {"stage": "rl", "step": 3, "kind": "length", "message": "they grew", "figures": {}}
        )
        name = "dpo" if cell.algorithm == "dpo" else "grpo"
        stage = {
            "name": "rl",
            "optimizer": {"name": name, "epochs": 2},
            "schedule": {"lr": 1e-3},
            "policy": {"model": EVIL},
        }
        (run / "manifest.json").write_text(json.dumps({"recipe": {"stage": [stage]}}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make(tmp_path_factory.mktemp("compare") / "made-up")
    assert write_report(made) == made / "report.html"
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


# --- figures ----------------------------------------------------------------------------------------------------------


def test_curves_add_up_what_was_spent(folder: Path) -> None:
    curve = next(c for c in curves(folder, results()) if c.cell.id == "shop/dpo/seed-1")
    assert [(m.step, m.tokens, m.seconds) for m in curve.marks] == [(0, 0.0, 0.0), (2, 1000.0, 6.0), (4, 2000.0, 12.0)]
    # 2.1 at the start, 2.1 + 0.5·0.6 half-way, 2.1 + 0.6 at the end
    assert [gain for _, gain in curve.gains("gold")] == pytest.approx([0.0, 0.3, 0.6])
    assert len(curves(folder, results())) == 8  # not of controls that train nothing, nor of what failed


def test_gains_are_over_the_start_with_the_same_seed(folder: Path) -> None:
    made = results()
    for cell in made.cells:
        if cell.has_figures:
            assert final_gain(made, cell, "gold") == pytest.approx(GAIN[cell.algorithm])
    runs = runs_of(made, curves(folder, made), "shop", "gold")
    assert {name: len(points) for name, points in runs.items()} == {"grpo": 4, "dpo": 2}  # both settings are one method
    first = runs["grpo"][0]  # the start, half-way, the end, and the end as the comparison measures it
    assert first == [(kl, pytest.approx(gain)) for kl, gain in ((0.0, 0.0), (0.25, 0.2), (1.0, 0.4), (1.0, 0.4))]


def test_kl_to_a_later_stages_own_start_is_none_to_the_start_of_all(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    run = copy / "cells" / "shop" / "dpo" / "seed-0" / "run"
    for name in ("metrics", "evaluations"):
        text = (run / f"{name}.jsonl").read_text()
        earlier = "\n".join(line.replace('"rl"', '"sft"') for line in text.splitlines()[:3]) + "\n"
        (run / f"{name}.jsonl").write_text(earlier + text)
    made = results()
    found = runs_of(made, curves(copy, made), "shop", "gold")["dpo"]
    assert [len(points) for points in found] == [1, 4]


def test_a_reward_of_ones_own_is_not_drawn_beside_the_tasks(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    made = results()
    for cell in made.cells:
        if cell.role == "algorithm" and cell.has_figures:
            name = "dpo" if cell.algorithm == "dpo" else "grpo"
            plan = {"recipe": name, "evaluator": "grpo", "role": "algorithm"}
            (copy / cell.folder / "plan.json").write_text(json.dumps(plan))
            reward = [{"name": f"of {name}"}]
            manifest = {"recipe": {"stage": [{"name": "rl", "optimizer": {"name": name}, "reward": reward}]}}
            (copy / cell.folder / "run" / "manifest.json").write_text(json.dumps(manifest))
    mine = curves(copy, made)
    assert {curve.algorithm for curve in mine if curve.own_reward} == {"dpo"}
    points = {metric: runs_of(made, mine, "shop", metric)["dpo"] for metric in ("reward", "gold")}
    assert [len(run) for run in points["reward"]] == [1, 1]  # the end, as the comparison measures it
    assert [len(run) for run in points["gold"]] == [4, 4]


def test_an_algorithm_looks_the_same_in_every_picture(folder: Path) -> None:
    made = results()
    looks = Looks(made)
    one, other, dpo = (looks.of[label] for label in LABELS[3:])
    assert one.css == other.css and one.marker == other.marker and one.style != other.style
    assert dpo.css != one.css and dpo.marker != one.marker
    mine = curves(folder, made)
    for picture in [*learning(made, "shop", mine, looks), *frontier(made, "shop", mine, looks)]:
        themed, plain = picture.themed(), picture.plain(looks)
        for svg in (themed, plain):
            assert not re.search(r"#(0[1-9a-f]){3}", svg), "every stand-in was replaced"
        assert dpo.css in themed and "currentColor" in themed and "#ffffff" not in themed
        assert "var(" not in plain and "dpo" in plain  # a legend of its own
    assert [picture.name for picture in frontier(made, "shop", mine, looks)] == [
        "shop-pareto",
        "shop-distance-gold",
        "shop-distance-reward",
        "shop-distance-length",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.128, "2.13"),
        (-0.5, "−0.50"),
        (12_345, "12.3k"),
        (4_000, "4000.00"),
        (2.5e13, "25T"),
        (None, ""),
        (float("nan"), ""),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("text", "set_"),
    [
        ("by 0.1 [-0.20, 0.38] at n = 3", "by 0.1 [−0.20, 0.38] at n\u00a0=\u00a03"),
        ("in 80 % of best-of-4 runs, 1e-4", "in 80\u00a0% of best-of-4 runs, 1e-4"),
    ],
)
def test_sentences_are_set(text: str, set_: str) -> None:
    assert typeset(text) == set_


def test_labels_break_between_their_parts_and_are_text() -> None:
    assert breakable("grpo[optimizer.kl=0.1,schedule.lr=1]") == "grpo[<wbr>kl=0.1,<wbr>schedule.<wbr>lr=1]"
    assert breakable("random reward (<b>)") == "random reward (&lt;b&gt;)"


def test_one_pair_has_one_difference() -> None:
    for shown in (True, False):
        pair = replace(results().pairs[0], shown=shown, reached=True)
        drawn = differences(replace(results(), pairs=(pair,)), "shop")
        assert drawn is not None and drawn.title == f"{shown:d} of 1 difference between algorithms is shown"


def test_places_on_a_scale_are_cut_at_its_ends() -> None:
    assert [place(value, (1.0, 3.0)) for value in (0.0, 1.0, 2.0, 3.0, 9.0)] == [0, 0, 50, 100, 100]


def test_labels_are_moved_apart_in_their_order() -> None:
    assert spread([0.5, 0.5, 0.1], 0.1) == pytest.approx([0.5, 0.6, 0.1])
    assert spread([0.98, 0.99], 0.1) == pytest.approx([0.9, 1.0])  # within the frame
    assert spread([0.5] * 11, 0.3) == pytest.approx([0.1 * i for i in range(11)])  # closer where there is no room


def test_the_titles_are_findings(folder: Path) -> None:
    made = results()
    assert who_leads(made, "shop") == f"{LABELS[4]} beats dpo on shop"
    start = replace(made.pairs[0], a="dpo", b="start", family="controls", reached=True)
    other = replace(start, a=LABELS[3], difference=-0.2, low=-0.3, high=-0.1)
    against = against_controls(replace(made, pairs=(*made.pairs, start, other)), "shop")
    assert [picture.title for picture in against] == ["1 of 2 beats the start; 1 is worse"]
    assert [picture.name for picture in against] == ["shop-against-start"]
    none = replace(made, pairs=(replace(made.pairs[0], shown=False),))
    assert who_leads(none, "shop") == "No two algorithms are told apart on shop with 2 seeds"


def test_prompts_that_changed_and_rewards_that_know(folder: Path) -> None:
    made, looks = results(), Looks(results())
    known = told(folder, made, "shop")
    found = beside(made, "shop", known, looks)
    assert found is not None and (found.a, found.b) == (LABELS[4], "dpo")  # the two with the highest means
    assert [(each.prompt, each.a, each.b) for each in found.changed] == [(1, 2.5, 3.0)]
    assert found.picture.title == f"{LABELS[4]} is better than dpo on 0 of 2 prompts, worse on 1"
    picture = proxy(made, "shop", known, looks)
    assert picture is not None and "hardly agree" in picture.title and "r = 0.00" in picture.title  # all rewards alike
    assert distributions(made, "shop", known, looks) is None  # of two values the means say everything


# --- the page ---------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Every element with its attributes, and what is in the scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def test_the_page_needs_nothing_else(page: str) -> None:
    tags = Tags(page).tags
    for tag, attributes in tags:
        assert tag not in ("img", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"@import|url\((?!#)", page)
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids)), "ids are each their own"


def test_what_models_write_is_text(page: str) -> None:
    tags = Tags(page)
    assert [attributes.get("type") for tag, attributes in tags.tags if tag == "script"] == ["application/json", None]
    shown = json.loads(tags.scripts[0])["shop"]
    assert shown["prompts"] == [f"what is {EVIL}?", "a second question"]
    answer = next(a for a in shown["answers"] if a["algorithm"] == "dpo" and a["when"] == "end")
    assert answer["text"].endswith(EVIL) and answer["tokens"][-1] == EVIL and answer["note"] == f"why: {EVIL}"
    assert answer["logprob"] == [-0.1, -2, -0.3, -1] and answer["reference"] == [-0.2, -1, -0.3, -3]
    assert EVIL not in page and "onerror=" in page  # it is there, with its brackets disarmed


def test_the_page_tells_everything(page: str) -> None:
    for text in ("Over all tasks nothing is shown.", "grpo beats dpo on shop by 0.30 gold.", "Two seeds are few."):
        assert text in page
    assert "the loss is not finite" in page and "they grew" in page
    assert page.index("grpo beats dpo") < page.index("<table>") < page.index("has gained the most gold")
    assert "Group relative policy optimization" in page and "β, the weight of the KL" in page  # the card
    assert "2 of 4" in page  # of dpo's runs
    assert "<em>length</em> in 2 of 2 runs, after step 3, 3: they grew" in page
    rows = re.findall(r"<tr[^>]*>\s*<th><svg.*?</svg>(.*?)</th>\s*<td class=\"metric\">", page, re.S)
    assert rows == [breakable(label) for label in sorted(LABELS, key=lambda label: -GAIN[label])], "the best first"
    assert "judge calls" in page
    assert "on the way 64 held-out prompts are answered, in the table 256" in page  # as the curves' captions say


def test_the_twin_in_markdown(folder: Path) -> None:
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "grpo beats dpo on shop by 0.30 gold." in text
    assert "| dpo | 2.65 (1 of 4 failed, 1 of 4 diverged) | [1.90, 3.10] | 3.00 |" in text
    assert EVIL not in text and "&lt;img" in text
    pictures = re.findall(r"\]\((report/[^)]+)\)", text)
    assert len(pictures) == 12 and all((folder / name).is_file() for name in pictures)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(widths) == 1, table


def test_a_cell_of_markdown_holds_no_markup() -> None:
    assert cell_text("a|b *c*\n<d> `e`") == r"a\|b \*c\* &lt;d&gt; \`e\`"


def test_a_report_is_made_anew_to_the_byte(folder: Path, page: str) -> None:
    assert write_report(folder).read_text(encoding="utf-8") == page


# --- in a browser -----------------------------------------------------------------------------------------------------


def test_in_a_browser_the_samples_can_be_leafed_through(browser: Any, folder: Path) -> None:
    def texts(selector: str) -> list[str]:
        return [each.text for each in browser.find_elements("css selector", selector)]

    def choose(name: str, value: str) -> None:
        browser.find_element("css selector", f"#{name} option[value='{value}']").click()

    browser.get((folder / "report.html").as_uri())
    assert browser.find_element("id", "asked").text == f"what is {EVIL}?"
    assert EVIL in texts(".answer .words")[0] and f"judge: why: {EVIL}" in texts(".answer .note")
    assert len(texts(".answer")) == len(LABELS) * 2 + 4  # at the end, also greedily; on the way of those that train
    assert texts("#answers h4") == ["at the end", "at the end, greedily", "on the way, checkpoint 1 of 1"]
    first = browser.find_element("css selector", ".answer")
    first.find_elements("css selector", ".words span")[1].click()  # log π - log π of the start is -2 - -1
    assert "log-ratio -1.00, KL (k3) 0.718" in first.text

    coloured = "return [...document.querySelectorAll('.answer .words span')].filter(s => s.style.background).length"
    by_ratio = browser.execute_script(coloured)
    assert by_ratio > 0
    choose("colour", "none")
    assert browser.execute_script(coloured) == 0
    choose("colour", "kl")
    assert browser.execute_script(coloured) > 0

    browser.find_element("id", "next").click()
    assert browser.find_element("id", "asked").text == "a second question"
    assert browser.find_element("id", "position").text == "2 of 2"
    assert texts(".answer .words")[0].endswith("…")  # it was cut off
    browser.find_element("id", "next").click()
    assert browser.find_element("id", "position").text == "1 of 2"
    browser.find_element("id", "way").click()
    assert len(texts(".answer")) == len(LABELS)
    browser.find_element("css selector", "#who input").click()
    assert len(texts(".answer")) == len(LABELS) - 1

    def prompts() -> list[str]:
        return texts("#prompt option")

    for name, value in (("a", "dpo"), ("b", LABELS[3])):  # dpo is better on the second prompt, as lines() wrote
        browser.find_element("css selector", f"#{name} option[value='{value}']").click()
    choose("filter", "wins")
    assert prompts() == ["2. a second question"] and browser.find_element("id", "position").text == "1 of 1, of 2"
    choose("filter", "losses")
    assert prompts() == [] and texts(".answer") == []
    choose("filter", "all")
    choose("order", "lead")
    assert [each[:2] for each in prompts()] == ["2.", "1."]
    browser.find_element("id", "search").send_keys("second")
    assert prompts() == ["2. a second question"]
    browser.find_element("id", "search").clear()
    browser.find_element("id", "search").send_keys(" ")
    browser.find_element("id", "diff").click()
    *others, last = texts(".answer mark")
    assert last == "indeed" and "".join(others) == EVIL  # "my answer" is in both
    browser.find_element("id", "diff").click()
    choose("order", "asked")

    choose("kind", "training")
    assert texts("#answers h4") == ["sample 1 of 1"] and not browser.find_element("id", "prompt-row").is_displayed()
    assert len(texts(".answer")) == len(LABELS) - 2  # start and best-of-4 have no training
    choose("colour", "advantage")
    assert "advantage 2.00" in browser.find_elements("css selector", ".answer .words span")[3].get_attribute("title")
    assert browser.execute_script(coloured) > 0

    assert browser.execute_script("return window.hacked") is None
    assert not browser.find_elements("tag name", "img")
    assert browser.get_log("browser") == []


def test_in_a_browser_the_theme_turns_and_an_algorithm_is_lifted(browser: Any, folder: Path) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    browser.get((folder / "report.html").as_uri())
    paper = "return getComputedStyle(document.body).backgroundColor"
    dark = browser.execute_script(paper)
    browser.find_element("id", "theme").click()
    light = browser.execute_script(paper)
    assert light == "rgb(255, 255, 255)" and dark != light
    browser.find_element("id", "theme").click()
    assert browser.execute_script(paper) == dark

    chip = browser.find_element("css selector", ".legend button:last-child")
    groups = "[...document.querySelectorAll('.pictures [class^=\"of-\"]')]"
    faded = f"return {groups}.filter(group => getComputedStyle(group).opacity < 1).length"
    assert browser.execute_script(faded) == 0
    chip.click()
    assert browser.execute_script(faded) > 0
    chip.click()
    assert browser.execute_script(faded) == 0
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_nothing_is_wider_than_the_screen(browser: Any, folder: Path, width: int) -> None:
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get((folder / "report.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # what a picture writes lies within the picture
    outside = """return [...document.querySelectorAll('figure svg')].flatMap(svg => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')].filter(text => {
            const box = text.getBoundingClientRect();
            return box.left < frame.left - 2 || box.right > frame.right + 2 || box.bottom > frame.bottom + 2;
        }).map(text => text.textContent);
    })"""
    assert browser.execute_script(outside) == []
