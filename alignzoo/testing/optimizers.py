"""The checks that hold every optimizer to the laws, on random ragged groups and on hard ones."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass, replace
from fnmatch import fnmatch

import torch
from torch import Tensor

from alignzoo.interfaces import COLUMNS, HasNext, Optimizer
from alignzoo.testing.measure import (
    FILLED,
    Attempt,
    Case,
    ConformanceError,
    answer,
    answers_of,
    case,
    columns_of,
    couples,
    leaves,
    objective,
    padded,
    pull,
    summary,
    with_columns,
)
from alignzoo.testing.world import toy_groups, toy_policy
from alignzoo.types import Batch, Completion, Forward, Group, Prompt, Score, StepReport, Terms

__all__ = ["OPTIMIZER_CHECKS", "ConformanceError"]

Columns = Sequence[str]
"""Names of the data's own columns that an optimizer reads."""

SHARED = (
    *("reward/*", "kl", "kl/*", "kl_*", "entropy", "entropy/*", "length", "finished", "completions"),
    *("tokens/*", "seconds/*", "memory", "grad_norm", "lr", "loss"),
)
"""The metrics that the runner computes, the same for every optimizer."""


def _ragged(optimizer: Optimizer, columns: Columns, attempt: Attempt) -> Iterator[tuple[Case, Batch]]:
    """Random ragged groups, without and with a dense reward, and what `prepare` makes of them."""
    for dense in (False, True):
        made = case(optimizer, toy_groups(int(dense), columns=columns, dense=dense))
        yield made, attempt.prepare(optimizer, made.batch)


# --- the shape of an optimizer ------------------------------------------------------------------------------------


def contract(optimizer: Optimizer, columns: Columns = ()) -> None:
    """A frozen dataclass that can be pickled and replaced; known `needs` and `couples`."""
    attempt = Attempt(3, repr(optimizer), "a class without @dataclass(frozen=True), or a lambda in a field")
    frozen = is_dataclass(optimizer) and type(optimizer).__dataclass_params__.frozen
    attempt.require(frozen, "a frozen dataclass", type(optimizer).__name__)
    with attempt.runs("replace(), hash() and pickle"):
        copies = (replace(optimizer), pickle.loads(pickle.dumps(optimizer)))  # type: ignore[type-var]
        hash(optimizer)
    for copy in copies:
        attempt.require(copy == optimizer, f"a copy equal to {optimizer!r}", repr(copy))
    attempt.require(optimizer.epochs >= 1, "epochs of at least 1", str(optimizer.epochs))
    unknown = sorted(set(optimizer.needs) - COLUMNS)
    attempt = Attempt(2, f"needs = {sorted(optimizer.needs)}", "a misspelt column")
    attempt.require(not unknown, f"names among {', '.join(sorted(COLUMNS))}", ", ".join(unknown))
    known = ("row", "group", "minibatch")
    attempt = Attempt(1, f"couples = {couples(optimizer)!r}", "a misspelt value")
    attempt.require(couples(optimizer) in known, " or ".join(map(repr, known)), repr(couples(optimizer)))


def needs(optimizer: Optimizer, columns: Columns = ()) -> None:
    """`prepare` and `loss` run when every column that is not in `needs` is None."""
    cause = "a column is read that `needs` does not name: add it there, or do without it"
    attempt = Attempt(2, f"ragged groups with the columns {', '.join(sorted(optimizer.needs))}, no others", cause)
    for made, prepared in _ragged(optimizer, columns, attempt):
        attempt.loss(optimizer, prepared, answer(optimizer, made.policy, prepared))


def reduction(optimizer: Optimizer, columns: Columns = ()) -> None:
    """The loss is one number per row or per token, and `weights` fit it."""
    cause = "loss() reduces by itself: return what each row or token costs, and set weights in prepare()"
    attempt = Attempt(1, "ragged groups", cause)
    for made, prepared in _ragged(optimizer, columns, attempt):
        terms = attempt.loss(optimizer, prepared, answer(optimizer, made.policy, prepared))
        attempt.require(isinstance(terms, Terms), "loss() returns Terms", type(terms).__name__)
        n, shape = len(prepared), tuple(prepared.tokens.shape)
        found = tuple(terms.loss.shape)
        attempt.require(found in ((n,), shape), f"a loss of shape {(n,)} or {shape}", str(found))
        objective(attempt, optimizer, made.policy, [prepared], n)


def metrics(optimizer: Optimizer, columns: Columns = ()) -> None:
    """Metrics are finite, per row or per token, under names of their own."""
    cause = "a metric reduced in loss(), or called by a name that the runner computes for every optimizer"
    attempt = Attempt(8, "ragged groups", cause)
    for made, prepared in _ragged(optimizer, columns, attempt):
        terms = attempt.loss(optimizer, prepared, answer(optimizer, made.policy, prepared))
        for name, values in terms.metrics.items():
            taken = any(fnmatch(name, pattern) for pattern in SHARED)
            attempt.require(not taken, f"names other than {', '.join(SHARED)}", repr(name))
            row, token = (len(prepared),), tuple(prepared.tokens.shape)
            found = tuple(values.shape)
            attempt.require(found in (row, token), f"{name} of shape {row} or {token}", str(found))
            attempt.finite(f"metric {name}", values)


# --- laws 2 and 3: what is read, and what is left as it was -------------------------------------------------------


def pure(optimizer: Optimizer, columns: Columns = ()) -> None:
    """`prepare`, `loss` and `next` mutate nothing, and repeat to the bit without touching global randomness."""
    cause = "an operation in place (x += ..., x.clamp_()), or randomness that no field of the optimizer seeds"
    attempt = Attempt(3, "ragged groups", cause)
    for dense in (False, True):
        made = case(optimizer, toy_groups(int(dense), columns=columns, dense=dense))
        known, randomness = pickle.dumps(optimizer), torch.get_rng_state()
        given = _copies(made.batch)
        prepared = attempt.prepare(optimizer, made.batch)
        attempt.unchanged("the batch's {} after prepare", given, columns_of(made.batch))
        made_of_it = _copies(prepared)
        again = attempt.prepare(optimizer, made.batch)
        attempt.unchanged("prepare's {} at the second call", made_of_it, columns_of(again))

        out = Forward(**{n: c.detach() for n, c in answers_of(answer(optimizer, made.policy, prepared)).items()})
        answered = {name: column.clone() for name, column in answers_of(out).items()}
        first = attempt.loss(optimizer, prepared, out).loss.clone()
        attempt.unchanged("the prepared batch's {} after loss", made_of_it, columns_of(prepared))
        attempt.unchanged("the policy's {} after loss", answered, answers_of(out))
        second = attempt.loss(optimizer, prepared, out).loss
        attempt.unchanged("the {} at the second call", {"loss": first}, {"loss": second})
        attempt.unchanged("torch's global {}", {"seed": randomness}, {"seed": torch.get_rng_state()})
        attempt.require(pickle.dumps(optimizer) == known, "the optimizer itself unchanged", repr(optimizer))
    if isinstance(optimizer, HasNext):
        report = StepReport(1, 10, {"kl": 0.5, "completions": 8.0, "reward/mean": 1.0})
        with attempt.runs("next()"):
            one, other = optimizer.next(report), optimizer.next(report)
        attempt.require(type(one) is type(optimizer), f"next() returns a {type(optimizer).__name__}", repr(one))
        attempt.require(one == other, "the same successor twice", f"{one}, then {other}")


def _copies(batch: Batch) -> dict[str, Tensor]:
    return {name: column.clone() for name, column in columns_of(batch).items()}


def mask(optimizer: Optimizer, columns: Columns = ()) -> None:
    """Garbage under the mask does not change the gradient, and nothing there gets one."""
    cause = "a sum over all positions: multiply by batch.mask, or take fn.log_ratio, before exp() and sum()"
    attempt = Attempt(2, "±1e3 under the mask of the batch and of the policy's answers", cause)
    for made, prepared in _ragged(optimizer, columns, attempt):
        if prepared.weights.ndim == 2:
            attempt.require(not prepared.weights[~prepared.mask].any(), "weights of 0 under the mask", "others")
        clean = leaves(answer(optimizer, made.policy, prepared))
        dirty = leaves(Forward(**_poisoned(answers_of(clean), prepared.mask)))
        spoiled = with_columns(made.batch, _poisoned(columns_of(made.batch), made.batch.mask))
        spoiled = attempt.prepare(optimizer, spoiled)
        spoiled = with_columns(spoiled, _poisoned(columns_of(spoiled), spoiled.mask))
        expected, found = pull(attempt, optimizer, prepared, clean), pull(attempt, optimizer, spoiled, dirty)
        for name, gradient in found.items():
            if gradient.ndim == 2:
                outside = gradient[~prepared.mask]
                attempt.require(not outside.any(), f"no gradient in {name} under the mask", summary(outside))
            attempt.same(f"gradient in {name}", expected[name], gradient)


def _poisoned(columns: dict[str, Tensor], where: Tensor) -> dict[str, Tensor]:
    """Columns with garbage where the mask is False, each its own; masks and weights stay."""
    rng = torch.Generator().manual_seed(0)
    spoiled = dict(columns)
    for name, column in columns.items():
        if column.ndim == 2 and name not in ("attend", "mask", "weights"):
            garbage = 1e3 * torch.randn(column.shape, generator=rng)
            garbage = garbage.abs() % 13 if name == "tokens" else garbage
            spoiled[name] = torch.where(where, column.detach(), garbage.to(column.dtype))
    return spoiled


# --- law 1: the invariances ---------------------------------------------------------------------------------------


def micro_batches(optimizer: Optimizer, columns: Columns = ()) -> None:
    """Micro-batches of any size are partial sums."""
    cause = "the loss divides by its own number of rows or tokens, or couples rows further than `couples` says"
    attempt = Attempt(1, "ragged groups", cause)
    for made, prepared in _ragged(optimizer, columns, attempt):
        for minibatch in (*prepared.split(0), *prepared.split(3)):
            n = len(minibatch)
            whole = objective(attempt, optimizer, made.policy, [minibatch], n)
            for rows in (1, 2, 3, 5):
                given = f"a minibatch of {n} rows in micro-batches of {rows}, couples = {couples(optimizer)!r}"
                attempt = replace(attempt, given=given)
                pieces = minibatch.chunks(rows, couples=couples(optimizer))
                attempt.agree(whole, objective(attempt, optimizer, made.policy, pieces, n))


def processes(optimizer: Optimizer, columns: Columns = ()) -> None:
    """Groups dealt to two processes, with N summed over both, give the same sums."""
    if couples(optimizer) == "minibatch":
        return
    cause = "a loss that reads other groups of the minibatch: set couples"
    attempt = Attempt(1, "prepared groups dealt to two processes", cause)
    for made, prepared in _ragged(optimizer, columns, attempt):
        shares = [prepared.select(prepared.group % 2 == process) for process in (0, 1)]
        whole = objective(attempt, optimizer, made.policy, [prepared], len(prepared))
        dealt = objective(attempt, optimizer, made.policy, [s for s in shares if len(s)], len(prepared))
        attempt.agree(whole, dealt)


def padding(optimizer: Optimizer, columns: Columns = ()) -> None:
    """More padding on the right changes nothing."""
    attempt = Attempt(1, "five more columns of padding", "a mean over all positions: weigh by the mask")
    for made, prepared in _ragged(optimizer, columns, attempt):
        narrow = objective(attempt, optimizer, made.policy, [prepared], len(prepared))
        wide = attempt.prepare(optimizer, padded(made.batch, 5))
        attempt.agree(narrow, objective(attempt, optimizer, made.policy, [wide], len(wide), trimmed=False))


def group_order(optimizer: Optimizer, columns: Columns = ()) -> None:
    """Groups in another order change nothing."""
    attempt = Attempt(1, "the same groups in reverse order", "a row's position in the batch is read")
    for dense in (False, True):
        groups = toy_groups(int(dense), columns=columns, dense=dense)
        found = []
        for order in (groups, groups[::-1]):
            made = case(optimizer, order)
            prepared = attempt.prepare(optimizer, made.batch)
            found.append(objective(attempt, optimizer, made.policy, [prepared], len(prepared)))
        attempt.agree(found[0], found[1])


# --- law 4: hard inputs -------------------------------------------------------------------------------------------


def hard_inputs(optimizer: Optimizer, columns: Columns = ()) -> None:
    """Ties, one-token completions, far log-ratios, no score at all: an empty batch or a finite loss."""
    ragged = toy_groups(columns=columns)
    cause = "a division by a count, a standard deviation or a length that can be 0, or a mean over no rows"
    for given, groups in {
        "groups whose scores are all equal": [_scored(group, 1.0) for group in ragged],
        "completions of one token": [_shortened(group) for group in ragged],
        "one tied pair of one token each": [_shortened(_scored(ragged[1], 0.0))],
        "one completion of one token": [_shortened(ragged[0])],
        "no completion that has a score": [_scored(group, None) for group in ragged],
        "no group at all": [],
    }.items():
        _survives(Attempt(4, given, cause), optimizer, case(optimizer, groups))
    cause = "exp() of a log-ratio without a bound, or a log() of what can round to 0"
    near = case(optimizer, ragged, drift=0.0)
    for names in (("old_logprobs",), ("ref_logprobs",), ("old_logprobs", "ref_logprobs")):
        read = [name for name in names if getattr(near.batch, name) is not None]
        if read:
            given = f"one token in each row whose log-ratio to {' and '.join(read)} is +50 or -50"
            _survives(Attempt(4, given, cause), optimizer, Case(near.policy, _far(near.batch, read)))


def _scored(group: Group, value: float | None) -> Group:
    return replace(group, scores=(Score(value),) * len(group.completions))


def _shortened(group: Group) -> Group:
    return replace(group, completions=tuple(replace(c, tokens=c.tokens[:1]) for c in group.completions))


def _far(batch: Batch, names: Sequence[str]) -> Batch:
    rows = torch.arange(len(batch))
    columns = columns_of(batch)
    away = torch.zeros(batch.tokens.shape)
    away[rows, batch.mask.long().argmax(1)] = torch.where(rows % 2 == 0, 50.0, -50.0)
    return with_columns(batch, columns | {name: columns[name] + away for name in names})


def _survives(attempt: Attempt, optimizer: Optimizer, made: Case) -> None:
    prepared = attempt.prepare(optimizer, made.batch)
    for name, column in columns_of(prepared).items():
        attempt.finite(f"{name} from prepare", column)
    if not len(prepared):
        return
    terms = attempt.loss(optimizer, prepared, answer(optimizer, made.policy, prepared))
    found = objective(attempt, optimizer, made.policy, [prepared], len(prepared))
    for name, values in {"loss": found.loss, "gradient": found.gradient, **terms.metrics}.items():
        attempt.finite(name, values)


# --- laws 5 and 6: where it starts, and where it goes -------------------------------------------------------------


def first_step(optimizer: Optimizer, columns: Columns = ()) -> None:
    """Before the first update, ratios are exactly 1 and the KL is 0: nothing is clipped, and only ratios matter."""
    given = "policy, old policy and reference are one"
    cause = "a ratio against something else than batch.old_logprobs, or filled columns changed by prepare()"
    attempt = Attempt(5, given, cause)
    made = case(optimizer, toy_groups(columns=columns), drift=0.0)
    prepared = attempt.prepare(optimizer, made.batch)
    origin = _rows(attempt, made.batch, prepared)
    filled = {name: getattr(made.batch, name) for name in FILLED if getattr(made.batch, name) is not None}
    attempt.unchanged("{} after prepare", {name: c[origin] for name, c in filled.items()}, columns_of(prepared))
    out = _at_start(prepared, answer(optimizer, made.policy, prepared))
    terms = attempt.loss(optimizer, prepared, out)
    attempt.finite("loss", terms.loss)
    for name in {"clip_fraction", "approx_kl", "loss/kl"} & set(terms.metrics):
        attempt.require(not terms.metrics[name].any(), f"{name} exactly 0", summary(terms.metrics[name]))
    if "old_logprobs" in optimizer.needs and out.logprobs is not None:
        attempt = replace(attempt, given=f"{given}, all of them 0.5 nats less likely than before")
        names = ("old_logprobs", "ref_logprobs")
        shifted = {name: column - 0.5 * made.batch.mask for name, column in filled.items() if name in names}
        lowered = attempt.prepare(optimizer, with_columns(made.batch, columns_of(made.batch) | shifted))
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


def _contest(optimizer: Optimizer, scores: Sequence[Sequence[float]], columns: Columns) -> Batch:
    """Groups of completions of one length with these scores, at the start of training; the critic says 0."""
    groups = []
    for index, values in enumerate(scores):
        completions = tuple(Completion((2 + index, 2 + i, 12 - i), str(i)) for i in range(len(values)))
        extra = {name: (0.5,) * len(values) for name in columns}
        groups.append(Group(Prompt(f"prompt {index}"), (3, 4 + index), completions, tuple(map(Score, values)), extra))
    batch = case(optimizer, groups, drift=0.0).batch
    return batch if batch.old_values is None else replace(batch, old_values=torch.zeros_like(batch.old_values))


def prefers_better(optimizer: Optimizer, columns: Columns = ()) -> None:
    """A step down the gradient raises the best completion over the others, in log-probability or in score."""
    cause = "a sign, new and old swapped, a detach() too many, or best and worst mixed up"
    attempt = Attempt(6, "groups with one clear winner", cause)
    batch = _contest(optimizer, [(0, 1), (1, 0), (0, 0, 1, 0), (1, 0, 0, 0)], columns)
    prepared = attempt.prepare(optimizer, batch)
    attempt.require(len(prepared) > 0, "something to learn", "prepare() left no rows")
    out = _at_start(prepared, answer(optimizer, toy_policy(), prepared))
    read = "logprobs" if out.scores is None else "scores"
    step = -pull(attempt, optimizer, prepared, out)[read]
    moved = torch.zeros(len(batch))
    moved[_rows(attempt, batch, prepared)] = step if step.ndim == 1 else step.sum(1)
    for group in range(int(batch.group.max()) + 1):
        rows = batch.group == group
        gain = float(moved[rows & (batch.rewards == 1)].min() - moved[rows & (batch.rewards == 0)].max())
        found = f"a change of {gain:.3g} in a group with the scores {batch.rewards[rows].tolist()}"
        attempt.require(gain > 0, f"the {read} of the best completion to rise over the others'", found)


def zero_advantage(optimizer: Optimizer, columns: Columns = ()) -> None:
    """When all rewards are 0 and policy and reference are one, the log-probabilities get no gradient."""
    if "old_logprobs" not in optimizer.needs:
        return
    given = "all rewards and values 0, policy and reference one"
    attempt = Attempt(6, given, "an advantage without its baseline, or a KL term whose gradient does not vanish")
    prepared = attempt.prepare(optimizer, _contest(optimizer, [(0, 0), (0, 0, 0)], columns))
    if len(prepared):
        out = _at_start(prepared, answer(optimizer, toy_policy(), prepared))
        gradient = pull(attempt, optimizer, prepared, out)["logprobs"]
        attempt.require(float(gradient.abs().max()) <= 1e-9, "no gradient in the log-probabilities", summary(gradient))


def critic(optimizer: Optimizer, columns: Columns = ()) -> None:
    """An optimizer that needs `values` gives them a gradient, in each row."""
    if "values" not in optimizer.needs:
        return
    attempt = Attempt(6, "a critic that has not moved yet", "a detach() on out.values, or a value weight of 0")
    made = case(optimizer, toy_groups(columns=columns), drift=0.0)
    prepared = attempt.prepare(optimizer, made.batch)
    gradient = pull(attempt, optimizer, prepared, leaves(answer(optimizer, made.policy, prepared)))["values"]
    without = int((gradient.abs().sum(1) == 0).sum())
    attempt.require(not without, "a gradient in the values of every row", f"none in {without} of {len(prepared)}")


OPTIMIZER_CHECKS: dict[str, Callable[[Optimizer, Columns], None]] = {
    check.__name__: check
    for check in (
        *(contract, needs, reduction, metrics, pure, mask, micro_batches, processes, padding, group_order),
        *(hard_inputs, first_step, prefers_better, zero_advantage, critic),
    )
}
"""Every check by name, in the order in which `check_optimizer` makes them."""
