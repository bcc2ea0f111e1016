"""The checks that hold every engine to the laws: it generates what the model says, by the decoding and by seeds."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from alignzoo import functional as fn
from alignzoo.decoding import CompleteDecoding
from alignzoo.engines import Engine, EngineModel, Generated, OpenEngine, Tokens, stopped_at, waived_laws
from alignzoo.registry import Registry
from alignzoo.testing.laws import Attempt, Checks, Given, checks, is_a_spec

N, LIMIT = 3, 6
CLOSE = {True: 2e-3, False: 0.1}
"""How far log-probabilities may be from the forward's, of engines that are exact and of others."""


@functools.cache
def embedded_model() -> EngineModel:
    """The small embedded model, as an engine sees it: that of the first task there is."""
    zoo = Registry()
    task = zoo.get("task", zoo.names("task")[0])
    spec: Any = zoo.get("policy", zoo.names("policy")[0])
    policy = spec(model=(task() if isinstance(task, type) else task).base, device="cpu").load(frozenset())
    model: EngineModel = policy.engine_model
    return model


def _prefixes() -> list[tuple[int, ...]]:
    text = embedded_model().tokenizer("Sort 3 1 2. Sell me an apple, please.", add_special_tokens=False)["input_ids"]
    return [tuple(text[:3]), tuple(text[:9]), tuple(text[2:7])]


@contextmanager
def _open(attempt: Attempt, engine: Engine) -> Iterator[OpenEngine]:
    with attempt.runs("open()"):
        live = engine.open(embedded_model())
    try:
        yield live
    finally:
        with attempt.runs("close()"):
            live.close()


def _ask(
    attempt: Attempt,
    live: OpenEngine,
    decoding: CompleteDecoding,
    prefixes: Sequence[Tokens],
    seed: int = 0,
    **how: Any,
) -> list[Generated]:
    n, at_once = how.get("n", N), how.get("at_once", 4)
    seeds = how.get("seeds") or fn.seeds(len(prefixes), seed)
    with attempt.runs("generate()"):
        return list(live.generate(prefixes, n, decoding, seeds=seeds, at_once=at_once))


def contract(engine: Engine, given: Given) -> None:
    """A frozen dataclass that says whether its numbers are exact and whether it keeps weights of its own."""
    is_a_spec(engine)
    attempt = Attempt(3, repr(engine), "exact or separate given as a field, or left out")
    for name in ("exact", "separate"):
        attempt.require(isinstance(getattr(engine, name), bool), f"{name}: ClassVar[bool]", repr(getattr(engine, name)))


def answers(engine: Engine, given: Given) -> None:
    """N completions of each prefix in order, each up to its first end or to the limit."""
    attempt = Attempt(11, f"{N} completions of three prefixes", "completions sorted by when they ended, or cut wrongly")
    with _open(attempt, engine) as live:
        found = _ask(attempt, live, CompleteDecoding(LIMIT), _prefixes())
        nothing = _ask(attempt, live, CompleteDecoding(LIMIT), [])
    attempt.require(nothing == [], "nothing for no prefixes", str(nothing)[:80])
    attempt.require(len(found) == 3 * N, f"{3 * N} completions", str(len(found)))
    ends = embedded_model().stop_ids
    for each in found:
        attempt.require(isinstance(each, Generated), "a Generated", type(each).__name__)
        attempt.require(0 < len(each.tokens) <= LIMIT, f"1 to {LIMIT} tokens", str(len(each.tokens)))
        attempt.require(not ends & set(each.tokens[:-1]), "no token after an end", str(each.tokens))
        done = each.tokens[-1] in ends
        attempt.require(each.finished == done, f"finished = {done} for {each.tokens}", str(each.finished))
        attempt.require(done or len(each.tokens) == LIMIT, "an end, or the limit", str(each.tokens))
        attempt.require(len(each.logprobs) in (0, len(each.tokens)), "a log-probability a token", str(each.logprobs))


def numbers(engine: Engine, given: Given) -> None:
    """Log-probabilities are the forward's, at the temperature and of the whole vocabulary, or there are none."""
    cause = "probabilities after top-k, top-p or min-p, or before the temperature: give none where others are unknown"
    attempt = Attempt(5, "temperature 0.7, then with top_k = 5", cause)
    with _open(attempt, engine) as live:
        for decoding in (CompleteDecoding(LIMIT, 0.7), CompleteDecoding(LIMIT, 0.7, top_k=5)):
            found = _ask(attempt, live, decoding, _prefixes())
            for i, each in enumerate(found):
                expected = _logprobs(_prefixes()[i // N], each.tokens, 0.7)
                if each.logprobs:
                    attempt.near("log-probabilities", expected, torch.tensor(each.logprobs), CLOSE[engine.exact])
                else:
                    attempt.require(not engine.exact, "log-probabilities of an engine that is exact", "none")


def _logprobs(prefix: Tokens, tokens: Tokens, temperature: float) -> torch.Tensor:
    rows = [(*prefix, *tokens[:i]) for i in range(len(tokens))]
    known = torch.log_softmax(embedded_model().logits(rows).float().cpu() / temperature, -1)
    return known[torch.arange(len(tokens)), torch.tensor(list(tokens))]


def seeds(engine: Engine, given: Given) -> None:
    """The same seeds generate the same, others something else; nobody draws from the global generator."""
    attempt = Attempt(3, "seeds 0, 0 and 1", "one generator for the engine's life, or torch's global one")
    long = CompleteDecoding(2 * LIMIT)
    with _open(attempt, engine) as live:
        with attempt.leaves_randomness():
            first = _ask(attempt, live, long, _prefixes())
        attempt.require(
            _tokens(_ask(attempt, live, long, _prefixes())) == _tokens(first), "the same text", "other text"
        )
        other = _ask(attempt, live, long, _prefixes(), 1)
    attempt.require(_tokens(other) != _tokens(first), "other text with another seed", "the same text")


def neighbours(engine: Engine, given: Given) -> None:
    """A prefix's completions depend neither on the other prefixes of the call nor on how many are generated at once."""
    if "neighbours" in waived_laws(engine):
        return
    attempt = Attempt(1, "together, in reverse, one at a time", "one stream of random numbers for all of a call")
    some, own = _prefixes(), fn.seeds(3, 5)
    plain = CompleteDecoding(LIMIT)
    with _open(attempt, engine) as live:
        together = _tokens(_ask(attempt, live, plain, some, seeds=own))
        reverse = _tokens(_ask(attempt, live, plain, some[::-1], seeds=own[::-1], at_once=2))
        alone = [_tokens(_ask(attempt, live, plain, [p], seeds=[s])) for p, s in zip(some, own, strict=True)]
    parts = [together[i : i + N] for i in range(0, len(together), N)]
    attempt.require([reverse[i : i + N] for i in (6, 3, 0)] == parts, "the same text in reverse order", "other text")
    attempt.require(alone == parts, "the same text of each prefix alone", "other text")


def decoding(engine: Engine, given: Given) -> None:
    """Each setting of the decoding counts: greedy, top_k, top_p, min_p, limits, stop tokens and stop texts."""
    attempt = Attempt(13, "one setting at a time", "a setting of `CompleteDecoding` that is not handed on")
    some = _prefixes()
    with _open(attempt, engine) as live:
        greedy = _ask(attempt, live, CompleteDecoding(LIMIT, greedy=True), some)
        best = _greedy(some[1], len(greedy[N].tokens))
        attempt.require(greedy[N].tokens == best, f"the likeliest tokens {best}", str(greedy[N].tokens))
        for name, value in (("top_k", 1), ("top_p", 1e-6), ("min_p", 1.0)):
            setting: dict[str, Any] = {name: value}
            one = _ask(attempt, live, CompleteDecoding(LIMIT, **setting), some)
            attempt.require(_tokens(one) == _tokens(greedy), f"the likeliest tokens with {name} = {value}", "others")
        short = _ask(attempt, live, CompleteDecoding(2, greedy=True), some)
        attempt.require([each.tokens for each in short] == [each.tokens[:2] for each in greedy], "two tokens", "others")
        _stops(attempt, live, greedy, some)


def _stops(attempt: Attempt, live: OpenEngine, greedy: Sequence[Generated], some: Sequence[Tokens]) -> None:
    """A token or a text ends a completion where it first comes, and stays."""
    model, whole = embedded_model(), greedy[N].tokens
    token = whole[1]
    found = _ask(attempt, live, CompleteDecoding(LIMIT, greedy=True, stop_tokens=(token,)), some)[N]
    expected = whole[: whole.index(token) + 1]
    attempt.require(found.tokens == expected and found.finished, f"{expected}, finished", str(found))
    stop = model.text(whole[1:3])
    end = stopped_at(whole, [stop], model.text)
    found = _ask(attempt, live, CompleteDecoding(LIMIT, greedy=True, stop=(stop,)), some)[N]
    attempt.require(found.tokens == whole[:end] and found.finished, f"{whole[:end]} with stop = {stop!r}", str(found))


def _greedy(prefix: Tokens, length: int) -> tuple[int, ...]:
    tokens: tuple[int, ...] = ()
    while len(tokens) < length:
        tokens = (*tokens, int(embedded_model().logits([(*prefix, *tokens)]).argmax()))
    return tokens


def draws(engine: Engine, given: Given) -> None:
    """First tokens come as often as the model says: Pearson's chi-squared over 600 draws."""
    attempt = Attempt(11, "600 first tokens of a prefix, at temperature 1.3", "a temperature or a filter of its own")
    prefix, n = _prefixes()[1], 600
    with _open(attempt, engine) as live:
        found = _ask(attempt, live, CompleteDecoding(1, 1.3), [prefix], n=n, at_once=256)
    likely = torch.softmax(embedded_model().logits([prefix])[0].double().cpu() / 1.3, -1)
    counts = torch.bincount(torch.tensor([each.tokens[0] for each in found]), minlength=len(likely)).double()
    order = likely.argsort(descending=True)
    often = order[: int((likely * n >= 5).sum())]
    rest = [n - float(counts[often].sum()), n * float(1 - likely[often].sum())]
    statistic = float(((counts[often] - n * likely[often]) ** 2 / (n * likely[often])).sum())
    statistic += (rest[0] - rest[1]) ** 2 / rest[1] if rest[1] > 1 else 0.0
    bound = len(often) + 5 * math.sqrt(2 * len(often)) + 5
    attempt.require(statistic < bound, f"a chi-squared below {bound:.3g} of {len(often)} tokens", f"{statistic:.3g}")


def weights(engine: Engine, given: Given) -> None:
    """It generates with the weights that the model has when it is asked, not with those of when it was opened."""
    attempt = Attempt(3, "greedy tokens, the weights changed, again", "a copy of the weights that is never renewed")
    model, some = embedded_model(), _prefixes()
    trained = [each for each in model.module.parameters() if each.requires_grad] if model.module is not None else []
    if not trained:
        return
    former = [each.detach().clone() for each in trained]
    with _open(attempt, engine) as live:
        before = model.version()
        first = _tokens(_ask(attempt, live, CompleteDecoding(LIMIT, greedy=True), some))
        with torch.no_grad():
            for i, each in enumerate(trained):
                each.add_(0.1 * torch.randn(each.shape, generator=torch.Generator().manual_seed(i)))
            try:
                attempt.require(model.version() != before, "another version of other weights", "the same version")
                now = _ask(attempt, live, CompleteDecoding(LIMIT, greedy=True), some)
                best = [_greedy(some[i // N], len(each.tokens)) for i, each in enumerate(now)]
            finally:
                for each, value in zip(trained, former, strict=True):
                    each.copy_(value)
        again = _tokens(_ask(attempt, live, CompleteDecoding(LIMIT, greedy=True), some))
    attempt.require(_tokens(now) == best, "the likeliest tokens by the new weights", "others")
    attempt.require(again == first, "the first tokens again, with the first weights", "others")


def _tokens(found: Sequence[Generated]) -> list[tuple[int, ...]]:
    return [each.tokens for each in found]


ENGINE_CHECKS: Checks = checks(
    (3, contract), (11, answers), (5, numbers), (3, seeds), (1, neighbours), (13, decoding), (11, draws), (3, weights)
)
"""The checks of an engine, by name."""
