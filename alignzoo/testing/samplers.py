"""The checks that hold every sampler to the laws: who brings the groups of a step."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from alignzoo import functional as fn
from alignzoo.batching import answer, collate
from alignzoo.interfaces import Chooses, Policy, Sampler, Selects
from alignzoo.lifecycle import closed
from alignzoo.testing.generated import (
    asks_more,
    drawn_once,
    fresh,
    generated,
    greedy_marked,
    own_columns,
    own_scores,
    seeds_apart,
)
from alignzoo.testing.laws import Attempt, Checks, Given, checks, is_a_spec
from alignzoo.testing.lifecycle import STATE, opens, succeeds
from alignzoo.testing.prompts import as_many, asked, labelled, shared
from alignzoo.testing.stopping import resumes
from alignzoo.testing.world import toy_groups, toy_policy
from alignzoo.types import Batch, Forward, Group, Prompt, Score, Terms


def _prompts(given: Given) -> list[Prompt]:
    return given.asked()


def _policy(given: Given) -> Policy:
    return given.policy or toy_policy(drift=0.1)


def _sample(attempt: Attempt, sampler: Sampler, prompts: Sequence[Prompt], policy: Policy, seed: int) -> list[Group]:
    with attempt.runs("sample()"):
        return sampler.sample(prompts, policy, seeds=fn.seeds(len(prompts), seed))


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
    own = [message for message in answered if message in asked]
    order = [message for place, message in enumerate(own) if message not in own[:place]]
    attempt.require(order == asked, "the prompts' own groups in the order of the prompts", "another order")
    first = answered[:1] == asked[:1]
    attempt.require(first, "other groups to train on after a prompt's own", f"one for {str(answered[0])[:60]!r} before")
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
    """The groups become a batch: `extra` has the same columns in each, but for those that come with the data."""
    attempt = Attempt(11, "all groups, scored alike", "a column in some groups' extra that others lack")
    found = _sample(attempt, sampler, _prompts(given), _policy(given), 0)
    names = {name for group in found for name in group.extra}
    for group in found:
        lacking = sorted(names - set(group.extra) - {name for each in found for name in each.prompt.info})
        attempt.require(not lacking, f"every group's extra to have {sorted(names)}", f"one without {lacking}")
    with attempt.runs("collate()"):
        rows = collate(found, scored=False)
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
    known, asked = pickle.dumps(closed(sampler)), pickle.dumps(prompts)
    weights = {name: tensor.clone() for name, tensor in policy.state().items()}
    _sample(attempt, sampler, prompts, policy, 0)
    attempt.unchanged("the policy's {}", weights, policy.state())
    attempt.require(pickle.dumps(prompts) == asked, "the prompts as they were", "changed ones")
    attempt.require(pickle.dumps(closed(sampler)) == known, "the sampler as it was", repr(sampler))


def hard_inputs(sampler: Sampler, given: Given) -> None:
    """No prompt, one prompt, one prompt twice."""
    cause = "a mean, a maximum or a zip over no prompts, or groups kept in a dict by their prompt"
    prompts, policy = _prompts(given), _policy(given)
    for hard, some in {"no prompt": [], "one prompt": prompts[:1], "one prompt twice": prompts[:1] * 2}.items():
        found = _sample(Attempt(4, hard, cause), sampler, some, policy, 0)
        Attempt(4, hard, cause).require(len(found) >= len(some), f"{len(some)} groups", str(len(found)))


def neighbours(sampler: Sampler, given: Given) -> None:
    """A call with several prompts brings what calls with one each would: each process is given a share of them."""
    cause = "a draw by the place in the call, or numbers reckoned over all groups of it: go by the prompt and its seed"
    prompts, policy = _prompts(given), _policy(given)
    attempt = Attempt(1, "prompts together, and each alone with its seed", cause)
    together = _told(_sample(attempt, sampler, prompts, policy, 0))
    alone = []
    for prompt, seed in zip(prompts, fn.seeds(len(prompts), 0), strict=True):
        with attempt.runs("sample()"):
            alone += _told(sampler.sample([prompt], policy, seeds=[seed]))
    attempt.require(alone == together, "the same groups in the same order", "other ones")


def written(sampler: Sampler, given: Given) -> None:
    """What a completion says of its own log-probabilities is what the policy says of it."""
    if given.policy is not None or not sampler.online:
        return
    cause = "completions cut, joined or written by another model, with log-probabilities kept: set them to None"
    policy = _policy(given)
    attempt = Attempt(5, "the policy's own log-probabilities of each completion that has some", cause)
    found = _sample(attempt, sampler, _prompts(given), policy, 0)
    single = [
        replace(group, completions=(completion,), scores=None, extra={})
        for group in found
        for completion in group.completions
        if completion.logprobs is not None
    ]
    if not any(any(group.completions[0].trained) for group in single):
        return
    rows = collate(single, scored=False)
    said = answer(policy, rows, frozenset({"logprobs"}))["logprobs"]
    for row in range(len(rows)):
        where, told = rows.mask[row] & rows.own[row], rows.extra["sampled_logprobs"]
        attempt.near("log-probabilities", said[row][where], told[row][where], 1e-3)


def selects(sampler: Sampler, given: Given) -> None:
    """A sampler that selects does so purely, among the groups that it is given, and asks at least once."""
    if not isinstance(sampler, Selects):
        return
    cause = "a group made up, scored anew or changed in select(), or randomness there"
    attempt = Attempt(3, "scored groups: mixed, all alike, and none", cause)
    attempt.require(sampler.attempts >= 1, "attempts of at least 1", repr(sampler.attempts))
    for groups in (toy_groups(), [_alike(group) for group in toy_groups()], []):
        before = pickle.dumps(groups)
        with attempt.runs("select()"):
            kept, again = sampler.select(groups), sampler.select(groups)
        attempt.require(kept == again, "the same groups twice", "others")
        attempt.require(pickle.dumps(groups) == before, "the groups as they were", "changed ones")
        known = [(g.prompt, each) for g in groups for each in zip(g.completions, g.scores or (), strict=True)]
        for group in kept:
            own = [(group.prompt, each) for each in zip(group.completions, group.scores or (), strict=True)]
            attempt.require(all(each in known for each in own), "completions and scores as they were", "other ones")
        more = _rows(kept) - _rows(groups)
        attempt.require(not more, "no completion more often than it was given", f"{len(more)} such")


def _rows(groups: Sequence[Group]) -> Counter[tuple[tuple[int, ...], tuple[int, ...]]]:
    return Counter((tuple(group.prompt_tokens), each.tokens) for group in groups for each in group.completions)


def _alike(group: Group) -> Group:
    return replace(group, scores=(Score(1.0),) * len(group.completions))


def successor(sampler: Sampler, given: Given) -> None:
    """A sampler's successor is a pure function of the step, and a checkpoint brings it back whole."""
    policy = _policy(given)
    prompts = [replace(prompt, index=i) for i, prompt in enumerate(_prompts(given))]
    attempt = Attempt(7, "a few prompts", STATE)
    succeeds(sampler, lambda part, step: [_alike(group) for group in _sample(attempt, part, prompts, policy, step)])


def resume(sampler: Sampler, given: Given) -> None:
    """Stopped after two of four steps and resumed in fresh objects, a run writes the same to the byte."""
    if given.policy is None:
        resumes(STATE, ToyOptimizer(), closed(sampler), _prompts(given))


def chooses(sampler: Sampler, given: Given) -> None:
    """A sampler that chooses prompts names as many of them as it is asked for, and the same ones again."""
    if not isinstance(sampler, Chooses):
        return
    cause = "a choice without replacement of more than there are, or randomness that `seed` does not seed"
    prompts = [replace(prompt, index=place) for place, prompt in enumerate(_prompts(given))]
    asked = pickle.dumps(prompts)
    for n in (1, len(prompts), 2 * len(prompts)):
        attempt = Attempt(3, f"{n} of {len(prompts)} prompts", cause)
        with attempt.leaves_randomness(), attempt.runs("choose()"):
            first, again = (list(sampler.choose(prompts, n, seed=0)) for _ in range(2))
        attempt.require(first == again, f"{first} twice", str(again))
        valid = len(first) == n and all(isinstance(i, int) and 0 <= i < len(prompts) for i in first)
        attempt.require(valid, f"{n} places from 0 to {len(prompts) - 1}", str(first)[:160])
        attempt.require(pickle.dumps(prompts) == asked, "the prompts as they were", "changed ones")


@dataclass(frozen=True)
class ToyOptimizer:
    """More of what has a reward, without a baseline: a sampler of one completion for each prompt teaches, too."""

    epochs: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, advantages=1 + batch.rewards)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        assert batch.advantages is not None and out.logprobs is not None
        return Terms(-out.logprobs * fn.token_column(batch.advantages, batch.mask))


SAMPLER_CHECKS: Checks = checks(
    (3, contract),
    (3, shared),
    (11, groups),
    (11, batch),
    (3, seeds),
    (3, pure),
    (4, hard_inputs),
    (1, neighbours),
    (5, written),
    (11, generated),
    (3, seeds_apart),
    (3, drawn_once),
    (11, greedy_marked),
    (11, asks_more),
    (11, fresh),
    (11, own_scores),
    (11, own_columns),
    (11, asked),
    (11, labelled),
    (11, as_many),
    (3, selects),
    (3, chooses),
    (3, opens),
    (7, successor),
    (7, resume),
)
"""Every check of a sampler by name, in the order in which they are made."""
