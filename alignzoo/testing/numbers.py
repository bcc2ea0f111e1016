"""The checks of a policy's own numbers: entropy in nats, with a gradient, answers that read the latest token, and what
compares whole distributions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo.batching import collate
from alignzoo.calling import kept
from alignzoo.columns import REFERENCE
from alignzoo.interfaces import Policy, PolicySpec
from alignzoo.testing.asking import LOGPROBS, answered, weights_moved
from alignzoo.testing.laws import Attempt, Given
from alignzoo.types import Batch, Completion, Group, Prompt

READ = frozenset({"logprobs", "entropy", "values"})
SAMPLES = 96


def entropy(spec: PolicySpec, given: Given) -> None:
    """The entropy is in nats, as log-probabilities are: the mean of -log π over many samples; it has a gradient."""
    cause = "a logarithm to another base, another temperature than that of generation, or a detach()"
    attempt = Attempt(5, f"the first token of {SAMPLES} completions of one prompt", cause)
    with attempt.runs("load()"):
        policy = spec.load(frozenset({"logprobs", "entropy"}))
    prompt = given.asked(conversations=False)[0]
    with attempt.runs("generate()"):
        group = policy.generate([prompt], SAMPLES, seeds=[5])[0]
    batch = collate([group], policy.device, scored=False)
    out = policy.forward(batch, frozenset({"entropy"})).entropy
    attempt.require(out is not None and out.requires_grad, "a gradient in the entropy", "none")
    assert out is not None
    if not policy.info().exact_samples or any(not each.logprobs for each in group.completions):
        return  # the samples are of a cut distribution, or do not say how likely they were
    first = batch.mask & (batch.mask.cumsum(1) == 1)
    said = torch.tensor([-(each.logprobs or (0.0,))[0] for each in group.completions], dtype=torch.float64)
    told = float(out.detach()[first].double().mean())
    error = float(said.std()) / SAMPLES**0.5
    found = f"{told:.3g}, where -log π is {float(said.mean()):.3g} ± {error:.2g} on average"
    attempt.require(abs(told - float(said.mean())) <= 5 * error + 1e-3, "the mean of -log π as entropy", found)


def latest_token(spec: PolicySpec, given: Given) -> None:
    """An answer about a token reads the very token before it, not only those before that."""
    attempt = Attempt(2, "another token before the last one", "values or log-probabilities read a token late")
    with attempt.runs("load()"):
        policy = spec.load(READ)
    prompts = given.asked(conversations=False)
    with attempt.runs("generate()"):
        groups = policy.generate(prompts, 3, seeds=fn.seeds(len(prompts), 0))
    batch = collate(groups, policy.device, scored=False)
    batch = batch.select(batch.mask.sum(1) > 1)
    if not len(batch):
        return
    place = batch.mask.sum(1, keepdim=True) + batch.prompt_length[:, None] - 2  # the last token but one
    here = torch.arange(batch.tokens.shape[1], device=batch.tokens.device) == place
    candidates = torch.unique(batch.tokens[batch.mask])
    other = torch.where(batch.tokens == candidates[0], candidates[-1], candidates[0])
    changed = replace(batch, tokens=torch.where(here, other, batch.tokens))
    with attempt.runs("forward()"), torch.no_grad():
        before, after = (policy.forward(each, READ).columns() for each in (batch, changed))
    last = here.roll(1, 1)
    for name in sorted(READ & before.keys()):
        if not before[name].any():
            continue  # a critic that has not learnt anything says 0
        moved = float((before[name] - after[name])[last].abs().max())
        attempt.require(moved > 1e-7, f"{name} of the last token to change", "the same")


COMPARED = ("ref_kl", "ref_reverse_kl", "ref_jsd:0.3", "ref_skew_kl:0.1", "ref_skew_reverse_kl:0.1")
MOST, BLIND = 4096, 1024
"""The largest vocabulary that is asked for token by token, and the largest where the policy does not say its size."""


def distributions(spec: PolicySpec, given: Given) -> None:
    """Over the whole vocabulary, entropy, collision and divergences are what their names say, and have a gradient."""
    cause = "a divergence in the other direction, a β for 1 - β, bits for nats, a part of the vocabulary, or a detach()"
    attempt = Attempt(5, "each token of the vocabulary as a completion, after the weights have moved", cause)
    needs = frozenset({"logprobs", "ref_logprobs", "entropy", "collision", *COMPARED})
    with kept() as refused:
        policy = spec.load(needs)
    if refused.error is not None:
        return  # it answers some of these alone, and so a run that needs others is refused
    with attempt.runs("generate()"):
        start = policy.generate(given.asked(conversations=False)[:1], 1, seeds=[0])[0].prompt_tokens
    for times in (1, 3):  # near the reference and far from it: a mistake may show at one alone
        with ExitStack() as moved:
            for _ in range(times):
                moved.enter_context(weights_moved(policy))
            batch = _every_token(attempt, policy, start)
            if batch is None:
                return
            _as_named(attempt, policy, batch)


def _as_named(attempt: Attempt, policy: Policy, batch: Batch) -> None:
    """Each column that it answers says of these two distributions what it is defined as."""
    own = _log_distribution(attempt, policy, batch)
    with policy.answering(REFERENCE):
        other = _log_distribution(attempt, policy, batch)
    for name, expected in _expected(own.exp(), other.exp()).items():
        with kept() as refused:
            found = policy.forward(batch, frozenset({name})).columns().get(name)
        if refused.error is not None or found is None:
            continue
        attempt.require(found.requires_grad, f"a gradient in {name}", "none")
        told = float(found.detach()[batch.mask][0])
        near = abs(told - expected) <= 1e-4 + 1e-3 * abs(expected)
        attempt.require(near, f"{name} of {expected:.5g}", f"{told:.5g}")


def _every_token(attempt: Attempt, policy: Policy, start: Sequence[int]) -> Batch | None:
    """A row for each token of the vocabulary, after this prompt; None where there are too many to ask for."""
    shape = policy.info().shape
    most = MOST if shape is not None else BLIND
    if shape is not None and shape.vocab > most:
        return None
    ids, total, step = 0, 0.0, 128
    while total < 1 - 1e-5 and ids < most and step:
        with kept() as refused:
            total += float(_log_distribution(attempt, policy, _rows(policy, start, range(ids, ids + step))).exp().sum())
        if refused.error is None:
            ids += step
        else:
            step //= 2  # beyond the last token
    return _rows(policy, start, range(ids)) if total > 1 - 1e-3 else None


def _rows(policy: Policy, start: Sequence[int], ids: Sequence[int]) -> Batch:
    group = Group(Prompt(""), tuple(start), tuple(Completion((each,), "") for each in ids))
    return collate([group], policy.device, scored=False)


def _log_distribution(attempt: Attempt, policy: Policy, batch: Batch) -> Tensor:
    return answered(attempt, policy, batch, LOGPROBS)["logprobs"].sum(1).double().cpu()


def _expected(own: Tensor, other: Tensor) -> dict[str, float]:
    """What each column says where the policy's distribution and the reference's are these, by their definitions."""

    def kl(one: Tensor, two: Tensor) -> float:
        some = one > 0
        return float((one[some] * (one[some] / two[some]).log()).sum())

    middle = 0.3 * other + 0.7 * own
    return {
        "entropy": -kl(own, torch.ones_like(own)),
        "collision": float((own**2).sum()),
        "ref_kl": kl(other, own),
        "ref_reverse_kl": kl(own, other),
        "ref_jsd:0.3": 0.3 * kl(other, middle) + 0.7 * kl(own, middle),
        "ref_skew_kl:0.1": kl(other, 0.1 * other + 0.9 * own),
        "ref_skew_reverse_kl:0.1": kl(own, 0.1 * own + 0.9 * other),
    }
