"""Torch optimizers by name: torch's own, resumed to the byte, with the memory that `plan` counts."""

from __future__ import annotations

import importlib.util
import io
import sys
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignzoo import torch_optimizers
from alignzoo.cost import ModelShape, dense_trunk
from alignzoo.errors import RunError
from alignzoo.gradients import TorchTraining
from alignzoo.interfaces import ParameterGroup
from alignzoo.runs import preflight
from alignzoo.schedule import Schedule
from alignzoo.torch_optimizers import BLOCK, state_bytes, torch_optimizer

NAMES = ["adamw", "sgd", "adafactor", "muon"]
CPU = torch.device("cpu")
LR = 0.01
WITH_PACKAGE = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is missing")


class Net(TorchTraining):
    """A table, two matrices and a bias, in the groups of a policy with a critic."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        sizes = {"table": (11, 8), "first": (6, 8), "bias": (6,), "critic": (5, 6)}
        self.weights = {name: nn.Parameter(torch.randn(size, generator=rng)) for name, size in sizes.items()}

    def parameters(self) -> list[ParameterGroup]:
        table, *own, critic = self.weights.values()
        return [
            {"params": [table], "lr_scale": 1.0, "embedding": True},
            {"params": own, "lr_scale": 1.0},
            {"params": [critic], "lr_scale": 2.0},
        ]

    def update(self, steps: range) -> None:
        for step in steps:
            rng = torch.Generator().manual_seed(100 + step)
            self.backward(sum((torch.randn(p.shape, generator=rng) * p).sum() for p in self.weights.values()))  # type: ignore[arg-type]
            self.step(LR / (step + 1), 0.0)

    def values(self) -> list[Tensor]:
        return [each.detach().clone() for each in self.weights.values()]


def trained(name: str, steps: range = range(4), **settings: Any) -> Net:
    net = Net()
    net.optimize(partial(torch_optimizer, Schedule(optimizer=name, **settings), CPU))  # type: ignore[arg-type]
    net.update(steps)
    return net


def by_torch(make: Any, names: list[str]) -> dict[str, Tensor]:
    """The named weights after the same gradients and rates by a torch optimizer of one parameter each."""
    net = Net()
    found = {}
    for place, (name, weight) in enumerate(net.weights.items()):
        if name not in names:
            continue
        optimizer = make([weight])
        for step in range(4):
            rng = torch.Generator().manual_seed(100 + step)
            gradients = [torch.randn(p.shape, generator=rng) for p in net.weights.values()]
            weight.grad = gradients[place]
            optimizer.param_groups[0]["lr"] = LR / (step + 1) * (2 if name == "critic" else 1)
            optimizer.step()
        found[name] = weight.detach()
    return found


ALL = ["table", "first", "bias", "critic"]
OWN = {
    "adamw": (partial(torch.optim.AdamW, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1), ALL),
    "sgd": (partial(torch.optim.SGD, momentum=0.7, weight_decay=0.1), ALL),
    "adafactor": (partial(torch.optim.Adafactor, weight_decay=0.1), ALL),
}
SETTINGS: dict[str, Any] = {"betas": (0.8, 0.9), "eps": 1e-6, "momentum": 0.7, "weight_decay": 0.1}


@pytest.mark.parametrize("name", OWN)
def test_a_torch_optimizer_is_torch_s_own(name: str) -> None:
    make, names = OWN[name]
    ours = trained(name, **SETTINGS).weights
    for weight, theirs in by_torch(make, names).items():
        torch.testing.assert_close(ours[weight].detach(), theirs, rtol=1e-6, atol=1e-7)


def test_muon_takes_matrices_and_leaves_tables_and_vectors_to_adamw() -> None:
    ours = trained("muon", **SETTINGS).weights
    muon = partial(torch.optim.Muon, momentum=0.7, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    expected = by_torch(muon, ["first", "critic"]) | by_torch(OWN["adamw"][0], ["table", "bias"])
    for weight, theirs in expected.items():
        torch.testing.assert_close(ours[weight].detach(), theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "name",
    [*NAMES, pytest.param("adamw8bit", marks=WITH_PACKAGE)],
)
def test_a_torch_optimizer_goes_on_from_a_checkpoint_to_the_byte(name: str) -> None:
    whole, first = trained(name, range(5)), trained(name, range(2))
    file = io.BytesIO()
    torch.save(first.optimizer_state(), file)  # as a checkpoint does it
    file.seek(0)
    second = trained(name, range(0))
    with torch.no_grad():
        for weight, value in zip(second.weights.values(), first.values(), strict=True):
            weight.copy_(value)
    second.restore_optimizer(torch.load(file, weights_only=True))
    second.update(range(2, 5))
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), second.values(), strict=True))
    forgot = trained(name, range(0))
    with torch.no_grad():
        for weight, value in zip(forgot.weights.values(), first.values(), strict=True):
            weight.copy_(value)
    forgot.update(range(2, 5))
    assert not all(torch.equal(a, b) for a, b in zip(whole.values(), forgot.values(), strict=True))


def test_a_missing_package_is_told_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(RunError, match=r"needs the package bitsandbytes.*pip install bitsandbytes.*adafactor"):
        preflight.check_installed("adamw8bit")


class Blockwise(torch.optim.Optimizer):
    """Stands in for bitsandbytes' class: moments of bytes, a scale for each block, a step of one parameter."""

    def __init__(self, groups: list[ParameterGroup]) -> None:
        super().__init__(groups, {})
        self.widened: list[int] = []
        for group in self.param_groups:
            for p in group["params"]:
                blocks = -(-p.numel() // BLOCK)
                bytes_of = {name: torch.zeros(p.shape, dtype=torch.uint8) for name in ("state1", "state2")}
                scales = {name: torch.zeros(blocks) for name in ("absmax1", "absmax2")}
                self.state[p] = {"step": 0, **bytes_of, **scales}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                self.update_step(group, p, 0, 0)

    def update_step(self, group: Any, p: Tensor, gindex: int, pindex: int) -> None:
        state = self.state[p]
        state["step"] += 1
        self.widened.append(p.numel())
        state["state1"] += (p.grad.abs() * 10).to(torch.uint8)  # type: ignore[union-attr]
        for block in range(len(state["absmax1"])):
            state["absmax1"][block] += p.grad.view(-1)[block * BLOCK : (block + 1) * BLOCK].abs().max()  # type: ignore[union-attr]
        p.data -= 0.1 * state["step"] * p.grad  # type: ignore[operator]


def test_large_tables_are_stepped_in_slices_to_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_optimizers, "SLICE", 2 * BLOCK)
    found = []
    for kind in (Blockwise, torch_optimizers.in_slices(Blockwise)):
        rng = torch.Generator().manual_seed(0)
        table, small = (nn.Parameter(torch.randn(n, 8, generator=rng)) for n in (165, 4))  # 5 blocks and a part of one
        made = kind([{"params": [table, small]}])
        for _ in range(2):
            table.grad, small.grad = (torch.randn(each.shape, generator=rng) for each in (table, small))
            made.step()
        states = [made.state[each] for each in (table, small)]
        found.append((table.data, small.data, *(each for state in states for each in state.values())))
        assert len(made.state) == 2
    assert max(made.widened) == 2 * BLOCK < table.numel()
    for plain, sliced in zip(*found, strict=True):
        assert plain == sliced if isinstance(plain, int) else torch.equal(plain, sliced)


# --- memory -----------------------------------------------------------------------------------------------------------


class Whole(TorchTraining):
    """Every weight of a small Llama."""

    def __init__(self) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        config = LlamaConfig(**sizes, intermediate_size=64, vocab_size=96, tie_word_embeddings=True)
        self.lm = LlamaForCausalLM(config)

    def parameters(self) -> list[ParameterGroup]:
        table = self.lm.get_input_embeddings().weight
        rest = [each for each in self.lm.parameters() if each is not table]
        return [{"params": [table], "embedding": True}, {"params": rest}]


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_that_a_torch_optimizer_keeps_are_counted(name: str) -> None:
    net = Whole()
    schedule = Schedule(optimizer=name)  # type: ignore[arg-type]
    net.optimize(partial(torch_optimizer, schedule, CPU))
    for each in net.lm.parameters():
        each.grad = torch.ones_like(each)
    net.step(1e-3, 0.0)
    states = net.optimizer_state()["state"].values()
    held = sum(value.numel() * value.element_size() for state in states for value in state.values())
    n = sum(each.numel() for each in net.lm.parameters())
    trunk = dense_trunk(2, 32, 4, 2, 8, 64)
    shape = ModelShape(2, 32, 4, 2, 8, 64, True, 96, n, n, trunk, True)
    assert state_bytes(schedule, shape) == pytest.approx(held, rel=0.05)
