"""The exchanged norms and feed-forwards against transformers' own, and their gradients against autograd's."""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from alignzoo import cost
from alignzoo_hf.forward import head, layers, tables
from alignzoo_hf.forward.shape import shape_of

SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "pad_token_id": 0}
WIDE = SIZES | {"intermediate_size": 48, "num_key_value_heads": 2}
EXCHANGED = {
    # norms, feed-forwards
    "Llama": (WIDE, 3, 1),
    "Qwen2": (WIDE, 3, 1),
    "Qwen3": (WIDE | {"head_dim": 8}, 5, 1),  # queries and keys have norms of their own
    "Mistral": (WIDE, 3, 1),
    "Gemma": (WIDE | {"head_dim": 8}, 3, 0),  # its gate is another
    "Gemma2": (WIDE | {"head_dim": 8}, 5, 0),
    "Granite": (WIDE, 3, 1),
    "Phi": (WIDE, 0, 0),
    "Cohere": (WIDE, 0, 1),
    "GPTNeoX": (SIZES | {"intermediate_size": 48}, 0, 0),
}


def model_of(family: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**EXCHANGED[family][0], bos_token_id=None, eos_token_id=1)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.2 * torch.randn(weight.shape)
    return model


def exchanged(model: Any) -> dict[str, list[nn.Module]]:
    found: dict[str, list[nn.Module]] = {"norm": [], "feed_forward": [], "embed": []}
    for module in model.modules():
        if "forward" in vars(module):
            found[module.forward.func.__name__].append(module)
    return found


def answers(model: Any) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    logits = model(torch.arange(2, 22).view(2, 10)).logits
    (logits * torch.linspace(-1, 1, logits.numel()).view(logits.shape)).sum().backward()
    return logits.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("family", EXCHANGED)
def test_a_family_says_and_learns_what_it_did(family: str) -> None:
    model = model_of(family)
    expected, expected_gradients = answers(model)
    layers.exchange(model)
    found = exchanged(model)
    assert (len(found["norm"]), len(found["feed_forward"])) == EXCHANGED[family][1:]
    logits, gradients = answers(model)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12)) < 1e-5


def by_formula(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight


@pytest.mark.parametrize("shape", [(3, 8), (1, 5, 8), (2, 3, 2, 8)])
def test_the_norms_gradient_is_the_formulas(shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=rng, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, generator=rng, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(shape, generator=rng, dtype=torch.float64)
    for epsilon in (1e-6, 0.5):
        ours, theirs = layers.RMSNorm.apply(x, weight, epsilon), by_formula(x, weight, epsilon)
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
        found = torch.autograd.grad(ours, [x, weight], upstream)
        torch.testing.assert_close(found, torch.autograd.grad(theirs, [x, weight], upstream), rtol=1e-12, atol=1e-12)
        assert torch.autograd.gradcheck(lambda x, w, e=epsilon: layers.RMSNorm.apply(x, w, e), (x, weight))
    frozen = layers.RMSNorm.apply(x, weight.detach(), 1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(frozen, x, upstream), torch.autograd.grad(by_formula(x, weight, 1e-6), x, upstream)
    )


def test_the_norm_by_hand() -> None:
    # mean of 3², 4², 0, 5² = 12.5: 3/√12.5 = 0.848528, times the weight
    y, r = layers.normed(torch.tensor([[3.0, 4.0, 0.0, 5.0]]), torch.tensor([1.0, 2.0, 1.0, -1.0]), 0.0)
    assert y.tolist() == [pytest.approx([0.848528, 2.262742, 0.0, -1.414214], rel=1e-6)]
    assert float(r) == pytest.approx(0.282843, rel=1e-6)


def gated(x: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor) -> Tensor:
    return (silu(x @ w_gate.T) * (x @ w_up.T)) @ w_down.T


@pytest.mark.parametrize("frozen", [(), (0,), (1, 3), (1, 2, 3)], ids=str)
def test_the_feed_forwards_gradient_is_autograds(frozen: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 4), (7, 4), (7, 4), (4, 7)]
    given = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]
    learnt = [each.requires_grad_() for i, each in enumerate(given) if i not in frozen]
    ours, theirs = layers.Gated.apply(*given), gated(*given)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    upstream = torch.randn(theirs.shape, generator=rng, dtype=torch.float64)
    expected = torch.autograd.grad(theirs, learnt, upstream)
    torch.testing.assert_close(torch.autograd.grad(ours, learnt, upstream), expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(layers.Gated.apply, tuple(given))


def test_the_feed_forward_by_hand() -> None:
    # g = 2 and u = 3: silu(2) = 2 / (1 + e^-2) = 1.761594, times 3, times 0.5
    out = layers.Gated.apply(torch.tensor([[1.0]]), *(torch.tensor([[w]]) for w in (2.0, 3.0, 0.5)))
    assert float(out) == pytest.approx(2.642391, rel=1e-6)


def test_what_hangs_on_a_linear_layer_is_not_passed_by() -> None:
    model = model_of("Llama")
    layers.exchange(model)
    part, x = model.model.layers[0].mlp, torch.linspace(-1, 1, 64).view(1, 2, 32)
    plain = part(x)
    hook = part.up_proj.register_forward_hook(lambda module, given, out: 2 * out)
    torch.testing.assert_close(part(x), 2 * plain)
    hook.remove()
    part.down_proj = nn.Linear(48, 32)
    torch.testing.assert_close(part(x), part.down_proj(silu(part.gate_proj(x)) * part.up_proj(x)))


def test_with_and_without_a_gradient_it_is_the_same_to_the_bit() -> None:
    model = model_of("Qwen3")
    layers.exchange(model)
    tokens = torch.arange(2, 22).view(2, 10)
    learnt = model(tokens).logits
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, learnt)


def test_copies_and_pickles_have_their_own_weights() -> None:
    model = model_of("Llama")
    layers.exchange(model)
    before = answers(model)[0]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            for weight in other.parameters():
                weight.zero_()
        assert not answers(other)[0].any()
        assert torch.equal(answers(model)[0], before)


class OtherRMSNorm(nn.Module):
    """Says by its name that it is what it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / x.abs().mean(-1, keepdim=True)


class OtherGate(nn.Module):
    def __init__(self, *, asks: bool) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(8, 8) for _ in range(3))
        self.asks = asks

    def forward(self, x: Tensor, *experts: Tensor) -> Tensor:
        if self.asks and not experts:
            raise TypeError("forward() lacks experts")
        out: Tensor = self.down_proj(torch.relu(self.gate_proj(x)) * self.up_proj(x))
        return out


@pytest.mark.parametrize("module", [OtherRMSNorm(), OtherGate(asks=False), OtherGate(asks=True)], ids=str)
def test_what_is_something_else_stays(module: nn.Module) -> None:
    layers.exchange(module)
    assert "forward" not in vars(module)


def test_a_forward_that_somebody_has_exchanged_stays() -> None:
    model = model_of("Llama")
    first, gated = model.model.norm, model.model.layers[0].mlp
    hooks = {module: functools.partial(type(module).forward, module) for module in (first, gated)}
    for module, hook in hooks.items():
        module.forward = hook
    for _ in range(2):  # the second time, our own are there
        layers.exchange(model)
        assert all(module.forward is hook for module, hook in hooks.items())
    assert sum("forward" in vars(module) for module in model.modules()) == 2 + 3  # two norms, the embedding


def test_in_bf16_a_norm_is_transformers_own() -> None:
    model = model_of("Llama").to(torch.bfloat16)
    tokens = torch.arange(2, 22).view(2, 10)
    with torch.no_grad():
        expected = model(tokens).logits
        layers.exchange(model)
        assert len(exchanged(model)["norm"]) == 3
        assert torch.equal(model(tokens).logits, expected)


def test_what_is_kept_is_what_autograd_keeps() -> None:
    alive: dict[int, Tensor] = {}
    model = model_of("Llama")
    model.set_attn_implementation("sdpa")
    layers.exchange(model)
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        alive[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(torch.arange(200)[None] % 40, use_cache=False)
    found = sum(each.untyped_storage().nbytes() for place, each in alive.items() if place not in weights)
    shape = shape_of(model)
    assert layers.kept(model.config, shape) * cost.activation_bytes(shape, 200) == pytest.approx(found, rel=0.15)
    assert layers.kept(model_of("GPTNeoX").config, shape_of(model_of("GPTNeoX"))) == 1.0
    assert layers.kept(model_of("Gemma").config, shape_of(model_of("Gemma"))) == 1.0  # its gate is another


@pytest.mark.parametrize("tied", [True, False])
def test_a_table_s_gradient_is_added_where_it_stays(tied: bool) -> None:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=3,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).double()
    layers.exchange(model)
    ids, index = torch.tensor([[3, 7, 7, 9, 49]]), torch.arange(4)
    table = model.get_input_embeddings().weight

    def loss() -> torch.Tensor:
        states = model.model(ids, use_cache=False).last_hidden_state[0]
        return head.head_logprobs(head.Head(model.lm_head), states, index, ids[0, 1:], 1.0, with_entropy=False)[0].sum()

    found = {}
    for adding in (False, True):
        model.zero_grad()
        with tables.adding_up() if adding else contextlib.nullcontext():
            for number in range(2):  # two micro-batches
                loss().backward()
                if number == 0:
                    place = table.grad.data_ptr()
        assert table.grad.data_ptr() == place
        found[adding] = [each.grad.clone() for each in model.parameters()]
    torch.testing.assert_close(found[True], found[False], rtol=1e-12, atol=1e-14)
    assert tied or found[True][0][3].abs().sum() == 0 < found[True][0][7].abs().sum()  # the padding's row
    # outside, whoever asks autograd for a gradient gets it, and nothing is added behind his back
    model.zero_grad()
    (asked,) = torch.autograd.grad(loss(), [table])
    assert table.grad is None
    torch.testing.assert_close(2 * asked, found[True][0], rtol=1e-12, atol=1e-14)
