"""A whole run whose reward is a judge behind a server: it dies, it is killed, and nothing is lost or asked twice."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import alignzoo as zoo
from conftest import Command
from judge_server import KEY, JudgeServer, judging

RECIPE = """\
policy = {{ name = "hf", model = {model}, max_new_tokens = 4, device = "cpu" }}
data = {data}
evaluate = {{ prompts = 4, best_of = 2 }}

[[stage]]
name = "rl"
sampler = {{ name = "policy", n = 3 }}
optimizer = {{ name = "grpo" }}
schedule = {{ steps = 4, prompts = 2, lr = 1e-3, save_every = 2 }}

[stage.reward]
name = "judge"
judge = {{ name = "openai", model = "small", base_url = {url}, backoff = 0.01, retries = 1, concurrency = 2 }}
"""

SAME = ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl")


@pytest.fixture
def judged(tmp_path: Path, plain_model: Path, judge_server: JudgeServer) -> Path:
    """A recipe of one GRPO stage of four steps, judged by the server."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"Count to {number}: "}) + "\n" for number in range(12)))
    path = tmp_path / "judged.toml"
    values = {"model": str(plain_model), "data": str(data), "url": judge_server.url}
    path.write_text(RECIPE.format(**{name: json.dumps(value) for name, value in values.items()}))
    return path


def cached_in(path: Path) -> str:
    return f"reward.judge.cache={path}"


def asked(server: JudgeServer) -> Counter[str]:
    """How often each question was asked."""
    return Counter(json.dumps(heard.body, sort_keys=True) for heard in server.heard)


def costs(out: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((out / "result.json").read_text())["stages"][-1]["costs"]
    return found


def assert_nothing_holds_the_key(folder: Path) -> None:
    holding = [file for file in folder.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
    assert not holding


def test_the_counts_of_a_whole_run(judged: Path, tmp_path: Path, judge_server: JudgeServer, alignzoo: Command) -> None:
    said = alignzoo("run", judged, "--out", tmp_path / "run", cached_in(tmp_path / "a.sqlite"), "--quiet")
    assert said.code == 0, said.err
    total = costs(tmp_path / "run")
    assert total["judge/requests"] == len(judge_server.heard) == len(asked(judge_server)) > 40
    assert total["judge/questions"] + 1 == total["judge/requests"] + total["judge/cached"]  # one before the run
    assert total["judge/errors"] == total["judge/retries"] == total["judge/malformed"] == 0
    assert total["judge/tokens"] == total["judge/tokens_in"] + total["judge/tokens_out"] > 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "costs.jsonl").read_text().splitlines()]
    assert [line["when"] for line in lines][:3] == ["check", "before", "step"] and sum(
        x["when"] == "step" for x in lines
    ) == 4
    assert sum(line["judge/requests"] for line in lines) == total["judge/requests"]
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["reward/judge/position_bias"] == pytest.approx(0, abs=1e-6) for line in metrics)
    assert not any("requests" in name for line in metrics for name in line)

    again = alignzoo("run", judged, "--out", tmp_path / "again", cached_in(tmp_path / "a.sqlite"), "--quiet")
    assert again.code == 0 and costs(tmp_path / "again")["judge/requests"] == 0
    for file in SAME:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "run" / file).read_bytes()
    assert_nothing_holds_the_key(tmp_path)


def test_a_server_that_dies_in_the_middle(
    judged: Path, tmp_path: Path, judge_server: JudgeServer, alignzoo: Command
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert alignzoo("run", judged, "--out", whole, cached_in(tmp_path / "a.sqlite"), "--quiet").code == 0
    everything = asked(judge_server)
    judge_server.heard.clear()
    judge_server.answered, judge_server.die_after = 0, 20

    arguments = ("run", judged, "--out", out, cached_in(tmp_path / "b.sqlite"), "--quiet")
    died = alignzoo(*arguments)
    assert died.code == 1
    assert "the judge could not answer" in died.err and "no connection" in died.err
    assert KEY not in died.err + died.out
    answered = asked(judge_server)
    judge_server.heard.clear()

    judge_server.die_after = None
    judge_server.faults += [429, 500, "not JSON"]
    assert alignzoo(*arguments, "--resume").code == 0
    for file in SAME:
        assert (out / file).read_bytes() == (whole / file).read_bytes(), file
    since = asked(judge_server)
    assert sum(since.values()) == len(everything) - 20 + 3  # what was missing, and three that went wrong
    assert len(answered.keys() | since.keys()) == len(everything) + 1  # the malformed reply was sent back
    total = costs(out)
    assert total["judge/requests"] >= sum(answered.values()) + sum(since.values())
    assert total["judge/malformed"] == 1 and total["judge/retries"] >= 2 and total["judge/errors"] > 0
    lines = [json.loads(line) for line in (out / "costs.jsonl").read_text().splitlines()]
    assert "cut off" in [line["when"] for line in lines]
    assert_nothing_holds_the_key(tmp_path)


def _train(recipe: Path, out: Path, cache: Path) -> None:
    zoo.run(recipe, out=out, resume=True, overrides=[cached_in(cache)])


def _attempt(*arguments: Any) -> Any:
    process = multiprocessing.get_context("fork").Process(target=_train, args=arguments)
    process.start()
    return process


def test_a_killed_run_asks_only_what_is_missing(judged: Path, tmp_path: Path, judge_server: JudgeServer) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    _train(judged, whole, tmp_path / "a.sqlite")
    everything = asked(judge_server)
    for at in (len(everything) // 3, 2 * len(everything) // 3):
        judge_server.heard.clear()
        judge_server.delay = 0.02
        process = _attempt(judged, out, tmp_path / "b.sqlite")
        until = time.monotonic() + 60
        reached = at if at == len(everything) // 3 else at - len(everything) // 3
        while len(judge_server.heard) < reached and process.is_alive() and time.monotonic() < until:
            time.sleep(0.005)
        assert process.is_alive(), "it came to its end before it could be killed"
        process.kill()
        process.join()
    judge_server.delay = 0.0
    before = len(judge_server.heard)
    judge_server.heard.clear()
    process = _attempt(judged, out, tmp_path / "b.sqlite")
    process.join(120)
    assert process.exitcode == 0
    for file in SAME:
        assert (out / file).read_bytes() == (whole / file).read_bytes(), file
    missing = len(everything) - 2 * len(everything) // 3
    assert len(judge_server.heard) <= missing + 2 * 2 + 1, before  # two at a time were under way in each kill


def test_a_budget_stops_a_run_and_a_resumed_one_goes_on(
    judged: Path, tmp_path: Path, judge_server: JudgeServer, alignzoo: Command
) -> None:
    arguments = ("run", judged, "--out", tmp_path / "run", "reward.judge.budget.requests=20", "--quiet")
    starts = [alignzoo(*arguments, *(["--resume"] if number else [])) for number in range(3)]
    assert [said.code for said in starts] == [1, 1, 0], starts[-1].err
    assert "budget is used up: 20 of judge.budget.requests = 20" in starts[0].err
    assert "go on with --resume" in starts[0].err
    assert len(judge_server.heard) == len(asked(judge_server)) == costs(tmp_path / "run")["judge/requests"]


def test_a_judge_that_cannot_answer_drops_what_was_declared(
    judged: Path, tmp_path: Path, judge_server: JudgeServer, alignzoo: Command
) -> None:
    judge_server.program = lambda heard: "no" if "Count to 3" in heard.text else judging(heard)
    arguments = ("run", judged, "--out", tmp_path / "run", "reward.on_error=drop-group", "--quiet")
    said = alignzoo(*arguments, "reward.judge.corrections=0", "data.heldout=0.0", "evaluate.prompts=0")
    assert said.code == 0, said.err
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(line.get("reward/abstained", 0.0) for line in metrics) == 3.0  # one group of three
    assert costs(tmp_path / "run")["judge/errors"] > 0


def test_a_judge_that_does_not_answer_is_found_before_anything_is_trained(
    judged: Path, tmp_path: Path, judge_server: JudgeServer, alignzoo: Command
) -> None:
    judge_server.faults += [401]
    said = alignzoo("run", judged, "--out", tmp_path / "run", cached_in(tmp_path / "a.sqlite"))
    assert said.code == 1 and len(judge_server.heard) == 1
    assert "rl.reward.judge: the judge cannot be asked: the key is not accepted" in said.err
    assert not (tmp_path / "run" / "evaluations.jsonl").exists()
    judge_server.heard.clear()
    quick = ("evaluate.prompts=0", cached_in(tmp_path / "b.sqlite"))
    assert alignzoo("run", judged, "--out", tmp_path / "silent", "--no-ask", "--quiet", *quick).code == 0
    assert not any("capital of France" in heard.text for heard in judge_server.heard)
