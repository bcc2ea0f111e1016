"""What all code in a process shares: alignzoo's own functions, the environment, the working directory, random states.

Code of others may change none of it for everybody else. What it has changed is put back, and told by name.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter, is_
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, NoReturn

from alignzoo.errors import PluginError

CODE = attrgetter("__code__")
METHODS = (FunctionType, classmethod, staticmethod, property)
PASSED_OVER = ("os", "collections.abc", "_collections_abc", __name__)
"""Modules through which every change of the environment goes, and which are not to blame for it."""


class Changed(PluginError):
    """A plugin changes what all share when it is imported."""


@contextmanager
def unchanged(source: Path | None) -> Iterator[None]:
    """Inside, the code of a plugin whose file this is, or whose package's `__init__.py`, is imported. Afterwards a
    PluginError names what it has changed for everybody, which is put back.

    The environment is changed by large libraries, too, when they are imported: only what the plugin's own files do to
    it counts.
    """
    folder, functions, generators = working_directory(), _functions(), _generators()
    variables, touched = dict(os.environ), set[str]()
    found: list[str] = []
    try:
        with exits_told(), _environment_watched(source, touched.add):
            yield
    finally:
        found += _put_back_functions(functions)
        for name in sorted(touched):
            if os.environ.get(name) != variables.get(name):
                found.append(f"the environment variable {name}")
                _set_variable(name, variables.get(name))
        found += [f"the random state of {name}" for name in _put_back_generators(generators)]
        found += _put_back_folder(folder)
    if found:
        raise Changed(
            f"it changes what all share, {', '.join(found)}, when it is imported. This was put back: a plugin "
            "registers its parts, and leaves the rest as it is"
        )


@contextmanager
def staying(who: str) -> Iterator[None]:
    """Inside, a part is at work. Relative paths, those of the run's own files, must mean afterwards what they meant
    before: a PluginError names who has left the working directory, which is entered again, or closed a stream on which
    the run tells what it does, or changed how torch computes, which is put back. Nor can a part end the program without
    a word."""
    computes = _torch_state()
    folder, streams = working_directory(), {"standard output": sys.stdout, "standard error": sys.stderr}
    try:
        with exits_told():
            yield
    finally:
        left = working_directory()
        moved = _put_back_folder(folder)
        changed = _put_back_torch(computes)
    if moved:
        raise PluginError(
            f"{who} has changed the working directory to {left}, where relative paths mean something else: let it use "
            "whole paths, or contextlib.chdir, which goes back"
        )
    if closed := [name for name, stream in streams.items() if stream is not None and stream.closed]:
        raise PluginError(
            f"{who} has closed {' and '.join(closed)}, on which the run tells what it does: leave these streams open, "
            "and redirect what is not to be seen, by contextlib.redirect_stdout"
        )
    if changed:
        raise PluginError(
            f"{who} has changed how torch computes for the whole run: {', '.join(changed)}. This was put back: let it "
            "use `with torch.no_grad():`, name the dtype of what it makes, and leave the number of threads to "
            "OMP_NUM_THREADS"
        )


@contextmanager
def exits_told() -> Iterator[None]:
    """Inside, others' code is at work, and os._exit raises SystemExit: what would end the program without a word can be
    caught and named. A child process that this code forks ends as it means to."""
    global _at_work
    with _exits:
        _at_work += 1
        if _at_work == 1:
            os._exit = _raises_exit
    try:
        yield
    finally:
        with _exits:
            _at_work = max(0, _at_work - 1)
            if not _at_work:
                os._exit = _ends


_exits, _ends, _at_work = threading.Lock(), os._exit, 0
"""Guards the number of those that are inside `exits_told`; os._exit as Python has it."""


def _raises_exit(status: int) -> NoReturn:
    raise SystemExit(status)


@contextmanager
def stays_put() -> Iterator[None]:
    """Inside, parts are at work in other threads beside this one. The working directory is one for all of them, so that
    os.chdir raises PluginError in every thread but this."""
    here = threading.get_ident()

    def chdir(path: Any) -> None:
        if threading.get_ident() != here:
            raise PluginError(
                "it changes the working directory while another thread trains (schedule.ahead), whose relative paths "
                "would mean something else: let it use whole paths, or cwd= of subprocess; or set schedule.ahead to 0"
            )
        _changes(path)

    os.chdir = chdir
    try:
        yield
    finally:
        os.chdir = _changes


_changes = os.chdir
"""As Python has it."""


def _as_a_child() -> None:
    global _exits, _at_work
    _exits, _at_work, os._exit, os.chdir = threading.Lock(), 0, _ends, _changes


os.register_at_fork(after_in_child=_as_a_child)


def working_directory() -> str:
    """The working directory; empty where it has been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def _put_back_folder(folder: str) -> list[str]:
    if not folder or working_directory() == folder:
        return []
    os.chdir(folder)
    return ["the working directory"]


# --- alignzoo's own functions -------------------------------------------------------------------------------------

Known = list[tuple[Any, dict[str, Any], list[FunctionType], list[CodeType]]]
"""An owner, all that it has by name, its functions, and what each of these does."""


def _functions() -> Known:
    """What alignzoo's modules have, and what the classes of these modules have."""
    found: Known = []
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "alignzoo" and module is not None:
            own = [each for each in list(vars(module).values()) if isinstance(each, type) and each.__module__ == name]
            for owner in (module, *own):
                has = dict(vars(owner))
                functions = [each for each in has.values() if type(each) is FunctionType]
                found.append((owner, has, functions, list(map(CODE, functions))))
    return found


def _put_back_functions(known: Known) -> list[str]:
    """The public functions and classes of modules, and the methods of classes, that are not what they were."""
    changed = []
    for owner, had, functions, codes in known:
        has = vars(owner)
        if len(has) == len(had) and all(map(is_, has.values(), had.values())) and list(map(CODE, functions)) == codes:
            continue
        code_of = dict(zip(functions, codes, strict=True))
        for name, value in had.items():
            code = code_of.get(value) if type(value) is FunctionType else None
            recoded = code is not None and value.__code__ is not code
            if (has.get(name) is value and not recoded) or not _watched(owner, name, value):
                continue
            if has.get(name) is not value:
                setattr(owner, name, value)
            if recoded:
                value.__code__ = code
            home = f"{owner.__module__}.{owner.__qualname__}" if isinstance(owner, type) else owner.__name__
            changed.append(f"{home}.{name}")
    return changed


def _watched(owner: Any, name: str, value: object) -> bool:
    if isinstance(owner, type):
        return isinstance(value, METHODS)
    return not name.startswith("_") and isinstance(value, FunctionType | type)


# --- random states ------------------------------------------------------------------------------------------------


def _generators() -> dict[str, Any]:
    """The states of the global generators of Python, and of torch and numpy where these are loaded."""
    states: dict[str, Any] = {"Python": random.getstate()}
    if _loaded("torch"):
        states["torch"] = sys.modules["torch"].get_rng_state()
    if _loaded("numpy"):
        states["numpy"] = sys.modules["numpy"].random.get_state(legacy=True)
    return states


def _loaded(name: str) -> bool:
    """Whether it is imported, to its end."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def _put_back_generators(before: dict[str, Any]) -> list[str]:
    now, changed = _generators(), []
    for name, state in before.items():
        if name == "torch" and not sys.modules["torch"].equal(now[name], state):
            sys.modules["torch"].set_rng_state(state)
        elif name == "numpy" and repr(_plain(now[name])) != repr(_plain(state)):
            sys.modules["numpy"].random.set_state(state)
        elif name == "Python" and now[name] != state:
            random.setstate(state)
        else:
            continue
        changed.append(name)
    return changed


def _torch_state() -> dict[str, Any]:
    """How torch computes in this thread, where it is loaded."""
    if not _loaded("torch"):
        return {}
    torch = sys.modules["torch"]
    return {
        "torch.set_grad_enabled": torch.is_grad_enabled(),
        "torch.set_default_dtype": torch.get_default_dtype(),
        "torch.set_num_threads": torch.get_num_threads(),
    }


def _put_back_torch(before: dict[str, Any]) -> list[str]:
    now, changed = _torch_state(), []
    for name, value in before.items():
        if now[name] != value:
            getattr(sys.modules["torch"], name.removeprefix("torch."))(value)
            changed.append(f"{name}({now[name]}), where it was {value}")
    return changed


def _plain(state: Any) -> tuple[Any, ...]:
    return tuple(each.tobytes() if hasattr(each, "tobytes") else each for each in state)


# --- the environment ----------------------------------------------------------------------------------------------


@contextmanager
def _environment_watched(source: Path | None, touched: Callable[[str], None]) -> Iterator[None]:
    """Inside, says which variables are set or deleted by the code of this file, or of its package."""
    if source is None:
        yield
        return
    home = f"{source.parent}{os.sep}" if source.name == "__init__.py" else str(source)
    former = os.putenv, os.unsetenv

    def note(name: Any) -> None:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_globals.get("__name__") in PASSED_OVER:
            frame = frame.f_back
        if frame is not None and os.path.realpath(frame.f_code.co_filename).startswith(home):
            touched(os.fsdecode(name))

    def putenv(name: Any, value: Any) -> None:
        note(name)
        former[0](name, value)

    def unsetenv(name: Any) -> None:
        note(name)
        former[1](name)

    os.putenv, os.unsetenv = putenv, unsetenv
    try:
        yield
    finally:
        os.putenv, os.unsetenv = former


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
