"""`alignzoo.run` from Python, with objects where the command line has names; and the runner's promises."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import alignzoo
from alignzoo import Batch, Decoding, Forward, Group, Prompt, RecipeError, RunError, Score, Terms
from alignzoo.data import split
from alignzoo.decoding import AS_SET
from alignzoo.runs.api import Interrupted, Result
from alignzoo.training.reference_cache import Remembered
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF
from alignzoo_imitation.sft import SFT

ROWS = [{"prompt": f"Count to {number}: ", "answer": str(number)} for number in range(12)]
PAIRS = [{"prompt": f"Count to {n}: ", "chosen": f"{n} it is", "rejected": "no"} for n in range(10)]
QUICK: dict[str, Any] = {
    "sampler": {"n": 2},
    "schedule": {"steps": 3, "prompts": 2, "lr": 1e-3, "save_every": 1},
    "evaluate": {"prompts": 2, "best_of": 0},
}


def varied(completions: list[str], **columns: Any) -> list[float]:
    """Hardly ever the same for two texts, so that there is something to learn from."""
    return [float(sum(map(ord, text)) % 7) for text in completions]


@pytest.fixture
def policy(plain_model: Path) -> dict[str, Any]:
    return {"model": str(plain_model), "max_new_tokens": 4, "device": "cpu"}


def lines(folder: Path, file: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{file}.jsonl").read_text().splitlines()]


def quick(out: Path, policy: Any, **changes: Any) -> Result:
    """A GRPO run of a second; `changes` go into its tables."""
    settings = {key: value | changes.pop(key, {}) for key, value in QUICK.items()}
    return alignzoo.run(
        changes.pop("recipe", "grpo"),
        policy=policy,
        data=changes.pop("data", ROWS),
        reward=changes.pop("reward", varied),
        out=out,
        **settings,
        **changes,
    )


def offline(out: Path, policy: Any, **changes: Any) -> Result:
    settings = {key: value | changes.pop(key, {}) for key, value in QUICK.items() if key != "sampler"}
    return alignzoo.run("dpo", policy=policy, data=changes.pop("data", PAIRS), out=out, **settings, **changes)


# --- objects ----------------------------------------------------------------------------------------------------------


def test_a_live_model_rows_and_a_function(plain_model: Path, tmp_path: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(plain_model), AutoTokenizer.from_pretrained(plain_model)
    start = model.lm_head.weight.clone()
    live = {"model": model, "tokenizer": tokenizer, "max_new_tokens": 4, "device": "cpu"}
    result = quick(tmp_path / "run", live)
    assert not torch.equal(model.lm_head.weight, start)
    assert isinstance(result.policy, HFPolicy) and result.policy.lm is model
    saved = AutoModelForCausalLM.from_pretrained(result.model)
    torch.testing.assert_close(saved.lm_head.weight, model.lm_head.weight)


def test_a_live_model_alone_brings_the_tokenizer_of_its_directory(plain_model: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(plain_model)
    result = quick(tmp_path / "run", model, overrides=["policy.max_new_tokens=4"])
    assert isinstance(result.policy, HFPolicy) and result.policy.lm is model


def test_the_result_and_the_folder(policy: Any, tmp_path: Path) -> None:
    result = quick(tmp_path / "run", policy, evaluate={"best_of": 2})
    (stage,) = result.stages
    assert (stage.name, stage.optimizer, stage.steps, stage.stopped) == ("grpo", "grpo", 3, "")
    assert result.out == tmp_path / "run" and result.model == result.out / "models" / "grpo"
    assert result.before is stage.before and result.after is stage.after
    figures = {"reward", "reward_se", "kl", "kl/k3", "length", "entropy", "finished"}
    for evaluation in (result.before, result.after):
        assert figures | {"reward_greedy", "length_greedy", "entropy_greedy"} <= evaluation.keys()
        assert all(math.isfinite(value) for value in evaluation.values())
        assert "gold" not in evaluation  # the user's own data have no hidden truth
    assert result.before["kl"] == 0 and "reward" in stage.best_of
    files = {path.name for path in result.out.iterdir()}
    journals = {f"{name}.jsonl" for name in ("metrics", "samples", "evaluations", "seconds")}
    assert journals | {"manifest.json", "result.json", "models"} <= files and "checkpoints" not in files
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "README.md"} <= {
        path.name for path in result.model.iterdir()
    }
    (written,) = json.loads((result.out / "result.json").read_text())["stages"]
    assert written["after"] == result.after and written["model"] == "models/grpo"
    samples = lines(result.out, "samples")
    assert {line["when"] for line in samples} == {"before", "training", "after"}
    assert all(line["reward"] == varied([line["completion"]])[0] for line in samples)


def test_every_online_run_has_the_shared_vocabulary(policy: Any, tmp_path: Path) -> None:
    shared = {"reward/mean", "reward/std", "kl", "kl/k3", "kl/token", "kl/k3/token", "entropy", "length", "finished"}
    shared |= {"tokens/generated", "tokens/trained", "loss", "grad_norm", "lr"}
    timed = {"seconds/sample", "seconds/score", "seconds/fill", "seconds/update", "memory"}
    for recipe in ("grpo", "ppo"):
        result = quick(tmp_path / recipe, policy, recipe=recipe)
        for line in lines(result.out):
            assert shared <= line.keys(), recipe
            assert all(math.isfinite(line[name]) for name in shared)
        assert all(timed <= line.keys() for line in lines(result.out, "seconds"))
        first = lines(result.out)[0]
        assert first["kl"] == first["kl/k3"] == 0 and first["step"] == 1


def test_rewards_add_up_by_weight(policy: Any, tmp_path: Path) -> None:
    rewards = [{"name": "python", "function": varied, "weight": 2.0}, {"name": "length", "weight": -0.5}]
    result = quick(tmp_path / "run", policy, reward=rewards)
    for line in lines(result.out):
        expected = 2 * line["reward/python"] - 0.5 * line["reward/length"]
        assert line["reward/mean"] == pytest.approx(expected, abs=1e-5)
    for line in lines(result.out, "samples"):
        assert line["reward"] == pytest.approx(2 * line["parts"]["python"] - 0.5 * line["parts"]["length"])


def test_a_list_of_functions_keeps_them_apart(policy: Any, tmp_path: Path) -> None:
    result = quick(tmp_path / "run", policy, reward=[varied, lambda completions: [1.0] * len(completions)])
    assert {"reward/python", "reward/python#2"} <= lines(result.out)[0].keys()
    assert lines(result.out)[0]["reward/python#2"] == 1


class Longest:
    """A reward source: the longest of a group wins."""

    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        best = [max(len(c.text) for c in group.completions) for group in groups]
        return [
            tuple(Score(float(len(c.text) == most)) for c in group.completions)
            for group, most in zip(groups, best, strict=True)
        ]


def test_a_reward_source_of_ones_own(policy: Any, tmp_path: Path) -> None:
    result = quick(tmp_path / "run", policy, reward=Longest())
    assert all(0.5 <= line["reward/mean"] <= 1 for line in lines(result.out))


def test_columns_of_rows_reach_a_reward(policy: Any, tmp_path: Path) -> None:
    seen: set[str] = set()

    def remember(completions: list[str], answer: list[str]) -> list[float]:
        seen.update(answer)
        return [float(i) for i in range(len(answer))]

    quick(tmp_path / "run", policy, reward=remember)
    assert len(seen) > 3 and seen <= {row["answer"] for row in ROWS}


class Loaded:
    """A live policy in a class of one's own: it passes everything on, and counts."""

    def __init__(self, inner: HFPolicy) -> None:
        self.inner, self.device, self.written = inner, inner.device, 0
        self.info, self.encode, self.go_on = inner.info, inner.encode, inner.go_on
        self.forward, self.answering, self.follow = inner.forward, inner.answering, inner.follow
        self.parameters, self.optimize, self.backward = inner.parameters, inner.optimize, inner.backward
        self.drop_gradients, self.step = inner.drop_gradients, inner.step
        self.state, self.restore, self.save = inner.state, inner.restore, inner.save
        self.optimizer_state, self.restore_optimizer = inner.optimizer_state, inner.restore_optimizer

    def generate(
        self, prompts: Sequence[Prompt], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[Group]:
        self.written += 1
        return self.inner.generate(prompts, n, seeds=seeds, decoding=decoding)


def test_a_policy_of_ones_own(policy: Any, tmp_path: Path) -> None:
    inner = HF(**policy).load(frozenset({"logprobs", "old_logprobs", "ref_logprobs"}))
    assert isinstance(inner, HFPolicy)
    own = Loaded(inner)
    result = quick(tmp_path / "own", own)
    assert result.policy is own and own.written == 3 + 4
    named = quick(tmp_path / "named", policy)
    assert lines(result.out) == lines(named.out)


def test_overrides_go_together_with_objects(policy: Any, tmp_path: Path) -> None:
    result = quick(tmp_path / "run", policy, overrides=["schedule.steps=1", "optimizer.kl=0.25"])
    assert len(lines(result.out)) == 1
    (stage,) = json.loads((result.out / "manifest.json").read_text())["recipe"]["stage"]
    assert stage["optimizer"]["kl"] == 0.25 and stage["policy"]["model"] == policy["model"]
    assert {line["prompt"] for line in lines(result.out, "samples")} <= {row["prompt"] for row in ROWS}


def test_what_is_no_reward_or_policy_is_refused(policy: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="reward"):
        quick(tmp_path / "run", policy, reward=3)
    with pytest.raises(RecipeError, match="policy"):
        quick(tmp_path / "run", object())
    assert not (tmp_path / "run").exists()


# --- repeating, stopping, going on ------------------------------------------------------------------------------------


def test_a_manifest_repeats_its_run(policy: Any, recipe: Path, tmp_path: Path) -> None:
    first = alignzoo.run(recipe, out=tmp_path / "first", seed=5, schedule={"steps": 3})
    again = alignzoo.run(first.out / "manifest.json", out=tmp_path / "again")
    assert lines(again.out) == lines(first.out) and len(lines(first.out)) == 3
    assert again.after == first.after
    other = alignzoo.run(recipe, out=tmp_path / "other", seed=6, schedule={"steps": 3})
    assert lines(other.out) != lines(first.out)


def test_a_folder_is_never_written_over(policy: Any, tmp_path: Path) -> None:
    first = quick(tmp_path / "run", policy)
    before = (first.out / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match="is not empty: choose another --out, or go on with that run by --resume"):
        quick(tmp_path / "run", policy)
    assert (first.out / "metrics.jsonl").read_bytes() == before


CHILD = """
import sys, time
import alignzoo
from alignzoo.runs.api import Interrupted

def told(label, done, total, figures):
    if done == 3 and label == "rl":
        print("three", flush=True)
        time.sleep(1)

try:
    alignzoo.run(sys.argv[1], out=sys.argv[2], schedule={"steps": 8, "save_every": 0}, progress=told)
except Interrupted as stop:
    print("stopped:", stop, flush=True)
    sys.exit(9)
"""


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(recipe: Path, tmp_path: Path) -> None:
    settings = {"steps": 8, "save_every": 0}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", CHILD, str(recipe), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None and child.stderr is not None
        assert child.stdout.readline() == "three\n", child.stderr.read()
        child.send_signal(signal.SIGINT)
        said, errors = child.communicate(timeout=60)
    assert child.returncode == 9, errors
    assert "stopped: rl: stopped after step 3 of 8" in said
    assert "Stopping after this step." in errors and "Traceback" not in errors
    assert [path.name for path in (tmp_path / "run" / "checkpoints" / "rl").iterdir()] == ["step-000003"]
    assert not (tmp_path / "run" / "result.json").exists()

    resumed = alignzoo.run(recipe, out=tmp_path / "run", resume=True, schedule=settings)
    whole = alignzoo.run(recipe, out=tmp_path / "whole", schedule=settings)
    for file in ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl", "result.json", "models/rl/model.safetensors"):
        assert (resumed.out / file).read_bytes() == (whole.out / file).read_bytes(), file


def test_interrupted_in_this_process(policy: Any, tmp_path: Path) -> None:
    former = signal.getsignal(signal.SIGINT)

    def press(completions: list[str]) -> list[float]:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        return [0.0] * len(completions)

    with pytest.raises((Interrupted, KeyboardInterrupt)):
        quick(tmp_path / "run", policy, reward=press, evaluate={"prompts": 0})
    assert signal.getsignal(signal.SIGINT) is former


def test_a_run_stops_at_its_kl(policy: Any, tmp_path: Path) -> None:
    result = quick(tmp_path / "run", policy, schedule={"steps": 30, "lr": 0.05, "kl_stop": 0.2})
    steps = lines(result.out)
    assert 1 < len(steps) < 30 and result.stages[0].steps == len(steps)
    assert steps[-1]["kl"] >= 0.2 and all(step["kl"] < 0.2 for step in steps[:-1])
    assert re.match(r"the KL reached .* nats per sequence \(kl_stop 0.2\)", result.stages[0].stopped)


def test_a_run_on_given_answers_stops_at_the_kl_of_an_evaluation(tmp_path: Path) -> None:
    settings = ["schedule.steps=40", "schedule.lr=3e-3", "schedule.eval_every=2", "evaluate.prompts=16"]
    out, limited = tmp_path / "run", [*settings, "schedule.kl_stop=0.3"]
    run = partial(alignzoo.run, "dpo", task="shop", out=out)
    stage = run(overrides=limited).stages[0]
    during = [line["during"]["kl"] for line in lines(out, "evaluations") if "during" in line]
    assert 2 <= stage.steps == 2 * len(during) < 40
    assert during[-1] >= 0.3 and all(kl < 0.3 for kl in during[:-1])
    assert stage.stopped == f"the KL reached {during[-1]:.2f} nats per sequence (kl_stop 0.3)"
    (out / "result.json").unlink()
    again = run(overrides=limited, resume=True).stages[0]  # by its checkpoint and its journal
    assert (again.steps, again.stopped) == (stage.steps, stage.stopped)


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("dpo", ["kl_stop=1"], "kl_stop has no effect: the steps learn from given answers, and no evaluation on the"),
        ("dpo", ["reward_stop=1"], "reward_stop has no effect: no step generates"),
        ("grpo", ["kl_stop=1", "kl_every=0"], "kl_stop has no effect: schedule.kl_every is 0"),
        ("reward-model", ["kl_stop=1"], "kl_stop has no effect: what is trained generates nothing"),
        ("dpo", ["kl_stop=1", "evaluations=2"], ""),
        ("grpo", ["kl_stop=1", "reward_stop=9"], ""),
    ],
)
def test_limits_that_nothing_measures_are_told(name: str, settings: list[str], told: str, tmp_path: Path) -> None:
    given = ["schedule.steps=3", "schedule.prompts=2", "evaluate.prompts=2", *(f"schedule.{each}" for each in settings)]
    alignzoo.run(name, task="shop", out=tmp_path / "run", overrides=given)
    warnings = lines(tmp_path / "run", "warnings") if (tmp_path / "run" / "warnings.jsonl").exists() else []
    found = [line["message"] for line in warnings if line["kind"] == "stopping"]
    assert [message.startswith(f"schedule.{told}") for message in found] == [True] * bool(told)


def test_a_run_stops_at_its_reward(policy: Any, tmp_path: Path) -> None:
    counted = iter(range(1000))

    def rising(completions: list[str]) -> list[float]:
        step = float(next(counted))  # with something in each group to learn from
        return [step + (-0.5, 0.5)[i % 2] for i in range(len(completions))]

    result = quick(
        tmp_path / "run", policy, reward=rising, schedule={"steps": 9, "reward_stop": 3.0}, evaluate={"prompts": 0}
    )
    assert [step["reward/mean"] for step in lines(result.out)] == [0, 1, 2, 3]
    assert result.stages[0].stopped == "the reward reached 3.000 (reward_stop 3)"


def test_evaluations_on_the_way(policy: Any, tmp_path: Path) -> None:
    result = quick(tmp_path / "run", policy, schedule={"steps": 5, "eval_every": 2})
    found = [(line["step"], next(key for key in line if key in ("before", "during", "after"))) for line in _all(result)]
    assert found == [(0, "before"), (2, "during"), (4, "during"), (5, "after")]


def _all(result: Result) -> list[dict[str, Any]]:
    return lines(result.out, "evaluations")


def test_so_many_checkpoints_are_kept(policy: Any, tmp_path: Path) -> None:
    result = quick(
        tmp_path / "run", policy, schedule={"steps": 5, "save_every": 1, "keep": 2, "keep_checkpoints": True}
    )
    kept = sorted(path.name for path in (result.out / "checkpoints" / "grpo").iterdir())
    assert kept == ["step-000004", "step-000005"]
    often = {"save_every": 0, "save_minutes": 1e-9}
    result = quick(tmp_path / "minutes", policy, schedule={"steps": 1, "keep_checkpoints": True} | often)
    assert [path.name for path in (result.out / "checkpoints" / "grpo").iterdir()] == ["step-000001"]
    result = quick(tmp_path / "gone", policy, schedule={"steps": 1, "save_every": 1})
    assert not (result.out / "checkpoints").exists()  # nobody goes on from a stage that has finished
    stopped = quick(tmp_path / "stopped", policy, schedule={"steps": 2, "save_every": 0, "reward_stop": -1e9})
    assert [path.name for path in (stopped.out / "checkpoints" / "grpo").iterdir()] == ["step-000001"]


def test_epochs_are_passes_over_the_training_prompts(policy: Any, tmp_path: Path) -> None:
    prompts = [Prompt(row["prompt"], (row["chosen"], row["rejected"]), (1.0, 0.0)) for row in PAIRS]
    train = len(split(prompts, 0.1)[0])
    result = offline(tmp_path / "run", policy, data=prompts, schedule={"steps": 0, "epochs": 2.0, "prompts": 4})
    assert len(lines(result.out)) == math.ceil(2 * train / 4)
    assert sum(line["completions"] for line in lines(result.out)) == 2 * 4 * math.ceil(2 * train / 4)


# --- NaN --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unstable(SFT):
    """Its loss is not a number from the second step on."""

    broken: bool = False

    def next(self, report: Any) -> Unstable:
        return Unstable(broken=True)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = super().loss(batch, out)
        return Terms(terms.loss * math.nan) if self.broken else terms


def test_a_run_that_turns_nan_stops_and_says_what_to_do(policy: Any, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"sft: the loss or its gradient is not finite in step 2 .*a smaller schedule.lr"
    ):
        alignzoo.run(
            "sft",
            policy=policy,
            data=PAIRS,
            optimizer=Unstable(),
            out=tmp_path / "run",
            schedule={"steps": 4, "prompts": 2, "lr": 1e-3, "save_every": 1},
            evaluate={"prompts": 0},
        )
    (step,) = lines(tmp_path / "run")
    assert math.isfinite(step["loss"])
    assert [path.name for path in (tmp_path / "run" / "checkpoints" / "sft").iterdir()] == ["step-000001"]
    assert not (tmp_path / "run" / "result.json").exists()


# --- the reference of data that come by again -------------------------------------------------------------------------


def test_precomputed_references_are_those_of_each_step(policy: Any, tmp_path: Path, monkeypatch: Any) -> None:
    calls = {"precomputed": 0, "each step": 0}
    original = HFPolicy.answering

    def run(name: str) -> list[dict[str, Any]]:
        @contextmanager
        def counted(self: HFPolicy, role: str) -> Any:
            calls[name] += 1
            with original(self, role):
                yield

        monkeypatch.setattr(HFPolicy, "answering", counted)
        schedule = {"steps": 0, "epochs": 3.0, "prompts": 4, "lr": 1e-2}
        return lines(offline(tmp_path / name, policy, schedule=schedule, evaluate={"prompts": 0}).out)

    precomputed = run("precomputed")
    monkeypatch.setattr("alignzoo.training.loop.remember", lambda *given, **told: Remembered())
    each = run("each step")
    assert len(precomputed) == len(each) > 5
    assert 0 < calls["precomputed"] < calls["each step"] == len(each)
    for ours, theirs in zip(precomputed, each, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert each[-1]["loss"] < math.log(2) - 0.05  # so the policy has left its reference
