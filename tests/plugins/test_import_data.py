"""Importing what decides which rows there are and how they are written: translated exactly, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignzoo_import.methods import Asked
from alignzoo_import.table import read_table
from alignzoo_import.translating import Translation, translate

AXOLOTL = {"base_model": "m", "datasets": [{"path": "rows.jsonl", "type": "chat_template"}]}
FACTORY = {"model_name_or_path": "maker/qwen-little", "dataset": "mine"}
TRL = {"model_name_or_path": "m", "dataset_name": "a/b"}
GIVEN = {"data.path": "rows.jsonl"}


def translated(tool: str, config: dict[str, Any], *, path: Path = Path("config.yaml"), **asked: Any) -> Translation:
    return translate(read_table(tool), tool, config, Asked(path, **asked))


def refusals(found: Translation) -> dict[str, str]:
    return {line.key: line.text for line in found.refused}


def told(found: Translation) -> dict[str, str]:
    return {line.key: line.text for line in found.translated}


# --- TRL ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_rows_in_the_files_order_are_refused(method: str) -> None:
    given = TRL | {"reward_funcs": ["mine.right"]}
    assert [*refusals(translated("trl", given | {"shuffle_dataset": False}, method=method))] == ["shuffle_dataset"]
    assert [*refusals(translated("trl", given | {"shuffle_dataset": None}, method=method))] == ["shuffle_dataset"]
    assert not translated("trl", given | {"shuffle_dataset": True}, method=method).refused
    assert not translated("trl", TRL | {"shuffle_dataset": False}, method="sft").refused


@pytest.mark.parametrize("tool", ["trl", "llamafactory"])
@pytest.mark.parametrize(
    ("strategy", "fine"),
    [("random", True), ("batch_rebalance", True), ("sequential", False), ("group_by_length", False)],
)
def test_a_sampler_that_is_not_random_is_refused(tool: str, strategy: str, fine: bool) -> None:
    given = (TRL if tool == "trl" else {"model_name_or_path": "m"}) | {"train_sampling_strategy": strategy}
    found = translated(tool, given, method="sft", overrides=GIVEN)
    assert [*refusals(found)] == ([] if fine else ["train_sampling_strategy"])


def test_the_order_of_ktos_rows_is_told() -> None:
    found = translated("trl", TRL | {"train_sampling_strategy": "sequential"}, method="kto")
    assert not found.refused and any("order" in line for line in found.to_know)
    assert refusals(translated("trl", TRL | {"train_sampling_strategy": "group_by_length"}, method="kto"))


@pytest.mark.parametrize("key", ["dataset_streaming", "group_by_length", "split_batches"])
def test_keys_of_trl_that_change_the_batches_are_refused(key: str) -> None:
    assert [*refusals(translated("trl", TRL | {key: True}, method="sft"))] == [key]
    assert not translated("trl", TRL | {key: False}, method="sft").refused


@pytest.mark.parametrize(
    ("version", "config", "refused"),
    [
        ("", {"max_prompt_length": 512, "max_completion_length": 64}, set()),
        ("0.29", {}, set()),
        ("0.28", {}, {"max_prompt_length", "truncation_mode"}),
        ("0.20", {"max_prompt_length": None}, {"truncation_mode"}),
        ("0.20", {"max_prompt_length": 8, "truncation_mode": "keep_start"}, {"max_prompt_length"}),
        (
            "0.20",
            {"max_prompt_length": None, "max_completion_length": 64, "truncation_mode": "keep_start"},
            {"max_completion_length"},
        ),
        ("0.13", {"truncation_mode": "keep_start"}, set()),
        ("0.12", {"truncation_mode": "keep_start", "max_prompt_length": 8}, {"max_prompt_length"}),
        ("0.11", {"truncation_mode": "keep_start", "max_prompt_length": 8}, set()),
    ],
)
def test_prompts_that_former_versions_always_cut_are_refused(
    version: str, config: dict[str, Any], refused: set[str]
) -> None:
    found = translated("trl", TRL | config, method="dpo", version=version)
    assert {*refusals(found)} == refused and "" not in found.settings
    fits = {"data.too_long": "error"}
    settled = translated("trl", TRL | config, method="dpo", version=version, overrides=fits)
    assert {*refusals(settled)} == refused - {"truncation_mode"}


def test_a_share_of_a_data_set_is_refused() -> None:
    def mixture(*datasets: dict[str, Any]) -> Translation:
        given = {"model_name_or_path": "m", "dataset_mixture.datasets": [*datasets]}
        return translated("trl", given, method="sft")

    assert [*refusals(mixture({"id": "a/b", "weight": 0.5}))] == ["dataset_mixture.datasets.weight"]
    for whole in ({"weight": 1.0}, {"weight": None}, {"fraction": 0.5}, {}):
        found = mixture({"id": "a/b"} | whole)
        assert not found.refused and found.settings["data.path"] == "a/b"
    several = refusals(mixture({"id": "a/b", "weight": 0.5}, {"id": "c/d"}))["dataset_mixture.datasets"]
    assert "that the file takes of it" in several


@pytest.mark.parametrize(("field", "columns"), [("content", {"text": "content"}), ("text", None), (None, None)])
def test_the_column_of_texts_is_translated(field: str | None, columns: dict[str, str] | None) -> None:
    found = translated("trl", TRL | {"dataset_text_field": field}, method="sft")
    assert found.settings.get("data.columns") == columns and not found.refused
