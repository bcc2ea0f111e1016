"""What is said of made-up comparisons, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from alignzoo.compare.headlines import headlines, notes
from alignzoo.compare.marks import marks
from alignzoo.compare.plan import Plan
from alignzoo.compare.results import CellResult, Compared, Pair, Results

ROLES = {"start": "start", "random": "random", "a": "algorithm", "b": "algorithm", "c": "algorithm"}


OK = CellResult("t/a/0", "a", "t", 0, "algorithm", (), "ok")


def pair(a: str, b: str, difference: float, shown: bool, family: Any = "algorithms", reached: bool = True) -> Pair:
    low, high = difference - 0.2, difference + 0.2
    p = 0.01 if shown else 0.3
    return Pair("t", a, b, "gold", difference, low, high, p / 2, p, family, 0.9, 3, 64, shown, reached)


def made(
    *pairs: Pair,
    cells: tuple[CellResult, ...] = (OK,),
    budget: dict[str, float] | None = None,
    overrides: tuple[str, ...] = (),
) -> Results:
    fields: dict[str, Any] = dict.fromkeys(Results.__dataclass_fields__, ())
    fields |= {
        "settings": {"budget": budget, "tasks": ["t"], "level": 0.03, "looks": [3], "answered prompts": {"t": 64}}
        | {"overrides": list(overrides)},
        "algorithms": tuple(Compared(label, label, "", role, "", trials=0) for label, role in ROLES.items()),  # type: ignore[arg-type]
        "metric": {"t": "gold"},
        "pairs": pairs,
        "cells": cells,
    }
    return Results(**fields)


def said(*pairs: Pair, **settings: Any) -> list[str]:
    return [headline.text for headline in headlines(made(*pairs, **settings))]


def test_who_beats_whom_by_how_much_at_what_terms() -> None:
    assert said(pair("a", "b", -0.5, True), budget={"tokens": 1e4}) == [
        "b beats a on t by 0.50 [0.30, 0.70] gold at equal tokens."
    ]
    assert said(pair("a", "b", 0.5, True)) == ["a beats b on t by 0.50 [0.30, 0.70] gold at their recipes' own steps."]


def test_terms_that_are_not_equal_are_told_on_both_sides() -> None:
    cells = tuple(
        replace(OK, algorithm=label, steps=5, costs={"tokens": spent})
        for label, spent in (("a", 8000.0), ("b", 10_000.0))
    )
    assert said(pair("a", "b", 0.5, True), cells=cells, budget={"tokens": 1e4}) == [
        "a beats b on t by 0.50 [0.30, 0.70] gold, having spent 80 % (a) and 100 % (b) of the budget in tokens.",
        "The runs of a on t ended short of the budget: they spent 80.0 % of it on the average.",
    ]
    over = tuple(replace(cell, status="over-budget", costs={"tokens": 1.5e4}) for cell in cells[:1])
    assert said(cells=over, budget={"tokens": 1e4}) == [
        "1 of 1 runs of a on t went over the budget: they spent 150.0 % of it on the average."
    ]


def test_an_algorithm_whose_first_stages_took_the_budget_has_trained_nothing() -> None:
    cell = replace(OK, status="over-budget", costs={"tokens": 6.4e4, "tokens/trained": 0.0})
    assert said(cells=(cell,), budget={"tokens": 1e4}) == [
        "a has trained nothing on t, since the stages that generate took all of the budget: they spent 640.0 % of it "
        "on the average. Give those fewer steps, as in 'a[STAGE.schedule.steps=4]', or a larger budget."
    ]


def test_at_a_common_kl_the_runs_that_have_not_come_to_it_are_marked() -> None:
    stopped = "the KL reached 0.52 nats per sequence (kl_stop 0.5)"
    ended = [
        replace(OK, algorithm=label, seed=seed, steps=5, costs={"tokens": spent}, stopped=why)
        for label, seed, spent, why in (("a", 0, 4e3, stopped), ("a", 1, 6e3, stopped), ("b", 0, 5e3, stopped))
    ]
    settings: dict[str, Any] = {"budget": {"tokens": 1e4}, "overrides": ("schedule.kl_stop=0.5",)}
    lead = "a beats b on t by 0.50 [0.30, 0.70] gold at a KL of 0.5"
    assert said(pair("a", "b", 0.5, True), cells=tuple(ended), **settings) == [f"{lead}."]
    assert not [*marks(made(cells=tuple(ended), **settings), "t", "a")]
    cells = (*ended, replace(ended[2], seed=1, costs={"tokens": 1e4}, stopped="its budget is spent"))
    assert said(pair("a", "b", 0.5, True), cells=cells, **settings) == [
        f"{lead}, which not all of their runs have come to.",
        "1 of 2 runs of b on t ended before their KL came to 0.5, after 75 % of the budget on the average.",
    ]
    assert [*marks(made(cells=cells, **settings), "t", "b")] == ["1 of 2 short of the KL"]
    cells = (*ended, replace(cells[-1], after={"kl": 0.55}))  # its last steps went past it, which no step has measured
    assert not [*marks(made(cells=cells, **settings), "t", "b")]


def test_runs_that_went_past_a_common_kl_are_not_said_to_be_at_it() -> None:
    stopped = "the KL reached 0.52 nats per sequence (kl_stop 0.5)"
    ended = {"a": 0.62, "b": 0.38}  # each within a quarter of 0.5
    cells = {
        label: replace(OK, algorithm=label, steps=5, stopped=stopped, after={"kl": kl}) for label, kl in ended.items()
    }
    settings: dict[str, Any] = {"overrides": ("schedule.kl_stop=0.5",)}
    lead = "a beats b on t by 0.50 [0.30, 0.70] gold"
    assert said(pair("a", "b", 0.5, True), cells=(*cells.values(),), **settings) == [f"{lead} at a KL of 0.5."]
    cells["a"] = replace(cells["a"], after={"kl": 0.91})
    assert said(pair("a", "b", 0.5, True), cells=(*cells.values(),), **settings) == [
        f"{lead} at KLs of 0.91 (a) and 0.38 (b), where runs were to end at 0.5.",
        "On t runs ended more than a quarter past a KL of 0.5: those of a at 0.91. A step goes that far, or each of "
        "several stages does; a smaller schedule.lr ends nearer.",
    ]


def test_what_the_data_exclude() -> None:
    assert said(pair("a", "b", -0.1, False)) == [
        "On t, at n = 3, no difference is shown between b and a (0.10 [-0.10, 0.30] gold); differences beyond the "
        "interval are excluded."
    ]
    both = "between b and c (0.20 [0.00, 0.40] gold), nor between a and b (0.10 [-0.10, 0.30] gold)"
    assert said(pair("a", "b", 0.1, False), pair("b", "c", 0.2, False)) == [
        f"On t, at n = 3, no difference is shown {both}; differences beyond the intervals are excluded."
    ]

    many = said(*(pair("a", "b", 0.1 * i, False) for i in range(1, 6)))
    assert "between a and b (0.50" in many[0] and "(0.40" in many[0] and ", nor in 3 other pairs; diff" in many[0]
    assert "(0.30" not in many[0]
    (vacuous,) = said(replace(pair("a", "b", 0.0, False), low=-1.0, high=1.0))
    assert vacuous.endswith("(0.00 [-1.00, 1.00] gold); no difference is excluded.")
    alike = replace(pair("a", "b", 0.0, False), low=None, high=None, p=1.0, p_adjusted=1.0)
    assert said(alike) == ["On t, a and b score alike in every answer of every run."]
    unknown = replace(alike, p=None, p_adjusted=None)
    assert said(replace(unknown, n_seeds=1)) == [
        "On t one seed cannot tell the algorithms apart: give --seeds 3 or more."
    ]
    assert said(replace(unknown, n_prompts=1)) == [
        "On t one held-out prompt that all runs have a score for cannot tell the algorithms apart: give more data, or "
        "hold out more of them (data.heldout)."
    ]


def test_against_controls() -> None:
    controls = [
        pair("a", "start", 0.9, True, "controls"),
        pair("b", "start", -0.9, True, "controls"),
        pair("c", "start", 0.1, False, "controls"),
        pair("random", "start", -0.3, True, "controls"),
        pair("a", "random", 0.9, True, "controls"),
        pair("b", "random", 0.9, True, "controls", reached=False),
        pair("c", "random", 0.9, True, "controls", reached=False),
    ]
    assert said(*controls) == [
        "Against start on t: a (0.90 [0.70, 1.10] gold) is better; b (-0.90 [-1.10, -0.70] gold) is worse; no "
        "difference is shown for c (0.10 [-0.10, 0.30] gold).",
        "Against random on t: a (0.90 [0.70, 1.10] gold) is better; b and c are not tested, not being better than the "
        "controls before.",
        "Training on a reward that says nothing lost 0.30 [0.10, 0.50] gold on t.",
    ]


def test_runs_and_trials_that_failed() -> None:
    failed = CellResult("t/a/1", "a", "t", 1, "algorithm", (), "diverged")
    # Clopper and Pearson: 1 of 2 is between 1 - 0.975^½ = 1.3 % and 0.975^½ = 98.7 %
    assert said(cells=(OK, failed)) == [
        "1 of 2 runs of a on t diverged (95 %: 1 to 99 % of runs do) and counted as the worse of the start and of its "
        "worst run that ended."
    ]
    assert said(cells=(failed,)) == ["1 of 1 runs of a on t diverged, so that it has no mean and no rank."]
    trials = tuple(CellResult(f"t/a/trial-{i}", "a", "t", 9, "trial", (), "failed") for i in range(2))
    assert said(cells=(OK, *trials)) == ["All 2 trials of a on t failed: it ran untuned, with its own setting."]
    one = (OK, trials[0], replace(trials[1], status="ok"))
    assert said(cells=one) == ["1 of 2 trials of a on t failed; it was tuned by the rest."]


def test_notes_tell_tuning_only_where_a_trial_ended_and_prompts_that_were_answered() -> None:
    plan = Plan((), (), trials=2, prompts=1000)
    told = list(notes(plan, made()))
    assert any("the same 64 held-out prompts" in note for note in told)
    assert any("Nothing was tuned" in note for note in told)
    assert not any("trials on each task" in note for note in told)
