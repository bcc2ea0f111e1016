"""What parts open is opened once a stage and closed once; what changes with the steps is in a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pytest

import alignzoo
from alignzoo import Context, Group, Judge, PluginError, Policy, Prompt, Question, Score, StepReport, Verdict
from alignzoo.lifecycle import Opening, closed, live_of, opened, parts_in, successor
from alignzoo.testing import check_judge, check_reward, check_sampler
from alignzoo.testing.laws import ConformanceError
from alignzoo.training.checkpoint import restored, state_of

EVENTS: list[str] = []
"""What was opened and closed, in order."""


@dataclass
class Thing:
    """What a part opens."""

    name: str
    context: Context
    uses: int = 0

    def __post_init__(self) -> None:
        EVENTS.append(f"open {self.name}")

    def close(self) -> None:
        EVENTS.append(f"close {self.name}")


@dataclass(frozen=True)
class Teaching:
    """A sampler that holds a teacher, and counts its steps."""

    seen: int = 0
    online: ClassVar[bool] = True

    def open(self, context: Context) -> Thing:
        return Thing("teacher", context)

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        live_of(self).uses += 1
        return policy.generate(prompts, 2, seeds=seeds)

    def next(self, report: StepReport) -> Teaching:
        return replace(self, seen=self.seen + 1)


@dataclass(frozen=True)
class Strict:
    """A judge of single answers that becomes stricter with every step."""

    bar: float = 0.9
    fails_at: float = -1.0

    def open(self, context: Context) -> Thing:
        return Thing("judge", context)

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        live_of(self).uses += len(questions)
        if FAILING and self.bar <= FAILING[0]:
            raise KeyboardInterrupt
        return [Verdict("value", self.bar * (sum(q.answers[0].encode()) % 7) / 7) for q in questions]

    def next(self, report: StepReport) -> Strict:
        return replace(self, bar=self.bar / 2)

    def costs(self) -> dict[str, float]:
        return {"judge/uses": float(live_of(self).uses)}


FAILING: list[float] = []
"""The bar at which the judge is cut off."""


@dataclass(frozen=True)
class Asking:
    """A reward without anything of its own, that asks a judge."""

    judge: Judge

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        asked = [Question("", (c.text,)) for group in groups for c in group.completions]
        verdicts = iter(self.judge.judge(asked, policy))
        return [tuple(Score(next(verdicts).value) for _ in group.completions) for group in groups]

    def costs(self) -> dict[str, float]:
        return dict(self.judge.costs())  # type: ignore[attr-defined]


def report(step: int = 1) -> StepReport:
    return StepReport(step, 9, {}, ())


@pytest.fixture(autouse=True)
def nothing_has_happened() -> None:
    EVENTS.clear()
    FAILING.clear()


def train(out: Path, **settings: Any) -> Any:
    schedule = {"steps": 3, "prompts": 2, "save_every": 1, "eval_every": 2, "keep_checkpoints": True}
    parts: dict[str, Any] = {"sampler": Teaching(), "reward": Asking(Strict())}
    parts |= {"evaluate": {"prompts": 2, "best_of": 0, "greedy": False}}
    return alignzoo.run("grpo", task="sort", out=out, schedule=schedule, **parts | settings)


# --- in a run ---------------------------------------------------------------------------------------------------------


def test_a_run_opens_its_parts_once_and_closes_them_once_and_goes_on_where_it_was(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    # the judge that a reward asks is opened for training and evaluation together, whatever its successors are
    assert EVENTS == ["open judge", "open teacher", "close teacher", "close judge"]
    state = json.loads((tmp_path / "whole/checkpoints/grpo/step-000003/state.json").read_text())
    assert state["sampler"] == {"seen": 3}
    assert state["rewards"] == [{"judge.0": {"bar": 0.9 / 8, "fails_at": -1.0}}]
    spent = [json.loads(line) for line in (tmp_path / "whole/costs.jsonl").read_text().splitlines()]
    assert [line["judge/uses"] for line in spent if line["when"] == "step"] == [4.0, 4.0, 4.0]  # 2 prompts, 2 answers

    EVENTS.clear()
    FAILING.append(0.9 / 4)  # in the third step, after an evaluation by the judge as it then was
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut")
    assert EVENTS == ["open judge", "open teacher", "close teacher", "close judge"]
    FAILING.clear()
    train(tmp_path / "cut", resume=True)
    for file in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_a_part_that_makes_something_again_in_each_step_is_told_of(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Curriculum:
        seen: int = 0
        online: ClassVar[bool] = True

        @cached_property
        def teacher(self) -> object:
            return object()

        def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
            assert self.teacher
            return policy.generate(prompts, 2, seeds=seeds)

        def next(self, report: StepReport) -> Curriculum:
            return replace(self, seen=self.seen + 1)

    told: list[str] = []

    def warn(stage: str, step: int, alert: alignzoo.Alert) -> None:
        if alert.kind == "made-anew":
            told.append(alert.message)

    train(tmp_path / "run", sampler=Curriculum(), evaluate={"prompts": 0}, warn=warn)
    assert len(told) == 1 and told[0].startswith("Curriculum keeps teacher beside its fields")
    with pytest.raises(ConformanceError, match="teacher"):
        check_sampler(Curriculum(), only=["successor"])


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_a_successor_takes_over_what_is_open() -> None:
    with opened(Asking(Strict())) as reward:
        thing = live_of(reward.judge)
        later = successor(reward, report())
        assert later.judge == Strict(0.45) and live_of(later.judge) is thing
        assert reward.judge == Strict(0.9)  # nothing was changed in place
        again = restored(reward, json.loads(json.dumps(state_of(later))))
        assert again == later and live_of(again.judge) is thing
    assert EVENTS == ["open judge", "close judge"]


def test_the_settings_stay_as_they_were() -> None:
    spec = Strict()
    with opened(spec) as part:
        assert part is not spec and part == spec and vars(spec) == {"bar": 0.9, "fails_at": -1.0}
        assert closed(part) == spec and vars(closed(part)) == vars(spec)


def test_a_part_used_by_hand_opens_itself_once() -> None:
    judge = Strict()
    for _ in range(2):
        judge.judge([Question("", ("a",))], None)
    assert EVENTS == ["open judge"] and live_of(judge).uses == 2


def test_parts_in_a_tuple_are_opened_and_succeed_too() -> None:
    @dataclass(frozen=True)
    class Jury:
        judges: tuple[Judge, ...]
        size: int = 2

        def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
            return [each for judge in self.judges for each in judge.judge(questions, policy)]

    jury = Jury((Strict(0.8), Strict(0.4)))
    assert list(parts_in(jury)) == [("judges", 0), ("judges", 1)]
    with opened(jury) as judging:
        later = successor(judging, report())
        assert later.judges == (Strict(0.4), Strict(0.2))
        assert state_of(later) == {f"judges.{i}": {"bar": bar, "fails_at": -1.0} for i, bar in ((0, 0.4), (1, 0.2))}
        assert restored(jury, state_of(later)) == later
    assert EVENTS == ["open judge", "open judge", "close judge", "close judge"]


def test_one_part_in_two_places_is_opened_once(tmp_path: Path) -> None:
    judge = Strict()
    context = Context("first", tmp_path, seed=7)
    with Opening(context) as opening:
        one, two = (opening.open(Asking(judge), name) for name in ("reward-a", "reward-b"))
        assert live_of(one.judge) is live_of(two.judge)
        assert live_of(one.judge).context == replace(context, folder=tmp_path / "reward-a.judge")
    assert EVENTS == ["open judge", "close judge"]


def test_what_cannot_be_closed_or_opened_is_named_and_the_rest_is_closed() -> None:
    class Stuck:
        def close(self) -> None:
            raise OSError("no route")

    @dataclass(frozen=True)
    class Sticky:
        broken: bool = False

        def open(self, context: Context) -> Stuck:
            if self.broken:
                raise ValueError("no such port")
            return Stuck()

    complaint = "what Sticky had opened could not be closed: OSError: no route"
    with pytest.raises(PluginError, match=complaint), Opening(Context()) as opening:
        opening.open(Strict(), "judge")
        opening.open(Sticky(), "other")
    complaint = r"Sticky.open\(\) raised ValueError: no such port"
    with pytest.raises(PluginError, match=complaint), Opening(Context()) as opening:
        opening.open(Strict(), "judge")
        opening.open(Sticky(broken=True), "other")
    assert EVENTS == ["open judge", "close judge"] * 2
    with pytest.raises(ValueError, match="of its own") as raised, Opening(Context()) as opening:
        opening.open(Sticky(), "other")
        raise ValueError("of its own")
    assert "what Sticky had opened could not be closed: OSError: no route" in raised.value.__notes__[0]


# --- the kit ----------------------------------------------------------------------------------------------------------


def test_the_kit_holds_parts_to_it() -> None:
    check_sampler(Teaching(), only=["opens", "successor", "pure", "contract"])
    check_judge(Strict(), only=["opens", "successor", "contract"])
    check_reward(Asking(Strict()), only=["successor", "contract"])


def test_the_kit_finds_what_all_parts_share_and_state_outside_of_the_fields() -> None:
    shared = Thing("shared", Context())

    @dataclass(frozen=True)
    class Shares(Strict):
        def open(self, context: Context) -> Thing:
            return shared

    with pytest.raises(ConformanceError, match="the closed one"):
        check_judge(Shares(), only=["opens"])
    steps: list[int] = []

    @dataclass(frozen=True)
    class Remembers:
        bar: float = 1.0

        def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
            return [tuple(Score(self.bar) for _ in group.completions) for group in groups]

        def next(self, report: StepReport) -> Remembers:
            steps.append(report.step)
            return Remembers(float(len(steps)))

    with pytest.raises(ConformanceError, match="the same successor twice"):
        check_reward(Remembers(), only=["successor"])


def test_a_choice_of_prompts_is_checked() -> None:
    @dataclass(frozen=True)
    class TooFew:
        online: ClassVar[bool] = True

        def choose(self, prompts: Sequence[Prompt], n: int, *, seed: int) -> list[int]:
            return list(range(min(n, len(prompts))))

        def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
            return policy.generate(prompts, 2, seeds=seeds)

    with pytest.raises(ConformanceError, match="10 places from 0 to 4"):
        check_sampler(TooFew(), only=["chooses"])
    with pytest.raises(PluginError, match=r"TooFew.choose\(\) gave .*, expected 4 whole numbers from 0 to 2"):
        from alignzoo.training.stage import chosen_prompts

        chosen_prompts(_stage([Prompt("a"), Prompt("b"), Prompt("c")]), TooFew(), 0, 0, 4)
    chosen = chosen_prompts(_stage([Prompt("a"), Prompt("b"), Prompt("c")]), TooFew(), 0, 0, 2)
    assert [(prompt.messages, prompt.index) for prompt in chosen] == [("a", 0), ("b", 1)]


def _stage(prompts: Sequence[Prompt]) -> Any:
    class Stage:
        seed = 0

    stage: Any = Stage()
    stage.prompts = prompts
    return stage
