"""Importing what decides which rows there are and how they are written: translated exactly, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import Data, read
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


# --- LLaMA-Factory ------------------------------------------------------------------------------------------------


def described(folder: Path, about: dict[str, Any], *rows: dict[str, str], **config: Any) -> Translation:
    """What becomes of a file whose data set a dataset_info.json describes, beside it its rows."""
    (folder / "dataset_info.json").write_text(json.dumps({"mine": about}), encoding="utf-8")
    if rows:
        (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return translated("llamafactory", FACTORY | config, path=folder / "config.yaml")


ASKED = {"instruction": "Add.", "output": "3", "chosen": "3", "rejected": "4"}
FILE = {"file_name": "rows.jsonl"}
DATA = ("data.path", "data.format", "data.columns")


@pytest.mark.parametrize(("ranking", "stage"), [(True, "dpo"), (True, "rm"), (False, "sft"), (False, "ppo")])
def test_a_query_that_rows_bring_is_refused(ranking: bool, stage: str, tmp_path: Path) -> None:
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    columns |= {"chosen": "chosen", "rejected": "rejected"} if ranking else {}
    about = FILE | {"ranking": ranking, "columns": columns}
    found = described(tmp_path, about, ASKED | {"input": ""}, ASKED | {"input": "1, 2"}, stage=stage)
    assert "the column input" in refusals(found)["dataset"] and "data.path" not in found.settings
    found = described(tmp_path, about, ASKED | {"input": ""}, stage=stage)
    assert not found.refused
    (prompt,) = read(Data(**{key.partition(".")[2]: each for key, each in found.settings.items() if key in DATA}))
    answers = {"sft": ("3",), "ppo": ()}.get(stage, ("3", "4"))
    assert prompt.messages == "Add." and prompt.completions == answers


def test_a_query_is_read_by_default_and_not_where_columns_are_named_without_it(tmp_path: Path) -> None:
    row = ASKED | {"input": "1, 2", "history": "none"}
    assert "the column input" in refusals(described(tmp_path, FILE, row, stage="sft"))["dataset"]
    found = described(tmp_path, FILE | {"columns": {"prompt": "instruction", "response": "output"}}, row, stage="sft")
    assert not found.refused
    assert found.settings["data.format"] == "prompt-completion"
    assert found.settings["data.columns"] == {"prompt": "instruction", "completion": "output"}
    hub = {"hf_hub_url": "a/b"}
    assert "the column input" in refusals(described(tmp_path, hub, stage="sft"))["dataset"]
    hub |= {"columns": {"prompt": "question", "response": "reply"}}
    assert not described(tmp_path, hub, stage="sft").refused


def test_a_system_column_is_read_where_it_is_named(tmp_path: Path) -> None:
    columns = {"prompt": "instruction", "response": "output"}
    row = ASKED | {"system": "Be brief."}
    assert "system" in refusals(described(tmp_path, FILE | {"columns": columns}, row, stage="sft"))["dataset"]
    assert not described(tmp_path, FILE | {"columns": columns | {"system": "system"}}, row, stage="sft").refused
    found = described(tmp_path, FILE | {"columns": columns | {"system": "rules"}}, ASKED, stage="sft")
    assert found.settings["data.columns"]["system"] == "rules"
    hub = {"hf_hub_url": "a/b", "columns": columns}
    assert "a column system" in told(described(tmp_path, hub, stage="sft"))["dataset"]


def test_what_a_description_says_of_rows_is_translated_or_refused(tmp_path: Path) -> None:
    columns = {"columns": {"prompt": "question", "response": "reply"}}
    about = {"hf_hub_url": "a/b", "subset": "small", "split": "test", "file_name": "other.json"} | columns
    found = described(tmp_path, about, stage="sft", max_samples=7)
    assert found.settings["data.path"] == "a/b:small" and found.settings["data.split"] == "test"
    assert found.settings["data.limit"] == 7
    for key, value in {"num_samples": 10, "folder": "de", "novel": 1}.items():
        assert key in refusals(described(tmp_path, about | {key: value}, stage="sft"))["dataset"]
    assert "data.limit=10" in refusals(described(tmp_path, about | {"num_samples": 10}, stage="sft"))["dataset"]
    for place in ("ms_hub_url", "script_url", "cloud_file_name"):
        assert place in refusals(described(tmp_path, {place: "a/b"} | columns, stage="sft"))["dataset"]
    assert "split" in refusals(described(tmp_path, FILE | {"split": "train[:5]"} | columns, stage="sft"))["dataset"]
    assert "ranking" in refusals(described(tmp_path, about | {"ranking": True}, stage="sft"))["dataset"]
    assert "ranking" in refusals(described(tmp_path, about, stage="dpo"))["dataset"]
    assert "response" in refusals(described(tmp_path, FILE | {"columns": {"prompt": "q"}}, stage="sft"))["dataset"]
    assert "history" in refusals(described(tmp_path, FILE | {"columns": {"history": "h"}}, stage="sft"))["dataset"]


def test_texts_are_read_whole_where_they_are_pretrained_on(tmp_path: Path) -> None:
    about = FILE | {"columns": {"prompt": "body"}}
    found = described(tmp_path, about, {"body": "a"}, stage="pt", packing=False)
    assert not found.refused
    assert (found.settings["data.format"], found.settings["data.columns"]) == ("text", {"text": "body"})


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"stage": "sft", "neat_packing": True}, "neat_packing"),
        ({"stage": "sft", "packing": True}, "packing"),
        ({"stage": "pt"}, "packing"),
        ({"stage": "pt", "packing": None}, "packing"),
    ],
)
def test_factorys_packing_is_known_however_it_is_said(config: dict[str, Any], key: str) -> None:
    given = {"model_name_or_path": "m", "per_device_train_batch_size": 2} | config
    assert [*refusals(translated("llamafactory", given, overrides=GIVEN))] == [key]
    found = translated("llamafactory", given, overrides=GIVEN, packed=3.0)
    assert not found.refused and found.settings["schedule.prompts"] == 6
    off = translated("llamafactory", given | {"packing": False, "neat_packing": False}, overrides=GIVEN, packed=3.0)
    assert off.settings["schedule.prompts"] == 2


@pytest.mark.parametrize(
    ("template", "model", "own"),
    [
        ("qwen", "Qwen/Qwen2.5-0.5B-Instruct", True),
        ("qwen3_nothink", "Qwen/Qwen3-4B", True),
        ("llama3", "meta-llama/Meta-Llama-3-8B-Instruct", True),
        ("llama3", "maker/llama-30b", False),
        ("llama3", "Qwen/Qwen2.5-0.5B", False),
        ("yi", "maker/Yi-1.5-9B", True),
        ("yi", "maker/tiny-yield", False),
        ("yi", "maker/tinyi", False),
        ("qwen", "models/base", False),
        ("alpaca", "maker/alpaca-7b", False),
        ("vicuna", "maker/little-1b", False),
        ("fewshot", "maker/little-1b", False),
    ],
)
def test_a_template_is_the_models_own_or_refused(template: str, model: str, own: bool) -> None:
    """A base model without a template stops a run then, as its texts are a user's turns."""
    given = {"stage": "sft", "model_name_or_path": model, "template": template}
    found = translated("llamafactory", given, overrides=GIVEN)
    assert ("template" in refusals(found)) != own
    assert found.settings.get("data.chat") == ("user" if own else None)
    qwen = translated("llamafactory", given, overrides=GIVEN | {"policy.model": "models/qwen3"})
    assert ("template" in refusals(qwen)) == (not template.startswith("qwen"))
    for said in ("vicuna.jinja", ""):
        settled = translated("llamafactory", given, overrides=GIVEN | {"policy.chat_template": said})
        assert not settled.refused and settled.settings["data.chat"] == "user"


def test_a_template_says_nothing_of_whole_texts() -> None:
    given = {"stage": "pt", "model_name_or_path": "m", "template": "alpaca", "packing": False}
    found = translated("llamafactory", given, overrides=GIVEN)
    assert not found.refused and found.settings["data.chat"] == "plain"


@pytest.mark.parametrize("key", ["streaming", "tokenized_path"])
def test_keys_of_factory_that_change_the_data_are_refused(key: str) -> None:
    assert key in refusals(translated("llamafactory", FACTORY | {"stage": "sft", key: "here"}))


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
