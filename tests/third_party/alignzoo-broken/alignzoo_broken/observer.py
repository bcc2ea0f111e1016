"""It watches runs, and raises."""

import alignzoo


@alignzoo.hookimpl
def alignzoo_run_start(run):
    raise KeyError(run.name)


@alignzoo.hookimpl
def alignzoo_after_step(report):
    raise ZeroDivisionError("a mean over nothing")
