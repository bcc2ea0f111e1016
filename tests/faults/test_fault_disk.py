"""What the operating system refuses is told in words; what was done before is safe; one process writes to a folder."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import shutil
import sys
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from alignzoo.errors import RunError
from alignzoo.runs import api
from alignzoo.scaffold import make
from alignzoo.storage import LOCK, Unwritten, in_words, only_writer, writing
from alignzoo.training.journal import Journal
from faults import toy

WORDS = {
    errno.ENOSPC: "no space is left",
    errno.EROFS: "read-only",
    errno.EMFILE: "too many files",
    errno.EDQUOT: "quota",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    toy.run(folder)
    return steady(folder)


def steady(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in toy.bytes_of(folder).items() if not name.endswith("state.json")}


def told_in_a_fork(work: Callable[[], object]) -> str:
    """The message of the RunError that it ends in, in a process of its own; "" where it ends well."""
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        said = b""
        try:
            work()
        except RunError as error:
            said = str(error).encode()
        except BaseException as error:
            said = f"not told: {type(error).__name__}: {error}".encode()
        os.write(writes, said)
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said.decode()


def failing_at(event: int, code: int, work: Callable[[], object]) -> Callable[[], object]:
    """The work, whose so-manieth change to the file system the operating system refuses, and all after it."""

    def failing() -> object:
        seen = 0

        def hook(name: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            opened = name == "open" and isinstance(arguments[2], int) and arguments[2] & toy.WRITES
            if (name in {"os.mkdir", "os.rename"} or opened) and not str(arguments[0]).startswith(("/dev", "/proc")):
                seen += 1
                if seen >= event:
                    raise OSError(code, os.strerror(code), arguments[0])

        sys.addaudithook(hook)
        return work()

    return failing


@pytest.mark.parametrize("code", WORDS, ids=errno.errorcode.get)
def test_a_disk_that_refuses_at_any_event_is_told_and_gone_on_from(
    code: int, whole: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for event in range(1 + code % 5, 40, 5):
        said = told_in_a_fork(failing_at(event, code, lambda: toy.run(out)))
        assert WORDS[code] in said and "--resume" in said, said
        if any(out.glob("checkpoints/*/step-*")):
            assert "The run up to step-" in said, said
        toy.run(out, resume=True)
        assert steady(out) == whole, event
        shutil.rmtree(out)


@pytest.mark.parametrize("limit", [600, 1500, 3000, 6000])
def test_writers_with_errors_of_their_own_are_told_too(limit: int, whole: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "run"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        toy.run(out)

    said = told_in_a_fork(limited)
    assert "larger than the system allows" in said and "--resume" in said, said
    toy.run(out, resume=True)
    assert steady(out) == whole


def test_each_writer_of_a_library_is_put_into_words(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    errors = (
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError(errno.ENOSPC, "No space left on device", "w"),
    )
    with pytest.raises(Unwritten, match="the model cannot be written"), writing("the model", tmp_path):
        raise RuntimeError("basic_ios::clear: iostream error")
    for error in errors:
        found = pytest.raises(Unwritten, match=r"the model cannot be written to .*: .*no space is left on the disk")
        with found, writing("the model", tmp_path / "models"):
            raise error
    with pytest.raises(RuntimeError, match=r"^out of memory$"), writing("the model", tmp_path):
        raise RuntimeError("out of memory")
    assert in_words(FileNotFoundError(errno.ENOENT, "x", "/gone")).startswith("/gone: a file or folder has vanished")


def test_a_folder_that_vanishes_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Journal(tmp_path / "gone", "s").write("metrics", 1, {})
    assert "has vanished" in in_words(caught.value)


def test_a_run_whose_folder_vanishes_does_not_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"

    def gone(stage: str, step: int, steps: int, figures: Any) -> None:
        if (step, steps) == (2, 3):
            shutil.rmtree(out)

    with pytest.raises(RunError, match="has vanished"):
        api.execute(toy.recipe(()), toy.registry(), out=out, curves=False, progress=gone)
    assert not out.exists()


def test_a_package_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    for event in range(2, 9):
        pid = os.fork()
        if not pid:
            try:
                failing_at(event, errno.ENOSPC, lambda: make("abc", "optimizer", tmp_path))()
            except OSError:
                os._exit(3)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert not list(tmp_path.iterdir())
    assert make("abc", "optimizer", tmp_path).is_dir()


def test_the_command_line_tells_them_without_a_traceback(alignzoo: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for arguments in (
        ["new", "abc", "--dir", tmp_path / "file" / "in"],
        ["run", "grpo", "task=sort", "--out", tmp_path / "file" / "in", "--quiet"],
        ["compare", "grpo", "--task", "sort", "--quiet", "--out", tmp_path / "file" / "in"],
        ["run", "grpo", "task=sort", "--out", tmp_path / ("x" * 300), "--quiet"],
    ):
        said = alignzoo(*arguments)
        assert said.code == 1 and said.err.startswith("error: ") and str(tmp_path) in said.err, said
        assert "a part of the path is a file" in said.err or "too long" in said.err, said


# --- one writer a folder ----------------------------------------------------------------------------------------------


def started(out: Path, seed: int, together: Barrier, answers: Any) -> None:
    os.environ["TOY_SECONDS"] = "0.02"
    together.wait()
    try:
        toy.run(out, seed=seed)
        answers.put((seed, ""))
    except BaseException as error:
        answers.put((seed, f"{type(error).__name__}: {error}"))


def test_of_two_starts_at_once_one_runs_and_one_is_refused(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    alone = {seed: toy.run(tmp_path / f"alone-{seed}", seed=seed).out for seed in (1, 2)}
    for number in range(6):
        out, together, answers = tmp_path / f"both-{number}", fork.Barrier(2), fork.Queue()
        pair = [fork.Process(target=started, args=(out, seed, together, answers)) for seed in (1, 2)]
        for process in pair:
            process.start()
        said = dict(answers.get(timeout=60) for _ in pair)
        for process in pair:
            process.join()
        [winner] = [seed for seed, message in said.items() if not message]
        [refused] = [message for message in said.values() if message]
        assert refused.startswith("RunError: ") and ("is being written by" in refused or "is not empty" in refused)
        assert steady(out) == steady(alone[winner])


@pytest.mark.parametrize("link", [False, True])
def test_somebodys_file_of_the_locks_name_is_left_alone(tmp_path: Path, link: bool) -> None:
    theirs, folder = tmp_path / "theirs", tmp_path / "folder"
    folder.mkdir()
    theirs.write_text("precious")
    (folder / LOCK).symlink_to(theirs) if link else theirs.rename(folder / LOCK)
    with pytest.raises(RunError, match="is no run's lock, and may be somebody's file"), only_writer(folder):
        pass
    assert (folder / LOCK).read_text() == "precious"


def test_the_second_is_told_who_writes_and_a_death_lets_go(tmp_path: Path) -> None:
    with only_writer(tmp_path):
        here = f"is being written by process {os.getpid()} on .* since 20"
        with pytest.raises(RunError, match=here), only_writer(tmp_path):
            pass
        with pytest.raises(RunError, match=here):
            toy.run(tmp_path)
    ready, pid = os.pipe(), os.fork()
    if not pid:
        with only_writer(tmp_path):
            if not os.fork():  # a child of its own outlives it, and does not hold the lock
                os.write(ready[1], b"x")
                import time

                time.sleep(5)
                os._exit(0)
            os.read(ready[0], 1)
            os._exit(9)
    os.waitpid(pid, 0)
    with only_writer(tmp_path):
        assert (tmp_path / LOCK).read_text().count("process") == 1
