"""A process that has imported what cells need, and forks a child for each: no cell pays for the imports again.

What they need beyond the core and the plugins, it learns from those that end. `python -m alignzoo.compare.server
PLUGINS` reads one cell a line, {"folder": ..., "environment": variables of its own}, and answers one line for each
child that has ended: {"folder": ..., "status": exit status, negative for a signal}. When its input ends, because
whoever started it is done or was killed, it kills what still runs and ends.
"""

from __future__ import annotations

import atexit
import importlib
import json
import logging
import os
import selectors
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import NoReturn

from alignzoo.calling import kept
from alignzoo.errors import in_words

log = logging.getLogger("alignzoo")


def main() -> None:
    """Read folders, fork cells, tell of their ends."""
    plugins = tuple(json.loads(sys.argv[1]))
    import torch

    from alignzoo.compare.cell import registry_of
    from alignzoo.runs import api  # noqa: F401  what a cell will need, imported once

    torch.set_num_threads(1)  # a process that has started threads cannot be forked
    registry_of(plugins)
    children: dict[int, str] = {}
    notes = Path(tempfile.mkdtemp(prefix="alignzoo-"))
    atexit.register(shutil.rmtree, notes, ignore_errors=True)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _nothing)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; whoever started this decides
    tell({"ready": True})
    with selectors.DefaultSelector() as events:
        events.register(0, selectors.EVENT_READ)
        events.register(woken, selectors.EVENT_READ)
        asked = b""
        while True:
            for key, _ in events.select():
                read = os.read(key.fd, 65536)
                if key.fd == 0:
                    if not read:
                        _end(children)
                    *cells, asked = (asked + read).split(b"\n")
                    for cell in map(json.loads, cells):
                        children[_fork(cell["folder"], cell["environment"], woken, notes)] = cell["folder"]
            _reap(children, notes)


def _fork(folder: str, environment: dict[str, str], woken: int, notes: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    with kept(BaseException) as failed:  # a child returns into no code of its parent's, whatever happens
        status = _run_here(folder, environment, woken, notes)
    if failed.error is not None:
        import traceback

        traceback.print_exception(failed.error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _run_here(folder: str, environment: dict[str, str], woken: int, notes: Path) -> int:
    """Run a cell in this new process, its output in the cell's log; its exit status."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(environment)
    os.close(woken)
    log = os.open(Path(folder) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(old, new)
    import torch

    from alignzoo.compare.cell import INTERRUPTED, run_cell
    from alignzoo.training.loop import Interrupted

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    before = set(sys.modules)
    try:
        run_cell(Path(folder))
    except Interrupted:
        return INTERRUPTED
    learnt = [name for name, module in list(sys.modules.items()) if name not in before and _is_file(module)]
    (notes / str(os.getpid())).write_text(json.dumps(learnt))
    return 0


def _is_file(module: object) -> bool:
    """Whether it can be imported by its name from a file, and is nobody's invention."""
    return bool(getattr(getattr(module, "__spec__", None), "has_location", False))


def _learn(note: Path) -> None:
    """Import what a child had to import."""
    if note.exists():
        for name in json.loads(note.read_text()):
            with kept() as failed:
                importlib.import_module(name)
            if failed.error is not None:
                log.debug("each cell imports %s itself: %s", name, in_words(failed.error))
        note.unlink()


def _reap(children: dict[int, str], notes: Path) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        _learn(notes / str(pid))
        tell({"folder": children.pop(pid), "status": os.waitstatus_to_exitcode(status)})


def _end(children: dict[int, str]) -> NoReturn:
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    raise SystemExit


def _nothing(number: int, frame: FrameType | None) -> None:
    """A signal without a handler wakes nobody."""


def tell(message: dict[str, object]) -> None:
    """One line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
