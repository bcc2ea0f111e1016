"""Rotary embeddings: the formula by hand, its gradient, and whose function is exchanged for how long."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.models.cohere import modeling_cohere
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.llama import modeling_llama

from alignzoo_hf.forward import rotary


def test_a_pair_is_turned_by_its_angle() -> None:
    angle = math.pi / 6
    x = torch.tensor([[[[2.0, 0.0]]]])  # halves of one number each: x1 = 2, x2 = 0
    cos, sin = torch.full((1, 1, 1, 2), math.cos(angle)), torch.full((1, 1, 1, 2), math.sin(angle))
    assert rotary.turned(x, cos, sin).flatten().tolist() == pytest.approx([math.sqrt(3), 1.0])
    back = rotary.turned(rotary.turned(x, cos, sin), cos, -sin)
    assert back.flatten().tolist() == pytest.approx([2.0, 0.0], abs=1e-6)


def test_the_gradient_is_the_formulas() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 8, generator=rng, dtype=torch.float64).transpose(1, 2).requires_grad_()
    cos, sin = (torch.randn(2, 1, 3, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    ours, theirs = rotary.Rotation.apply(x, cos, sin), x * cos + modeling_llama.rotate_half(x) * sin
    assert torch.equal(ours, theirs)
    upstream = torch.randn(theirs.shape, generator=rng, dtype=torch.float64)
    (found,), (expected,) = (torch.autograd.grad(each, x, upstream) for each in (ours, theirs))
    assert torch.equal(found, expected)
    assert torch.autograd.gradcheck(lambda x: rotary.Rotation.apply(x, cos, sin), x)


def sizes(turned: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    shapes = [(1, 4, 3, 8), (1, 2, 3, 8), (1, 3, turned), (1, 3, turned)]
    return [torch.randn(shape, generator=rng) for shape in shapes]


def test_a_part_of_a_head_is_turned_by_the_familys_own() -> None:
    own, given = modeling_gpt_neox.apply_rotary_pos_emb, sizes(4)
    for ours, theirs in zip(rotary._rotate(own, *given), own(*given), strict=True):
        assert torch.equal(ours, theirs)


def test_what_pairs_neighbours_stays() -> None:
    assert rotary._is_common(modeling_llama.apply_rotary_pos_emb)
    assert not rotary._is_common(modeling_cohere.apply_rotary_pos_emb)


def test_the_function_is_transformers_own_again_afterwards() -> None:
    config = modeling_llama.LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    model, own = modeling_llama.LlamaModel(config), modeling_llama.apply_rotary_pos_emb
    with pytest.raises(KeyError), rotary.rotating(model):
        assert modeling_llama.apply_rotary_pos_emb is not own
        with rotary.rotating(model):
            model(torch.tensor([[1, 2, 3]]))
        raise KeyError
    assert modeling_llama.apply_rotary_pos_emb is own
