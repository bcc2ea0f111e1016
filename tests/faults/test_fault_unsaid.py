"""What a recipe leaves open, or sets in vain, is told or refused, and never taken in silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignzoo.errors import ModelError, RecipeError
from alignzoo.interfaces import CheckContext
from alignzoo.recipe import load
from alignzoo.registry import Registry
from alignzoo_hf.model.spec import HF

OPEN = """task = "sort"
policy = {{ name = "hf", model = "task:policy" }}
[[stage]]
name = "train"
optimizer = "{}"
{}
"""


def stage_of(folder: Path, optimizer: str, more: str = "") -> Any:
    (folder / "open.toml").write_text(OPEN.format(optimizer, more))
    [stage] = load(folder / "open.toml", registry=Registry()).stages
    return stage


def test_a_sampler_that_was_filled_in_is_told(tmp_path: Path) -> None:
    [note] = stage_of(tmp_path, "sft").notes
    assert 'write sampler = "dataset"' in note
    assert not stage_of(tmp_path, "sft", 'sampler = "dataset"').notes


def test_a_sampler_that_does_not_suit_is_not_filled_in(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train has no sampler, but its optimizer 'grpo' learns from what"):
        stage_of(tmp_path, "grpo")


@pytest.mark.parametrize("given", [{"lora_targets": "nope"}, {"lora_alpha": 8.0}, {"lora_dora": True}])
def test_settings_of_an_adapter_without_one_are_refused(given: dict[str, Any]) -> None:
    spec = HF(model="nowhere", **given)
    with pytest.raises(ModelError, match=rf"{next(iter(given))} would change nothing: lora_rank is 0"):
        spec.check(CheckContext(frozenset(), [], [], True, False, {}, None))
    assert not replace(spec, lora_rank=4).unused()


def test_a_critic_that_nobody_trains_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="critic_model is not used"), pytest.raises(ModelError):
        HF(model=str(tmp_path), critic_model="nowhere").load(frozenset({"logprobs"}))
