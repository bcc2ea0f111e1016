"""The checks of what a policy generates, and of how it tokenises what is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from alignzoo import functional as fn
from alignzoo.decoding import AS_SET, Decoding
from alignzoo.errors import AlignzooError
from alignzoo.interfaces import PolicySpec
from alignzoo.testing.asking import GREEDY, TOLERANCE, WRITER, answered, batch_of, generated, loaded, plain_prompts
from alignzoo.testing.laws import Attempt, Given
from alignzoo.types import Completion, Group, Prompt


def writes(spec: PolicySpec, given: Given) -> None:
    """A group of n completions for each prompt, in order, each of one token or more."""
    attempt = Attempt(11, "three completions of each prompt", "prompts sorted by length and not put back in order")
    policy = loaded(attempt, spec, WRITER)
    prompts = plain_prompts(given)
    found = generated(attempt, policy, given)
    attempt.require([g.prompt for g in found] == prompts, "the prompts in order", f"{len(found)} groups, other prompts")
    for group in found:
        attempt.require(len(group.completions) == 3, "three completions", str(len(group.completions)))
        attempt.require(len(group.prompt_tokens) > 0, "prompt_tokens", "none")
        for completion in group.completions:
            attempt.require(len(completion.tokens) > 0, "one token or more", repr(completion))
            told = completion.logprobs
            attempt.require(
                told is not None and len(told) == len(completion.tokens), "a log-probability per token", repr(told)
            )
    with attempt.runs("generate([], 1)"):
        attempt.require(policy.generate([], 1, seeds=[]) == [], "no groups for no prompts", "some")


def goes_on(spec: PolicySpec, given: Given) -> None:
    """After a prompt's tokens `go_on` generates what `generate` does; after a transcript's, it goes on with these very
    tokens, and `forward` says of its words, with others' words between, what it said."""
    attempt = Attempt(11, "the prompts' tokens", "a prefix that is tokenised, cut or ended anew, or another seed")
    policy = loaded(attempt, spec, WRITER)
    groups = generated(attempt, policy, given, 2)
    with attempt.runs("go_on()"):
        again = policy.go_on([group.prompt_tokens for group in groups], 2, seeds=fn.seeds(len(groups), 0))
    expected = [[each.tokens for each in group.completions] for group in groups]
    attempt.require([[each.tokens for each in found] for found in again] == expected, "generate's own tokens", "others")
    attempt = replace(attempt, given="two turns with two tokens of somebody else between", law=5)
    begun = [group.completions[0].cut(3).then(_heard(group)) for group in groups]
    with attempt.runs("go_on() after a transcript"):
        pairs = zip(groups, begun, strict=True)
        prefixes = [group.prompt_tokens + each.tokens for group, each in pairs]
        found = policy.go_on(prefixes, 1, seeds=fn.seeds(len(prefixes), 1))
    whole = [each.then(*turn) for each, turn in zip(begun, found, strict=True)]
    batch = batch_of([replace(group, completions=(each,)) for group, each in zip(groups, whole, strict=True)], policy)
    asked = frozenset({"logprobs", "entropy"})
    answers = answered(attempt, policy, batch, asked)
    attempt.require("sampled_logprobs" in batch.extra, "log-probabilities with what go_on() generates", "none")
    told = batch.extra["sampled_logprobs"][batch.mask].cpu()
    exact = policy.info().exact_samples
    attempt.near("log-probabilities", answers["logprobs"][batch.mask].cpu(), told, TOLERANCE if exact else 1e-3)
    full = replace(batch, mask=batch.attend & (torch.cumsum(batch.mask, 1) > 0))
    plain = answered(attempt, policy, full, asked)
    attempt = replace(attempt, given="the same tokens with a mask without holes", law=2)
    for name in sorted(asked):
        attempt.near(name, plain[name][batch.mask].cpu(), answers[name][batch.mask].cpu(), TOLERANCE)
        attempt.require(not answers[name][~batch.mask].any(), f"{name} of 0 under the mask", "others")


def _heard(group: Group) -> Completion:
    """Two tokens that the policy has not generated: of its prompt."""
    return Completion.observation((group.prompt_tokens * 2)[:2], "")


def encodes(spec: PolicySpec, given: Given) -> None:
    """Given answers are tokenised after the same prompt tokens that writing begins with, and are ended."""
    attempt = Attempt(11, "two given answers", "a prompt tokenised in another way than for writing")
    policy = loaded(attempt, spec, WRITER)
    prompt = plain_prompts(given)[0]
    texts = prompt.completions or ("yes", "no")
    with attempt.runs("encode()"):
        group = policy.encode(prompt, texts)
    attempt.require(len(group.completions) == len(texts), f"{len(texts)} completions", str(len(group.completions)))
    begun = policy.generate([prompt], 1, seeds=[0])[0].prompt_tokens
    attempt.require(group.prompt_tokens == begun, f"the prompt tokens {begun}", str(group.prompt_tokens))
    attempt.require(all(c.tokens and c.logprobs is None for c in group.completions), "tokens and no logprobs", "others")
    ends = {c.tokens[-1] for c in group.completions if c.finished}
    attempt.require(len(ends) <= 1, "one end-of-sequence token", f"{sorted(ends)}")


def own_words(spec: PolicySpec, given: Given) -> None:
    """`forward` says of what was written what `generate` said of it, closely where the policy calls that exact."""
    cause = "a temperature or a cut of the vocabulary in one of them only, or columns shifted by one"
    attempt = Attempt(5, "completions of its own", cause)
    policy = loaded(attempt, spec, WRITER)
    groups = generated(attempt, policy, given)
    batch = batch_of(groups, policy)
    found = answered(attempt, policy, batch, frozenset({"logprobs"}))["logprobs"]
    told = [number for group in groups for c in group.completions for number in c.logprobs or ()]
    exact = policy.info().exact_samples
    attempt.near("log-probabilities", found[batch.mask].cpu(), torch.tensor(told), TOLERANCE if exact else 1e-3)


def seeds(spec: PolicySpec, given: Given) -> None:
    """The same seed writes the same, another seed something else; the greedy answer has none."""
    attempt = Attempt(3, "seeds 0, 0 and 1", "torch's global generator used for sampling: make one from the seed")
    policy = loaded(attempt, spec, WRITER)
    prompts = plain_prompts(given)

    def wrote(seed: int, decoding: Decoding = AS_SET) -> list[tuple[int, ...]]:
        with attempt.runs("generate()"):
            found = policy.generate(prompts, 2, seeds=fn.seeds(len(prompts), seed), decoding=decoding)
        return [c.tokens for group in found for c in group.completions]

    with attempt.leaves_randomness():
        first = wrote(0)
    torch.rand(3)
    attempt.require(wrote(0) == first, "the same text with the same seed", "other text")
    attempt.require(wrote(1) != first, "other text with another seed", "the same text")
    attempt.require(first[0::2] != first[1::2], "two different completions of a prompt", "twice the same")
    attempt.require(wrote(0, GREEDY) == wrote(1, GREEDY), "one greedy text, whatever the seed", "two")


def neighbours(spec: PolicySpec, given: Given) -> None:
    """What a prompt's completions are does not depend on the other prompts of the call, nor on its place among them."""
    cause = "one generator for all prompts of a call, or a seed that goes by the place in it: each prompt has its own"
    attempt = Attempt(1, "prompts together, in reverse, and each alone", cause)
    policy = loaded(attempt, spec, WRITER)
    prompts = plain_prompts(given)
    own = fn.seeds(len(prompts), 0)

    def wrote(some: Sequence[Prompt], seeds: Sequence[int]) -> list[list[tuple[int, ...]]]:
        with attempt.runs("generate()"):
            found = policy.generate(some, 2, seeds=seeds)
        return [[c.tokens for c in group.completions] for group in found]

    together = wrote(prompts, own)
    attempt.require(wrote(prompts[::-1], own[::-1])[::-1] == together, "the same text in reverse order", "other text")
    alone = [wrote([prompt], [seed])[0] for prompt, seed in zip(prompts, own, strict=True)]
    attempt.require(alone == together, "the same text of each prompt alone", "other text")


def ends(spec: PolicySpec, given: Given) -> None:
    """What ends before the limit is finished, and what the limit cuts is not; a call's stops and temperature count."""
    cause = "finished told of all or of none, a limit one too high, or a field of Decoding that is not handed on"
    attempt = Attempt(11, "four completions of each prompt, of 12 tokens at most, then of 3", cause)
    policy = loaded(attempt, spec, WRITER)
    prompts = plain_prompts(given)[:3]

    def wrote(n: int, **decoding: Any) -> list[tuple[Completion, ...]]:
        with attempt.runs("generate()"):
            own = fn.seeds(len(prompts), 0)
            found = policy.generate(prompts, n, seeds=own, decoding=Decoding(**decoding))
        return [group.completions for group in found]

    def taken(n: int, **decoding: Any) -> list[tuple[Completion, ...]]:
        """The same; nothing where the policy says that it cannot."""
        try:
            policy.generate(prompts[:1], 1, seeds=fn.seeds(1, 0), decoding=Decoding(**decoding))
        except AlignzooError:
            return []
        return wrote(n, **decoding)

    whole, cut = wrote(4, max_new_tokens=12), wrote(4, max_new_tokens=3)
    for limit, some in ((12, whole), (3, cut)):
        for each in (each for completions in some for each in completions):
            n = len(each.tokens)
            attempt.require(n <= limit, f"{limit} tokens at most", str(n))
            attempt.require(n == limit or each.finished, f"what ends after {n} of {limit} tokens to be finished", "not")
    for longer, shorter in zip(whole, cut, strict=True):
        begun = {each.tokens[:3] for each in longer if len(each.tokens) > 3}
        wrong = [each for each in shorter if each.tokens in begun and each.finished]
        attempt.require(not wrong, "what the limit has cut to be unfinished", "finished")
    _stops(replace(attempt, given="a token, and a text, that end a completion"), taken, whole)
    told = policy.info().decoding
    if told is None or not (told.filters or told.greedy or told.mix):
        attempt = replace(attempt, given="the first token of 64 completions, at temperatures of 5 and of 0.02")
        drawn = [taken(64, max_new_tokens=1, temperature=t) for t in (5.0, 0.02)]
        if all(drawn):
            hot, cold = (len({c.tokens for c in some[0]}) for some in drawn)
            attempt.require(hot > cold, "more different ones where it is hot", f"{hot}, and {cold} where it is cold")


def _stops(attempt: Attempt, taken: Callable[..., list[tuple[Completion, ...]]], whole: list[Any]) -> None:
    """A token that ends a completion is in none but at its end, nor is a text, but for what its last token brings."""
    known = next((each for some in whole for each in some if len(each.tokens) > 4), None)
    if known is None:
        return
    token = known.tokens[1]
    for each in (each for some in taken(4, max_new_tokens=12, stop_tokens=(token,)) for each in some):
        attempt.require(token not in each.tokens[:-1], f"nothing after the token {token}", str(each.tokens))
    text = next((known.text[i] for i in range(len(known.text) // 3, len(known.text)) if known.text[i].strip()), "")
    found = [each for some in taken(4, max_new_tokens=12, stop=(text,)) for each in some] if text else []
    for each in found:
        attempt.require(text not in each.text or each.finished, f"what has come to {text!r} to be finished", each.text)
