"""The checks of a policy's own numbers: entropy in nats, with a gradient, and answers that read the latest token."""

from __future__ import annotations

from dataclasses import replace

import torch

from alignzoo import functional as fn
from alignzoo.batching import collate
from alignzoo.interfaces import PolicySpec
from alignzoo.testing.laws import Attempt, Given

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
