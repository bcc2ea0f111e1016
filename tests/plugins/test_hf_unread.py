"""The last layer's feed-forward where its answer is read: nothing that is read changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from alignzoo_hf.forward import unread

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "pad_token_id": 0}
WIDE = SIZES | {"num_key_value_heads": 2, "intermediate_size": 24}
FAMILIES = ["Llama", "GPT2", "GPTNeoX", "Gemma2", "Phi", "Mixtral"]
TOKENS = torch.arange(2, 12)[None]
READ = torch.tensor([3, 8, 9])


def trunk(family: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = SIZES if family == "GPT2" else WIDE
        config = getattr(transformers, f"{family}Config")(**sizes, bos_token_id=None, eos_token_id=1)
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().base_model


def through(base: Any) -> Tensor:
    states: Tensor = base(TOKENS, use_cache=False).last_hidden_state[0]
    return states


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_and_what_is_learnt_from_it_stay(family: str) -> None:
    base = trunk(family)
    whole = through(base)
    upstream = torch.linspace(-1, 1, whole[READ].numel()).view(whole[READ].shape)
    weights = [weight for weight in base.parameters() if weight.requires_grad]
    expected = torch.autograd.grad(whole[READ], weights, upstream, allow_unused=True)
    with unread.left_out(base, READ):
        found = through(base)
    torch.testing.assert_close(found[READ], whole[READ], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, whole, rtol=1e-5, atol=1e-6)  # the others have no meaning any more
    learnt = torch.autograd.grad(found[READ], weights, upstream, allow_unused=True)
    for ours, theirs in zip(learnt, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12)) < 1e-5
    assert torch.equal(through(base), whole)  # afterwards it is as it was


def test_only_the_last_layer_is_spared_and_by_all_that_is_not_read() -> None:
    base, seen = trunk("Llama"), []
    assert unread.feed_forward(base) is base.layers[2].mlp
    for layer in base.layers:
        layer.mlp.down_proj.register_forward_hook(lambda module, given, out: seen.append(out.shape[1]))
    with unread.left_out(base, READ):
        through(base)
    assert seen == [10, 10, 3]


class Mixing(nn.Module):
    """A layer in which each position reads its neighbours, too."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


class Adding(nn.Module):
    """With the residual, as BLOOM's."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return x + residual


class Routing(nn.Module):
    """Says more than the states."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.sum(-1)


@pytest.mark.parametrize("part", [Mixing(), Adding(), Routing(), None], ids=str)
def test_what_does_not_answer_each_token_alone_is_computed_whole(part: nn.Module | None) -> None:
    base = trunk("Llama")
    if part is None:
        del base.layers[-1].mlp
    else:
        base.layers[-1].mlp = part
    assert unread.feed_forward(base) is None
    with unread.left_out(base, READ):
        assert part is None or not (part._forward_hooks or part._forward_pre_hooks)
