"""Files and folders that are there whole or not at all, one writer a folder, the operating system's errors in words.

What is written whole is written under a temporary name (.NAME.partial, .partial-NAME), synced and renamed; what is
deleted is renamed first (.old-NAME). So whatever a kill or a power cut leaves behind is known by its name.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from safetensors import SafetensorError

from alignzoo.errors import RunError
from alignzoo.files import SURROGATE

LOCK = ".lock"


def write_json(path: Path, value: Any, *, private: bool = False) -> None:
    """Write a JSON file whole. Half a surrogate pair, as of a file's name that is no UTF-8, becomes U+FFFD."""
    write_text(path, SURROGATE.sub("\ufffd", json.dumps(value, indent=2, ensure_ascii=False)) + "\n", private=private)


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file whole; a `private` one is for its owner's eyes alone."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # one that a kill left may have another mode
    with open(partial, "w", encoding="utf-8", opener=for_owner if private else None) as out:
        out.write(text)
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def for_owner(path: str, flags: int) -> int:
    """An opener of files that hold what a model or its data say: made with the mode that safetensors gives weights."""
    return os.open(path, flags, 0o600)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_of(final: Path, within: Path | None = None) -> Path:
    """An empty folder under the temporary name of another, to be written and then given to `install`. Of a folder
    `within` which it lies nothing is made: where that has vanished, what was in it is lost, and that is an error."""
    if within is not None:
        within.stat()
    partial = final.with_name(f".partial-{final.name}")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return partial


def install(partial: Path, final: Path) -> None:
    """Give a folder that was written under a temporary name its own; a former one is deleted."""
    for path in [*partial.rglob("*"), partial]:
        sync(path)
    former = _renamed(final) if final.exists() or final.is_symlink() else None
    partial.rename(final)
    sync(final.parent)
    if former is not None:
        _remove(former)


def discard(path: Path) -> None:
    """Delete a folder; a kill on the way leaves nothing under its name."""
    _remove(_renamed(path))


def sweep(folder: Path) -> None:
    """Delete what kills have left in a folder: half-written and half-deleted things."""
    for path in [*folder.glob(".old-*"), *folder.glob(".partial-*"), *folder.glob(".*.partial")]:
        _remove(path)


def is_leftover(path: Path) -> bool:
    """Whether a file of a run's folder says nothing of whether the run has begun."""
    return path.name in (LOCK, "manifest.json") or (path.name.startswith(".") and path.name.endswith(".partial"))


def _renamed(path: Path) -> Path:
    old = path.with_name(f".old-{path.name}")
    if old.exists() or old.is_symlink():
        _remove(old)
    return path.rename(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def sha256(path: Path) -> str:
    """A file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- one writer a folder ----------------------------------------------------------------------------------------------


@contextmanager
def only_writer(folder: Path) -> Iterator[str]:
    """Hold the lock of a folder that exists; RunError where another process holds it, which its death ends, too. Where
    the last one to hold it has died and told nobody, it is named; otherwise that is empty."""
    with _lock_of(folder / LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{folder} is being written by {_holder(folder / LOCK)}: wait for its end, or choose another --out"
            ) from None
        lock.seek(0)
        died = _holder(folder / LOCK) if lock.read() else ""
        lock.truncate(0)
        me = {"process": os.getpid(), "host": socket.gethostname(), "started": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        lock.write(json.dumps(me) + "\n")
        lock.flush()
        _held.add(lock.fileno())
        try:
            yield died
        finally:
            _held.discard(lock.fileno())
            lock.truncate(0)


def _lock_of(path: Path) -> TextIO:
    """The file that is locked, opened; RunError where what lies there is none of ours, which nothing is written to."""
    if path.is_symlink() or (path.exists() and not (path.is_file() and path.read_bytes()[:1] in (b"", b"{"))):
        raise RunError(f"{path} is no run's lock, and may be somebody's file: move it away, or choose another --out")
    return path.open("a+", encoding="utf-8")


def _holder(lock: Path) -> str:
    try:
        me = json.loads(lock.read_text(encoding="utf-8"))
        return f"process {me['process']} on {me['host']} since {me['started']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has locked the file and not yet written who it is
        return "another process"


_held: set[int] = set()


def _let_go() -> None:
    """A forked child must not hold the lock beyond its parent's death."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


# --- the operating system's errors ------------------------------------------------------------------------------------

FIXES = {
    errno.ENOSPC: "no space is left on the disk: make room, or write to another one",
    errno.EDQUOT: "the disk quota is used up: make room, or write elsewhere",
    errno.EFBIG: "the file would be larger than the system allows (ulimit -f)",
    errno.EROFS: "the disk is read-only: write to another folder",
    errno.EACCES: "permission denied: choose a folder that you may write to, or change its rights",
    errno.EPERM: "the operation is not permitted: choose a folder that you may write to, or change its rights",
    errno.EMFILE: "too many files are open in this process: allow more with ulimit -n",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOENT: "a file or folder has vanished: was it moved or deleted by somebody else?",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "a folder stands where a file is expected: move it away",
    errno.ENAMETOOLONG: "the name is too long for this file system: choose a shorter one",
    errno.EIO: "the disk failed to read or write: check it",
    errno.ESTALE: "the network file system has lost the file: mount it again",
}
"""What the commonest errors mean, and what to do."""


def in_words(error: OSError) -> str:
    """What the operating system could not do, where, and what to do about it."""
    if isinstance(error, Unwritten):
        return str(error)
    code = error.errno or 0
    meaning = FIXES.get(code) or error.strerror or str(error) or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' -> '.join(names)}: {meaning}" if names else meaning


class Unwritten(OSError):
    """A file could not be written; the message says which, and why."""


TORCHS = ("PytorchStreamWriter", "inline_container", "iostream error")
"""By what an error of writing is known that torch's writer raises as a RuntimeError."""


@contextmanager
def writing(what: str, path: Path) -> Iterator[None]:
    """Errors of writing say what was being written: the system's, and those of the writers of safetensors and of torch,
    which have types of their own."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise Unwritten(f"{what} cannot be written to {path}: {_cause(error, path)}") from error
    except RuntimeError as error:
        if not any(mark in str(error) for mark in TORCHS):
            raise
        raise Unwritten(f"{what} cannot be written to {path}: {_cause(error, path)}") from error


def _cause(error: Exception, path: Path) -> str:
    """The system's error behind a writer's own; torch does not tell it, so the disk is asked."""
    if isinstance(error, OSError):
        return in_words(error)
    for code, fix in FIXES.items():
        if f"os error {code})" in str(error) or os.strerror(code) in str(error):
            return fix
    place = next(each for each in (path, *path.parents) if each.exists())
    full = shutil.disk_usage(place).free < 1 << 20
    return FIXES[errno.ENOSPC] if full else str(error).strip().partition("\n")[0]
