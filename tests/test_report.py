"""What a run tells its reader: the table, the samples, the card and the curves."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from rich.console import Console

from alignzoo import report
from alignzoo.report.toml_text import toml_text
from alignzoo.runs.api import Result, StageResult

WRITER_BEFORE = {
    "reward": 0.5,
    "reward_se": 0.04,
    "gold": 1.86,
    "gold_se": 0.07,
    "kl": 0.0,
    "length": 20.0,
    "length_se": 1.25,
    "entropy": 1.5,
    "gold_greedy": 2.25,
    "length_greedy": 18.0,
    "entropy_greedy": 1.25,
}
WRITER_AFTER = WRITER_BEFORE | {"gold": 3.0, "kl": 1.2, "gold_greedy": 3.25}
SCORER = {"accuracy": 0.7, "accuracy_se": 0.02, "gold": 0.8125, "gold_se": 0.01, "ceiling": 0.78}


def stage(name: str, before: dict, after: dict, best_of: dict | None = None) -> StageResult:
    return StageResult(name, "ppo", before, after, best_of or {}, 10, "", Path("models") / name)


def printed(shown: object, width: int = 100) -> str:
    console = Console(width=width, file=None, record=True, quiet=False)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


@pytest.fixture
def result() -> Result:
    stages = (
        stage("reward", SCORER | {"accuracy": 0.5}, SCORER),
        stage("ppo", WRITER_BEFORE, WRITER_AFTER, {"n": 4.0, "gold": 2.5, "gold_se": 0.06, "length": 19.0}),
    )
    return Result(Path("."), stages, None)


def test_the_table_has_before_after_greedy_and_best_of_n(result: Result) -> None:
    lines = printed(report.table(result)).splitlines()
    assert max(map(len, lines)) <= 100
    rows = {line[8:28].strip(): line.split() for line in lines if " " in line}
    assert {"before", "before, greedy", "before, best of 4", "after", "after, greedy"} <= rows.keys()
    text = "\n".join(lines)
    assert "3.00 ± 0.07" in text and "20.0 ± 1.2" in text
    assert "accuracy" not in text.split("reward: a scorer")[0]  # no writer has any


def test_a_scorer_has_lines_of_its_own(result: Result) -> None:
    text = printed(report.table(result))
    assert "70.0% ± 2.0% agreement with the held-out labels (before: 50.0%)" in text
    assert "81.2% ± 1.0% agreement with the gold order" in text
    assert "78.0% the labels' own agreement with the gold order (ceiling)" in text


def test_a_tasks_rates_have_a_table_of_their_own() -> None:
    rates = {"rate/over_refusal": 0.18, "rate/over_refusal_se": 0.03, "rate/over_refusal_greedy": 0.0}
    shown = Result(Path("."), (stage("grpo", WRITER_BEFORE | rates, WRITER_AFTER),), None)
    assert "How often" not in printed(report.table(shown))  # only what is measured in the end
    shown = Result(Path("."), (stage("grpo", WRITER_BEFORE | rates, WRITER_AFTER | rates),), None)
    text = printed(report.table(shown)).partition("Event rates")[2]
    assert "refusal" in text and "_se" not in text
    assert [row.split()[-1] for row in text.splitlines() if "greedy" in row] == ["0.00", "0.00"]
    assert text.count("0.18 ± 0.03") == 2


def test_the_table_of_a_run_without_evaluation_is_empty() -> None:
    assert printed(report.table(Result(Path("."), (stage("sft", {}, {}),), None))).strip() == ""


def line(when: str, prompt: object, completion: str, **more: object) -> str:
    said = {"stage": "ppo", "step": 0, "when": when, "prompt": prompt, "completion": completion, "finished": True}
    return json.dumps({**said, "reward": None, "parts": {}, "note": "", **more}) + "\n"


def test_samples_stand_side_by_side(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Where is it?"}]
    (tmp_path / "samples.jsonl").write_text(
        line("before", chat, "no idea")
        + line("training", "other", "never shown")
        + line("after", chat, "on its way", reward=1.5)
        + line("after", chat, "a second answer")
    )
    text = printed(report.samples_shown(tmp_path, "ppo"))
    row = next(each for each in text.splitlines() if "Where is it?" in each)
    assert "no idea" in row and "[1.50] on its way" in row
    assert "never shown" not in text and "a second answer" not in text
    assert report.samples_shown(tmp_path, "reward") is None


def test_the_card_loads_as_what_was_saved_and_names_no_place(tmp_path: Path) -> None:
    resolved = {"name": "ppo", "policy": {"name": "hf", "model": str(tmp_path / "base")}, "reward": [{"name": "model"}]}
    card = report.model_card("ppo", "ppo", resolved, WRITER_BEFORE, WRITER_AFTER, scores=False)
    assert ModelCard(card).data.library_name == "transformers"
    assert "AutoModelForCausalLM" in card and "| gold | 1.86 ± 0.07 | 3 ± 0.07 |" in card
    assert str(tmp_path) not in card and 'model = "base"' in card
    recipe = tomllib.loads(card.split("```toml\n")[1].split("```")[0])
    assert recipe["reward"] == [{"name": "model"}]
    assert "AutoModelForSequenceClassification" in report.model_card(
        "reward", "reward-model", {}, SCORER, SCORER, scores=True
    )


def test_the_card_says_what_was_trained_on_what_and_under_which_licence(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: owner/first\n---\nA model.\n")
    resolved = {"name": "dpo", "task": {"name": "shop"}, "data": {"path": "owner/pairs", "kind": "comparisons"}}
    figures = {"heldout/accuracy": 0.625, "heldout/accuracy_se": 0.1}
    card = report.model_card("dpo", "dpo", resolved, {}, figures, scores=False, start=str(base))
    told = ModelCard(card).data
    assert (told.base_model, told.license, told.datasets) == ("owner/first", "apache-2.0", ["owner/pairs"])
    assert [(each.metric_name, each.metric_value) for each in told.eval_results] == [("heldout/accuracy", 0.625)]
    assert "shop" not in card and str(tmp_path) not in card  # its data are not the task's
    assert "Trained from: `base`, whose base is `owner/first`" in card and "Licence: apache-2.0" in card
    hub = report.model_card("dpo", "dpo", resolved, {}, {}, scores=False, start="owner/model")
    assert ModelCard(hub).data.base_model == "owner/model" and "which says none here" in hub


@pytest.mark.usefixtures("curves")
def test_curves_are_drawn_from_the_journals(tmp_path: Path) -> None:
    metrics = [
        {"stage": "ppo", "step": step, "loss": 1 / step, "reward/mean": step / 9, "tokens/generated": 5.0}
        for step in range(1, 9)
    ]
    evaluations = [
        {"stage": "ppo", "step": 0, "before": WRITER_BEFORE, "best_of": {}},
        {"stage": "ppo", "step": 8, "after": WRITER_AFTER},
        {"stage": "reward", "step": 0, "before": SCORER, "best_of": {}},
    ]
    for name, lines in (("metrics", metrics), ("evaluations", evaluations)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    report.curves(tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "curves.svg").read_text()
    assert svg.count('id="axes_') == 10  # two stages, five columns: loss, reward, KL, length, entropy
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.usefixtures("curves")
def test_no_journals_no_curves(tmp_path: Path) -> None:
    report.curves(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_toml_text_reads_back_as_it_was() -> None:
    table = {
        "name": "a\nb",
        "seed": 3,
        "policy": {"name": "hf", "lr": 1e-5, "on": True, "odd key": ["x", 1.5], "none": {}},
        "stage": [{"name": "one", "schedule": {f"key_{i}": float(i) for i in range(20)}}, {"name": "two"}],
        "stop": float("inf"),
    }
    assert tomllib.loads(toml_text(table)) == table
