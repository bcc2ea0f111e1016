"""Learning rates by name, against transformers' schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import get_scheduler

from alignzoo.schedule import Schedule

TOTAL = 40

NAMED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "constant": ("constant_with_warmup", {}, {}),
    "linear": ("linear", {}, {}),
    "cosine": ("cosine", {}, {}),
    "cosine to a tenth": ("cosine_with_min_lr", {"min_lr_rate": 0.1}, {"decay": "cosine", "final_lr": 0.1}),
    "polynomial": ("polynomial", {"power": 2.0, "lr_end": 0.5}, {"decay_power": 2.0, "final_lr": 0.25}),
    "inverse_sqrt": ("inverse_sqrt", {}, {}),
    "wsd": (
        "warmup_stable_decay",
        {"num_decay_steps": 12, "min_lr_ratio": 0.2},
        {"decay_steps": 0.3, "final_lr": 0.2},
    ),
}


def theirs(name: str, warmup: int, **settings: Any) -> list[float]:
    """The rate of each step by transformers, at a peak of 2."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler = get_scheduler(name, optimizer, warmup, TOTAL, settings)
    rates = []
    for _ in range(TOTAL):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [0, 6])
@pytest.mark.parametrize("case", NAMED)
def test_after_the_warm_up_rates_are_transformers(case: str, warmup: int) -> None:
    name, settings, ours = NAMED[case]
    schedule = Schedule(**{"lr": 2.0, "warmup": float(warmup), "decay": case, **ours})
    expected = theirs(name, warmup, **settings)
    assert [schedule.rate(step, TOTAL) for step in range(warmup, TOTAL)] == pytest.approx(expected[warmup:], rel=1e-9)


@pytest.mark.parametrize("case", sorted(NAMED.keys() - {"wsd"}))  # theirs begins at `min_lr_ratio`, not at 0
def test_the_warm_up_is_one_step_ahead_of_transformers(case: str) -> None:
    name, settings, ours = NAMED[case]
    schedule = Schedule(**{"lr": 2.0, "warmup": 5.0, "decay": case, **ours})
    assert [schedule.rate(step, TOTAL) for step in range(5)] == pytest.approx(theirs(name, 6, **settings)[1:6])


def test_the_warm_up_and_the_decay_of_wsd_are_shares_or_steps() -> None:
    shares, steps = (Schedule(lr=1.0, decay="wsd", warmup=w, decay_steps=d) for w, d in ((0.25, 0.5), (10.0, 20.0)))
    assert [shares.rate(i, TOTAL) for i in range(TOTAL)] == [steps.rate(i, TOTAL) for i in range(TOTAL)]
    assert steps.rate(19, TOTAL) == 1.0 > steps.rate(21, TOTAL)  # stable until the last 20 of 40 steps
    assert steps.rate(30, TOTAL) == pytest.approx(0.5)  # half-way down a cosine


def test_inverse_sqrt_halves_after_three_scales_and_stops_at_the_floor() -> None:
    schedule = Schedule(lr=1.0, decay="inverse_sqrt", warmup=4.0, final_lr=0.4)
    assert schedule.rate(4 + 12, 1000) == pytest.approx(0.5)  # √(4 / (12 + 4))
    assert schedule.rate(900, 1000) == 0.4


def test_passes_end_at_max_steps_and_steps_that_are_given_do_not() -> None:
    assert Schedule(epochs=2, prompts=8).total(100) == 25
    assert Schedule(epochs=2, prompts=8, max_steps=7).total(100) == 7
    assert Schedule(epochs=2, prompts=8, max_steps=70).total(100) == 25
    assert Schedule(steps=9, max_steps=7).total(100) == 9
