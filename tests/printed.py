"""A page of docs/ as a session: its commands run as printed, its files written, its output held to what comes.

A block of ```console holds commands behind "$ " and what they say; a block with a title="FILE" is that file; a ```diff
with a title changes it. Printed output is held line by line, numbers aside; a line "..." stands for any lines. Commands
without printed output have only to succeed, and those of a block titled "It fails" to fail. `<!-- varies -->` before a
block says that its output depends on the machine: it is not held.

The environment that a page works in is fresh, with alignzoo in it as a wheel or as the page installs it. All other
packages are lent by the environment that the tests run in, so that nothing is downloaded. To paste what comes into a
page, in place of "?" or of former output: python tests/printed.py docs/quickstart.md
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("alignzoo", "plugins", "pyproject.toml", "README.md", "LICENSE")
"""What of the checkout is built."""

BLOCK = re.compile(
    r"^(?P<comment><!-- varies -->\n)?```(?P<language>\w+)(?P<options>[^\n]*)\n(?P<body>.*?)^```$", re.M | re.S
)
TITLE = re.compile(r'title="([^"]*)"')
NUMBER = re.compile(r"[-+−]?\d[\d.,]*(?:[kM]\b)?")
END = "=== end of command, status "


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str
    body: str
    varies: bool
    start: int
    """Where the body begins in the page."""


@dataclass(frozen=True)
class Command:
    """A command and what the page says that it says."""

    text: str
    output: tuple[str, ...]


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, in order."""
    for found in BLOCK.finditer(page):
        title = TITLE.search(found["options"])
        yield Block(
            found["language"], title[1] if title else "", found["body"], bool(found["comment"]), found.start("body")
        )


def commands(block: Block) -> list[Command]:
    """The commands of a console block; behind a line that ends with a backslash, one with "> " goes on."""
    told: list[tuple[list[str], list[str]]] = []
    for line in block.body.splitlines():
        if line.startswith("$ "):
            told.append(([line[2:]], []))
        elif line.startswith("> ") and told and told[-1][0][-1].endswith("\\"):
            told[-1][0].append(line[2:])
        elif told:
            told[-1][1].append(line)
        else:
            raise ValueError(f"output before any command: {line!r}")
    return [Command("\n".join(command), tuple(output)) for command, output in told]


def normal(line: str) -> str:
    """A line without what differs from run to run: numbers, widths, rules."""
    return " ".join(NUMBER.sub("#", re.sub("─+", "─", line)).split())


def differs(printed: tuple[str, ...], said: str) -> str:
    """What is wrong with the printed output; empty where nothing is."""
    came = [line for line in map(normal, said.splitlines()) if line]
    at, skips = 0, False
    for line in filter(None, map(normal, printed)):
        if line == "...":
            skips = True
            continue
        rest = came[at:] if skips else came[at : at + 1]
        if line not in rest:
            return f"printed: {line!r}\nbut came: {came[at] if at < len(came) else 'nothing'!r}"
        at += rest.index(line) + 1
        skips = False
    return "" if skips or not printed or at == len(came) else f"not printed: {came[at]!r}"


# --- environments -------------------------------------------------------------------------------------------------


def sources(folder: Path) -> Path:
    """A copy of what is built of the checkout: building leaves files behind."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def lent(folder: Path) -> Path:
    """All installed packages but alignzoo, as links."""
    folder.mkdir(parents=True)
    for packages in map(Path, site.getsitepackages()):
        for path in packages.iterdir() if packages.is_dir() else ():
            if "alignzoo" not in path.name and path.suffix != ".pth" and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    return folder


def lend(environment: Path, packages: Path) -> None:
    """Let a virtual environment import these packages, before the few that `venv` puts into it."""
    (library,) = environment.glob("lib/python*/site-packages")
    (library / "lent.pth").write_text(f"import sys; sys.path.insert(0, {str(packages)!r})\n")


def environment(folder: Path, packages: Path) -> Path:
    """A fresh virtual environment with these packages, and nothing of its own but pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    lend(folder, packages)
    pip = folder / "bin" / "pip"
    pip.write_text('#!/bin/sh\nexec "$(dirname "$0")/python" -m pip "$@"\n')
    pip.chmod(0o755)
    return folder


def variables(folder: Path, activated: Path | None = None) -> dict[str, str]:
    """The variables of a session's shell: offline, without colours, and nothing of the developer's own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "PYTHON", "ALIGNZOO_", "OPENAI_", "PYTEST_", "VIRTUAL_ENV", "COLUMNS"))
    }
    paths = [*([str(activated / "bin")] if activated else []), str(Path(sys.executable).parent), kept.get("PATH", "")]
    return kept | {
        **{"PATH": os.pathsep.join(paths), "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")},
        **{"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_CONFIG_FILE": os.devnull},
        **{"PIP_DISABLE_PIP_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
    }


class Session:
    """A shell in a folder, which takes one command after the other."""

    def __init__(self, folder: Path, packages: Path, given: Mapping[str, str]) -> None:
        self.folder, self.packages = folder, packages
        self.shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
            **{"cwd": folder, "env": dict(given), "text": True, "start_new_session": True},
        )

    def run(self, command: str) -> tuple[int, str]:
        """The status of a command, and what it said."""
        assert self.shell.stdin is not None and self.shell.stdout is not None
        self.shell.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n{END}%d\\n' $?\n")
        self.shell.stdin.flush()
        said: list[str] = []
        for line in self.shell.stdout:
            if line.startswith(END):
                status = int(line.removeprefix(END))
                break
            said.append(line)
        else:
            raise AssertionError(f"the shell ended with {command!r}:\n{''.join(said)}")
        if made := re.fullmatch(r"python -m venv (\S+)", command):
            lend(self.where() / made[1], self.packages)
        return status, "".join(said).rstrip("\n")

    def where(self) -> Path:
        return Path(self.run("pwd")[1])

    def close(self) -> None:
        """End the shell, and what it has left running."""
        assert self.shell.stdin is not None and self.shell.stdout is not None
        os.killpg(self.shell.pid, signal.SIGTERM)
        self.shell.wait()
        self.shell.stdin.close()
        self.shell.stdout.close()


def wheels(folder: Path, *projects: Path) -> Path:
    """A folder with the wheels of this checkout and of other projects, built from copies of them."""
    with tempfile.TemporaryDirectory() as scratch:
        copies = [sources(Path(scratch) / "alignzoo")]
        copies += [Path(shutil.copytree(project, Path(scratch) / project.name)) for project in projects]
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
        subprocess.run([*command, folder, *copies], check=True, stdin=subprocess.DEVNULL)
    return folder


def opened(page: str, folder: Path, workshop: Path) -> Session:
    """A session for a page: beside a checkout where it makes an environment, else in one where alignzoo is."""
    folder.mkdir(parents=True)
    if "$ python -m venv" in page:
        sources(folder / "alignzoo")
        return Session(folder, workshop / "lent", variables(folder))
    made = environment(folder / ".venv", workshop / "lent")
    session = Session(folder, workshop / "lent", variables(folder, made))
    status, said = session.run(f"pip install --no-deps {workshop}/wheels/alignzoo-0*.whl")
    assert status == 0, said
    return session


def follow(page: str, session: Session) -> Iterator[tuple[Block, Command, int, str]]:
    """Do what a page says: each command with its status and what it has said."""
    for block in blocks(page):
        if block.language == "console":
            for command in commands(block):
                yield block, command, *session.run(command.text)
        elif block.title:
            file = session.where() / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(edited(file.read_text(), block.body) if block.language == "diff" else block.body)


def edited(text: str, diff: str) -> str:
    """A text with a diff's lines changed, which must stand in it once."""
    lines = diff.splitlines(keepends=True)
    before, after = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
    if text.count(before) != 1:
        raise ValueError(f"what is to be changed stands there {text.count(before)} times:\n{before}")
    return text.replace(before, after)


def check(page: str, session: Session) -> None:
    """Raise where a page says what is not so."""
    for block, command, status, said in follow(page, session):
        told = f"$ {command.text}\n{said}"
        assert bool(status) == block.title.startswith("It fails"), f"status {status} of\n{told}"
        wrong = "" if block.varies else differs(command.output, said)
        assert not wrong, f"{wrong}\n{told}"


# --- pasting ------------------------------------------------------------------------------------------------------


def pasted(page: str, session: Session) -> str:
    """The page with what its commands say now, where it prints output and none of it is left out by "..."."""
    bodies: dict[Block, list[str]] = {}
    last = time.perf_counter()
    for block, command, status, said in follow(page, session):
        seconds, last = time.perf_counter() - last, time.perf_counter()
        sys.stderr.write(f"$ {command.text}\n{said}\nstatus {status}, {seconds:.1f} s\n\n")
        shown = command.output if "..." in command.output or not command.output else said.splitlines()
        first, *more = command.text.splitlines()
        bodies.setdefault(block, []).extend([f"$ {first}", *(f"> {line}" for line in more), *map(str.rstrip, shown)])
    for block, lines in sorted(bodies.items(), key=lambda item: -item[0].start):
        page = page[: block.start] + "\n".join(lines) + "\n" + page[block.start + len(block.body) :]
    return page


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as scratch:
            lent(Path(scratch) / "lent")
            wheels(Path(scratch) / "wheels")
            session = opened(path.read_text(), Path(scratch) / "work", Path(scratch))
            try:
                path.write_text(pasted(path.read_text(), session))
            finally:
                session.close()


if __name__ == "__main__":
    main()
