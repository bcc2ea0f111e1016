"""`alignzoo run`: from a recipe to results, and on after an interruption."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from alignzoo.cli import progress


@pytest.mark.usefixtures("curves")
def test_a_run_tells_its_results_and_where_they_are(alignzoo, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = alignzoo("run", recipe, "--trust", "schedule.reward_stop=-1", "--out", out)
    assert said.code == 0, said.err
    for word in (
        "On held-out prompts",
        "before, greedy",
        "rl: samples",
        "rl stopped early, after step 1",
        "result.json",
    ):
        assert word in said.out
    assert "rl: evaluation: 8 answers to 2 held-out prompts" in said.err and "rl: evaluate  8/8" in said.err
    assert (out / "curves.png").stat().st_size > 1000
    card = (out / "models" / "rl" / "README.md").read_text()
    assert "AutoModelForCausalLM" in card
    assert str(tmp_path) not in card
    when = [json.loads(line)["when"] for line in (out / "samples.jsonl").read_text().splitlines()]
    assert set(when) == {"before", "training", "after"}


def test_code_that_a_recipe_names_is_run_on_trust_alone(alignzoo, recipe: Path, tmp_path: Path) -> None:
    for command in (("run",), ("plan", "--no-time"), ("compare", "--task", "sort", "--budget", "tokens=100")):
        said = alignzoo(*command, recipe, *(("--out", tmp_path / "out") if command[0] != "plan" else ()))
        if command[0] == "plan":
            assert said.code == 0, said.err  # no reward is asked here
        else:
            assert said.code == 1 and "would run code that its file names" in said.err and "vowels" in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("curves")
def test_quiet_says_only_where_the_results_are(alignzoo, recipe: Path, tmp_path: Path) -> None:
    said = alignzoo("run", recipe, "--trust", "--out", tmp_path / "out", "--quiet")
    assert said.err == ""
    assert [line.partition(":")[0] for line in said.out.splitlines()] == ["model rl", "curves", "results"]


def test_a_finished_run_resumed_is_left_as_it_is(alignzoo, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    alignzoo("run", recipe, "--trust", "--out", out, "--quiet")
    former = (out / "metrics.jsonl").read_bytes()
    assert alignzoo("run", recipe, "--trust", "--out", out, "--resume", "--quiet").code == 0
    assert (out / "metrics.jsonl").read_bytes() == former


def test_a_run_killed_after_its_last_evaluation_writes_that_once(alignzoo, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    alignzoo("run", recipe, "--trust", "--out", out, "--quiet")
    former = {name: (out / name).read_bytes() for name in ("samples.jsonl", "evaluations.jsonl", "result.json")}
    (out / "result.json").unlink()  # the last thing that a stage writes
    assert alignzoo("run", recipe, "--trust", "--out", out, "--resume", "--quiet").code == 0
    assert {name: (out / name).read_bytes() for name in former} == former


def test_tensorboard_gets_its_events(alignzoo, recipe: Path, tmp_path: Path) -> None:
    said = alignzoo("run", recipe, "--trust", "--out", tmp_path / "out", "--quiet", "--tracker", "tensorboard")
    assert said.code == 0, said.err
    assert list((tmp_path / "out" / "trackers" / "rl").glob("events.out.tfevents.*"))


def test_ctrl_c_stops_after_the_step_and_says_how_to_go_on(alignzoo, recipe: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    steps = "schedule.steps=16"
    alignzoo("run", recipe, "--trust", steps, "--out", whole, "--quiet")
    command = [sys.executable, "-m", "alignzoo.cli", "run", str(recipe), "--trust", steps, "--out", str(out)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    err = running.communicate(timeout=120)[1]
    assert running.returncode == 130, err
    assert "rl: stopped after step" in err
    assert f"--out {out} --resume" in err
    assert "Traceback" not in err
    said = alignzoo("run", recipe, "--trust", steps, "--out", out, "--resume", "--quiet")
    assert said.code == 0, said.err
    for name in ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_log_gets_a_line_now_and_then(monkeypatch) -> None:
    class Console:
        lines: list[str]
        width = 200

        def __init__(self) -> None:
            self.lines = []

        def print(self, line: str, **options: object) -> None:
            self.lines.append(line)

    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    console = Console()
    tell = progress.Lines(console)  # type: ignore[arg-type]
    for step in range(1, 11):
        tell("rl", step, 10, {"reward/mean": step / 10, "seconds/sample": 1.0})
    # Calls at 0, 4, ... 36 s: one line each time 10 s have gone by, and one at the end.
    assert console.lines == [
        "rl  4/10 (24 s left)  reward 0.4",
        "rl  7/10 (12 s left)  reward 0.7",
        "rl  10/10  reward 1",
    ]


def test_code_that_only_the_recipes_file_names_is_run_on_trust(alignzoo, recipe: Path, tmp_path: Path) -> None:
    marker = tmp_path / "it-was-run"
    code = (recipe.parent / "vowels.py").read_text()
    (recipe.parent / "vowels.py").write_text(f"open({str(marker)!r}, 'w').close()\n{code}")
    out = tmp_path / "out"
    said = alignzoo("run", recipe, "--out", out)
    assert said.code == 1 and not out.exists() and not marker.exists()
    assert "would run code that its file names" in said.err and "--trust" in said.err
    assert f"{recipe}, line 8: rl.reward.function = '{recipe.parent / 'vowels.py'}:vowels'" in said.err
    assert alignzoo("plan", recipe, "--no-time").code == 0 and not marker.exists()  # a plan asks no reward
    said = alignzoo("plan", recipe, "--no-time", "policy.trust_remote_code=true")
    assert said.code == 0  # the command line names it
    trusting = recipe.read_text().replace('"cpu" }', '"cpu", trust_remote_code = true }')
    recipe.write_text(trusting)
    said = alignzoo("plan", recipe, "--no-time")
    assert said.code == 1 and "rl.policy.trust_remote_code = True" in said.err
    again = (f"reward.function={recipe.parent / 'vowels.py'}:vowels", "policy.trust_remote_code=false")
    assert alignzoo("run", recipe, *again, "--out", out, "--quiet").code == 0 and marker.exists()


def test_the_example_that_is_shown_dims_what_is_not_trained_on() -> None:
    import io

    from rich.console import Console

    from alignzoo.cli.running import example_on
    from alignzoo.data.survey import Survey

    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", highlight=False, width=80)
    example_on(console)("sft", Survey(3, 3, 1, 0, 0, ("<|user|>", "[Hi]", "<|bot|>"), ("Yes", "<|end|>"), (True, True)))
    lines = out.getvalue().splitlines()
    assert lines[0] == "sft: 3 rows to train on, 1 left out. The first, as the model sees it:"
    assert lines[1].startswith("\x1b[2m<|user|>[Hi]<|bot|>\x1b[0m") and "\x1b[1mYes\x1b[0m\x1b[1m<|end|>" in lines[1]
    assert "\x1b[2mYes" not in lines[1]


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_no_label_is_cut_where_the_terminal_is_narrow(width: int) -> None:
    from types import SimpleNamespace

    from alignzoo.report.tables import table

    names = ("reward", "gold", "accuracy", "kl", "length", "entropy")
    before = {name: 1.25 + number for number, name in enumerate(names)}  # columns that are the same are shown once
    before |= {f"{name}_se": 0.05 for name in names} | {f"{name}_greedy": 1.0 for name in names}
    after = before | {name: 2.5 + number for number, name in enumerate(names)}
    stage = SimpleNamespace(name="grpo", before=before, after=after, best_of={"n": 4, **before})
    out = io.StringIO()
    Console(width=width, file=out).print(table(SimpleNamespace(stages=[stage])))  # type: ignore[arg-type]
    text = out.getvalue()
    for word in ("grpo", "before", "greedy", "best", "after"):
        assert re.search(rf"\b{word}\b", text)
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert ("± 0.05" in text) is (width > 100)  # errors give way first, then the last columns
    assert ("There is no room for standard errors" in " ".join(text.split())) is (width <= 100)
    assert ("length" in text.splitlines()[2]) is (width >= 80)
