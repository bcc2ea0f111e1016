"""The checks that hold every sampler to the laws: who brings the groups of a step."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from alignzoo.collate import answer, collate
from alignzoo.interfaces import Policy, Sampler
from alignzoo.testing.laws import Attempt, Checks, Given, checks, is_a_spec
from alignzoo.testing.world import toy_policy, toy_prompts
from alignzoo.types import Group, Prompt, Score


def _prompts(given: Given) -> list[Prompt]:
    return list(given.prompts) or toy_prompts()


def _policy(given: Given) -> Policy:
    return given.policy or toy_policy(drift=0.1)


def _sample(attempt: Attempt, sampler: Sampler, prompts: Sequence[Prompt], policy: Policy, seed: int) -> list[Group]:
    with attempt.runs("sample()"):
        return sampler.sample(prompts, policy, seed=seed)


def _told(groups: Sequence[Group]) -> list[Any]:
    """What a sampler has brought, to be compared."""
    return [(group.prompt.messages, group.prompt_tokens, group.completions, dict(group.extra)) for group in groups]


def contract(sampler: Sampler, given: Given) -> None:
    """A frozen dataclass that can be pickled and replaced, and says whether the policy writes."""
    is_a_spec(sampler)
    attempt = Attempt(11, repr(sampler), "online as a field or a method: it is a ClassVar[bool]")
    attempt.require(isinstance(sampler.online, bool), "online to be True or False", repr(sampler.online))


def groups(sampler: Sampler, given: Given) -> None:
    """Every prompt asked gets its groups, each with completions of at least one token."""
    cause = "prompts that were dropped, merged or changed: a prompt without an answer is an error to be raised"
    prompts, policy = _prompts(given), _policy(given)
    attempt = Attempt(11, f"{len(prompts)} prompts", cause)
    found = _sample(attempt, sampler, prompts, policy, 0)
    attempt.require(isinstance(found, list), "a list of groups", type(found).__name__)
    asked = [prompt.messages for prompt in prompts]
    answered = [group.prompt.messages for group in found]
    for message in asked:
        attempt.require(message in answered, f"a group for {str(message)[:60]!r}", "none")
    for message in answered:
        attempt.require(message in asked, "groups for what was asked only", f"one for {str(message)[:60]!r}")
    for group in found:
        where = str(group.prompt.messages)[:60]
        attempt.require(len(group.prompt_tokens) > 0, f"prompt_tokens for {where!r}", "none")
        attempt.require(len(group.completions) > 0, f"completions for {where!r}", "none")
        empty = [c.text for c in group.completions if not c.tokens]
        attempt.require(not empty, "completions of one token or more", f"{empty[:1]} without any")
        for name, column in group.extra.items():
            n = len(group.completions)
            attempt.require(len(column) == n, f"{n} numbers in extra[{name!r}]", str(len(column)))
        for completion in group.completions:
            if completion.logprobs is not None:
                n = len(completion.tokens)
                attempt.require(len(completion.logprobs) == n, f"{n} logprobs", str(len(completion.logprobs)))


def batch(sampler: Sampler, given: Given) -> None:
    """The groups become a batch: `extra` has the same columns in each."""
    attempt = Attempt(11, "all groups, scored alike", "a column in some groups' extra that others lack")
    found = _sample(attempt, sampler, _prompts(given), _policy(given), 0)
    with attempt.runs("collate()"):
        rows = collate([replace(each, scores=(Score(0.0),) * len(each.completions)) for each in found])
    expected = sum(len(group.completions) for group in found)
    attempt.require(len(rows) == expected, f"{expected} rows", str(len(rows)))


def seeds(sampler: Sampler, given: Given) -> None:
    """The same seed brings the same; another seed brings other text, where the policy writes."""
    cause = "randomness that `seed` does not seed, or a seed that is not handed on to the policy"
    prompts, policy = _prompts(given), _policy(given)
    attempt = Attempt(3, "seeds 0, 0 and 1", cause)
    with attempt.leaves_randomness():
        first = _told(_sample(attempt, sampler, prompts, policy, 0))
    torch.rand(3)
    again = _told(_sample(attempt, sampler, prompts, policy, 0))
    attempt.require(first == again, "the same groups with the same seed", "other ones")
    other = _told(_sample(attempt, sampler, prompts, policy, 1))
    if sampler.online:
        attempt.require(first != other, "other completions with another seed", "the same ones")
    else:
        offline = replace(attempt, cause="online = False of a sampler that writes")
        offline.require(first == other, "the same groups with any seed, for online is False", "other ones")


def pure(sampler: Sampler, given: Given) -> None:
    """Neither the prompts, the policy's weights nor the sampler itself are changed."""
    prompts, policy = _prompts(given), _policy(given)
    attempt = Attempt(3, "a few prompts", "a list, a mapping or weights changed in place")
    known, asked = pickle.dumps(sampler), pickle.dumps(prompts)
    weights = {name: tensor.clone() for name, tensor in policy.state().items()}
    _sample(attempt, sampler, prompts, policy, 0)
    attempt.unchanged("the policy's {}", weights, policy.state())
    attempt.require(pickle.dumps(prompts) == asked, "the prompts as they were", "changed ones")
    attempt.require(pickle.dumps(sampler) == known, "the sampler as it was", repr(sampler))


def hard_inputs(sampler: Sampler, given: Given) -> None:
    """No prompt, one prompt, one prompt twice."""
    cause = "a mean, a maximum or a zip over no prompts, or groups kept in a dict by their prompt"
    prompts, policy = _prompts(given), _policy(given)
    for hard, some in {"no prompt": [], "one prompt": prompts[:1], "one prompt twice": prompts[:1] * 2}.items():
        found = _sample(Attempt(4, hard, cause), sampler, some, policy, 0)
        Attempt(4, hard, cause).require(len(found) >= len(some), f"{len(some)} groups", str(len(found)))


def written(sampler: Sampler, given: Given) -> None:
    """What a completion says of its own log-probabilities is what the policy says of it."""
    if given.policy is not None or not sampler.online:
        return
    cause = "completions cut, joined or written by another model, with log-probabilities kept: set them to None"
    policy = _policy(given)
    attempt = Attempt(5, "the policy's own log-probabilities of each completion that has some", cause)
    found = _sample(attempt, sampler, _prompts(given), policy, 0)
    single = [
        replace(group, completions=(completion,), scores=(Score(0.0),), extra={})
        for group in found
        for completion in group.completions
        if completion.logprobs is not None
    ]
    if not single:
        return
    rows = collate(single)
    said = answer(policy, rows, frozenset({"logprobs"}))["logprobs"]
    for row, group in enumerate(single):
        told = torch.tensor(group.completions[0].logprobs)
        attempt.near("log-probabilities", said[row][rows.mask[row]], told, 1e-3)


SAMPLER_CHECKS: Checks = checks(
    (3, contract), (11, groups), (11, batch), (3, seeds), (3, pure), (4, hard_inputs), (5, written)
)
"""Every check of a sampler by name, in the order in which they are made."""
