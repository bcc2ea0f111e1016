"""Recomputation: the same answers and gradients to the bit, less kept, and the bytes that `plan` counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_hf_packed import ragged, random_model
from torch import Tensor
from transformers import AutoTokenizer

from alignzoo import cost
from alignzoo_hf.forward import memory, recompute
from alignzoo_hf.forward.shape import shape_of
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF

NEEDS = frozenset({"logprobs", "entropy", "values"})


@contextmanager
def kept() -> Iterator[set[int]]:
    """The storages that are kept for the backward pass inside; weights are among them, in either way."""
    found: dict[int, int] = {}
    sizes: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes
    sizes.add(sum(found.values()))


def trained(
    plain_model: Any, family: str, *, recompute: bool, **settings: Any
) -> tuple[list[Tensor], list[Tensor], int]:
    """What a policy answers, its gradients, and the bytes that were kept."""
    tokenizer = AutoTokenizer.from_pretrained(plain_model)
    spec = HF(
        random_model(family), tokenizer=tokenizer, device="cpu", recompute=recompute, max_new_tokens=4, **settings
    )
    policy = HFPolicy(spec, NEEDS)
    batch = ragged(3)
    policy.forward(batch, NEEDS)  # whether the model can be packed is found out first
    with kept() as held:
        out = policy.forward(batch, NEEDS)
    answers = [out[name] for name in sorted(NEEDS)]
    sum((each * torch.linspace(0.5, 1.5, each.numel()).view_as(each)).sum() for each in answers).backward()  # type: ignore[union-attr]
    weights = [weight for group in policy.parameters() for weight in group["params"]]
    assert all("forward" not in vars(layer) for layer in policy.lm.modules() if type(layer).__name__.endswith("Layer"))
    return [each.detach() for each in answers], [weight.grad for weight in weights], held.pop()


@pytest.mark.parametrize(
    ("family", "settings"),
    [("Llama", {}), ("Llama", {"dtype": "bf16"}), ("Llama", {"lora_rank": 2}), ("Qwen3", {"attention": "sdpa"})],
    ids=["packed", "bf16", "lora", "padded"],
)
def test_layers_that_are_computed_twice_give_the_same_gradients_to_the_bit(
    plain_model: Any, family: str, settings: dict[str, Any]
) -> None:
    plain = trained(plain_model, family, recompute=False, **settings)
    twice = trained(plain_model, family, recompute=True, **settings)
    assert all(torch.equal(a, b) for a, b in zip(plain[0], twice[0], strict=True))
    assert all(g is not None and torch.equal(g, h) for g, h in zip(plain[1], twice[1], strict=True))
    assert twice[2] < plain[2]


def test_what_layers_leave_free_is_looked_at_before_each_of_them(
    plain_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the way there and on the way back: else the heap grows by a layer's tensors with every layer."""
    looks: list[bool] = []
    monkeypatch.setattr(recompute, "give_back", lambda: looks.append(torch.is_grad_enabled()))
    trained(plain_model, "Llama", recompute=True, critic="shared")
    layers = random_model("Llama").config.num_hidden_layers
    assert len(looks) == 3 * layers  # two passes with a gradient, of which one is gone back
    looks.clear()
    trained(plain_model, "Llama", recompute=False, critic="shared")
    assert not looks


def test_what_is_kept_is_counted() -> None:
    shape = replace(shape_of(random_model("Llama")), layers=30, hidden=576)
    whole, inputs = cost.activation_bytes(shape, 100), 30 * 576 * 100 * 4
    assert cost.recompute_bytes(shape, 100) == inputs + whole // 30
    free = 4 * cost.gradient_bytes(shape) + 3000 * cost.activation_bytes(shape, 1)
    assert memory.on_gpu(shape, free, 4, recompute=True) > memory.on_gpu(shape, free, 4)
