"""The checks that hold every policy to the laws: who writes, and says how likely each token was."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo.batching import collate
from alignzoo.columns import REFERENCE
from alignzoo.decoding import AS_SET, Decoding
from alignzoo.errors import ModelError
from alignzoo.interfaces import Policy, PolicySpec
from alignzoo.policies import lacking
from alignzoo.roles import takes_roles
from alignzoo.testing.laws import Attempt, Checks, Given, checks, is_a_spec, summary
from alignzoo.testing.measure import padded
from alignzoo.testing.numbers import entropy, latest_token
from alignzoo.testing.updates import updates
from alignzoo.types import Batch, Completion, Group, Prompt

GREEDY = Decoding(greedy=True)
WRITER = frozenset({"logprobs", "entropy", "values"})
"""What a writer with a critic answers; a scorer answers `scores`."""

LOGPROBS = frozenset({"logprobs"})

TOLERANCE = 2e-4
"""The tolerance for answers that pass through other shapes, in float32."""


def _prompts(given: Given) -> list[Prompt]:
    return given.asked(conversations=False)


def _load(attempt: Attempt, spec: PolicySpec, needs: frozenset[str]) -> Policy:
    with attempt.runs(f"load({sorted(needs)})"):
        policy = spec.load(needs)
    attempt.require(not (wrong := lacking(policy)), "a Policy", wrong)
    return policy


def _written(attempt: Attempt, policy: Policy, given: Given, n: int = 3) -> list[Group]:
    with attempt.runs("generate()"):
        return policy.generate(_prompts(given), n, seeds=fn.seeds(len(_prompts(given)), 0))


def _batch(groups: list[Group], policy: Policy) -> Batch:
    return collate(groups, policy.device, scored=False)


def _answers(attempt: Attempt, policy: Policy, batch: Batch, columns: frozenset[str] = WRITER) -> dict[str, Tensor]:
    with attempt.runs(f"forward({sorted(columns)})"), torch.no_grad():
        out = policy.forward(batch, columns)
    return {name: column for name, column in vars(out).items() if isinstance(column, Tensor)}


def contract(spec: PolicySpec, given: Given) -> None:
    """Settings that can be pickled; `load` gives a policy for every set of needs."""
    is_a_spec(spec)
    attempt = Attempt(11, repr(spec), "a method of alignzoo.interfaces.Policy that is missing")
    _load(attempt, spec, frozenset())
    _load(attempt, spec, WRITER)


def writes(spec: PolicySpec, given: Given) -> None:
    """A group of n completions for each prompt, in order, each of one token or more."""
    attempt = Attempt(11, "three completions of each prompt", "prompts sorted by length and not put back in order")
    policy = _load(attempt, spec, WRITER)
    prompts = _prompts(given)
    found = _written(attempt, policy, given)
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
    policy = _load(attempt, spec, WRITER)
    groups = _written(attempt, policy, given, 2)
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
    batch = _batch([replace(group, completions=(each,)) for group, each in zip(groups, whole, strict=True)], policy)
    asked = frozenset({"logprobs", "entropy"})
    answers = _answers(attempt, policy, batch, asked)
    attempt.require("sampled_logprobs" in batch.extra, "log-probabilities with what go_on() generates", "none")
    told = batch.extra["sampled_logprobs"][batch.mask].cpu()
    exact = policy.info().exact_samples
    attempt.near("log-probabilities", answers["logprobs"][batch.mask].cpu(), told, TOLERANCE if exact else 1e-3)
    full = replace(batch, mask=batch.attend & (torch.cumsum(batch.mask, 1) > 0))
    plain = _answers(attempt, policy, full, asked)
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
    policy = _load(attempt, spec, WRITER)
    prompt = _prompts(given)[0]
    texts = prompt.completions or ("yes", "no")
    with attempt.runs("encode()"):
        group = policy.encode(prompt, texts)
    attempt.require(len(group.completions) == len(texts), f"{len(texts)} completions", str(len(group.completions)))
    begun = policy.generate([prompt], 1, seeds=[0])[0].prompt_tokens
    attempt.require(group.prompt_tokens == begun, f"the prompt tokens {begun}", str(group.prompt_tokens))
    attempt.require(all(c.tokens and c.logprobs is None for c in group.completions), "tokens and no logprobs", "others")
    ends = {c.tokens[-1] for c in group.completions if c.finished}
    attempt.require(len(ends) <= 1, "one end-of-sequence token", f"{sorted(ends)}")


def columns(spec: PolicySpec, given: Given) -> None:
    """`forward` answers exactly the columns asked for, (N, T), finite, and 0 where the mask is False."""
    attempt = Attempt(11, "each column alone, and all of them", "a column answered unasked, or of another shape")
    policy = _load(attempt, spec, WRITER)
    batch = _batch(_written(attempt, policy, given), policy)
    for asked in (*(frozenset({name}) for name in sorted(WRITER)), WRITER):
        found = _answers(attempt, policy, batch, asked)
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
    policy = _load(attempt, spec, WRITER)
    batch = _batch(_written(attempt, policy, given), policy)
    expected = _answers(attempt, policy, batch)
    wide = padded(batch, 5)
    _near(attempt, expected, _answers(attempt, policy, wide), batch)
    other = replace(wide, tokens=torch.where(wide.attend, wide.tokens, 1))
    _near(
        replace(attempt, law=2, given="other tokens in the padding"), expected, _answers(attempt, policy, other), batch
    )
    order = torch.arange(len(batch) - 1, -1, -1, device=batch.tokens.device)
    turned = {name: column[order] for name, column in _answers(attempt, policy, batch.select(order)).items()}
    _near(replace(attempt, given="rows in reverse order"), expected, turned, batch)
    alone = _answers(attempt, policy, batch.select(slice(0, 1)))
    _near(replace(attempt, given="one row alone"), {n: c[:1] for n, c in expected.items()}, alone, batch)


def _near(attempt: Attempt, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], batch: Batch) -> None:
    width = batch.tokens.shape[1]
    for name, column in expected.items():
        allowed = TOLERANCE * (1 + float(column.abs().max()))
        attempt.near(name, column, found[name][:, :width], allowed)


def causal(spec: PolicySpec, given: Given) -> None:
    """An answer about token t reads the tokens before it, and of the later ones nothing."""
    attempt = Attempt(2, "another last token", "no causal mask, or columns shifted by one")
    policy = _load(attempt, spec, WRITER)
    batch = _batch(_written(attempt, policy, given), policy)
    last = batch.mask & (batch.mask.flip(1).cumsum(1).flip(1) == 1)
    candidates = torch.unique(batch.tokens[batch.mask])
    attempt.require(len(candidates) > 1, "more than one token written", "one")
    other = torch.where(batch.tokens == candidates[0], candidates[1], candidates[0])
    changed = replace(batch, tokens=torch.where(last, other, batch.tokens))
    first, second = _answers(attempt, policy, batch), _answers(attempt, policy, changed)
    earlier = batch.mask & ~last
    for name in first:
        where = batch.mask if name in ("values", "entropy") else earlier
        attempt.near(f"{name} before it", first[name][where], second[name][where], TOLERANCE * 10)
    moved = (first["logprobs"] - second["logprobs"])[last].abs().max()
    attempt.require(float(moved) > 1e-6, "another log-probability of the last token", "the same: a shift by one")


def own_words(spec: PolicySpec, given: Given) -> None:
    """`forward` says of what was written what `generate` said of it, closely where the policy calls that exact."""
    cause = "a temperature or a cut of the vocabulary in one of them only, or columns shifted by one"
    attempt = Attempt(5, "completions of its own", cause)
    policy = _load(attempt, spec, WRITER)
    groups = _written(attempt, policy, given)
    batch = _batch(groups, policy)
    found = _answers(attempt, policy, batch, frozenset({"logprobs"}))["logprobs"]
    told = [number for group in groups for c in group.completions for number in c.logprobs or ()]
    exact = policy.info().exact_samples
    attempt.near("log-probabilities", found[batch.mask].cpu(), torch.tensor(told), TOLERANCE if exact else 1e-3)


def seeds(spec: PolicySpec, given: Given) -> None:
    """The same seed writes the same, another seed something else; the greedy answer has none."""
    attempt = Attempt(3, "seeds 0, 0 and 1", "torch's global generator used for sampling: make one from the seed")
    policy = _load(attempt, spec, WRITER)
    prompts = _prompts(given)

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
    policy = _load(attempt, spec, WRITER)
    prompts = _prompts(given)
    own = fn.seeds(len(prompts), 0)

    def wrote(some: Sequence[Prompt], seeds: Sequence[int]) -> list[list[tuple[int, ...]]]:
        with attempt.runs("generate()"):
            found = policy.generate(some, 2, seeds=seeds)
        return [[c.tokens for c in group.completions] for group in found]

    together = wrote(prompts, own)
    attempt.require(wrote(prompts[::-1], own[::-1])[::-1] == together, "the same text in reverse order", "other text")
    alone = [wrote([prompt], [seed])[0] for prompt, seed in zip(prompts, own, strict=True)]
    attempt.require(alone == together, "the same text of each prompt alone", "other text")


@contextlib.contextmanager
def _moved(policy: Policy) -> Iterator[None]:
    """Inside, every trained weight is another; afterwards as before."""
    state = {name: tensor.clone() for name, tensor in policy.state().items()}
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for group in policy.parameters():
            for parameter in group["params"]:
                parameter += 0.1 * torch.randn(parameter.shape, generator=rng).to(parameter)
    try:
        yield
    finally:
        policy.restore(state)


def reference(spec: PolicySpec, given: Given) -> None:
    """The reference answers as before training, and ends where its `with` ends, by an error too."""
    attempt = Attempt(5, "answering('ref') before and after the weights moved", "a reference that is not a copy")
    policy = _load(attempt, spec, WRITER)
    batch = _batch(_written(attempt, policy, given), policy)
    asked = frozenset({"logprobs"})
    start = _answers(attempt, policy, batch, asked)
    with policy.answering(REFERENCE):
        attempt.unchanged("the reference's {} at the start", start, _answers(attempt, policy, batch, asked))
    with _moved(policy):
        now = _answers(attempt, policy, batch, asked)
        attempt.require(not torch.equal(now["logprobs"], start["logprobs"]), "other answers after a move", "the same")
        with policy.answering(REFERENCE):
            attempt.unchanged("the reference's {} after a move", start, _answers(attempt, policy, batch, asked))
        with contextlib.suppress(KeyError), policy.answering(REFERENCE):
            raise KeyError("on purpose")
        attempt.unchanged("the policy's {} after answering('ref')", now, _answers(attempt, policy, batch, asked))


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
    batch = _batch(before, policy)
    start = _answers(attempt, policy, batch, LOGPROBS)
    with _moved(policy):
        moved = _answers(attempt, policy, batch, LOGPROBS)
        for role in (REFERENCE, "teacher"):
            _speaks(replace(attempt, given=f"answering({role!r}) after the weights moved"), policy, role, given, before)
        with attempt.runs("follow('ref', 1.0)"):
            policy.follow(REFERENCE, 1.0)
        with _moved(policy), policy.answering(REFERENCE):
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
        with _moved(each), each.answering(REFERENCE):
            attempt.near("reference's log-probabilities", moved["logprobs"], _logprobs(attempt, each, batch), TOLERANCE)
    with contextlib.suppress(ModelError), policy.answering("no such role"):
        attempt.fail("a ModelError for a role that is not there", "none")


def _speaks(attempt: Attempt, policy: Policy, role: str, given: Given, expected: list[Group]) -> None:
    """Inside `answering`, the role generates what the policy did before it moved, and answers as it generated."""
    with policy.answering(role):
        found = _greedy(attempt, policy, given)
        answered = _logprobs(attempt, policy, batch := _batch(found, policy))
    texts = [[each.tokens for group in groups for each in group.completions] for groups in (expected, found)]
    attempt.require(texts[0] == texts[1], "the greedy completions of before", "others")
    told = [number for group in found for c in group.completions for number in c.logprobs or ()]
    exact = policy.info().exact_samples
    attempt.near("log-probabilities", answered[batch.mask].cpu(), torch.tensor(told), TOLERANCE if exact else 1e-3)


def _greedy(attempt: Attempt, policy: Policy, given: Given) -> list[Group]:
    with attempt.runs("generate(decoding=Decoding(greedy=True))"):
        prompts = _prompts(given)
        return policy.generate(prompts, 1, seeds=fn.seeds(len(prompts), 0), decoding=GREEDY)


def _logprobs(attempt: Attempt, policy: Policy, batch: Batch) -> Tensor:
    return _answers(attempt, policy, batch, LOGPROBS)["logprobs"]


def gradients(spec: PolicySpec, given: Given) -> None:
    """What is trained gets a gradient, the critic's part too, and a step along it makes the tokens likelier."""
    cause = "parameters() that are not those which forward() reads, or requires_grad switched off, as by an adapter"
    attempt = Attempt(6, "the sum of each column", cause)
    policy = _load(attempt, spec, WRITER)
    batch = _batch(_written(attempt, policy, given), policy)
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
    before = float(_answers(attempt, policy, batch, asked)["logprobs"].sum())
    norm = torch.stack([g.double().norm() for g in gradients if g is not None]).norm()
    state = {name: tensor.clone() for name, tensor in policy.state().items()}
    with torch.no_grad():
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                parameter += (1e-2 / norm).to(gradient) * gradient
    after = float(_answers(attempt, policy, batch, asked)["logprobs"].sum())
    policy.restore(state)
    attempt.require(after > before, f"log-probabilities above {before:.5g} after a step", f"{after:.5g}")


def scores(spec: PolicySpec, given: Given) -> None:
    """Asked for scores it answers one per row, whatever the padding, with a gradient in all that is trained."""
    attempt = Attempt(11, 'load({"scores"})', "the score read at the padding, or a head that is not trained")
    policy = _load(attempt, spec, frozenset({"scores"}))
    prompts = _prompts(given)
    texts = [prompt.completions or ("yes", "no") for prompt in prompts]
    batch = _batch([policy.encode(p, t) for p, t in zip(prompts, texts, strict=True)], policy)
    found = _answers(attempt, policy, batch, frozenset({"scores"}))
    attempt.require(set(found) == {"scores"}, "the column scores", str(sorted(found)))
    attempt.require(tuple(found["scores"].shape) == (len(batch),), f"{len(batch)} scores", summary(found["scores"]))
    wide = _answers(attempt, policy, padded(batch, 4), frozenset({"scores"}))
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
    policy = _load(attempt, spec, WRITER)
    batch = _batch(_written(attempt, policy, given), policy)
    before = _answers(attempt, policy, batch)
    with _moved(policy):
        pass
    attempt.unchanged("{} after restore", before, _answers(attempt, policy, batch))
    twin = _load(attempt, spec, WRITER)
    with _moved(policy):
        moved = _answers(attempt, policy, batch)
        twin.restore({name: tensor.clone() for name, tensor in policy.state().items()})
        attempt.unchanged("{} in another process", moved, _answers(attempt, twin, batch))
    with tempfile.TemporaryDirectory() as folder:
        with attempt.runs("save()"):
            policy.save(Path(folder) / "model")
        attempt.require(any((Path(folder) / "model").iterdir()), "files in the directory", "none")
    attempt.unchanged("{} after save", before, _answers(attempt, policy, batch))


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
    (5, own_words),
    (3, seeds),
    (1, neighbours),
    (5, reference),
    (5, roles),
    (6, gradients),
    (1, updates),
    (11, scores),
    (7, checkpoints),
)
"""Every check of a policy by name, in the order in which they are made."""
