"""Parts that hold something open, and parts that change with the steps of a run.

A part is settings: a frozen dataclass. What its `open` opens (models, connections, processes) is an object of its own,
which stays the same while the part's fields change from step to step: a successor takes over what is open. It is closed
where it was opened, in the reverse order, after an error, too.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from alignzoo.errors import AlignzooError, PluginError
from alignzoo.interfaces import Chooses, Context, HasNext, Opens, Sampler
from alignzoo.types import StepReport

Part = TypeVar("Part")
Place = tuple[str, int]
"""Where a part stands in another one: in which field, and there at which place, 0 where it stands alone."""

LIVE = "_live"
"""The attribute with what is open; no field, so that it is neither compared nor written down."""

MADE_ANEW = "made-anew"
"""The kind of the warning that a part makes something again in every step."""

WORKS = ("sample", "score", "judge", "write")
"""By what a part in another one's field is told from data."""


def live_of(part: Any) -> Any:
    """What this part's `open` has opened, `live_of(self)` in its methods.

    In a run it is opened and closed with the stage. A part that is used by hand opens itself at its first use, and what
    it holds then ends with the process; `with opened(part) as part:` closes it.
    """
    known = _attributes(part)
    if LIVE not in known:
        _set(part, _open(part, Context()))
    return _attributes(part)[LIVE]


@contextmanager
def opened(part: Part, context: Context | None = None) -> Iterator[Part]:
    """The part with what it opens, and what the parts in its fields open; closed at the end."""
    with Opening(context or Context()) as opening:
        yield opening.open(part, "")


class Opening:
    """Opens parts, each once however often it is met. As a context, it closes them in the reverse order."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._stack = ExitStack()
        self._met: dict[int, tuple[Any, Any]] = {}

    def open(self, part: Part, name: str) -> Part:
        """The part, open. `name` says which part of the stage it is, and is the name of its folder."""
        if id(part) not in self._met:
            self._met[id(part)] = (part, self._opened(part, name))  # the part, so that nobody else gets its id
        found: Part = self._met[id(part)][1]
        return found

    def _opened(self, part: Any, name: str) -> Any:
        within = {place: self.open(each, f"{name}.{place[0]}") for place, each in parts_in(part).items()}
        part = with_parts(part, within)
        if not isinstance(part, Opens):
            return part
        part = closed(part)
        folder = self.context.folder / name.strip(".") if self.context.folder is not None and name else None
        held = _open(part, dataclasses.replace(self.context, folder=folder))
        self.closes(held, part)
        _set(part, held)
        return part

    def closes(self, held: Any, part: Any) -> None:
        """Close what a part holds, at the end, where it has a method `close`."""
        if callable(getattr(held, "close", None)):
            self._stack.callback(_close, part, held)

    def __enter__(self) -> Opening:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self._stack.__exit__(kind, error, trace)
        except AlignzooError as unclosed:
            if error is None or unclosed is error:
                raise
            error.add_note(str(unclosed))


def closed(part: Part) -> Part:
    """A copy of the part that has nothing open: its settings alone."""
    if not isinstance(part, Opens):
        return part
    bare = copy.copy(part)
    _attributes(bare).pop(LIVE, None)
    return bare


def successor(part: Part, report: StepReport) -> Part:
    """The part of the following step, with the successors of the parts in its fields; what is open stays open."""
    part = with_parts(part, {place: successor(each, report) for place, each in parts_in(part).items()})
    return taking_over(part.next(report), part) if isinstance(part, HasNext) else part


def taking_over(part: Part, former: object) -> Part:
    """The part, with what the former one has open."""
    if LIVE in _attributes(former) and part is not former:
        _set(part, _attributes(former)[LIVE])
    return part


def parts_in(part: Any) -> dict[Place, Any]:
    """The parts in a part's fields, alone or in a tuple, that have something to open or a successor, or hold such."""
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return {}
    found: dict[Place, Any] = {}
    for each in dataclasses.fields(part):
        value = getattr(part, each.name)
        for number, inner in enumerate(value if isinstance(value, tuple | list) else (value,)):
            if _works(inner) and (isinstance(inner, Opens | HasNext) or parts_in(inner)):
                found[each.name, number] = inner
    return found


def with_parts(part: Part, parts: Mapping[Place, Any]) -> Part:
    """The part with these in its fields; where it has them already, it is the part itself."""
    changes: dict[str, Any] = {}
    for (name, number), each in parts.items():
        former = changes.get(name, getattr(part, name))
        several = isinstance(former, tuple | list)
        if each is not (former[number] if several else former):
            changes[name] = (*former[:number], each, *former[number + 1 :]) if several else each
    if not changes:
        return part
    return taking_over(dataclasses.replace(part, **changes), part)  # type: ignore[type-var]


def repeats_the_data(sampler: Sampler) -> bool:
    """Whether each pass over the data brings the rows of the one before, so that a frozen model's answers to them can
    be remembered: nothing is generated, no prompts are chosen, and no step's successor brings other rows."""
    return not sampler.online and not isinstance(sampler, Chooses | HasNext)


def made_anew(part: object) -> list[str]:
    """What a part with a successor has cached beside its fields, which each step's successor has to make again."""
    if not isinstance(part, HasNext) or not dataclasses.is_dataclass(part):
        return []
    return sorted(_attributes(part).keys() - {each.name for each in dataclasses.fields(part)} - {LIVE})


def _works(value: Any) -> bool:
    known = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return known and any(hasattr(value, name) for name in WORKS)


def _attributes(part: object) -> dict[str, Any]:
    found: dict[str, Any] = getattr(part, "__dict__", {})
    return found


def _set(part: Any, held: Any) -> None:
    if not hasattr(part, "__dict__"):
        name = type(part).__name__
        raise PluginError(f"{name} has `open` and slots=True, so nothing can be kept with it: declare it without slots")
    object.__setattr__(part, LIVE, held)


def _open(part: Any, context: Context) -> Any:
    try:
        return part.open(context)
    except AlignzooError:
        raise
    except Exception as error:
        name = type(part).__name__
        raise PluginError(f"{name}.open() raised {type(error).__name__}: {error}. --debug shows where") from error


def _close(part: Any, held: Any) -> None:
    try:
        held.close()
    except AlignzooError:
        raise
    except Exception as error:
        what = f"what {type(part).__name__} had opened could not be closed"
        raise PluginError(f"{what}: {type(error).__name__}: {error}. --debug shows where") from error
