"""The checks of what a sampler does with the prompts that it is asked for, and with how many answers it brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from alignzoo import functional as fn
from alignzoo.decoding import AS_SET, Decoding
from alignzoo.interfaces import Policy, Sampler
from alignzoo.requirements import from_data
from alignzoo.testing.elsewhere import left_as_it_was
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.world import ToyPolicy, toy_policy
from alignzoo.types import Completion, Group, Prompt


def _brought(attempt: Attempt, sampler: Sampler, prompts: Sequence[Prompt], policy: Policy) -> list[Group]:
    with attempt.runs("sample()"):
        return sampler.sample(prompts, policy, seeds=fn.seeds(len(prompts), 0))


def asked(sampler: Sampler, given: Given) -> None:
    """A prompt's group has the prompt as it was asked, with its columns, and all of its tokens."""
    cause = "a prompt made anew from its messages, a conversation's last turn alone, or tokens cut off in front"
    attempt = Attempt(11, "prompts with columns and labels, a conversation among them", cause)
    policy, prompts = given.policy or toy_policy(drift=0.1), given.asked()
    found = _brought(attempt, sampler, prompts, policy)
    for prompt in prompts:
        where = f"the prompt {str(prompt.messages)[:60]!r}"
        mine = [group for group in found if group.prompt.messages == prompt.messages]
        kept = any(_without_answers(group.prompt) == _without_answers(prompt) for group in mine)
        attempt.require(kept, f"{where} with its columns", "others")
        with attempt.runs("encode()"):
            tokens = policy.encode(prompt, prompt.completions[:1]).prompt_tokens
        shown = {group.prompt_tokens for group in mine}
        attempt.require(tokens in shown, f"{where} with its {len(tokens)} tokens", f"{sorted(map(len, shown))} tokens")


def _without_answers(prompt: Prompt) -> Prompt:
    """A prompt without what is known of answers to it: a sampler may give it others, with other labels."""
    return replace(prompt, completions=(), labels=(), finished=())


def labelled(sampler: Sampler, given: Given) -> None:
    """Who brings all of the data's answers to a prompt brings them in the order of their labels."""
    if sampler.online or not from_data(sampler):
        return
    cause = "answers turned round or shuffled without their labels, which are read by place"
    attempt = Attempt(11, "prompts with as many labels as answers", cause)
    policy = given.policy or toy_policy(drift=0.1)
    prompts = list(given.prompts) or [
        replace(each, completions=(*each.completions, "a third one"), labels=(1.0, 0.0, 0.5)) for each in given.asked()
    ]
    for group in _brought(attempt, sampler, prompts, policy):
        if group.scores is None and len(group.completions) == len(group.prompt.labels):
            with attempt.runs("encode()"):
                known = policy.encode(group.prompt, group.prompt.completions).completions
            told, expected = ([each.text for each in some] for some in (group.completions, known))
            attempt.require(told == expected, f"the answers {expected} as they are labelled", str(told))


class _Repeats(ToyPolicy):
    """The toy policy, which says the same in every completion of a prompt."""

    def go_on(
        self, prefixes: Sequence[Sequence[int]], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[list[Completion]]:
        first = super().go_on(prefixes, 1, seeds=seeds, decoding=decoding)
        return [[some[0]] * n for some in first]


def as_many(sampler: Sampler, given: Given) -> None:
    """How many answers `sample` brings does not hang on what they say: what is left out afterwards says `select`."""
    if given.policy is not None or not sampler.online:
        return
    cause = "equal answers merged, so that what the policy says often counts as little as what it says once"
    attempt = Attempt(11, "a policy that says the same in every answer, and one that does not", cause)
    policy = toy_policy(drift=0.1)
    same = _Repeats()
    same.__dict__.update(policy.__dict__)
    counts = [
        [len(group.completions) for group in _brought(attempt, sampler, given.asked(), each)] for each in (policy, same)
    ]
    attempt.require(counts[0] == counts[1], f"{counts[0]} answers", str(counts[1]))


def shared(sampler: Sampler, given: Given) -> None:
    """What all code shares is as before: torch's modes, the working directory, and who the policy answers as."""
    attempt = Attempt(3, "a few prompts", "no_grad() without its with, or a role of the policy that is not left")
    policy = given.policy or toy_policy(drift=0.1)
    with left_as_it_was(attempt, policy):
        _brought(attempt, sampler, [replace(each) for each in given.asked()], policy)
