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


# --- axolotl ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "too_long"),
    [({}, "drop"), ({"excess_length_strategy": None}, "drop"), ({"excess_length_strategy": "truncate"}, "cut")],
)
def test_axolotl_drops_rows_that_are_too_long_where_a_file_says_nothing(config: dict[str, Any], too_long: str) -> None:
    found = translated("axolotl", AXOLOTL | config)
    assert found.settings["data.too_long"] == too_long
    (line,) = [line for line in found.translated if line.key == "excess_length_strategy"]
    assert line.default == (not any(config.values())) and "policy.max_new_tokens" in line.text


def test_axolotl_leaves_no_prompt_out_that_is_answered() -> None:
    grpo = {"base_model": "m", "rl": "grpo", "trl.reward_funcs": ["rewards.right"]}
    assert "data.too_long" not in translated("axolotl", grpo, overrides=GIVEN).settings


@pytest.mark.parametrize(
    ("config", "warmup"),
    [
        ({}, 0.03),
        ({"warmup_steps": None}, 0.03),
        ({"warmup_steps": 0}, 0),
        ({"warmup_steps": 10}, 10),
        ({"warmup_steps": 1}, 2),
        ({"warmup_ratio": 0.1}, 0.1),
        ({"warmup_ratio": 0}, 0),
    ],
)
def test_axolotls_warm_up_is_written_out(config: dict[str, Any], warmup: float) -> None:
    found = translated("axolotl", AXOLOTL | config)
    assert found.settings["schedule.warmup"] == warmup
    said = next(line for line in found.translated if "schedule.warmup" in line.text)
    assert said.default == ("at most 100 steps" in said.text) == (warmup == 0.03)


@pytest.mark.parametrize("kind", ["alpaca", "llama3.intel", "llama3.ultra"])
def test_rows_that_axolotl_writes_in_words_of_its_own_are_refused_with_the_cure(kind: str) -> None:
    given = AXOLOTL | {"datasets": [{"path": "a/b", "type": kind}]}
    found = translated("axolotl", given)
    assert [*refusals(found)] == ["datasets.type"]
    assert "data.path=" in refusals(found)["datasets.type"]
    assert not translated("axolotl", given, overrides=GIVEN | {"data.chat": "plain"}).refused


def test_rows_that_axolotl_writes_as_chatml_are_so_here() -> None:
    found = translated("axolotl", AXOLOTL | {"rl": "dpo", "datasets": [{"path": "a/b", "type": "chatml.intel"}]})
    assert found.settings["policy.chat_template"] == "chatml"
    assert found.settings["data.columns"] == {"prompt": "question"}


def test_whole_texts_that_axolotl_would_split_stop_a_run() -> None:
    """It trains on all of a long text, in pieces of sequence_len tokens."""
    found = translated("axolotl", AXOLOTL | {"datasets": [{"path": "a/b", "type": "completion", "field": "body"}]})
    assert found.settings["data.too_long"] == "error" and found.settings["data.columns"] == {"text": "body"}


@pytest.mark.parametrize(
    "key",
    [
        "dataset_shard_num",
        "dataset_shard_idx",
        "dataset_exact_deduplication",
        "s2_attention",
        "group_by_length",
        "fix_untrained_tokens",
        "streaming",
    ],
)
def test_keys_of_axolotl_that_change_the_data_or_the_model_are_refused(key: str) -> None:
    assert [*refusals(translated("axolotl", AXOLOTL | {key: 1}))] == [key]
    assert not translated("axolotl", AXOLOTL | {key: None}).refused


def test_the_order_of_rows_that_axolotl_packs_is_refused_where_it_packs() -> None:
    given = AXOLOTL | {"sample_packing_sequentially": True}
    assert not translated("axolotl", given).refused
    packed = translated("axolotl", given | {"sample_packing": True}, packed=2.0)
    assert [*refusals(packed)] == ["sample_packing_sequentially"]


MINE = {"policy.chat_template": "mine.jinja"}


@pytest.mark.parametrize(
    ("key", "value", "cure"),
    [
        ("shards", 4, GIVEN),
        ("revision", "v2", GIVEN),
        ("train_on_eos", "last", None),
        ("train_on_eot", "none", None),
        ("chat_template", "llama3", MINE),
        ("roles_to_train", ["user"], None),
    ],
)
def test_keys_of_a_data_set_that_change_its_rows_are_refused(key: str, value: Any, cure: dict[str, str] | None) -> None:
    given = AXOLOTL | {"datasets": [{"path": "a/b", "type": "chat_template", key: value}]}
    found = translated("axolotl", given)
    assert [*refusals(found)] == [f"datasets.{key}"]
    assert "data.path" not in found.settings
    for settings in (GIVEN, MINE):
        assert bool(translated("axolotl", given, overrides=settings).refused) == (settings != cure)
    dropped = translated("axolotl", given, drop=(f"datasets.{key}",))
    assert not dropped.refused and dropped.settings["data.path"] == "a/b"
    assert [line.key for line in dropped.dropped] == [f"datasets.{key}"]


def test_keys_of_a_data_set_without_effect_are_listed() -> None:
    more = {"ds_type": "json", "train_on_eos": "turn", "revision": "main", "chat_template": "tokenizer_default"}
    found = translated("axolotl", AXOLOTL | {"datasets": [{"path": "a/b", "type": "chat_template", **more}]})
    assert not found.refused
    assert {f"datasets.{key}" for key in more} <= {line.key for line in found.ignored}


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
