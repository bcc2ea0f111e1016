"""The checks that hold every policy to the laws: who writes, and says how likely each token was."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo.calling import kept
from alignzoo.columns import REFERENCE
from alignzoo.errors import AlignzooError, ModelError
from alignzoo.interfaces import Policy, PolicySpec
from alignzoo.roles import takes_roles
from alignzoo.testing.asking import (
    GREEDY,
    LOGPROBS,
    TOLERANCE,
    WRITER,
    answered,
    batch_of,
    generated,
    loaded,
    plain_prompts,
    weights_moved,
)
from alignzoo.testing.copies import behaviour
from alignzoo.testing.generation import encodes, ends, goes_on, neighbours, own_words, seeds, writes
from alignzoo.testing.laws import Attempt, Checks, Given, checks, is_a_spec, summary
from alignzoo.testing.measure import padded
from alignzoo.testing.numbers import distributions, entropy, latest_token
from alignzoo.testing.updates import updates
from alignzoo.types import Batch, Group


def contract(spec: PolicySpec, given: Given) -> None:
    """Settings that can be pickled; `load` gives a policy for every set of needs."""
    is_a_spec(spec)
    attempt = Attempt(11, repr(spec), "a method of alignzoo.interfaces.Policy that is missing")
    loaded(attempt, spec, frozenset())
    loaded(attempt, spec, WRITER)


def columns(spec: PolicySpec, given: Given) -> None:
    """`forward` answers exactly the columns asked for, (N, T), finite, and 0 where the mask is False."""
    attempt = Attempt(11, "each column alone, and all of them", "a column answered unasked, or of another shape")
    policy = loaded(attempt, spec, WRITER)
    batch = batch_of(generated(attempt, policy, given), policy)
    for asked in (*(frozenset({name}) for name in sorted(WRITER)), WRITER):
        found = answered(attempt, policy, batch, asked)
        attempt.require(set(found) == set(asked), f"the columns {sorted(asked)}", str(sorted(found)))
        for name, column in found.items():
            shape = tuple(batch.tokens.shape)
            attempt.require(tuple(column.shape) == shape, f"{name} of shape {shape}", str(tuple(column.shape)))
            attempt.finite(name, column)
            outside = column[~batch.mask]
            masked = replace(attempt, law=2, cause="columns not zeroed: take fn.scatter or fn.shifted_logprobs")
            masked.require(not outside.any(), f"{name} of 0 under the mask", summary(outside))
            if name == "logprobs":
                attempt.require(bool((column <= 1e-6).all()), "logprobs of at most 0", summary(column.max()))
            if name == "entropy":
                attempt.require(bool((column >= -1e-5).all()), "an entropy of at least 0", summary(column.min()))


def padding(spec: PolicySpec, given: Given) -> None:
    """Neither padding, nor what stands in it, nor the other rows change an answer."""
    attempt = Attempt(1, "five more columns of padding", "positions counted from the right, or a mask left out")
    policy = loaded(attempt, spec, WRITER)
    batch = batch_of(generated(attempt, policy, given), policy)
    expected = answered(attempt, policy, batch)
    wide = padded(batch, 5)
    _near(attempt, expected, answered(attempt, policy, wide), batch)
    other = replace(wide, tokens=torch.where(wide.attend, wide.tokens, 1))
    _near(
        replace(attempt, law=2, given="other tokens in the padding"), expected, answered(attempt, policy, other), batch
    )
    order = torch.arange(len(batch) - 1, -1, -1, device=batch.tokens.device)
    turned = {name: column[order] for name, column in answered(attempt, policy, batch.select(order)).items()}
    _near(replace(attempt, given="rows in reverse order"), expected, turned, batch)
    alone = answered(attempt, policy, batch.select(slice(0, 1)))
    _near(replace(attempt, given="one row alone"), {n: c[:1] for n, c in expected.items()}, alone, batch)


def _near(attempt: Attempt, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], batch: Batch) -> None:
    width = batch.tokens.shape[1]
    for name, column in expected.items():
        allowed = TOLERANCE * (1 + float(column.abs().max()))
        attempt.near(name, column, found[name][:, :width], allowed)


def causal(spec: PolicySpec, given: Given) -> None:
    """An answer about token t reads the tokens before it, and of the later ones nothing."""
    attempt = Attempt(2, "another last token", "no causal mask, or columns shifted by one")
    policy = loaded(attempt, spec, WRITER)
    batch = batch_of(generated(attempt, policy, given), policy)
    last = batch.mask & (batch.mask.flip(1).cumsum(1).flip(1) == 1)
    candidates = torch.unique(batch.tokens[batch.mask])
    attempt.require(len(candidates) > 1, "more than one token written", "one")
    other = torch.where(batch.tokens == candidates[0], candidates[1], candidates[0])
    changed = replace(batch, tokens=torch.where(last, other, batch.tokens))
    first, second = answered(attempt, policy, batch), answered(attempt, policy, changed)
    earlier = batch.mask & ~last
    for name in first:
        where = batch.mask if name in ("values", "entropy") else earlier
        attempt.near(f"{name} before it", first[name][where], second[name][where], TOLERANCE * 10)
    moved = (first["logprobs"] - second["logprobs"])[last].abs().max()
    attempt.require(float(moved) > 1e-6, "another log-probability of the last token", "the same: a shift by one")


def reference(spec: PolicySpec, given: Given) -> None:
    """The reference answers as before training, and ends where its `with` ends, by an error too."""
    attempt = Attempt(5, "answering('ref') before and after the weights moved", "a reference that is not a copy")
    policy = loaded(attempt, spec, WRITER)
    batch = batch_of(generated(attempt, policy, given), policy)
    asked = frozenset({"logprobs"})
    start = answered(attempt, policy, batch, asked)
    with policy.answering(REFERENCE):
        attempt.unchanged("the reference's {} at the start", start, answered(attempt, policy, batch, asked))
    with weights_moved(policy):
        now = answered(attempt, policy, batch, asked)
        attempt.require(not torch.equal(now["logprobs"], start["logprobs"]), "other answers after a move", "the same")
        with policy.answering(REFERENCE):
            attempt.unchanged("the reference's {} after a move", start, answered(attempt, policy, batch, asked))
        with contextlib.suppress(KeyError), policy.answering(REFERENCE):
            raise KeyError("on purpose")
        attempt.unchanged("the policy's {} after answering('ref')", now, answered(attempt, policy, batch, asked))


def roles(spec: PolicySpec, given: Given) -> None:
    """A second policy and the reference answer and generate as themselves; what follows the policy is in `state`."""
    if not takes_roles(spec):
        return  # a run whose optimizer names another policy is refused before its first step
    cause = "generate() of the trained policy inside answering(role), or a role that shares its weights"
    attempt = Attempt(5, "load(needs, {'teacher': the same settings}), and weights that moved", cause)
    needs = WRITER | {"ref_logprobs", "teacher_logprobs"}

    def load() -> Policy:
        with attempt.runs("load() with a second policy"):
            return spec.load(needs, {"teacher": spec})

    policy, twin = load(), load()
    before = _greedy(attempt, policy, given)
    batch = batch_of(before, policy)
    start = answered(attempt, policy, batch, LOGPROBS)
    with weights_moved(policy):
        moved = answered(attempt, policy, batch, LOGPROBS)
        for role in (REFERENCE, "teacher"):
            _speaks(replace(attempt, given=f"answering({role!r}) after the weights moved"), policy, role, given, before)
        with attempt.runs("follow('ref', 1.0)"):
            policy.follow(REFERENCE, 1.0)
        with weights_moved(policy), policy.answering(REFERENCE):
            found = _logprobs(attempt, policy, batch)
        copied = replace(attempt, law=7, given="follow('ref', 1.0), then other weights", cause="a view, not a copy")
        copied.near("reference's log-probabilities", moved["logprobs"], found, TOLERANCE)
        state = {name: tensor.clone() for name, tensor in policy.state().items()}
    attempt = replace(copied, given="state() of after that, restored", cause="a role that is not in state()")
    with policy.answering("teacher"):
        attempt.near("teacher's log-probabilities", start["logprobs"], _logprobs(attempt, policy, batch), TOLERANCE)
    twin.restore(state)
    for each in (policy, twin):
        each.restore(state)
        with weights_moved(each), each.answering(REFERENCE):
            attempt.near("reference's log-probabilities", moved["logprobs"], _logprobs(attempt, each, batch), TOLERANCE)
    with contextlib.suppress(ModelError), policy.answering("no such role"):
        attempt.fail("a ModelError for a role that is not there", "none")


def follow(spec: PolicySpec, given: Given) -> None:
    """`follow(role, mix)` takes a role a share of `mix` of the way to the policy, not all of it."""
    attempt = Attempt(
        5, "follow('ref', 0.01) after the weights have moved", "1 - mix for mix, or a copy whatever it is"
    )
    policy = loaded(attempt, spec, WRITER | {"ref_logprobs"})
    batch = batch_of(generated(attempt, policy, given), policy)
    start = _logprobs(attempt, policy, batch)
    with weights_moved(policy):
        moved = _logprobs(attempt, policy, batch)
        with attempt.runs("follow('ref', 0.01)"), kept(AlignzooError) as refused:
            policy.follow(REFERENCE, 0.01)
        if refused.error is not None:
            return  # as of an adapter, of which there is nothing in between
        with policy.answering(REFERENCE):
            found = _logprobs(attempt, policy, batch)
    share = float((found - start).norm() / (moved - start).norm().clamp(min=1e-9))
    attempt.require(share < 0.5, "a reference that is near where it was", f"one that has gone {share:.0%} of the way")


def _speaks(attempt: Attempt, policy: Policy, role: str, given: Given, expected: list[Group]) -> None:
    """Inside `answering`, the role generates what the policy did before it moved, and answers as it generated."""
    with policy.answering(role):
        found = _greedy(attempt, policy, given)
        said = _logprobs(attempt, policy, batch := batch_of(found, policy))
    texts = [[each.tokens for group in groups for each in group.completions] for groups in (expected, found)]
    attempt.require(texts[0] == texts[1], "the greedy completions of before", "others")
    told = [number for group in found for c in group.completions for number in c.logprobs or ()]
    exact = policy.info().exact_samples
    attempt.near("log-probabilities", said[batch.mask].cpu(), torch.tensor(told), TOLERANCE if exact else 1e-3)


def _greedy(attempt: Attempt, policy: Policy, given: Given) -> list[Group]:
    with attempt.runs("generate(decoding=Decoding(greedy=True))"):
        prompts = plain_prompts(given)
        return policy.generate(prompts, 1, seeds=fn.seeds(len(prompts), 0), decoding=GREEDY)


def _logprobs(attempt: Attempt, policy: Policy, batch: Batch) -> Tensor:
    return answered(attempt, policy, batch, LOGPROBS)["logprobs"]


def gradients(spec: PolicySpec, given: Given) -> None:
    """What is trained gets a gradient, the critic's part too, and a step along it makes the tokens likelier."""
    cause = "parameters() that are not those which forward() reads, or requires_grad switched off, as by an adapter"
    attempt = Attempt(6, "the sum of each column", cause)
    policy = loaded(attempt, spec, WRITER)
    batch = batch_of(generated(attempt, policy, given), policy)
    trained = [p for group in policy.parameters() for p in group["params"]]
    attempt.require(bool(trained), "parameters to train", "none")
    touched: set[int] = set()
    for name in ("logprobs", "values"):
        with attempt.runs(f"forward([{name!r}]) with gradient"):
            column = getattr(policy.forward(batch, frozenset({name})), name)
            found = torch.autograd.grad(column.sum(), trained, allow_unused=True)
        touched |= {i for i, gradient in enumerate(found) if gradient is not None}
        attempt.require(any(g is not None and bool(g.any()) for g in found), f"a gradient from {name}", "none")
        if name == "logprobs":
            _likelier(attempt, policy, batch, trained, found)
    attempt.require(
        len(touched) == len(trained), f"a gradient in all {len(trained)} trained tensors", f"in {len(touched)}"
    )


def _likelier(
    attempt: Attempt, policy: Policy, batch: Batch, trained: list[Tensor], gradients: tuple[Tensor | None, ...]
) -> None:
    """A small step up the gradient of the log-probabilities raises them."""
    asked = frozenset({"logprobs"})
    before = float(answered(attempt, policy, batch, asked)["logprobs"].sum())
    norm = torch.stack([g.double().norm() for g in gradients if g is not None]).norm()
    state = {name: tensor.clone() for name, tensor in policy.state().items()}
    with torch.no_grad():
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                parameter += (1e-2 / norm).to(gradient) * gradient
    after = float(answered(attempt, policy, batch, asked)["logprobs"].sum())
    policy.restore(state)
    attempt.require(after > before, f"log-probabilities above {before:.5g} after a step", f"{after:.5g}")


def scores(spec: PolicySpec, given: Given) -> None:
    """Asked for scores it answers one per row, whatever the padding, with a gradient in all that is trained."""
    attempt = Attempt(11, 'load({"scores"})', "the score read at the padding, or a head that is not trained")
    policy = loaded(attempt, spec, frozenset({"scores"}))
    prompts = plain_prompts(given)
    texts = [prompt.completions or ("yes", "no") for prompt in prompts]
    batch = batch_of([policy.encode(p, t) for p, t in zip(prompts, texts, strict=True)], policy)
    found = answered(attempt, policy, batch, frozenset({"scores"}))
    attempt.require(set(found) == {"scores"}, "the column scores", str(sorted(found)))
    attempt.require(tuple(found["scores"].shape) == (len(batch),), f"{len(batch)} scores", summary(found["scores"]))
    wide = answered(attempt, policy, padded(batch, 4), frozenset({"scores"}))
    near = replace(attempt, law=1, given="four more columns of padding")
    near.near("scores", found["scores"], wide["scores"], TOLERANCE * (1 + float(found["scores"].abs().max())))
    trained = [p for group in policy.parameters() for p in group["params"]]
    out = policy.forward(batch, frozenset({"scores"})).scores
    assert out is not None
    gradient = torch.autograd.grad(out.pow(2).sum() + out.sum(), trained, allow_unused=True)
    with_gradient = sum(g is not None and bool(g.any()) for g in gradient)
    attempt.require(with_gradient > 0, "a gradient from scores", "none")


def checkpoints(spec: PolicySpec, given: Given) -> None:
    """`state` and `restore` bring every trained weight back to the bit; `save` writes a directory."""
    attempt = Attempt(7, "weights moved, then restored", "a tensor that state() leaves out, or a view that moves along")
    policy = loaded(attempt, spec, WRITER)
    batch = batch_of(generated(attempt, policy, given), policy)
    before = answered(attempt, policy, batch)
    with weights_moved(policy):
        pass
    attempt.unchanged("{} after restore", before, answered(attempt, policy, batch))
    twin = loaded(attempt, spec, WRITER)
    with weights_moved(policy):
        moved = answered(attempt, policy, batch)
        twin.restore({name: tensor.clone() for name, tensor in policy.state().items()})
        attempt.unchanged("{} in another process", moved, answered(attempt, twin, batch))
    with tempfile.TemporaryDirectory() as folder:
        with attempt.runs("save()"):
            policy.save(Path(folder) / "model")
        attempt.require(any((Path(folder) / "model").iterdir()), "files in the directory", "none")
    attempt.unchanged("{} after save", before, answered(attempt, policy, batch))


POLICY_CHECKS: Checks = checks(
    (11, contract),
    (11, writes),
    (11, goes_on),
    (11, encodes),
    (11, columns),
    (1, padding),
    (2, causal),
    (2, latest_token),
    (5, entropy),
    (5, distributions),
    (5, own_words),
    (3, seeds),
    (1, neighbours),
    (11, ends),
    (5, reference),
    (5, roles),
    (5, follow),
    (3, behaviour),
    (6, gradients),
    (1, updates),
    (11, scores),
    (7, checkpoints),
)
"""Every check of a policy by name, in the order in which they are made."""
