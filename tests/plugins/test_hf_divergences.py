"""Whole distributions in the head, tile by tile: against the plain computation in float64, values and gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from alignzoo import ModelError, columns
from alignzoo import functional as fn
from alignzoo_hf.forward import divergences, head
from alignzoo_hf.forward.divergences import Spoken, head_divergences
from alignzoo_hf.forward.head import Head, head_logprobs

VOCABULARY = 37
NAMES = (
    "entropy",
    "collision",
    "teacher_kl",
    "teacher_reverse_kl",
    "teacher_jsd",
    "teacher_jsd:0",
    "teacher_jsd:0.1",
    "teacher_jsd:0.9",
    "teacher_jsd:1",
    "teacher_skew_kl",
    "teacher_skew_kl:0",
    "teacher_skew_kl:0.7",
    "teacher_skew_reverse_kl",
    "teacher_skew_reverse_kl:0",
    "teacher_skew_reverse_kl:0.7",
    "teacher_top_kl:5",
    "teacher_top_kl",
    "ref_kl",
)
SMALL = replace(head.CPU, tile=4 * 7 * VOCABULARY)
"""Seven positions at once."""


def spoken(seed: int, width: int, *, m: int = 30, bias: bool = False, scale: float = 1.0, cap: float = 0.0) -> Spoken:
    rng = torch.Generator().manual_seed(seed)
    linear = nn.Linear(width, VOCABULARY, bias=bias).double()
    for parameter in linear.parameters():
        parameter.data = 2 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    states = torch.randn(m + 5, width, generator=rng, dtype=torch.float64).requires_grad_(True)
    index = torch.randint(0, m + 5, (m,), generator=rng)
    return Spoken(Head(linear, scale, cap), states, index, 1.0)


def plain(policy: Spoken, roles: Mapping[str, Spoken], name: str) -> Tensor:
    """A column by the formula alone, with all logits held."""

    def whole(of: Spoken) -> Tensor:
        return torch.log_softmax(of.head(of.states[of.index]) / of.temperature, -1)

    column = columns.column(name)
    if name == "entropy":
        return -(whole(policy).exp() * whole(policy)).sum(1)
    if not column.answer.compares:
        return fn.collision(whole(policy))
    return fn.compared(column.answer.name, whole(policy), whole(roles[column.role]).detach(), column.number)


def gradients(policy: Spoken, found: Mapping[str, Tensor]) -> list[Tensor]:
    rng = torch.Generator().manual_seed(9)
    total = sum((each * torch.randn(each.shape, generator=rng, dtype=each.dtype)).sum() for each in found.values())
    trained = [policy.states, *policy.head.linear.parameters()]
    return list(torch.autograd.grad(total, trained))  # type: ignore[call-overload]


def agrees(policy: Spoken, roles: Mapping[str, Spoken], names: tuple[str, ...]) -> None:
    found = head_divergences(policy, roles, [columns.column(name) for name in names])
    expected = {name: plain(policy, roles, name) for name in names}
    assert list(found) == list(names)
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(gradients(policy, found), gradients(policy, expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CPU", SMALL)


@pytest.mark.parametrize("name", NAMES)
def test_each_column_is_what_the_formula_says(name: str) -> None:
    roles = {"teacher": spoken(1, 11), "ref": spoken(2, 6)}
    agrees(spoken(0, 6), {column: roles[column] for column in columns.roles([name])}, (name,))


@pytest.mark.parametrize(
    "policy",
    [
        spoken(0, 6, bias=True),
        spoken(0, 6, cap=3.0, scale=0.5),
        replace(spoken(0, 6), temperature=0.7),
        replace(spoken(0, 6, bias=True, cap=200.0, scale=2.0), temperature=0.5),
    ],
    ids=["bias", "soft cap and scale", "temperature", "all of them, the cap far away"],
)
@pytest.mark.parametrize("teacher", [spoken(1, 11), replace(spoken(1, 11, bias=True, cap=4.0), temperature=1.7)])
def test_heads_of_every_kind(policy: Spoken, teacher: Spoken) -> None:
    agrees(policy, {"teacher": teacher, "ref": spoken(2, 6)}, NAMES)


def test_a_head_that_is_no_plain_layer_goes_through_automatic_differentiation() -> None:
    class Adapted(nn.Linear):
        pass

    policy = spoken(0, 6)
    adapted = Adapted(6, VOCABULARY, bias=False).double()
    adapted.weight.data = policy.head.linear.weight.data.clone()  # type: ignore[union-attr, operator]
    agrees(replace(policy, head=replace(policy.head, linear=adapted)), {"teacher": spoken(1, 11)}, NAMES[:-1])


def test_a_head_tied_to_the_embedding_gets_both_gradients() -> None:
    teacher, policy = spoken(1, 11), spoken(0, 6)
    weight: Any = policy.head.linear.weight
    tokens = torch.arange(len(policy.states)) % VOCABULARY
    tied = replace(policy, states=torch.tanh(weight[tokens]))
    found = head_divergences(tied, {"teacher": teacher}, [columns.column("teacher_jsd")])["teacher_jsd"]
    expected = plain(tied, {"teacher": teacher}, "teacher_jsd")
    ours, theirs = (torch.autograd.grad(each.sum(), weight, retain_graph=True)[0] for each in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_beside_log_probabilities_and_the_entropy_of_one_head() -> None:
    policy, teacher = spoken(0, 6), spoken(1, 11)
    targets = torch.arange(len(policy.index)) % VOCABULARY
    logprobs, entropy = head_logprobs(policy.head, policy.states, policy.index, targets, 1.0, with_entropy=True)
    assert entropy is not None
    found = head_divergences(policy, {"teacher": teacher}, [columns.column("teacher_kl")])
    whole = torch.log_softmax(policy.head(policy.states[policy.index]), -1)
    expected = {
        "logprobs": whole.gather(1, targets[:, None]).squeeze(1),
        "entropy": -(whole.exp() * whole).sum(1),
        "teacher_kl": plain(policy, {"teacher": teacher}, "teacher_kl"),
    }
    ours = gradients(policy, {"logprobs": logprobs, "entropy": entropy, **found})
    for one, other in zip(ours, gradients(policy, expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_far_apart_distributions_stay_finite_in_float32() -> None:
    policy, teacher = spoken(0, 6), spoken(1, 11)
    policy.head.linear.weight.data *= 100  # type: ignore[union-attr, operator]
    policy = replace(policy, head=replace(policy.head, linear=policy.head.linear.float()))
    policy = replace(policy, states=policy.states.detach().float().requires_grad_(True))
    found = head_divergences(
        policy, {"teacher": teacher, "ref": spoken(2, 6)}, [columns.column(name) for name in NAMES]
    )
    assert all(torch.isfinite(each).all() for each in found.values())
    assert all(torch.isfinite(each).all() for each in gradients(policy, found))


def test_another_vocabulary_is_refused() -> None:
    teacher = replace(spoken(1, 11), head=Head(nn.Linear(11, VOCABULARY + 3).double()))
    with pytest.raises(ModelError, match=f"the policy has {VOCABULARY} logits and 'teacher' has {VOCABULARY + 3}"):
        head_divergences(spoken(0, 6), {"teacher": teacher}, [columns.column("teacher_kl")])


def test_no_positions_no_numbers() -> None:
    policy = replace(spoken(0, 6), index=torch.zeros(0, dtype=torch.long))
    found = head_divergences(policy, {"teacher": spoken(1, 11)}, [columns.column("teacher_kl")])
    assert found["teacher_kl"].shape == (0,)


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor has that anything answers."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, list | tuple) else [out]:
            if isinstance(each, Tensor):
                self.numbers = max(self.numbers, each.numel())
        return out


@pytest.mark.parametrize("plain_head", [True, False])
def test_no_tensor_is_larger_than_a_tile(plain_head: bool) -> None:
    m, width = 400, 4
    policy, teacher = spoken(0, width, m=m), spoken(1, width, m=m)
    if not plain_head:
        policy = replace(policy, head=replace(policy.head, linear=nn.Sequential(policy.head.linear)))
    asked = [columns.column(name) for name in ("collision", "teacher_jsd", "teacher_top_kl:5")]
    with Largest() as largest:
        found = head_divergences(policy, {"teacher": teacher}, asked)
        torch.stack(list(found.values())).sum().backward()  # type: ignore[no-untyped-call]
    states, tile, whole = (m + 5) * width, SMALL.tile // divergences.HELD, m * VOCABULARY
    assert (states, tile, whole) == (1620, 259, 14_800)
    assert largest.numbers == states


def test_the_count_of_the_largest_tensor_sees_all_logits_where_they_are_held() -> None:
    policy, teacher = spoken(0, 4, m=400), spoken(1, 4, m=400)
    with Largest() as largest:
        plain(policy, {"teacher": teacher}, "teacher_kl").sum().backward()  # type: ignore[no-untyped-call]
    assert largest.numbers == 14_800
