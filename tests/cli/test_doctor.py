"""`alignzoo doctor`: versions, devices, and every plugin with its cause and its cure."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

import alignzoo as package
from alignzoo.cli import doctoring

GOOD = """
import alignzoo
from alignzoo_policy_gradient.ppo import PPO

@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer({name!r}, PPO)
"""


@pytest.fixture
def needs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the installed alignzoo says that it needs."""

    def needing(*lines: str) -> None:
        monkeypatch.setattr(doctoring, "requires", lambda name: list(lines))

    needing("pluggy>=1.6")
    return needing


def test_where_all_is_well_it_says_so(alignzoo, needs) -> None:
    said = alignzoo("doctor")
    assert said.code == 0, said.out
    assert "Everything is well." in said.out
    assert f"plugin API {package.API_VERSION}" in said.out
    assert "optimizer ppo" in said.out and "alignzoo_after_step" in said.out


def test_every_broken_plugin_has_its_cause_and_its_cure(
    alignzoo, needs, install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("alignzoo-gone", {"gone_zoo.py": "import gone_xyz\n" + GOOD.format(name="gone")}, gone="gone_zoo")
    install("alignzoo-next", {"next_zoo.py": "api = '>=2'\n" + GOOD.format(name="next")}, "0.3", next="next_zoo")
    install("alignzoo-bare", {"bare_zoo.py": "x = 1\n"}, bare="bare_zoo")
    install("alignzoo-rival", {"rival_zoo.py": GOOD.format(name="ppo")}, rival="rival_zoo")
    monkeypatch.delenv("ALIGNZOO_PLUGINS")
    said = alignzoo("doctor", "--json")
    assert said.code == 1
    found = json.loads(said.out)
    plugins = {each["plugin"]: each for each in found["plugins"]}
    assert plugins["gone"]["cure"] == (
        "It imports 'gone_xyz', which is not installed. alignzoo-gone does not say which package has it: ask its "
        "author, or: pip uninstall alignzoo-gone"
    )
    assert (plugins["next"]["version"], plugins["next"]["api"]) == ("0.3", ">=2")
    this = package.API_VERSION
    assert plugins["next"]["cause"] == f"it is written for alignzoo's plugin API '>=2', and this is {this}"
    assert "no function marked" in plugins["bare"]["cause"]
    assert plugins["rival"]["brings"] == ["optimizer ppo"] and not plugins["rival"]["cause"]
    assert plugins["policy-gradient"]["distribution"] == "alignzoo"
    (shadowed,) = found["names"]
    assert (shadowed["name"], shadowed["cure"]) == ("ppo", "Write 'rival/ppo', or uninstall one of them")
    assert len(found["problems"]) == 4
    told = alignzoo("doctor").out
    assert "4 to be cured" in told and "failed" in told


def test_versions_are_held_against_the_supported_ranges(alignzoo, needs) -> None:
    needs("pluggy>=99", "gone-xyz>=1", "packaging>=1", "pytest<1; extra == 'dev'", "gone-too; extra == 'dev'")
    said = alignzoo("doctor", "--json")
    assert said.code == 1
    found = {each["name"]: each for each in json.loads(said.out)["packages"]}
    here = importlib.metadata.version("pluggy")
    assert found["pluggy"] == {"name": "pluggy", "version": here, "range": ">=99", "extra": "", "status": "outside"}
    assert found["gone-xyz"]["status"] == "missing"
    assert found["packaging"]["status"] == "ok"
    assert (found["pytest"]["extra"], found["pytest"]["status"]) == ("dev", "outside")
    assert "gone-too" not in found
    assert "pip install 'pluggy>=99'" in alignzoo("doctor").out


def test_a_loose_file_is_examined_too(alignzoo, needs, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GOOD.format(name="mine"))
    found = json.loads(alignzoo("doctor", "--json", "--plugin", file).out)
    assert "mine.py" in {each["plugin"] for each in found["plugins"]}
    assert found["devices"][0]["name"] == "cpu"
