"""The reference's log-probabilities of given data are kept: the next run reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import alignzoo
from alignzoo import Alert, Group
from alignzoo.batching import collate, fill
from alignzoo.interfaces import PolicyInfo
from alignzoo.microbatch import MicroBatcher
from alignzoo.testing import toy_groups
from alignzoo.testing.world import ToyPolicy
from alignzoo.training.reference_cache import SWITCH, Remembered, remember
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF

PAIRS = [{"prompt": f"Count to {n}: ", "chosen": f"{n} it is", "rejected": "no"} for n in range(10)]


class Named(ToyPolicy):
    """Known again by its seed. Counts the rows that its reference answers."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.seed = seed
        self.asked = 0

    def info(self) -> PolicyInfo:
        return PolicyInfo(fingerprint=lambda: f"toy {self.seed}")

    @contextmanager
    def answering(self, role: str) -> Iterator[None]:
        self.asked += 1
        with super().answering(role):
            yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(SWITCH, str(tmp_path / "references"))
    return tmp_path / "references"


def batches(seed: int = 0) -> list[list[Group]]:
    return [toy_groups(seed), toy_groups(seed + 10, sizes=(2, 3))]


def ask(policy: ToyPolicy, given: list[list[Group]], *, tokens: int = 0) -> tuple[Remembered, list[Alert]]:
    told: list[Alert] = []
    batcher = MicroBatcher(policy, tokens=tokens)
    return remember(policy, given, batcher, told=told.append, progress=lambda batch: None), told


def is_right(known: Remembered, given: list[list[Group]]) -> None:
    for groups in given:
        batch = collate(groups)
        expected = fill(batch, ToyPolicy(0), frozenset({"ref_logprobs"})).ref_logprobs
        found = known.column(batch, groups)
        assert expected is not None and found is not None
        assert torch.equal(found, expected)


def test_a_row_that_is_not_remembered_makes_nothing_up() -> None:
    known, _ = ask(Named(), batches())
    others = toy_groups(3)
    assert known.column(collate(others), others) is None
    assert Remembered().column(collate(others), others) is None


def test_answers_are_computed_once_and_read_by_the_next(folder: Path) -> None:
    first, second = Named(), Named()
    known, told = ask(first, batches())
    is_right(known, batches())
    assert first.asked == 2 and len(list(folder.iterdir())) == 1
    again, told_again = ask(second, batches())
    is_right(again, batches())
    assert second.asked == 0 and not told and not told_again


@pytest.mark.parametrize("change", ["model", "row", "start", "order", "size"])
def test_what_has_changed_is_computed_again(folder: Path, change: str) -> None:
    ask(Named(), batches())
    policy, given, tokens = Named(), batches(), 0
    if change == "model":
        policy = Named(1)
    elif change == "row":
        given[1][0] = replace(given[1][0], prompt_tokens=(12, *given[1][0].prompt_tokens))
    elif change == "start":
        group = given[1][0]
        moved = tuple(
            replace(c, tokens=(group.prompt_tokens[-1], *c.tokens), own=None, mask=None) for c in group.completions
        )
        given[1][0] = replace(group, prompt_tokens=group.prompt_tokens[:-1], completions=moved)
    elif change == "order":
        given = given[::-1]
    else:
        tokens = 30
    known, _ = ask(policy, given, tokens=tokens)
    assert policy.asked == 2
    for groups in given:
        assert known.column(collate(groups), groups) is not None


def damage_end(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def damage_numbers(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[-3] ^= 64
    file.write_bytes(whole)


def damage_all(file: Path) -> None:
    file.write_bytes(b"nothing of the kind")


def of_another_kind(file: Path) -> None:
    save_file({"weights": torch.zeros(3)}, file)


def without_digest(file: Path) -> None:
    save_file(load_file(file), file)


@pytest.mark.parametrize("damage", [damage_end, damage_numbers, damage_all, of_another_kind, without_digest])
def test_a_damaged_file_is_told_of_and_written_anew(folder: Path, damage: Any) -> None:
    ask(Named(), batches())
    [file] = folder.iterdir()
    whole = file.read_bytes()
    damage(file)
    policy = Named()
    known, [alert] = ask(policy, batches())
    is_right(known, batches())
    assert policy.asked == 2
    assert alert.kind == "cache" and alert.message.startswith(f"the reference's log-probabilities in {file} cannot be")
    assert alert.message.endswith("they are computed again")
    assert file.read_bytes() == whole and len(list(folder.iterdir())) == 1
    assert not ask(Named(), batches())[1]


def test_a_folder_that_cannot_be_written_to_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(SWITCH, str(tmp_path / "file"))
    known, [alert] = ask(Named(), batches())
    is_right(known, batches())
    assert (
        "cannot be kept" in alert.message and "set ALIGNZOO_REFERENCES to another folder, or to 'off'" in alert.message
    )


def test_they_lie_in_the_users_cache_unless_they_shall_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(SWITCH, "off")
    ask(Named(), batches())
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv(SWITCH)
    ask(ToyPolicy(), batches())  # which nobody would know again
    assert not list(tmp_path.iterdir())
    ask(Named(), batches())
    assert len(list((tmp_path / "alignzoo" / "reference").iterdir())) == 1


# --- whole runs -------------------------------------------------------------------------------------------------------


def dpo(out: Path, model: Path, *, data: list[dict[str, str]] = PAIRS, epochs: float = 2.0, **policy: Any) -> str:
    """A run's metrics."""
    alignzoo.run(
        "dpo",
        policy={"model": str(model), "max_new_tokens": 4, "device": "cpu", **policy},
        data=data,
        out=out,
        schedule={"steps": 0, "epochs": epochs, "prompts": 4, "lr": 1e-3},
        evaluate={"prompts": 0},
    )
    return (out / "metrics.jsonl").read_text()


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each pass of a reference."""
    asked: list[int] = []
    original = HFPolicy.answering

    @contextmanager
    def counted(self: HFPolicy, role: str) -> Iterator[None]:
        asked.append(1)
        with original(self, role):
            yield

    monkeypatch.setattr(HFPolicy, "answering", counted)
    return asked


@pytest.mark.parametrize("lora", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_second_run_asks_no_reference(
    folder: Path, plain_model: Path, references: list[int], tmp_path: Path, lora: int
) -> None:
    first = dpo(tmp_path / "first", plain_model, lora_rank=lora)
    assert len(references) == 1  # one batch for all data
    second = dpo(tmp_path / "second", plain_model, lora_rank=lora)
    assert len(references) == 1
    assert second == first
    dpo(tmp_path / "longer", plain_model, lora_rank=lora, epochs=3.0)
    assert len(references) == 1


def test_other_weights_and_other_data_are_asked_anew(
    folder: Path, plain_model: Path, references: list[int], tmp_path: Path
) -> None:
    dpo(tmp_path / "first", plain_model)
    dpo(tmp_path / "other data", plain_model, data=[*PAIRS[1:], PAIRS[0] | {"chosen": "0 it was"}])
    assert len(references) == 2
    model = AutoModelForCausalLM.from_pretrained(plain_model)
    with torch.no_grad():
        model.lm_head.weight[3, 3] += 1e-3
    moved = {"model": model, "tokenizer": AutoTokenizer.from_pretrained(plain_model)}
    alignzoo.run(
        "dpo",
        policy=moved | {"max_new_tokens": 4, "device": "cpu"},
        data=PAIRS,
        out=tmp_path / "other weights",
        schedule={"steps": 0, "epochs": 2.0, "prompts": 4, "lr": 1e-3},
        evaluate={"prompts": 0},
    )
    assert len(references) == 3
    assert len(list(folder.iterdir())) == 3


def test_a_damaged_file_is_one_of_the_runs_warnings(
    folder: Path, plain_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = dpo(tmp_path / "first", plain_model)
    [file] = folder.iterdir()
    damage_numbers(file)
    second = dpo(tmp_path / "second", plain_model)
    assert second == first
    assert "cannot be read (its numbers are not those that were written)" in capsys.readouterr().err
    [line] = [json.loads(line) for line in (tmp_path / "second" / "warnings.jsonl").read_text().splitlines()]
    assert (line["kind"], line["step"]) == ("cache", 1)


def test_a_policys_fingerprint_is_of_its_reference(plain_model: Path) -> None:
    def load(**changes: Any) -> HFPolicy:
        return HF(model=str(plain_model), device="cpu", **changes).load(frozenset({"logprobs", "ref_logprobs"}))

    policy = load()
    known = policy.info().fingerprint()
    assert load().info().fingerprint() == known
    with torch.no_grad():
        policy.lm.lm_head.weight += 1.0  # it is trained; the reference stays
    assert policy.info().fingerprint() == known
    assert load(temperature=0.7).info().fingerprint() != known
    assert load(dtype="bf16").info().fingerprint() != known
    adapted = load(lora_rank=2)
    known = adapted.info().fingerprint()
    with torch.no_grad():
        for name, weight in adapted.lm.named_parameters():
            if "lora_B" in name:
                weight += 1.0
    assert adapted.info().fingerprint() == known == load(lora_rank=2).info().fingerprint()
