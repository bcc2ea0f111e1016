"""`alignzoo evaluate`: items one by one, differences paired by item, and what cannot be evaluated is told."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alignzoo import Group, Prompt, Score
from alignzoo.compare.outside import lines
from alignzoo.errors import DataError
from alignzoo.evaluation.outside import Item, Measured, by_harness, by_judge, by_reward, check_pairs
from alignzoo.registry import Registry

PAIRS = [
    Prompt("p0", ("a long answer", "short"), (1.0, 0.0), {"subset": "chat"}),
    Prompt("p1", ("tiny", "a longer one"), (1.0, 0.0), {"subset": "chat"}),
    Prompt("p2", ("same", "size"), (1.0, 0.0), {"subset": "safety"}),
    Prompt("p3", ("no", "a good answer"), (0.0, 1.0), {"subset": "safety"}),
]


@dataclass(frozen=True)
class Longer:
    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        return [tuple(Score(float(len(each.text))) for each in group.completions) for group in groups]


def test_a_reward_model_is_right_where_it_scores_the_chosen_answer_higher() -> None:
    found = by_reward("pairs", PAIRS, Longer(), None).metrics()
    assert found["accuracy"] == {"0": 1.0, "1": 0.0, "2": 0.5, "3": 1.0}
    assert found["accuracy/chat"] == {"0": 1.0, "1": 0.0} and found["accuracy/safety"] == {"2": 0.5, "3": 1.0}
    with pytest.raises(DataError, match="rows with prompt, chosen, rejected"):
        check_pairs([Prompt("p", ("one",), (1.0,))], "file")


def test_a_judge_that_likes_the_first_place_gains_nothing() -> None:
    zoo = Registry()
    assert by_judge("pairs", PAIRS, zoo.get("judge", "first")()).metrics()["accuracy"] == dict.fromkeys("0123", 0.5)
    longer = by_judge("pairs", PAIRS, zoo.get("judge", "longer")()).metrics()["accuracy"]
    assert (longer["0"], longer["1"], longer["3"]) == (1.0, 0.0, 1.0)


def test_pairs_that_part_before_their_last_turn_are_judged_by_all_of_it_and_not_scored() -> None:
    def turns(*texts: str) -> tuple[dict[str, str], ...]:
        return tuple(
            {"role": role, "content": text} for role, text in zip(("assistant", "user") * 2, texts, strict=False)
        )

    pair = Prompt("hi", (turns("a long answer", "and?", "bye"), turns("no", "and?", "bye")), (1.0, 0.0))
    assert by_judge("pairs", [pair], Registry().get("judge", "longer")()).metrics()["accuracy"] == {"0": 1.0}
    with pytest.raises(DataError, match="'hi' parts before its last turn"):
        by_reward("pairs", [pair], Longer(), None)


def measured(*values: float, name: str = "mine", metric: str = "m") -> Measured:
    return Measured(name, tuple(Item(str(i), metric, value) for i, value in enumerate(values)))


def test_differences_are_paired_and_the_intervals_hold_together() -> None:
    mine, base = measured(0.9, 2.1, 3.0, 4.2, 5.1), measured(0.5, 1.6, 2.5, 3.8, 4.6)
    (line,) = lines([mine], [base])
    # differences .4 .5 .5 .4 .5: mean .46, sd .0548, se .0245, t(4) at 5 % is 2.776
    assert line.difference == pytest.approx(0.46) and line.shown
    assert line.difference_low == pytest.approx(0.46 - 2.776 * 0.02449, abs=1e-3)
    assert line.mean == pytest.approx(3.06) and line.base == pytest.approx(2.6) and line.low < 3.06 < line.high
    two = lines([mine, measured(1, 0, 1, 1, 0, name="other")], [base, measured(0, 0, 1, 1, 0, name="other")])
    assert two[0].difference_low is not None and line.difference_low is not None
    assert two[0].difference_low < line.difference_low  # one of two
    assert two[1].shown is False and two[1].difference == pytest.approx(0.2)
    assert lines([mine], [mine])[0].difference_low is None and lines([mine])[0].base is None
    with pytest.raises(DataError, match="other items, as 4"):
        lines([mine], [measured(1, 2, 3, 4)])
    with pytest.raises(DataError, match="m was measured of the one and not of the other"):
        lines([mine], [measured(1, 2, 3, 4, 5, metric="accuracy")])


def test_ties_leave_a_share_a_share() -> None:
    """A tie counts ½, or ⅓ of three: no accuracy is above 1, and no difference of two beyond ±1."""
    (line,) = lines([measured(1, 1, 0.5, 1, 1 / 3)], [measured(0, 0.5, 0.5, 0, 0)])
    assert 0 <= line.low < line.mean < line.high <= 1
    assert line.difference_low is not None and line.difference_high is not None
    assert -1 <= line.difference_low < line.difference_high <= 1
    # Wilson's interval with t(19)² = 4.381 of twenty ties: √(4.381·(.25/20 + 4.381/1600)) / (1 + 4.381/20) = .2120
    (line,) = lines([measured(*[0.5] * 20)])
    assert (line.low, line.high) == pytest.approx((0.2880, 0.7120), abs=1e-4)
    (line,) = lines([measured(2, 0.5, 0, 1)])
    assert line.low < 0  # what may be above 1 is no share


def harness(samples: dict[str, Any], better: dict[str, Any]) -> types.ModuleType:
    """A module with the interface of lm_eval: what `simple_evaluate` answers, and how it is called."""
    module = types.ModuleType("lm_eval")
    module.asked = []  # type: ignore[attr-defined]

    def simple_evaluate(model: str, model_args: Any = None, tasks: Any = None, **rest: Any) -> dict[str, Any]:
        module.asked.append((model, model_args, tasks, rest))  # type: ignore[attr-defined]
        if tasks != ["gsm8k"]:
            raise KeyError(tasks[0])
        return {"samples": samples, "higher_is_better": better, "versions": {"gsm8k": 3}}

    module.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    module.__version__ = "0.4.13"
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    return module


def test_a_task_of_the_harness_is_read_item_by_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "lm_eval")
    sample = {"filter": "none", "metrics": ["acc", "bits", "ppl"], "acc": True, "bits": 2.5, "ppl": (1.0, 2)}
    strict = {"filter": "strict-match", "metrics": ["exact_match"], "exact_match": 0.0}
    rows = [{**sample, "doc_id": 0}, {**sample, "doc_id": 1, "acc": 0}, {**strict, "doc_id": 0}]
    module = harness({"gsm8k": rows}, {"gsm8k": {"acc": True, "bits": False}})
    monkeypatch.setitem(sys.modules, "lm_eval", module)
    tasks = types.ModuleType("lm_eval.tasks")
    tasks.TaskManager = lambda: types.SimpleNamespace(all_tasks=["gsm8k", "empty"])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", tasks)
    found = by_harness("lm-eval:gsm8k", "models/x", limit=2)
    assert found.metrics() == {
        "acc": {"gsm8k:0": 1.0, "gsm8k:1": 0.0},
        "bits": {"gsm8k:0": 2.5, "gsm8k:1": 2.5},
        "exact_match,strict-match": {"gsm8k:0": 0.0},
    }
    assert found.lower_is_better == {"bits"} and found.left_out == ("ppl",)
    assert found.about["lm_eval"] == "0.4.13" and found.about["versions"] == {"gsm8k": 3}
    model, arguments, tasks, rest = module.asked[0]  # type: ignore[attr-defined]
    assert (model, arguments, tasks) == ("hf", {"pretrained": "models/x"}, ["gsm8k"])
    assert rest["limit"] == 2 and rest["log_samples"]
    with pytest.raises(DataError, match=r"no task 'gsm9k'\. Did you mean gsm8k\?"):
        by_harness("lm-eval:gsm9k", "models/x")
    with pytest.raises(DataError, match="finds no data for 'empty'"):
        by_harness("lm-eval:empty", "models/x")


def test_without_the_harness_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from alignzoo.evaluation import outside

    monkeypatch.setattr(outside.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install lm_eval"):
        by_harness("lm-eval:gsm8k", "models/x")


def test_the_command(alignzoo: Any, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"p{i}", "chosen": "longer " * (i + 2), "rejected": "x", "subset": "s"} for i in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = tmp_path / "out"
    said = alignzoo("evaluate", "judge:longer", "--with", file, "--against", "judge:first", "--json", "--out", out)
    assert said.code == 0, said.err
    first, second = json.loads(said.out)
    assert (first["metric"], first["mean"], first["base"], first["difference"]) == ("accuracy", 1.0, 0.5, 0.5)
    assert second["metric"] == "accuracy/s"
    assert len((out / "items.jsonl").read_text().splitlines()) == 12
    dice = [alignzoo("evaluate", f"judge:random[seed={seed}]", "--with", file, "--json").out for seed in range(8)]
    assert len(set(dice)) > 1  # a judge with its settings
    for arguments, says in (
        (("judge:random[sede=1]", "--with", file), "Did you mean 'seed'"),
        (("judge:randon", "--with", file), "Did you mean 'random'"),
        (("judge:longer", "--with", "sort"), "a judge is evaluated on a file of pairs"),
        (("x", "--with", "srot"), "neither a task nor a file. Did you mean 'sort'"),
        (("judge:longer", "--with", file, "--out", out), "is there already"),
        (("judge:longer", "--with", file, "--with", file), "is given twice"),
        (("judge:longer", "--with", file, "--max-new-tokens", "5"), "no --with is a task"),
    ):
        said = alignzoo("evaluate", *arguments)
        assert said.code == 1 and says in said.err


def test_of_pairs_a_language_model_is_asked_what_it_has_raised(alignzoo: Any, tiny_model: Path, tmp_path: Path) -> None:
    """Beside itself it has raised nothing: half of the pairs, and the same loss; a chat template makes texts turns."""
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"say {i}", "chosen": f"it is {i}", "rejected": "no"} for i in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.warns(UserWarning, match="each text prompt is a user's turn"):
        said = alignzoo("evaluate", tiny_model, "--with", file, "--against", tiny_model, "--json")
    assert said.code == 0, said.err
    preference, nll = json.loads(said.out)
    assert (preference["mean"], preference["base"], preference["items"]) == (0.5, 0.5, 4)
    assert nll["mean"] == nll["base"] and nll["lower_is_better"]
    said = alignzoo("evaluate", tiny_model, "--with", file)
    assert said.code == 1 and "give the one that it began with, --against BASE" in said.err
