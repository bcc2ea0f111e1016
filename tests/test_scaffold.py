"""`alignzoo new`: what it makes works at once, for every kind: its own tests, its linter and its types are clean."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from alignzoo.errors import PluginError
from alignzoo.registry import Registry
from alignzoo.registry.registrar import MEMBERS
from alignzoo.scaffold import LICENCES, SCAFFOLDED, make
from alignzoo.testing import KIND_CHECKS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A package of each kind, by its kind."""
    folder = tmp_path_factory.mktemp("made")
    return {kind: make(f"my-{kind}", kind, folder) for kind in SCAFFOLDED}


def python(*arguments: str, cwd: Path, path: tuple[Path, ...] = ()) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, path), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_every_kind_has_a_template() -> None:
    assert set(SCAFFOLDED) == set(MEMBERS)


def test_what_it_makes_passes_its_own_tests(made: dict[str, Path]) -> None:
    checked = [package for kind, package in made.items() if kind in KIND_CHECKS]
    folder = checked[0].parent
    python("pytest", "-q", "-p", "no:cacheprovider", *map(str, checked), cwd=folder, path=tuple(checked))


@pytest.mark.slow
def test_what_it_makes_is_clean(made: dict[str, Path], tmp_path: Path) -> None:
    for package in made.values():
        python("ruff", "check", "--no-cache", ".", cwd=package)
        python("ruff", "format", "--no-cache", "--check", "--diff", ".", cwd=package)
    modules = [str(file) for package in made.values() for file in package.glob("*.py")]
    # mypy does not follow an editable installation, so it is told where the package lies.
    python("mypy", "--strict", "--cache-dir", str(tmp_path), *modules, cwd=next(iter(made.values())), path=(ROOT,))


@pytest.mark.parametrize("kind", SCAFFOLDED)
def test_what_it_makes_is_listed_without_being_run(kind: str, made: dict[str, Path]) -> None:
    zoo = Registry()
    (module,) = made[kind].glob("*.py")
    zoo.add_file(module)
    mine = [each for each in zoo.list(kind) if each.name == f"my-{kind}"]
    assert [each.summary != "" for each in mine] == [True]
    assert zoo.get(kind, f"my-{kind}").__doc__
    project = tomllib.loads((made[kind] / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["alignzoo"] == {f"my-{kind}": f"alignzoo_my_{kind}"}


def test_the_command_says_how_to_go_on(alignzoo, tmp_path: Path) -> None:
    said = alignzoo("new", "my-algo", "--dir", tmp_path, "--licence", "MIT")
    assert said.code == 0
    assert "alignzoo check optimizer:my-algo" in said.out
    package = tmp_path / "alignzoo-my-algo"
    assert "class MyAlgo:" in (package / "alignzoo_my_algo.py").read_text()
    assert "MIT License" in (package / "LICENSE").read_text()
    assert {path.name for path in package.rglob("*") if path.is_file()} == {
        *("pyproject.toml", "alignzoo_my_algo.py", "test_alignzoo_my_algo.py"),
        *("README.md", "LICENSE", ".gitignore", "test.yml"),
    }


@pytest.mark.parametrize("licence", LICENCES)
def test_licences(licence: str, tmp_path: Path) -> None:
    package = make("x", "reward", tmp_path, licence)
    assert tomllib.loads((package / "pyproject.toml").read_text())["project"]["license"] == licence
    assert len((package / "LICENSE").read_text()) > 1000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("My_Algo", "--kind", "reward"), "cannot be a name"),
        (("mine", "--kind", "optimiser"), "Did you mean 'optimizer'"),
        (("mine", "--licence", "mit"), "no licence 'mit'"),
        (("ppo",), "optimizer 'ppo' is taken, by plugin 'policy-gradient' (alignzoo"),
    ],
)
def test_what_cannot_be_made(arguments: tuple[str, ...], says: str, alignzoo, tmp_path: Path) -> None:
    said = alignzoo("new", *arguments, "--dir", tmp_path)
    assert said.code == 1 and says in said.err
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path: Path) -> None:
    make("mine", "reward", tmp_path)
    with pytest.raises(PluginError, match="is there already"):
        make("mine", "reward", tmp_path)
