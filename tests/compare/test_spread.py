"""`--frontier`: which settings it makes of which algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from alignzoo.compare.grid import Grid
from alignzoo.compare.plan import Plan, entry
from alignzoo.compare.spread import kl_weight, spread
from alignzoo.errors import PluginError, RecipeError
from alignzoo.registry import Registry


def labels(*algorithms: str, tasks: tuple[str, ...] = ("shop",), **changes: Any) -> list[str]:
    plan = Plan(tuple(map(entry, algorithms)), tuple(map(entry, tasks)), **changes)
    return [each.label for each in spread(Grid(plan, Registry()))]


def test_each_is_varied_around_its_recipes_own_weight() -> None:
    # the recipes have kl = 0.5 and beta = 0.1; × 0.1, 0.3, 1 and 3
    assert labels("grpo", "dpo") == [
        *(f"grpo[optimizer.kl={weight}]" for weight in ("0.05", "0.15", "0.5", "1.5")),
        *(f"dpo[optimizer.beta={weight}]" for weight in ("0.01", "0.03", "0.1", "0.3")),
    ]


def test_other_settings_stay_and_the_weights_own_is_varied() -> None:
    given = "grpo[optimizer.kl=1.0,schedule.lr=1e-4]"
    assert labels(given)[0] == "grpo[schedule.lr=1e-4,optimizer.kl=0.1]"
    # where it is turned off, the class's own 0.04 says what a weight is
    assert labels("grpo[optimizer.kl=0.0]")[2] == "grpo[optimizer.kl=0.04]"


def test_several_tasks_have_the_weights_of_all() -> None:
    found = labels("grpo", "dpo", tasks=("shop", "sort"))  # the recipes have 0.01 and 0.5 on sort
    assert found[4:8] == [f"grpo[optimizer.kl={weight}]" for weight in ("0.001", "0.003", "0.01", "0.03")]
    assert len(found) == 8 + 8


def test_one_without_a_weight_is_left_as_it_is() -> None:
    assert labels("sft", "dpo")[0] == "sft"
    with pytest.raises(RecipeError, match="none of sft declares a KL weight"):
        labels("sft")


@dataclass(frozen=True)
class Misspelt:
    betta: float = 0.1
    epochs: int = 1
    kl_weight: ClassVar[str] = "beta"


def test_a_weight_that_is_no_field() -> None:
    with pytest.raises(PluginError, match=r"Misspelt.kl_weight is 'beta'.*'betta'"):
        kl_weight(Misspelt())  # type: ignore[arg-type]
