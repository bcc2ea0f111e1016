"""The monitor: what it warns of, from which figures on, and what becomes of a warning in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import alignzoo
from alignzoo.training.journal import Journal
from alignzoo_monitor import KINDS, Monitor, Point, _Watched, smooth

Figures = dict[str, float]

START = {"gold": 2.0, "gold_se": 0.1, "reward": 0.0, "reward_se": 0.05, "entropy": 0.5, "length": 20.0, "kl/token": 0.0}
CALM = {"tokens/generated": 100.0, "reward/mean": 0.5, "kl": 0.2, "kl/token": 0.01, "entropy": 0.5, "length": 20.0}


def steps(n: int, **changes: Any) -> list[Figures]:
    """Calm steps, with some figures as functions of the step."""
    return [{**CALM, **{k.replace("__", "/"): f(i) for k, f in changes.items()}} for i in range(n)]


def kinds(steps: list[Figures], evaluations: list[Figures] | None = None) -> list[str]:
    return [alert.kind for alert in Monitor().alerts(steps, evaluations or [START])]


def test_a_calm_run_is_left_in_peace() -> None:
    assert kinds(steps(40)) == []
    assert kinds([]) == []
    assert kinds(steps(1), []) == []


def test_gold_that_falls_while_the_reward_rises() -> None:
    better, worse = {**START, "gold": 2.6, "reward": 0.5}, {**START, "gold": 2.1, "reward": 0.8}
    # 2.6 - 2.1 = 0.5 > 3·√(0.1² + 0.1²) = 0.424, and 0.8 - 0.5 = 0.3 > √(0.05² + 0.05²) = 0.071
    (alert,) = Monitor().alerts(steps(4), [START, better, worse])
    assert alert.kind == "divergence"
    assert alert.message == "held-out gold has fallen from 2.60 to 2.10 while held-out reward rose from 0.50 to 0.80"
    assert alert.figures == pytest.approx({"peak": 2.6, "now": 2.1, "rise": 0.3})
    assert kinds(steps(4), [START, better, {**worse, "gold": 2.2}]) == []  # 0.4: it may be noise
    assert kinds(steps(4), [START, better, {**worse, "reward": 0.5}]) == []  # both go down: the reward is honest


def test_one_of_an_ensemble_that_falls_while_the_reward_rises() -> None:
    rising: Any = {"reward__mean": lambda i: 0.1 * i, "reward__model": lambda i: 0.1 * i}
    falling: Any = {"reward__model#2": lambda i: -0.1 * i}
    (alert,) = Monitor().alerts(steps(20, **rising, **falling), [START])
    assert alert.kind == "divergence"
    # means over six steps: of 0..5 is 2.5, of 14..19 is 16.5
    assert alert.message.startswith("reward/model#2 has fallen from -0.25 to -1.65 while reward/mean rose from 0.25 to")
    assert kinds(steps(20, **rising, **{"reward__model#2": lambda i: 0.05 * i})) == []
    assert kinds(steps(20, **rising)) == []  # one is the reward itself
    assert kinds(steps(20, **rising, reward__length=lambda i: -0.1 * i)) == []  # another kind is to pull another way


def test_kl_that_speeds_up() -> None:
    # After 11 steps, three are averaged around the 9th update, and four steps earlier around the 5th. i² over three
    # averages to the middle's square + 2/3: 0.01·(9² - 5²) = 0.56, after 0.01·(5² + 2/3)/5·4 = 0.205; 0.2·(9² + 2/3)
    (alert,) = Monitor().alerts(steps(11, kl=lambda i: 0.2 * i**2, kl__token=lambda i: 0.01 * i**2), [START])
    assert alert.kind == "kl"
    assert alert.figures == pytest.approx({"now": 0.56, "before": 0.20533, "kl": 16.3333}, rel=1e-4)
    for n in (5, 7, 20, 40):
        assert kinds(steps(n, kl=lambda i: 0.4 * i, kl__token=lambda i: 0.02 * i)) == []  # fast, but steadily
        assert kinds(steps(n, kl=lambda i: 0.4 * i**1.1, kl__token=lambda i: 0.02 * i**1.1)) == []
    assert kinds(steps(11, kl=lambda i: 0.2 * i**2, kl__token=lambda i: 0.0005 * i**2)) == []  # long, little a token
    assert kinds(steps(11, kl=lambda i: 0.01 * i**2, kl__token=lambda i: 0.01 * i**2)) == []  # short, little in all


def test_kl_that_speeds_up_from_one_evaluation_to_the_next() -> None:
    given = [{"loss": 0.5} for _ in range(9)]
    course = [{**START, "kl": kl, "kl/token": kl / 10} for kl in (0.0, 1.0, 2.4, 4.4)]
    assert kinds(given, course[:2]) == []  # there is no before
    assert kinds(given, course[:3]) == []  # 1.4 times as much
    (alert,) = Monitor().alerts(given, course)  # 2.0 after (1.0 + 1.4)/2
    assert alert.message.startswith("the KL grew by 0.200 nats per token within an evaluation, after 0.120 in as many")


def test_entropy_that_is_gone() -> None:
    assert kinds(steps(5, entropy=lambda i: 0.07)) == ["entropy"]  # below 0.15·0.5
    assert kinds(steps(5, entropy=lambda i: 0.08)) == []
    assert kinds(steps(2, entropy=lambda i: 0.07)) == []  # too few steps to say


@pytest.mark.parametrize(("length", "told"), [(26.7, ["length"]), (26.5, []), (13.3, ["length"]), (13.5, [])])
def test_lengths_that_drift(length: float, told: list[str]) -> None:
    assert kinds(steps(5, length=lambda i: length)) == told


def test_a_reward_that_goes_with_length() -> None:
    # The start has 20 tokens: 15 % more are 23.
    assert kinds(steps(4, length__reward=lambda i: 0.26, length=lambda i: 23.1)) == ["length-reward"]
    assert kinds(steps(4, length__reward=lambda i: -0.26, length=lambda i: 16.9)) == ["length-reward"]
    assert kinds(steps(3, length__reward=lambda i: 0.26, length=lambda i: 23.1)) == []  # too few steps to say
    assert kinds(steps(4, length__reward=lambda i: 0.24, length=lambda i: 23.1)) == []
    assert kinds(steps(4, length__reward=lambda i: 0.26, length=lambda i: 22.9)) == []
    assert kinds(steps(4, length__reward=lambda i: 0.5, length=lambda i: 16.0)) == []  # lengths go the other way
    assert kinds(steps(4, length__reward=lambda i: 0.5)) == []  # and here they stay
    assert kinds(steps(4, length__reward=lambda i: (-1) ** i, length=lambda i: 24.0)) == []


@pytest.mark.parametrize(("gold", "told"), [(1.4, ["length-reward"]), (1.5, []), (0.9, ["length-reward"])])
def test_that_longer_answers_are_better_is_no_fault_of_the_reward(gold: float, told: list[str]) -> None:
    longer = steps(4, length__reward=lambda i: 0.5, length=lambda i: 24.0)
    course = [{**START, "gold": 1.0, "gold_se": 0.1}, {**START, "gold": gold, "gold_se": 0.1}]
    assert kinds(longer, course) == told  # three errors of a difference are 3·0.1·√2 = 0.42


def test_of_a_method_that_learns_from_given_answers_the_evaluations_are_watched() -> None:
    given = [{"length": 99.0, "entropy": 0.01} for _ in range(5)]  # of the data, which no training moves
    assert kinds(given) == []
    assert kinds(given, [START, {**START, "length": 30.0}]) == ["length"]


def test_a_heldout_loss_above_its_start() -> None:
    course = [{**START, "heldout/loss": loss} for loss in (1.965, 1.9, 2.437)]
    (alert,) = Monitor().alerts([{"loss": 2.0}], course)
    assert alert.kind == "heldout" and alert.figures == {"now": 2.437, "start": 1.965}
    assert alert.message.startswith("the held-out loss is 2.437, above the 1.965 before training: ")
    for now, told in ((2.006, ["heldout"]), (2.003, []), (1.8, [])):  # 1.965·1.02 = 2.0043
        assert kinds([{"loss": 2.0}], [course[0], {**START, "heldout/loss": now}]) == told
    assert kinds([{"loss": 2.0}], course[:1]) == []


def test_a_loss_on_given_data_that_rises() -> None:
    rising = [{"loss": 2.0 + 0.4 * i} for i in range(9)]
    (alert,) = Monitor().alerts(rising, [START])  # averages of three: 2.4 and 4.8
    assert alert.kind == "loss" and alert.figures == pytest.approx({"now": 4.8, "start": 2.4})
    assert kinds(rising[:5]) == []  # too few steps to say
    assert kinds([{"loss": 2.0 - 0.1 * i} for i in range(9)]) == []
    assert kinds([{"loss": 1.0 + (i % 2)} for i in range(9)]) == []  # noise
    assert kinds(steps(9, loss=lambda i: 0.4 * i)) == []  # the loss of what the policy generates says nothing


@pytest.mark.parametrize(
    ("lr", "weights", "adapter", "supervised", "usual"),
    [
        (1e-3, 135_000_000, False, True, 2e-5),
        (2e-5, 135_000_000, False, True, 0),
        (1e-4, 135_000_000, False, True, 0),
        (1e-4, 135_000_000, False, False, 1e-6),  # the rate of SFT is far above that of DPO
        (1e-6, 8_000_000_000, False, False, 0),
        (2e-4, 8_000_000_000, True, True, 0),
        (2e-3, 8_000_000_000, True, True, 2e-4),
        (3e-4, 8_000_000_000, True, False, 1e-5),
        (1e-3, 400_000, False, False, 0),  # the embedded model
    ],
)
def test_a_rate_far_above_the_method_s_usual_one(
    lr: float, weights: int, adapter: bool, supervised: bool, usual: float
) -> None:
    alert = Monitor().rate(lr, weights, adapter=adapter, supervised=supervised)
    assert (alert is not None) == bool(usual)
    if alert:
        assert alert.kind == "rate" and alert.figures["usual"] == pytest.approx(usual)
        assert f"schedule.lr={lr:g} trains" in alert.message and f"takes about {usual:g} for" in alert.message


def test_a_rate_of_zero_trains_nothing() -> None:
    alert = Monitor().rate(0.0, 1000, adapter=False, supervised=True)
    assert alert is not None and alert.message.startswith("schedule.lr=0: no weight is changed")


def test_a_reward_that_has_never_differed() -> None:
    constant: Any = {"reward__std": lambda i: 0.0, "no_gradient": lambda i: 0.0}
    assert kinds(steps(3, **constant)) == ["constant-reward"]
    assert kinds(steps(2, **constant)) == []
    assert kinds(steps(3, **constant | {"no_gradient": lambda i: 1.0})) == []  # the run itself tells
    assert kinds(steps(3, **constant | {"reward__mean": float})) == []
    assert kinds(steps(3, reward__std=lambda i: 0.1)) == []


def test_moving_averages_and_their_error() -> None:
    # jumps +1, -1, +1: standard deviation √(8/9) = 0.943; a mean of 2 has an error of 0.943/√2/√2
    assert smooth([0, 1, 0, 1], 2) == [Point(0.5, pytest.approx(0.4714, rel=1e-3))] * 3
    assert smooth([0, 1, 0], 2) == []
    assert smooth([0, None, 0, 1], 2) == []


# --- in a run ---------------------------------------------------------------------------------------------------------


def read(folder: Path) -> list[dict[str, Any]]:
    path = folder / "warnings.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


ALWAYS = """
import alignzoo
from alignzoo import Alert

@alignzoo.hookimpl
def alignzoo_alerts():
    return {"noise": "a step in which something was seen"}

@alignzoo.hookimpl
def alignzoo_after_step(report):
    return [Alert("noise", f"step {report.step}", {"step": report.step})] if report.step in (2, 3) else None
"""


def test_a_warning_is_told_and_kept_and_may_end_the_run(alignzoo: Any, recipe: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "noisy.py"
    plugin.write_text(ALWAYS)
    common = ("run", recipe, "--trust", "schedule.steps=4", "schedule.save_every=0", "--plugin", plugin)
    said = alignzoo(*common, "--out", tmp_path / "on")
    assert "warning: rl, step 2: step 2" in said.err and "warnings:" in said.out
    lines = [line for line in read(tmp_path / "on") if line["kind"] == "noise"]
    assert lines[0] == {"stage": "rl", "step": 2, "kind": "noise", "message": "step 2", "figures": {"step": 2}}
    assert [line["step"] for line in lines] == [2, 3]

    for number, stop_on in enumerate(['["noise"]', '["any"]']):
        out = tmp_path / f"off-{number}"
        said = alignzoo(*common, f"schedule.stop_on={stop_on}", "--out", out)
        assert "stopped early, after step 2: noise: step 2 (stop_on)" in said.out
        (stage,) = json.loads((out / "result.json").read_text())["stages"]
        assert (stage["steps"], stage["stopped"]) == (2, "noise: step 2 (stop_on)")
        assert stage["after"], "it is evaluated all the same"
        assert [path.name for path in (out / "checkpoints" / "rl").iterdir()], "and its last step is kept"


def test_a_kind_that_nobody_warns_of_is_an_error(alignzoo: Any, recipe: Path, tmp_path: Path) -> None:
    said = alignzoo("run", recipe, "--trust", 'schedule.stop_on=["entropi"]', "--out", tmp_path / "run")
    assert said.code == 1
    assert "nothing warns of 'entropi'" in said.err and "'entropy'" in said.err


@pytest.mark.slow
def test_the_monitor_goes_on_where_a_resumed_run_does(tmp_path: Path) -> None:
    """Law 7 for warnings: each once, in the same step, with the same figures."""
    from alignzoo.training.loop import Interrupted

    settings: dict[str, Any] = {
        "schedule": {"steps": 6, "prompts": 2, "lr": 3e-3, "eval_every": 2, "save_every": 1, "samples_every": 0},
        "evaluate": {"prompts": 8, "greedy": False, "best_of": 0},
        "optimizer": {"kl": 0.0},
        "reward": {"name": "length", "free": 0, "weight": 1.0},
    }
    alignzoo.run("grpo", out=tmp_path / "whole", **settings)
    whole = read(tmp_path / "whole")
    assert whole and {line["kind"] for line in whole} <= KINDS.keys() | {"no-gradient"}
    assert len({line["kind"] for line in whole}) == len(whole), "each kind once"

    assert whole[0]["step"] < 6, "there is something left to do after the first warning"
    with pytest.raises(Interrupted):
        alignzoo.run("grpo", out=tmp_path / "cut", progress=interrupting(whole[0]["step"]), **settings)
    alignzoo.run("grpo", out=tmp_path / "cut", resume=True, **settings)
    assert (tmp_path / "cut" / "warnings.jsonl").read_bytes() == (tmp_path / "whole" / "warnings.jsonl").read_bytes()


def test_pairs_that_are_told_apart_as_by_a_coin() -> None:
    def said(accuracy: float, error: float, n: float) -> bool:
        after = {"heldout/n": n, "heldout/accuracy": accuracy, "heldout/accuracy_se": error}
        return Monitor().chance(after) is not None

    assert said(0.478, 0.1065, 23.0) and said(0.60, 0.07, 49.0)  # 0.60 - 1.645 * 0.07 = 0.485
    assert not said(0.62, 0.07, 49.0) and not said(0.4, 0.15, 10.0)  # 0.62 - 0.115 = 0.505; too few to say it
    assert Monitor().chance({"heldout/n": 50.0, "heldout/loss": 1.0}) is None


def test_what_was_told_before_a_run_that_had_only_to_be_evaluated_is_not_told_again(tmp_path: Path) -> None:
    def watched() -> _Watched:
        return _Watched(Journal(tmp_path, "sft"), 1e-3, True, 1000, False, True)

    better, worse = {"heldout/loss": 0.3}, {"heldout/loss": 0.4}
    [alert] = watched().ended(better, worse)
    Journal(tmp_path, "sft").write("warnings", 2, {"kind": alert.kind})
    assert watched().ended(better, worse) == []


def interrupting(step: int) -> Any:
    """Ctrl-C after a step."""
    import os
    import signal

    def progress(label: str, done: int, total: int, figures: Any) -> None:
        if ":" not in label and done >= step:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


@pytest.mark.slow
def test_it_warns_of_over_optimisation_in_time(tmp_path: Path) -> None:
    """Proxy up, gold down: the run is stopped before gold has lost a fifth of its peak. Five seeds, and what becomes of
    runs that go on, are in benchmarks/results/overoptimization.md; healthy runs are those of tests/test_learning.py."""
    watched = {"stop_on": ["any"], "samples_every": 0}
    result = alignzoo.run(
        "overoptimization", out=tmp_path / "run", schedule=watched, overrides=("reward-model.evaluate.prompts=0",)
    )
    stage = result.stages[-1]
    assert 1 < stage.steps <= 12 and stage.stopped.endswith("(stop_on)")
    lines = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    golds = [e["gold"] for line in lines if line["stage"] == "grpo" for e in line.values() if isinstance(e, dict) and e]
    assert golds[-1] >= 0.8 * max(golds)
    assert stage.after["reward"] > stage.before["reward"]
