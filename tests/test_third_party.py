"""Strangers' packages, written against the documents alone: as a loose file, and installed from wheels.

In third_party/: an optimizer, a reward with a dependency of its own, a sampler, and a package that is broken in every
way in which a plugin can be.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import printed
from alignzoo.registry import Registry
from alignzoo.testing import check_optimizer

PLUGIN = Path(__file__).parent / "third_party" / "alignzoo-simpo" / "alignzoo_simpo.py"


def alignzoo(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "alignzoo.cli", *arguments, "--plugin", str(PLUGIN)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_it_keeps_the_contract() -> None:
    registry = Registry()
    registry.add_file(PLUGIN)
    check_optimizer(registry.get("optimizer", "my-simpo")())


def test_it_is_listed_and_trained_by_its_name(tmp_path: Path) -> None:
    listed = json.loads(alignzoo("list", "--json", cwd=tmp_path))
    assert "my-simpo" in json.dumps(listed)
    short = ("schedule.steps=2", "schedule.prompts=8", "evaluate.prompts=8", "optimizer.gamma=0.3")
    alignzoo("run", "my-simpo", *short, "--out", "run", cwd=tmp_path)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["stages"][0]["optimizer"] == "my-simpo"
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["recipe"]["stage"][0]["optimizer"]["gamma"] == 0.3
    assert manifest["plugins"]["alignzoo_simpo.py"]["sha256"]


# --- installed, as a user would ---------------------------------------------------------------------------------------

GOOD = {"optimizer": "my-simpo", "reward": "plain", "sampler": "varied"}
SMALL = (
    'sampler=\'{name="varied", n=2, tries=3}\' reward=\'["plain", "random"]\' '
    "schedule.steps=2 schedule.prompts=4 schedule.minibatch=0"
)


class Users:
    """An environment into which wheels have been installed by name, with what they depend on, and its command line."""

    def __init__(self, folder: Path, workshop: Path, *names: str) -> None:
        activated = printed.environment(folder / "env", workshop / "lent")
        self.folder = folder
        self.session = printed.Session(folder, workshop / "lent", printed.variables(folder, activated))
        self.installed = self.says(f"pip install --find-links {workshop / 'wheels'} {' '.join(names)}")

    def says(self, command: str, status: int = 0) -> str:
        """What a command says that ends with this status."""
        found, said = self.session.run(command)
        assert found == status, f"status {found} of\n$ {command}\n{said}"
        return said

    def tells(self, command: str, status: int = 0) -> Any:
        """The JSON that a command writes."""
        self.says(f"{command} > told.json", status)
        return json.loads((self.folder / "told.json").read_text())


@pytest.fixture
def users(workshop: Path, tmp_path: Path) -> Iterator[Callable[..., Users]]:
    made: list[Users] = []

    def make(*names: str) -> Users:
        made.append(Users(tmp_path, workshop, *names))
        return made[-1]

    yield make
    for each in made:
        each.session.close()


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_strangers_are_installed_listed_checked_trained_and_compared(users: Callable[..., Users]) -> None:
    here = users("alignzoo-simpo", "alignzoo-plain", "alignzoo-varied")
    assert {"alignzoo-0.1.0", "alignzoo-plain-0.3", "reading-ease-0.2"} <= set(here.installed.splitlines()[-1].split())

    listed = here.tells("alignzoo list --json")
    assert not listed["failures"]
    theirs = {(each["kind"], each["name"]): each["distribution"] for each in listed["plugins"]}
    assert {kind: theirs[kind, name] for kind, name in GOOD.items()} == {
        kind: f"alignzoo-{name.removeprefix('my-')}" for kind, name in GOOD.items()
    }
    for kind, name in GOOD.items():
        told = here.tells(f"alignzoo check {kind}:{name} --json")
        assert told["ok"] and len(told["checks"]) >= 7

    here.says(f"alignzoo run my-simpo task=sort {SMALL} evaluate.prompts=4 --out run --quiet")
    (stage,) = json.loads((here.folder / "run" / "result.json").read_text())["stages"]
    manifest = json.loads((here.folder / "run" / "manifest.json").read_text())
    (asked,) = manifest["recipe"]["stage"]
    assert stage["optimizer"] == "my-simpo" and stage["steps"] == 2
    assert asked["sampler"] == {"name": "varied", "n": 2, "tries": 3} and asked["reward"][0]["name"] == "plain"
    assert manifest["plugins"]["plain"]["version"] == "0.3" and len(manifest["plugins"]["varied"]["sha256"]) == 64

    here.says(f"alignzoo compare my-simpo grpo {SMALL} --task sort --seeds 1 --prompts 4 --jobs 2 --out duel")
    results = json.loads((here.folder / "duel" / "results.json").read_text())
    ended = {(cell["algorithm"], cell["seed"]): cell["status"] for cell in results["cells"]}
    assert ended["my-simpo", 0] == ended["grpo", 0] == "ok"


CURES = {
    "raises": ("RuntimeError: no licence file in /etc/raises.key", "Report it to the author of alignzoo-broken"),
    "lacks": ("No module named 'no_such_package'", "does not say which package has it: ask its author"),
    "absent": ("No module named 'alignzoo_broken.absent'", "pip install --force-reinstall alignzoo-broken"),
    "nonsense": ("Nonsense has no prepare, loss", "Report it to the author of alignzoo-broken"),
    "twice": ("reward 'nothing' is registered twice", "Report it to the author of alignzoo-broken"),
    "future": ("written for alignzoo's plugin API '>=2,<3', and this is 0.2", "pip install --upgrade alignzoo"),
}
"""What `doctor` says of each broken plugin that cannot be loaded: why, and what to do."""


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_broken_package_breaks_nothing_but_itself(users: Callable[..., Users]) -> None:
    here = users("alignzoo-broken", "alignzoo-simpo", "alignzoo-plain", "alignzoo-varied")
    listed = {(each["kind"], each["name"]) for each in here.tells("alignzoo list --json")["plugins"]}
    assert set(GOOD.items()) | {("reward", "length"), ("optimizer", "grpo"), ("task", "sort")} <= listed

    told = here.tells("alignzoo doctor --json", 1)
    found = {each["plugin"]: each for each in told["plugins"]}
    for name, (cause, cure) in CURES.items():
        assert cause in found[name]["cause"] and cure in found[name]["cure"], found[name]
        assert (found[name]["distribution"], found[name]["version"]) == ("alignzoo-broken", "0.9")
    assert {name for name, each in found.items() if each["cause"]} == CURES.keys()
    assert found["observer"]["watches"] == ["alignzoo_after_step", "alignzoo_run_start"]
    (shadowed,) = told["names"]
    assert (shadowed["name"], shadowed["cure"]) == ("length", "Write 'taken/length', or uninstall one of them")

    said = here.says(f"alignzoo run my-simpo task=sort {SMALL} evaluate.prompts=4 --out run --quiet")
    assert said.count("plugin 'observer' (alignzoo-broken 0.9) raised in") == 1
    assert "no longer watches the run" in said and (here.folder / "run" / "result.json").exists()
    for name, (cause, _) in CURES.items():
        assert said.count(cause) == 1, f"{name} is not told of, once"

    said = here.says("alignzoo run grpo reward=raised", 1)
    assert "plugin 'raises' (alignzoo-broken 0.9)" in said and "Traceback" not in said
    (here.folder / "told.json").unlink()
    assert here.tells("alignzoo show reward:length --json")["distribution"] == "alignzoo"
