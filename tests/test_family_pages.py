"""The optimizers of imitation, of lists and single labels, of self-play and of reward models, and their page."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from alignzoo.registry import Registry
from alignzoo.traits import traits_of
from alignzoo_unpaired.mismatched import Mismatched

FAMILIES = (
    "alignzoo_distillation",
    "alignzoo_imitation",
    "alignzoo_process",
    "alignzoo_reward_models",
    "alignzoo_self_play",
    "alignzoo_unpaired",
)


class Named:
    """What a plugin registers, by name."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def optimizer(self, name: str, target: str, **_: Any) -> None:
        self.found[name] = target

    def sampler(self, name: str, target: str, **_: Any) -> None: ...

    def reward(self, name: str, target: str, **_: Any) -> None: ...


def registered() -> dict[str, str]:
    named = Named()
    for family in FAMILIES:
        importlib.import_module(family).alignzoo_register(named)
    return named.found


def made(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)()


def test_names_aliases_and_variants_fit_together() -> None:
    zoo = Registry()
    names = set(zoo.names("optimizer"))
    assert set(registered()) <= names and len(registered()) == len(set(registered().values()))
    assert zoo.canonical("optimizer", "orm") == "outcome-reward-model"
    for name in ("kto", "lipo", "rebel", "cost-model"):
        assert traits_of(zoo.get("optimizer", name)).trains in ("policy", "reward-model")
    assert zoo.get("sampler", "mismatched") is Mismatched


def test_the_page_of_the_families_names_each_with_its_paper() -> None:
    page = (Path(__file__).parents[1] / "docs" / "families.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.*)$", page, re.M))
    assert rows.keys() == registered().keys()
    for name, target in registered().items():
        papers = set(re.findall(r"arXiv:(\d{4}\.\d{5})", type(made(target)).__doc__ or ""))
        assert papers & set(re.findall(r"\[(\d{4}\.\d{5})\]", rows[name])), f"{name} cites another paper"
        needs = set(re.findall(r"`([a-z_]+)`", rows[name])) & {"logprobs", "ref_logprobs", "old_logprobs", "values"}
        assert needs == set(made(target).needs) & {"logprobs", "ref_logprobs", "old_logprobs", "values"}, name
