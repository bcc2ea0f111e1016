"""A run that was cut off, whose folder is damaged at random: resumed it is the same to the byte, or refused."""

from __future__ import annotations

import functools
import random
import shutil
import tempfile
from pathlib import Path

import pytest

from alignzoo.errors import AlignzooError
from alignzoo.training import checkpoint
from faults import toy
from faults.generated import Short, check_told, odd


class Cut(Exception):
    """The run ends here."""


@functools.cache
def cut() -> Path:
    """A run that was cut off at its second step."""
    folder = Path(tempfile.mkdtemp(prefix="fault-cut-")) / "run"
    save = checkpoint.save

    def stopping(where: Path, step: int, *parts: object, **settings: object) -> object:
        saved = save(where, step, *parts, **settings)  # type: ignore[arg-type]
        if step == 2:
            raise Cut
        return saved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", stopping)
        with pytest.raises(Cut):
            toy.run(folder)
    return folder


@functools.cache
def steady() -> dict[str, str]:
    """What the run comes to that nobody has cut off."""
    folder = Path(tempfile.mkdtemp(prefix="fault-whole-")) / "run"
    toy.run(folder)
    return kept(folder)


def kept(folder: Path) -> dict[str, str]:
    """All but checkpoints: these know the extent of files that hold times."""
    return {name: digest for name, digest in toy.bytes_of(folder).items() if not name.startswith("checkpoints")}


def told_apart(folder: Path) -> dict[str, str]:
    """All but what kills leave, which the next start may sweep away."""
    return {name: digest for name, digest in toy.bytes_of(folder).items() if not name.startswith(".")}


def case(rng: random.Random, folder: Path) -> None:
    """Damage one or two of its files, and resume it."""
    out = Path(shutil.copytree(cut(), folder / "run"))
    for _ in range(rng.choice((1, 1, 2))):
        _damage(rng, out)
    before = told_apart(out)
    try:
        toy.run(out, resume=True)
    except AlignzooError as error:
        check_told(error)
        if told_apart(out) != before:
            raise Short(f"it was refused, and is another than before: {error}") from error
        return
    mine = {name: digest for name, digest in kept(out).items() if not Path(name).name.startswith("others")}
    differing = sorted(name for name in mine.keys() | steady().keys() if mine.get(name) != steady().get(name))
    if differing:
        raise Short(f"it was gone on with, and differs in {', '.join(differing)}")


def _damage(rng: random.Random, out: Path) -> None:
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    if not files:
        return
    path = rng.choice(files)
    match rng.randrange(9):
        case 0 | 1 | 2 | 3:
            path.write_bytes(odd.damaged(rng, path.read_bytes()))
        case 4:
            path.unlink()
        case 5:
            path.write_bytes(rng.choice(files).read_bytes())
        case 6:
            path.unlink()
            path.mkdir()
        case 7:
            shutil.rmtree(path.parent) if path.parent != out else path.unlink()
        case 8:
            (path.parent / rng.choice(("others.txt", ".old-step-000001", ".x.partial"))).write_bytes(b"x")
