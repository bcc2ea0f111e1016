"""Where an optimizer starts, and where it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignzoo import columns
from alignzoo import functional as fn
from alignzoo.interfaces import Optimizer
from alignzoo.testing.laws import Attempt, Figures, Given, summary
from alignzoo.testing.measure import (
    answer,
    case,
    columns_of,
    leaves,
    loss,
    prepare,
    pull,
)
from alignzoo.testing.optimizers.scene import learnt
from alignzoo.testing.world import TOY_WEIGHTS, column_values, toy_groups
from alignzoo.types import Batch, Completion, Forward, Group, Prompt, Score


def first_step(optimizer: Optimizer, given: Given) -> None:
    """Before the first update, ratios are exactly 1 and the KL is 0: nothing is clipped, and only ratios matter."""
    start = "policy, old policy and reference are one"
    cause = "a ratio against something else than batch.old_logprobs, or filled columns changed by prepare()"
    attempt = Attempt(5, start, cause)
    made = case(optimizer, toy_groups(columns=given.columns), drift=0.0)
    prepared = prepare(attempt, optimizer, made.batch)
    origin = _rows(attempt, made.batch, prepared)
    filled = {name: made.batch[name] for name in columns.filled(optimizer.needs)}
    there = columns_of(prepared) | dict(prepared.answers)
    attempt.unchanged("{} after prepare", {name: c[origin] for name, c in filled.items()}, there)
    out = _at_start(prepared, answer(optimizer, made.policy, prepared))
    terms = loss(attempt, optimizer, prepared, out)
    attempt.finite("loss", terms.loss)
    for name in {"clip_fraction", "approx_kl", "loss/kl"} & set(terms.metrics):
        attempt.require(not terms.metrics[name].any(), f"{name} exactly 0", summary(terms.metrics[name]))
    if "old_logprobs" in optimizer.needs and out.logprobs is not None:
        attempt = replace(attempt, given=f"{start}, all of them 0.5 nats less likely than before")
        spoken = [name for name in filled if columns.column(name).answer.name == "logprobs"]
        shifted = {name: filled[name] - 0.5 * made.batch.mask for name in spoken}
        lowered = prepare(attempt, optimizer, made.batch.answered(shifted))
        expected = pull(attempt, optimizer, prepared, out)["logprobs"]
        found = pull(attempt, optimizer, lowered, _at_start(lowered, out))["logprobs"]
        attempt.same("gradient in the log-probabilities", expected, found)


def _at_start(prepared: Batch, out: Forward) -> Forward:
    """Answers equal to the old ones to the bit."""
    if prepared.old_logprobs is not None and out.logprobs is not None:
        out = replace(out, logprobs=prepared.old_logprobs)
    return leaves(out)


def _rows(attempt: Attempt, batch: Batch, prepared: Batch) -> Tensor:
    """Which row of `batch` each prepared row was."""
    index = {tuple(tokens): row for row, tokens in enumerate(batch.tokens.tolist())}
    with attempt.runs("finding the prepared rows' tokens in the batch that prepare() was given"):
        return torch.tensor([index[tuple(tokens)] for tokens in prepared.tokens.tolist()], dtype=torch.long)


def _contest(optimizer: Optimizer, scores: Sequence[Sequence[float]], given: Given) -> Batch:
    """Groups of completions of one length with these scores, at an even start."""
    groups = []
    for index, values in enumerate(scores):
        roles, mean = _roles(given, len(values)), sum(values) / len(values)
        values = (*values, *(mean,) * roles.more)
        completions = tuple(Completion((2 + index, 2 + i, 12 - i), str(i)) for i in range(len(values)))
        extra, given_scores = roles.columns, tuple(map(_one_score, values))
        groups.append(Group(Prompt(f"prompt {index}"), (3, 4 + index), completions, given_scores, extra))
    return _even(optimizer, groups)


@dataclass(frozen=True)
class _Roles:
    """The columns of a group, and how many completions stand for roles at its end."""

    columns: dict[str, tuple[float, ...]]
    more: int


def _roles(given: Given, size: int) -> _Roles:
    """The columns of a group of this size, with a completion more for each value of a role but the usual one."""
    values = column_values(given.columns)
    others = [(name, value) for name, some in values.items() for value in some[1:]]
    usual = {name: some[0] if some else 0.5 for name, some in values.items()}
    return _Roles(
        {
            name: (usual[name],) * size + tuple(value if each == name else usual[name] for each, value in others)
            for name in values
        },
        len(others),
    )


def _one_score(value: float) -> Score:
    """The scores of the first toy reward; the second gives 0."""
    first, second = TOY_WEIGHTS
    return Score(value, sources={first: value / TOY_WEIGHTS[first], second: 0.0})


def _even(optimizer: Optimizer, groups: Sequence[Group]) -> Batch:
    """Groups before training, of a policy to which all tokens are equally likely, and a critic that says 0; any other
    role finds likelier what has the higher reward."""
    batch = case(optimizer, groups, drift=0.0).batch
    better = 0.5 * (batch.rewards - fn.group_mean(batch.rewards, batch.group))[:, None]
    found = {}
    for each in map(columns.column, columns.filled(optimizer.needs)):
        level = 0.0 if each.answer.of == "critic" else {"logprobs": -1.0, "entropy": 1.0}.get(each.answer.name)
        if level is not None:
            other = each.answer.name != "entropy" and each.role not in (columns.OLD, columns.REFERENCE)
            found[each.name] = (level + better if other else level) * batch.mask.float()
    return batch.answered(found)


def _even_answer(optimizer: Optimizer, prepared: Batch) -> Forward:
    """What that policy answers."""
    level = {"logprobs": -1.0, "entropy": 1.0}
    answers: dict[str, Tensor] = {}
    for name in columns.trained(optimizer.needs):
        by_token = columns.column(name).answer.per == "token"
        answers[name] = level.get(name, 0.0) * prepared.mask.float() if by_token else torch.zeros(len(prepared))
    return leaves(Forward.of(answers))


def prefers_better(optimizer: Optimizer, given: Given) -> None:
    """A step down the gradient raises the best completion over the others, in log-probability or in score."""
    cause = "a sign, new and old swapped, a detach() too many, or best and worst mixed up"
    attempt = Attempt(6, "groups with one clear winner", cause)
    batch = _contest(optimizer, [(0, 1), (1, 0), (0, 0, 1, 0), (1, 0, 0, 0)], given)
    rewards = batch.rewards.clone()
    prepared = prepare(attempt, optimizer, batch)
    attempt.require(len(prepared) > 0, "something to learn", "prepare() left no rows")
    out = _even_answer(optimizer, prepared)
    read = learnt(out.columns())
    if not read:
        _comes_closer(attempt, pull(attempt, optimizer, prepared, out))
        return
    step = -pull(attempt, optimizer, prepared, out)[read]
    moved = torch.zeros(len(batch))
    moved[_rows(attempt, batch, prepared)] = step if step.ndim == 1 else step.sum(1)
    for group in range(int(batch.group.max()) + 1):
        rows = batch.group == group
        gain = float(moved[rows & (rewards == 1)].min() - moved[rows & (rewards == 0)].max())
        found = f"a change of {gain:.3g} in a group with the scores {rewards[rows].tolist()}"
        attempt.require(gain > 0, f"the {read} of the best completion to rise over the others'", found)


def _comes_closer(attempt: Attempt, gradients: Mapping[str, Tensor]) -> None:
    """What only compares the policy with another role goes towards it."""
    compared = {name: each for name, each in gradients.items() if columns.column(name).answer.compares}
    attempt = replace(attempt, given="a policy that is compared with another role", cause="a sign")
    attempt.require(bool(compared), "log-probabilities, scores, or a comparison with a role", str(sorted(gradients)))
    for name, gradient in compared.items():
        attempt.require(bool((gradient.sum(1) > 0).all()), f"every row to lower {name}", summary(gradient))


def zero_advantage(optimizer: Optimizer, given: Given) -> None:
    """When all rewards are 0 and policy and reference are one, the log-probabilities get no gradient."""
    if "old_logprobs" not in optimizer.needs:
        return
    start = "all rewards and values 0, policy and reference one"
    attempt = Attempt(6, start, "an advantage without its baseline, or a KL term whose gradient does not vanish")
    prepared = prepare(attempt, optimizer, _contest(optimizer, [(0, 0), (0, 0, 0)], given))
    if len(prepared):
        out = _even_answer(optimizer, prepared)
        gradient = pull(attempt, optimizer, prepared, out)["logprobs"]
        attempt.require(float(gradient.abs().max()) <= 1e-9, "no gradient in the log-probabilities", summary(gradient))


def critic(optimizer: Optimizer, given: Given) -> None:
    """An optimizer that needs a critic's values gives them a gradient, in each row."""
    needed = sorted(columns.of_part(columns.trained(optimizer.needs), "critic"))
    if not needed:
        return
    attempt = Attempt(6, "a critic that has not moved yet", "a detach() on out.values, or a value weight of 0")
    made = case(optimizer, toy_groups(columns=given.columns), drift=0.0)
    prepared = prepare(attempt, optimizer, made.batch)
    gradients = pull(attempt, optimizer, prepared, leaves(answer(optimizer, made.policy, prepared)))
    for name in needed:
        without = int((gradients[name].abs().sum(1) == 0).sum())
        attempt.require(not without, f"a gradient in the {name} of every row", f"none in {without} of {len(prepared)}")


def critic_alone(optimizer: Optimizer, given: Given) -> None:
    """The critic learns from its returns alone: where it already says them, nothing pulls at it."""
    if "values" not in optimizer.needs:
        return
    cause = "an advantage computed from out.values without detach(): the policy's loss then moves the critic"
    attempt = Attempt(6, "a critic that says exactly its returns", cause)
    made = case(optimizer, toy_groups(columns=given.columns), drift=0.0)
    prepared = prepare(attempt, optimizer, made.batch)
    if prepared.returns is None:
        return
    content = replace(prepared, old_values=None if prepared.old_values is None else prepared.returns)
    out = replace(_at_start(content, answer(optimizer, made.policy, content)), values=prepared.returns)
    gradient = pull(attempt, optimizer, content, leaves(out))["values"]
    attempt.require(float(gradient.abs().max()) <= 1e-7, "no gradient in the values", summary(gradient))


SHORT, LONG = 2, 8


def length_bias(optimizer: Optimizer, given: Given) -> Figures:
    """How hard a long answer is pulled, beside a short one that is as good."""
    if "logprobs" not in optimizer.needs:
        return {}
    attempt = Attempt(6, f"two groups of two: answers of {SHORT} tokens, and of {LONG}", "a length that divides by 0")
    pulls = [_pull_of(attempt, optimizer, given, length) for length in (SHORT, LONG)]
    attempt.require(pulls[0] > 0, "some pull on an answer", f"{pulls[0]:.3g}")
    ratio = pulls[1] / pulls[0]
    return {"length_bias/answer": ratio, "length_bias/token": ratio * SHORT / LONG}


def _pull_of(attempt: Attempt, optimizer: Optimizer, given: Given, length: int) -> float:
    """The gradient on the better answer's tokens, added up, of the group whose answers have this length; on the worse
    one's where there is none on the better one's, as of what reads bad answers alone."""
    groups = []
    for size in (SHORT, LONG):
        roles = _roles(given, 2)
        answers = [tuple(2 + (size + i + t) % 11 for t in range(size)) for i in (0, 3, *range(5, 5 + roles.more))]
        completions = tuple(Completion(tokens, str(tokens)) for tokens in answers)
        scores = tuple(map(_one_score, (1.0, 0.0, *(0.5,) * roles.more)))
        groups.append(Group(Prompt(f"{size}"), (3, size), completions, scores, roles.columns))
    prepared = prepare(attempt, optimizer, _even(optimizer, groups))
    gradient = pull(attempt, optimizer, prepared, _even_answer(optimizer, prepared))["logprobs"]
    of_length = prepared.mask.sum(1) == length
    pulls = [float(gradient[of_length & (prepared.rewards == score)].sum(1).abs().sum()) for score in (1, 0)]
    return pulls[0] or pulls[1]
