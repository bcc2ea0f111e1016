"""A plugin that is broken, in whatever way, breaks nothing but itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import alignzoo
from alignzoo.errors import PluginError
from alignzoo.registry import Registry

Install = Callable[..., Path]

REWARD = """
from dataclasses import dataclass
import alignzoo

@dataclass(frozen=True)
class Nice:
    '''Scores everything alike.'''
    def score(self, groups, policy): return []

@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.reward({name!r}, Nice)
"""
GOOD = REWARD.format(name="nice")


def zoo_of(tmp_path: Path, *, without: tuple[str, ...] = ()) -> tuple[Registry, list[str]]:
    """A registry without recipes, and what it has warned of."""
    warned: list[str] = []
    return Registry(recipes=tmp_path, without=without, warn=warned.append), warned


# --- the API version ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", [">=0.2,<0.3", ">=0.2", "==0.2.*", "~=0.2"])
def test_a_plugin_for_this_api_is_taken(api: str, install: Install, tmp_path: Path) -> None:
    install("alignzoo-nice", {"nice_zoo.py": f"api = {api!r}\n" + GOOD}, nice="nice_zoo")
    zoo, warned = zoo_of(tmp_path)
    assert zoo.get("reward", "nice").__name__ == "Nice"
    assert not warned


@pytest.mark.parametrize(
    ("api", "cure"),
    [
        (">=0.3,<0.4", "pip install --upgrade alignzoo, or take an older release of alignzoo-nice"),
        (">=1,<2", "the plugin API called itself 1.0 in alignzoo 0.1: docs/changes.md says what is new"),
        (">=2,<3", "pip install --upgrade alignzoo, or take an older release of alignzoo-nice"),
        ("<0.2", "pip install --upgrade alignzoo-nice: it is for an older alignzoo"),
        ("one", "Report it to the author of alignzoo-nice"),
    ],
)
def test_a_plugin_for_another_api_is_refused_by_name_unread(
    api: str, cure: str, install: Install, tmp_path: Path
) -> None:
    install("alignzoo-nice", {"nice_zoo.py": f"api = {api!r}\n1 / 0\n" + GOOD}, nice="nice_zoo")
    zoo, _ = zoo_of(tmp_path)
    assert "nice_zoo" not in sys.modules
    assert zoo.failures[0].cure.startswith(cure)
    with pytest.raises(PluginError, match=r"reward 'nice' cannot be had: plugin 'nice' \(alignzoo-nice 1.0\)"):
        zoo.get("reward", "nice")
    if api != "one":
        assert f"plugin API {api!r}, and this is {alignzoo.API_VERSION}" in zoo.failures[0].last_line


def test_an_api_that_only_running_tells_is_heeded_too(install: Install, tmp_path: Path) -> None:
    install("alignzoo-nice", {"nice_zoo.py": "api = '>=' + '7'\n" + GOOD}, nice="nice_zoo")
    zoo, _ = zoo_of(tmp_path)
    with pytest.raises(PluginError, match="plugin API '>=7'"):
        zoo.get("reward", "nice")


# --- taken names --------------------------------------------------------------------------------------------------


def own(distribution: str, install: Install) -> None:
    """A first-party reward called nice, and a stranger's of the same name."""
    install("alignzoo", {"own_zoo.py": GOOD}, own="own_zoo")
    install(distribution, {"other_zoo.py": GOOD.replace("alike", "badly")}, other="other_zoo")


def test_nobody_who_is_merely_installed_takes_a_name_of_alignzoos_own(install: Install, tmp_path: Path) -> None:
    own("alignzoo-other", install)
    zoo, warned = zoo_of(tmp_path)
    assert {each.plugin: bool(each.conflicts) for each in zoo.list("reward")} == {"other": True, "own": False}
    assert zoo.get("reward", "nice").__module__ == "own_zoo"
    assert zoo.get("reward", "other/nice").__module__ == "other_zoo"
    zoo.get("reward", "nice")
    assert warned == [
        "reward 'nice' is plugin 'own' (alignzoo 1.0)'s; that of plugin 'other' (alignzoo-other 1.0) is 'other/nice'"
    ]


def test_between_strangers_a_taken_name_is_nobodys(install: Install, tmp_path: Path) -> None:
    for name in ("one", "two"):
        install(f"alignzoo-{name}", {f"{name}_zoo.py": GOOD}, **{name: f"{name}_zoo"})
    zoo, _ = zoo_of(tmp_path)
    with pytest.raises(PluginError, match="Write 'one/nice' or 'two/nice'"):
        zoo.get("reward", "nice")


# --- bisecting ----------------------------------------------------------------------------------------------------


def test_plugins_can_be_left_out(install: Install, tmp_path: Path) -> None:
    own("alignzoo-other", install)
    zoo, warned = zoo_of(tmp_path, without=("own",))
    assert zoo.get("reward", "nice").__module__ == "other_zoo" and not warned
    with pytest.raises(PluginError, match=r"no plugin 'oter' to leave out\. Did you mean 'other'"):
        zoo_of(tmp_path, without=("oter",))


def test_no_plugin_is_an_option_of_every_command(alignzoo, recipe: Path) -> None:
    assert "grpo" not in alignzoo("list", "--kind", "optimizer", "--no-plugin", "policy-gradient").out
    for command in (("show", "grpo"), ("check", "grpo"), ("run", recipe, "--trust")):
        said = alignzoo(*command, "--no-plugin", "policy-gradient")
        assert said.code == 1 and "grpo" in said.err
    said = alignzoo("list", "--no-plugin", "policy-gradeint")
    assert said.code == 1 and "Did you mean 'policy-gradient'" in said.err


# --- import and observers -----------------------------------------------------------------------------------------


def test_a_broken_plugin_is_warned_of_once_and_the_others_work(install: Install, tmp_path: Path) -> None:
    install("alignzoo-bad", {"bad_zoo.py": GOOD + "\n1 / 0\n"}, bad="bad_zoo")
    install("alignzoo-good", {"good_zoo.py": REWARD.format(name="kind")}, good="good_zoo")
    zoo, warned = zoo_of(tmp_path)
    for _ in range(2):
        zoo.load_all()
    assert len(warned) == 1 and "plugin 'bad' (alignzoo-bad 1.0) failed to load and is left out" in warned[0]
    assert zoo.get("reward", "kind").__name__ == "Nice"


def test_what_a_plugin_prints_spoils_no_json(install: Install, alignzoo) -> None:
    install("alignzoo-loud", {"loud_zoo.py": "print('hello')\n" + GOOD}, loud="loud_zoo")
    said = alignzoo("show", "reward:nice", "--json")
    assert json.loads(said.out)["name"] == "nice"
    assert "hello" in said.err


@pytest.mark.parametrize("raising", ["1 / 0", "raise SystemExit(3)", "return 3"])
def test_a_plugin_that_fails_to_name_its_trackers_is_switched_off(
    raising: str, install: Install, tmp_path: Path
) -> None:
    bad = f"import alignzoo\n@alignzoo.hookimpl\ndef alignzoo_trackers():\n    {raising}\n"
    good = "import alignzoo\n@alignzoo.hookimpl\ndef alignzoo_trackers():\n    return {'paper': ''}\n"
    install("alignzoo-bad", {"bad_zoo.py": bad}, bad="bad_zoo")
    install("alignzoo-good", {"good_zoo.py": good}, good="good_zoo")
    zoo, warned = zoo_of(tmp_path)
    zoo.load_all()
    assert zoo.trackers() == {"paper": ""} == zoo.trackers()
    assert len(warned) == 1 and "raised in alignzoo_trackers" in warned[0]


def test_an_observer_that_exits_does_not_end_the_run(install: Install, tmp_path: Path) -> None:
    bad = "import alignzoo\n@alignzoo.hookimpl\ndef alignzoo_after_step():\n    raise SystemExit(3)\n"
    install("alignzoo-bad", {"bad_zoo.py": bad}, bad="bad_zoo")
    zoo, warned = zoo_of(tmp_path)
    zoo.load_all()
    for _ in range(2):
        zoo.observe("alignzoo_after_step", report=None)
    assert len(warned) == 1


# --- sixty plugins ------------------------------------------------------------------------------------------------

LIST = """
import collections, sys
opened = collections.Counter()
def note(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "import", "compile", "exec"):
        opened[event] += 1
sys.addaudithook(note)
from alignzoo.cli import app
app(["list"], standalone_mode=False)
assert not {"torch", "transformers", "packaging"} & sys.modules.keys()
assert not [name for name in sys.modules if name.startswith("stranger")]
sys.stderr.write(str(sum(opened.values())))
"""
"""Lists, and says how much was opened, read, compiled and imported meanwhile."""


def test_listing_sixty_plugins_imports_none_and_costs_no_more_for_each(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(plugins: int) -> tuple[int, str]:
        chosen = ",".join(f"s{number}" for number in range(plugins))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)])}
        environment["ALIGNZOO_PLUGINS"] = chosen
        done = subprocess.run(
            [sys.executable, "-c", LIST], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return int(done.stderr), done.stdout

    site = tmp_path
    for number in range(60):
        text = "import torch\n" + REWARD.format(name=f"nice{number}")
        site = install(
            f"alignzoo-stranger{number}", {f"stranger{number}.py": text}, **{f"s{number}": f"stranger{number}"}
        )
    (few, _), (half, _), (all_of_them, said) = listed(0), listed(30), listed(60)
    assert sum(f" nice{number} " in said for number in range(60)) == 60
    assert 0 < all_of_them - half < half - few + 30  # the second thirty cost not one more each than the first
