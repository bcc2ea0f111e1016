"""What lies in memory at the same time: counted in tensors, not in times or peaks of a process."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from alignzoo.batching import collate
from alignzoo.schedule import Schedule
from alignzoo.torch_optimizers import torch_optimizer
from alignzoo.types import Batch, Group, Prompt, Score
from alignzoo_hf.decode.engine import column_major
from alignzoo_hf.model import models, saving, weights
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF


def loaded(folder: Path, *needs: str, **settings: Any) -> HFPolicy:
    policy = HF(model=str(folder), device="cpu", **settings).load(frozenset({"logprobs", *needs}))
    assert isinstance(policy, HFPolicy)
    return policy


def storages(model: nn.Module) -> dict[int, int]:
    """The bytes of each place in memory that a model's weights lie in."""
    kept = [each.untyped_storage() for each in model.parameters()]
    return {each.data_ptr(): each.nbytes() for each in kept}


def new_bytes(copied: nn.Module, model: nn.Module) -> int:
    return sum(size for place, size in storages(copied).items() if place not in storages(model))


def batch_of(policy: HFPolicy) -> Batch:
    group = policy.encode(Prompt("ab"), ["cd"])
    return collate([Group(group.prompt, group.prompt_tokens, group.completions, (Score(1.0),))])


def stepped(policy: HFPolicy, batch: Batch) -> None:
    policy.optimize(partial(torch_optimizer, Schedule(), policy.device))
    policy.backward(-policy.forward(batch, frozenset({"logprobs"})).logprobs.sum())  # type: ignore[union-attr]
    policy.step(1e-2, 0.0)


def test_what_is_saved_is_the_only_copy(plain_model: Path) -> None:
    model = loaded(plain_model).lm
    assert saving.stored(model, torch.float32) is model
    before = [each.clone() for each in model.parameters()]
    copied = saving.stored(model, torch.bfloat16)
    assert new_bytes(copied, model) == 2 * sum(each.numel() for each in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    for ours, whole in zip(copied.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, whole.to(torch.bfloat16))


def test_a_merged_adapter_copies_what_it_changes_alone(plain_model: Path) -> None:
    policy = loaded(plain_model, lora_rank=4)
    stepped(policy, batch_of(policy))
    before = {name: each.clone() for name, each in policy.lm.named_parameters()}
    merged = saving.stored(policy.lm, torch.float32)
    linear = [each for each in models.bare(policy.lm).modules() if hasattr(each, "get_base_layer")]
    changed = 4 * sum(each.get_base_layer().weight.numel() for each in linear)
    changed += 4 * models.bare(policy.lm).lm_head.weight.numel()  # it lies by columns, and is saved by rows
    assert 0 < changed == new_bytes(merged, policy.lm)
    assert all(torch.equal(each, before[name]) for name, each in policy.lm.named_parameters())
    tokens = torch.arange(5)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(tokens).logits, policy.lm(tokens).logits, rtol=1e-5, atol=1e-5)


def test_a_critic_s_adapter_never_loads_a_second_trunk(plain_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, own = [], weights.loaded
    monkeypatch.setattr(weights, "loaded", lambda *given, **more: calls.append(given) or own(*given, **more))
    policy = loaded(plain_model, "values", lora_rank=4)
    trained = sum(each.numel() for each in policy.critic.parameters() if each.requires_grad)
    assert len(calls) == 1 and new_bytes(policy.critic, policy.lm) == 4 * (trained + 16)  # peft keeps the first head


def test_a_policy_is_its_own_reference_until_it_learns(plain_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, own = [], models.causal_lm
    monkeypatch.setattr(models, "causal_lm", lambda *given, **more: calls.append(given) or own(*given, **more))
    policy, again = loaded(plain_model, "ref_logprobs"), loaded(plain_model, "ref_logprobs")
    batch, asked = batch_of(policy), frozenset({"logprobs"})
    assert policy._fingerprint() == again._fingerprint()

    def reference(of: HFPolicy) -> torch.Tensor:
        with torch.no_grad(), of.answering("ref"):
            return of.forward(batch, asked).logprobs  # type: ignore[return-value]

    first = reference(policy)
    assert len(calls) == 2  # the two policies, and no copy of either
    stepped(policy, batch)
    assert torch.equal(reference(policy), first) and len(calls) == 3
    assert not torch.equal(policy.forward(batch, asked).logprobs, first)  # type: ignore[arg-type]
    again.restore(policy.state())  # as a resumed run does
    assert torch.equal(reference(again), first) and len(calls) == 4
    assert policy._fingerprint() == again._fingerprint() == loaded(plain_model, "ref_logprobs")._fingerprint()


def test_what_generates_with_an_adapter_copies_the_head_alone(plain_model: Path) -> None:
    policy = loaded(plain_model, lora_rank=4)
    model, before = models.bare(policy.lm), storages(policy.lm)
    with column_major(model):
        frozen = [each for name, each in model.named_parameters() if "lora_" not in name]
        made = sum(each.untyped_storage().nbytes() for each in frozen if each.data_ptr() not in before)
    assert made == 0  # its head is no embedding
    full = loaded(plain_model).lm
    before = storages(full)
    with column_major(full):
        linear = [each for each in full.modules() if isinstance(each, nn.Linear)]
        assert all(each.weight.data_ptr() not in before for each in linear)  # the control
