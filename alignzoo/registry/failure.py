"""What to say of a plugin that could not be loaded: whose it is, what happened, and the cure."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shlex
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from alignzoo.former import advice
from alignzoo.registry.compat import ApiMismatch
from alignzoo.registry.registrar import Origin

if TYPE_CHECKING:
    from packaging.requirements import Requirement

MACHINERY = (
    "<frozen importlib",
    str(Path(importlib.__file__).parent),
    str(Path(pluggy.__file__).parent),
    ast.__file__,
    str(Path(__file__).parent),
)
"""Frames of these files say nothing about the plugin."""

OWN_ERROR = re.compile(r"^alignzoo\.[\w.]+: ")


@dataclass(frozen=True)
class Failure:
    """A plugin that could not be loaded. It hides no other, and stops a run only when that run asks for it."""

    plugin: str
    distribution: str
    version: str
    traceback: str
    """Without the frames of what loaded it."""
    cure: str
    """What to do about it."""

    @classmethod
    def of(cls, origin: Origin, error: BaseException, source: Path | None) -> Failure:
        """The failure of a plugin with this error."""
        cure = error.cure if isinstance(error, ApiMismatch) else _cure(origin, error, source)
        return cls(origin.plugin, origin.distribution, origin.version, plain_traceback(error), cure)

    @property
    def owner(self) -> str:
        """Whose plugin it is."""
        return str(Origin(self.plugin, self.distribution, self.version))

    @property
    def last_line(self) -> str:
        """The error itself; one of alignzoo's own says enough without its class."""
        return OWN_ERROR.sub("", self.traceback.splitlines()[-1])

    def __str__(self) -> str:
        lines = [line for line in self.traceback.splitlines() if not line.startswith("Traceback ")]
        return "\n".join([f"{self.owner} failed to load:", *(f"    {line}" for line in lines[-6:]), self.cure])


def plain_traceback(error: BaseException) -> str:
    """An error's traceback without the machinery that led to it."""
    told = traceback.TracebackException.from_exception(error)
    link: traceback.TracebackException | None = told
    while link is not None:
        kept = [frame for frame in link.stack if not frame.filename.startswith(MACHINERY)]
        link.stack = traceback.StackSummary.from_list(kept)
        link = link.__cause__ or link.__context__
    return "".join(told.format()).strip()


def _cure(origin: Origin, error: BaseException, source: Path | None) -> str:
    if instead := advice(error):
        return instead
    missing = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    package = missing.partition(".")[0]
    if package and package == origin.module.partition(".")[0] and origin.distribution:
        return f"Its module is not there: pip install --force-reinstall {origin.distribution}"
    if package and package not in ("alignzoo", origin.module.partition(".")[0]):
        return f"It imports {missing!r}, which is not installed. {_providing(origin)}"
    if origin.distribution:
        return f"Report it to the author of {origin.distribution}, or: pip uninstall {origin.distribution}"
    return f"Correct {source or 'it'}, or leave it out."


def _providing(origin: Origin) -> str:
    """How to get a module that is missing. A package may have another name than its modules, so only the plugin's own
    distribution can say which one it is."""
    if not origin.distribution:
        return "Install the package that has it, which may be called otherwise, or leave the import out."
    lacking = _lacking(origin.distribution)
    if lacking:
        asked = " ".join(shlex.quote(each) for each in lacking)
        return f"{origin.distribution} asks for {', '.join(lacking)}, which is not installed: pip install {asked}"
    return (
        f"{origin.distribution} does not say which package has it: ask its author, or: pip uninstall "
        f"{origin.distribution}"
    )


def _lacking(distribution: str) -> list[str]:
    """What a distribution declares that it needs here, and that is not installed."""
    from packaging.requirements import InvalidRequirement, Requirement  # only after a failure: it takes a while

    try:
        asked = [Requirement(each) for each in importlib.metadata.requires(distribution) or ()]
    except (importlib.metadata.PackageNotFoundError, InvalidRequirement):  # then it says nothing that can be read
        return []
    return [str(each) for each in asked if (each.marker is None or each.marker.evaluate()) and not _met(each)]


def _met(asked: Requirement) -> bool:
    try:
        return asked.specifier.contains(importlib.metadata.version(asked.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False
