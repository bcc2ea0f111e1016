"""The hooks of a plugin: one that registers what it brings, three that watch a run, two that name what they can do.

A plugin is a module, or any object, that implements those it wants, each marked with `@alignzoo.hookimpl`. An
implementation may leave arguments out, never add any. Observers observe and never steer: all that they can answer is
an alert, and whether an alert ends a run, the run's own schedule says. One that raises is reported once and switched
off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from alignzoo.registry.registrar import Registrar
    from alignzoo.types import Alert, StepReport

hookspec = pluggy.HookspecMarker("alignzoo")


@hookspec
def alignzoo_register(zoo: Registrar) -> None:
    """Register what the plugin brings: `zoo.optimizer("simpo", SimPO)`.

    A body that holds nothing but such calls, with literal names and with targets that are strings or names of the
    module, is read without running it: the plugin can then be listed without importing it.
    """


@hookspec
def alignzoo_run_start(run: Any) -> None:
    """A stage begins: `run` describes it."""


@hookspec
def alignzoo_after_step(report: StepReport) -> Sequence[Alert] | None:
    """A step is finished: its number, its metrics, and what was written and scored in it.

    The run's folder has its lines by now, those of an evaluation after it too. The answer, if there is any, is what to
    warn of: it is told at once, kept in warnings.jsonl, and ends the run where `schedule.stop_on` names its kind.
    """


@hookspec
def alignzoo_run_end(run: Any, result: Any) -> Sequence[Alert] | None:
    """A stage has ended, finished or stopped: the `run` of its start, and its result.

    The answer, if there is any, is what to warn of: it is told, and kept in warnings.jsonl.
    """


@hookspec
def alignzoo_alerts() -> Mapping[str, str]:  # type: ignore[empty-body]
    """The kinds of alert that the plugin can give, each with what it means: those that `schedule.stop_on` can name."""


@hookspec
def alignzoo_trackers() -> Mapping[str, str]:  # type: ignore[empty-body]
    """The trackers that the plugin can send a run to, by name, each with its cure where it cannot be used now, or "".

    A run names those that it wants in `run.trackers`; one that no plugin names here stops it before it begins.
    """
