"""Adapters: their options, what is saved of them, a directory of one as the model, and exports."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_hf_packed import ragged
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignzoo.batching import collate
from alignzoo.cli import exporting
from alignzoo.cost import weight_bytes
from alignzoo.errors import ModelError, RunError
from alignzoo.types import Prompt
from alignzoo_hf.model import rounding
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF

LOGPROBS = frozenset({"logprobs"})


def policy_of(model: Any, **settings: Any) -> HFPolicy:
    return HFPolicy(HF(str(model), device="cpu", max_new_tokens=4, **settings), LOGPROBS)


def moved(policy: HFPolicy) -> HFPolicy:
    """With an adapter that does something."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in policy.lm.named_parameters():
            if "lora_" in name:
                weight.add_(torch.randn(weight.shape, generator=rng) * 0.1)
    return policy


@pytest.fixture(scope="module")
def saved(plain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[HFPolicy, Path]:
    """A policy with an adapter, and the directory that it was saved to."""
    policy = moved(policy_of(plain_model, lora_rank=2, lora_alpha=4.0))
    path = tmp_path_factory.mktemp("saved") / "model"
    policy.save(path)
    return policy, path


def test_the_adapter_is_saved_beside_the_merged_model_and_is_a_model_itself(saved: tuple[HFPolicy, Path]) -> None:
    policy, path = saved
    config = json.loads((path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (2, 4.0, "LORA")
    expected = policy.forward(ragged(1), LOGPROBS)["logprobs"]
    for place in (path, path / "adapter"):  # ours
        found = policy_of(place).forward(ragged(1), LOGPROBS)["logprobs"]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    model = AutoModelForCausalLM.from_pretrained(path / "adapter")  # theirs
    tokens = torch.arange(5, 15)[None]
    whole = AutoModelForCausalLM.from_pretrained(path)
    torch.testing.assert_close(model(tokens).logits, whole(tokens).logits, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(path / "adapter").vocab_size


def test_a_new_adapter_on_an_adapter_s_directory_starts_from_what_that_one_does(
    saved: tuple[HFPolicy, Path], tmp_path: Path
) -> None:
    policy, path = saved
    second = policy_of(path / "adapter", lora_rank=2)
    expected = policy.forward(ragged(1), LOGPROBS)["logprobs"]
    with second.answering("ref"):
        reference = second.forward(ragged(1), LOGPROBS)["logprobs"]
    torch.testing.assert_close(reference, expected, rtol=1e-4, atol=1e-4)
    moved(second).save(tmp_path / "second")
    again = policy_of(tmp_path / "second" / "adapter").forward(ragged(1), LOGPROBS)["logprobs"]
    torch.testing.assert_close(again, second.forward(ragged(1), LOGPROBS)["logprobs"], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(again, expected, atol=1e-3)


def test_an_adapter_is_trained_on_where_it_is_the_model(saved: tuple[HFPolicy, Path]) -> None:
    policy, path = saved
    again = policy_of(path / "adapter")
    trained = {name for name, each in again.lm.named_parameters() if each.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    expected = policy.forward(ragged(1), LOGPROBS)["logprobs"]
    torch.testing.assert_close(again.forward(ragged(1), LOGPROBS)["logprobs"], expected, rtol=1e-4, atol=1e-4)
    now = moved(again).forward(ragged(1), LOGPROBS)["logprobs"]
    assert not torch.allclose(now, expected, atol=1e-3)
    with again.answering("ref"):  # as the run began, and not the base
        torch.testing.assert_close(again.forward(ragged(1), LOGPROBS)["logprobs"], expected, rtol=1e-4, atol=1e-4)
    frozen = {each.data_ptr() for each in again.lm.parameters() if not each.requires_grad}
    assert frozen <= {each.data_ptr() for each in again.roles["ref"].model.parameters()}  # in memory once
    shape = HF(str(path / "adapter"), device="cpu").outline(LOGPROBS).shape
    assert shape.trained == sum(each.numel() for each in again.lm.parameters() if each.requires_grad)


@pytest.mark.parametrize(
    ("settings", "scale", "suffix"),
    [
        ({"lora_rank": 4, "lora_alpha": 8.0}, 2.0, ""),
        ({"lora_rank": 4, "lora_alpha": 8.0, "lora_rslora": True}, 4.0, ""),  # 8 / √4
        ({"lora_rank": 4, "lora_alpha": 8.0, "lora_dora": True}, 2.0, "lora_magnitude_vector"),
        ({"lora_rank": 4, "lora_alpha": 8.0, "lora_targets": r".*layers\.0\..*(q|v)_proj"}, 2.0, ""),
    ],
    ids=["lora", "rslora", "dora", "regex"],
)
def test_options_of_an_adapter_are_peft_s(
    plain_model: Path, settings: dict[str, Any], scale: float, suffix: str
) -> None:
    policy = policy_of(plain_model, **settings)
    layers = {name: each for name, each in policy.lm.named_modules() if hasattr(each, "lora_A") and each.lora_A}
    assert {each.scaling["default"] for each in layers.values()} == {scale}
    assert any(suffix in name for name, _ in policy.lm.named_parameters())
    if "lora_targets" in settings:
        assert sorted(name.rpartition("layers.")[2] for name in layers) == ["0.self_attn.q_proj", "0.self_attn.v_proj"]
    out = policy.forward(ragged(1), LOGPROBS)["logprobs"]
    with policy.answering("ref"):
        assert torch.equal(policy.forward(ragged(1), LOGPROBS)["logprobs"], out) or suffix  # DoRA rounds its norms


def test_dropout_is_refused_with_the_reason() -> None:
    with pytest.raises(ModelError, match=r"lora_dropout = 0.1 is not supported: .* ratios do not start at 1"):
        HF("any", lora_dropout=0.1)


def test_a_model_is_saved_in_the_precision_that_it_lay_in(plain_model: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(plain_model, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "bf16")
    AutoTokenizer.from_pretrained(plain_model).save_pretrained(tmp_path / "bf16")
    for rank in (0, 2):
        policy = policy_of(tmp_path / "bf16", lora_rank=rank)
        policy.save(tmp_path / f"out{rank}")
        assert json.loads((tmp_path / f"out{rank}" / "config.json").read_text())["dtype"] == "bfloat16"
    policy_of(plain_model).save(tmp_path / "fp32")
    assert json.loads((tmp_path / "fp32" / "config.json").read_text())["dtype"] == "float32"


@pytest.fixture(scope="module")
def in_bf16(plain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that lies in bf16."""
    path = tmp_path_factory.mktemp("bf16")
    AutoModelForCausalLM.from_pretrained(plain_model, dtype=torch.bfloat16).save_pretrained(path)
    AutoTokenizer.from_pretrained(plain_model).save_pretrained(path)
    return path


def shifted(policy: HFPolicy, share: float) -> HFPolicy:
    """With each weight of a matrix larger by this share of itself."""
    with torch.no_grad():
        for weight in policy.lm.parameters():
            if weight.ndim == 2 and weight.requires_grad:
                weight.mul_(1 + share)
    return policy


def dtype_of(path: Path) -> str:
    return str(json.loads((path / "config.json").read_text())["dtype"])


def test_what_rounding_would_take_back_is_saved_in_full(in_bf16: Path, tmp_path: Path) -> None:
    """A weight of bf16 has a step of 0.4 to 0.8 % of itself: of 0.1 % more nothing is left, of 3 % nearly all."""
    policy = shifted(policy_of(in_bf16), 0.001)
    with pytest.warns(UserWarning, match=r"0\.0% would be left in a model of bfloat16.* so it is saved in float32"):
        policy.save(tmp_path / "small")
    assert dtype_of(tmp_path / "small") == "float32"
    expected = policy.forward(ragged(1), LOGPROBS)["logprobs"]
    found = policy_of(tmp_path / "small").forward(ragged(1), LOGPROBS)["logprobs"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_change_that_rounding_keeps_is_saved_as_the_model_lay(
    in_bf16: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    shifted(policy_of(in_bf16), 0.03).save(tmp_path / "large")
    policy_of(in_bf16).save(tmp_path / "none")
    assert dtype_of(tmp_path / "large") == dtype_of(tmp_path / "none") == "bfloat16"
    assert not [each for each in recwarn if "would be left" in str(each.message)]


def test_a_precision_that_is_named_is_kept_and_the_loss_told(in_bf16: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"0\.0% would be left .* it is saved so: policy.save_dtype=fp32"):
        shifted(policy_of(in_bf16, save_dtype="bf16"), 0.001).save(tmp_path / "bf16")
    assert dtype_of(tmp_path / "bf16") == "bfloat16"
    policy_of(in_bf16, save_dtype="fp32").save(tmp_path / "fp32")
    assert dtype_of(tmp_path / "fp32") == "float32"


def test_a_model_of_the_hub_began_where_it_was_fetched_to(in_bf16: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = {"me/small": str(in_bf16 / "config.json")}
    monkeypatch.setattr(rounding, "cached_file", lambda source, *_, **__: fetched.get(source))
    model = shifted(policy_of(in_bf16), 0.001).lm
    assert rounding.left(model, "me/small", torch.bfloat16) == pytest.approx(0.0, abs=1e-6)
    assert rounding.left(model, "me/other", torch.bfloat16) is None


def test_a_small_adapter_is_told_and_kept_beside_its_merged_model(in_bf16: Path, tmp_path: Path) -> None:
    policy = policy_of(in_bf16, lora_rank=2)
    with torch.no_grad():
        for name, weight in policy.lm.named_parameters():
            if "lora_B" in name:
                weight.add_(1e-6)
    with pytest.warns(UserWarning, match=r"would be left .* the adapter beside it keeps them all"):
        policy.save(tmp_path / "out")
    assert dtype_of(tmp_path / "out") == "bfloat16"


def test_embeddings_and_heads_are_groups_of_their_own(plain_model: Path) -> None:
    policy = HFPolicy(HF(str(plain_model), device="cpu", max_new_tokens=4), LOGPROBS | {"values"})
    groups = policy.parameters()
    tables = [weight for group in groups if group.get("embedding") for weight in group["params"]]
    assert any(each is policy.lm.get_input_embeddings().weight for each in tables)
    assert any(each is policy.critic.score.weight for each in tables)
    assert all(each.ndim == 1 or "proj" in name for name, each in policy.lm.named_parameters() if not _in(each, tables))
    n = sum(each.numel() for model in (policy.lm, policy.critic) for each in model.parameters())
    assert sum(each.numel() for group in groups for each in group["params"]) == n


def test_a_critic_s_adapter_lies_on_the_policy_s_frozen_weights(plain_model: Path) -> None:
    policy = HFPolicy(HF(str(plain_model), device="cpu", max_new_tokens=4, lora_rank=2), LOGPROBS | {"values"})
    frozen = {each.data_ptr() for each in policy.lm.parameters() if not each.requires_grad}
    others = [(name, each) for name, each in policy.critic.named_parameters() if not each.requires_grad]
    trunk = [each for name, each in others if "score" not in name]  # peft keeps a head's first weights
    assert trunk and all(each.data_ptr() in frozen for each in trunk)
    trained = [each for each in policy.critic.parameters() if each.requires_grad]
    assert trained and not {each.data_ptr() for each in trained} & {each.data_ptr() for each in policy.lm.parameters()}
    shape = policy.info().shape
    assert shape is not None and shape.critic is not None and shape.critic.shared
    whole = sum(each.numel() for each in policy.lm.parameters()) + sum(each.numel() for each in trained)
    assert weight_bytes(shape) == 4 * whole


def _in(weight: Any, some: list[Any]) -> bool:
    return any(each is weight for each in some)


# --- exports ----------------------------------------------------------------------------------------------------------


def test_an_export_is_the_adapter_or_merged_the_model(
    saved: tuple[HFPolicy, Path], alignzoo: Any, tmp_path: Path
) -> None:
    _, path = saved
    said = alignzoo("export", path, "--out", tmp_path / "adapter")
    assert said.code == 0 and "adapter:" in said.out
    assert "a directory of this machine, without which nobody can load it" in said.err and "--merge" in said.err
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert alignzoo("export", path, "--merge", "--out", tmp_path / "whole").code == 0
    assert (tmp_path / "whole" / "model.safetensors").exists() and not (tmp_path / "whole" / "adapter").exists()
    head = "---\nbase_model: some/model\nlibrary_name: {}\n---\n\nWhat it is.\n"
    (tmp_path / "adapter" / "README.md").write_text(head.format("peft"))
    assert alignzoo("export", tmp_path / "adapter", "--merge", "--out", tmp_path / "merged").code == 0
    assert (tmp_path / "merged" / "README.md").read_text() == head.format("transformers")
    own, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("whole", "merged"))
    for a, b in zip(own.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    taken = alignzoo("export", path, "--out", tmp_path / "whole")
    assert taken.code == 1 and "exists: give --out a folder that does not" in taken.err
    nowhere = alignzoo("export", path)
    assert nowhere.code == 1 and "say where to" in nowhere.err
    none = alignzoo("export", tmp_path, "--out", tmp_path / "x")
    assert none.code == 1 and "is no model's directory" in none.err


def test_a_model_without_its_weights_is_not_exported(plain_model: Path, alignzoo: Any, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(plain_model, model)
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": parts}))
    cut = alignzoo("export", model, "--out", tmp_path / "out")
    assert (
        cut.code == 1 and "lacks model-00002-of-00002.safetensors, which model.safetensors.index.json names" in cut.err
    )
    index.unlink()
    (model / "model-00001-of-00002.safetensors").unlink()
    none = alignzoo("export", model, "--out", tmp_path / "out")
    assert none.code == 1 and "holds no weights" in none.err and not (tmp_path / "out").exists()


def test_private_without_a_push_is_refused(plain_model: Path, alignzoo: Any, tmp_path: Path) -> None:
    said = alignzoo("export", plain_model, "--out", tmp_path / "out", "--private")
    assert said.code == 1 and "--private says how a repository of --push is made" in said.err


@pytest.mark.parametrize("odd", ["a link", "a pipe", "a full disk"])
def test_a_file_that_cannot_be_exported_is_named(
    odd: str, plain_model: Path, alignzoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(place: str, to: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", to)

    model = tmp_path / "model"
    shutil.copytree(plain_model, model)
    file, cure = model / "notes.txt", "move it out of the model's directory, and export again"
    if odd == "a link":
        file.symlink_to("nowhere")
    elif odd == "a pipe":
        os.mkfifo(file)
    else:
        monkeypatch.setattr(shutil, "copy2", full)
        file, cure = model, "that there is room for the copy, and export again"
    said = alignzoo("export", model, "--out", tmp_path / "out")
    assert said.code == 1 and str(file) in said.err and " cannot be exported: " in said.err and "[(" not in said.err
    assert cure in said.err and {each.name for each in tmp_path.iterdir()} == {"model"}


def test_nothing_is_uploaded_but_where_it_is_asked_for(
    saved: tuple[HFPolicy, Path], alignzoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, bool, set[str]]] = []

    def upload(folder: Path, repo: str, *, private: bool) -> str:
        sent.append((repo, private, {file.name for file in folder.iterdir()}))
        return f"https://hub/{repo}"

    monkeypatch.setattr(exporting, "upload", upload)
    assert alignzoo("export", saved[1], "--out", tmp_path / "here").code == 0 and sent == []
    assert "https://hub/me/mine" in alignzoo("export", saved[1], "--push", "me/mine", "--private").out
    ((repo, private, files),) = sent
    assert (repo, private) == ("me/mine", True) and "adapter_config.json" in files


def test_an_upload_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RunError, match=r"not/a/name could not be uploaded .* OWNER/NAME"):
        exporting.upload(tmp_path, "not/a/name", private=False)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.filterwarnings("ignore")  # bitsandbytes' own, of casts
def test_an_adapter_on_weights_of_few_bits_trains_and_is_saved_alone(
    bits: Any, plain_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    spec = HF(model=str(plain_model), device="cpu", lora_rank=4, quantization=bits)
    policy: Any = spec.load(frozenset({"logprobs", "values"}))
    packed = [each for each in policy.lm.parameters() if not each.is_floating_point()]
    assert len(packed) == 7 and {each.data_ptr() for each in packed} == {
        each.data_ptr() for each in policy.critic.parameters() if not each.is_floating_point()
    }
    group = policy.encode(Prompt("ab"), ["cd"])
    batch = collate([group], scored=False)
    policy.optimize(lambda groups: torch.optim.AdamW(groups))
    before = policy.forward(batch, frozenset({"logprobs"})).logprobs.detach()
    policy.backward(-policy.forward(batch, frozenset({"logprobs"})).logprobs.sum())
    policy.step(1e-2, 0.0)
    after = policy.forward(batch, frozenset({"logprobs"})).logprobs.detach()
    assert after.sum() > before.sum()
    with torch.no_grad(), policy.answering("ref"):
        torch.testing.assert_close(policy.forward(batch, frozenset({"logprobs"})).logprobs, before)
    policy.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "config.json").exists()
    again: Any = replace(spec, model=str(tmp_path / "saved"), lora_rank=0).load(frozenset({"logprobs"}))
    kept = again.forward(batch, frozenset({"logprobs"})).logprobs.detach()
    torch.testing.assert_close(kept, after, rtol=1e-3, atol=1e-2)  # the scales of 4 bits are themselves rounded
    whole: Any = HF(model=str(tmp_path / "saved"), device="cpu").load(frozenset())
    assert whole.lm is not None  # merged into the weights that it was trained on


def test_few_bits_need_an_adapter_and_the_package(plain_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"cannot be trained: set policy\.lora_rank"):
        HF(model=str(plain_model), device="cpu", quantization="4bit").load(frozenset({"logprobs"}))
    spec = HF(model=str(plain_model), device="cpu", lora_rank=4, quantization="4bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"needs the package bitsandbytes.*pip install bitsandbytes.*dtype=bf16"):
        spec.load(frozenset({"logprobs"}))
    with pytest.raises(ModelError, match="for language models"):
        spec.load(frozenset({"scores"}))
