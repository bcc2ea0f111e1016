"""What a loss may not depend on: micro-batches, processes, padding, order."""

from __future__ import annotations

from dataclasses import replace

from alignzoo.interfaces import Optimizer
from alignzoo.microbatch import cut
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.measure import agree, case, couples, objective, padded, prepare, ragged
from alignzoo.testing.world import toy_groups


def micro_batches(optimizer: Optimizer, given: Given) -> None:
    """Micro-batches of any size are partial sums."""
    cause = "the loss divides by its own number of rows or tokens, or couples rows further than `couples` says"
    attempt = Attempt(1, "ragged groups", cause)
    for made, prepared in ragged(optimizer, given, attempt):
        for minibatch in (*prepared.split(0), *prepared.split(3)):
            n = len(minibatch)
            whole = objective(attempt, optimizer, made.policy, [minibatch], n)
            for unit, size in [("rows", rows) for rows in (1, 2, 3, 5)] + [
                ("tokens", tokens) for tokens in (1, 15, 40)
            ]:
                split = f"a minibatch of {n} rows in micro-batches of {size} {unit}, couples = {couples(optimizer)!r}"
                attempt = replace(attempt, given=split)
                rows, tokens = (size, 0) if unit == "rows" else (0, size)
                pieces = cut(minibatch, rows, tokens=tokens, couples=couples(optimizer))
                agree(attempt, whole, objective(attempt, optimizer, made.policy, pieces, n))


def processes(optimizer: Optimizer, given: Given) -> None:
    """Groups dealt to two processes, with N summed over both, give the same sums."""
    if couples(optimizer) == "minibatch":
        return
    cause = "a loss that reads other groups of the minibatch: set couples"
    attempt = Attempt(1, "prepared groups dealt to two processes", cause)
    for made, prepared in ragged(optimizer, given, attempt):
        shares = [prepared.select(prepared.group % 2 == process) for process in (0, 1)]
        whole = objective(attempt, optimizer, made.policy, [prepared], len(prepared))
        dealt = objective(attempt, optimizer, made.policy, [s for s in shares if len(s)], len(prepared))
        agree(attempt, whole, dealt)


def padding(optimizer: Optimizer, given: Given) -> None:
    """More padding on the right changes nothing."""
    attempt = Attempt(1, "five more columns of padding", "a mean over all positions: weigh by the mask")
    for made, prepared in ragged(optimizer, given, attempt):
        narrow = objective(attempt, optimizer, made.policy, [prepared], len(prepared))
        wide = prepare(attempt, optimizer, padded(made.batch, 5))
        agree(attempt, narrow, objective(attempt, optimizer, made.policy, [wide], len(wide), trimmed=False))


def group_order(optimizer: Optimizer, given: Given) -> None:
    """Groups in another order change nothing."""
    attempt = Attempt(1, "the same groups in reverse order", "a row's position in the batch is read")
    for dense in (False, True):
        groups = toy_groups(int(dense), columns=given.columns, dense=dense)
        found = []
        for order in (groups, groups[::-1]):
            made = case(optimizer, order)
            prepared = prepare(attempt, optimizer, made.batch)
            found.append(objective(attempt, optimizer, made.policy, [prepared], len(prepared)))
        agree(attempt, found[0], found[1])
