"""The registry: three ways in, listing without importing, and what it says when something is wrong."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import alignzoo
from alignzoo.errors import PluginError
from alignzoo.recipe import load
from alignzoo.registry import Registration, Registry

SIMPO = '''
"""A plugin of one file."""
from dataclasses import dataclass
from typing import ClassVar
import alignzoo

@dataclass(frozen=True)
class SimPO:
    """A margin without a reference.

    More.
    """
    beta: float = 2.0
    epochs: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    def prepare(self, batch): return batch
    def loss(self, batch, out): return None

@alignzoo.hookimpl
def alignzoo_register(zoo):
    """What it brings."""
    zoo.optimizer("simpo", SimPO)
'''

REWARD = """
from dataclasses import dataclass
import alignzoo

@dataclass(frozen=True)
class Nice:
    '''Scores everything alike.'''
    def score(self, groups, policy): return []
"""

HOOK = "\n@alignzoo.hookimpl\ndef alignzoo_register(zoo):\n"

Install = Callable[..., Path]


@pytest.fixture
def registry(tmp_path: Path) -> Callable[[], Registry]:
    """Makes a registry without recipes of its own."""
    return lambda: Registry(recipes=tmp_path, warn=lambda message: None)


def python(code: str, *paths: Path) -> str:
    """What a fresh interpreter prints."""
    path = os.pathsep.join([*map(str, paths), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- three ways in --------------------------------------------------------------------------------------------


def test_an_entry_point_a_file_and_an_object_end_alike(
    install: Install, registry: Callable[[], Registry], tmp_path: Path
) -> None:
    site = install("alignzoo-simpo", {"stranger.py": SIMPO}, stranger="stranger")
    installed = registry()
    entry = installed.list("optimizer")[0]
    assert (entry.kind, entry.name, entry.target) == ("optimizer", "simpo", "stranger:SimPO")
    assert (entry.plugin, entry.distribution, entry.version) == ("stranger", "alignzoo-simpo", "1.0")
    assert entry.summary == "A margin without a reference."

    def listed(each: Registration) -> tuple[str, ...]:
        return each.kind, each.name, each.target, each.summary

    loose = tmp_path / "stranger.py"
    loose.write_text(SIMPO)
    os.environ["ALIGNZOO_PLUGINS"] = ""
    by_file = registry()
    by_file.add_file(loose)
    file = by_file.list("optimizer")[0]
    assert listed(file) == listed(entry)
    assert (file.plugin, file.distribution) == ("stranger.py", "")

    by_object = registry()
    by_object.add(importlib.import_module("stranger"))
    added = by_object.list("optimizer")[0]
    assert listed(added) == listed(entry)

    module = sys.modules["stranger"]
    assert Path(str(module.__file__)).parent == site
    assert installed.get("optimizer", "simpo") is by_object.get("optimizer", "simpo") is module.SimPO
    assert by_file.get("optimizer", "simpo").__doc__ == module.SimPO.__doc__


def test_the_file_of_an_installed_plugin_is_that_plugin(install: Install, registry: Callable[[], Registry]) -> None:
    site = install("alignzoo-simpo", {"stranger.py": SIMPO}, stranger="stranger")
    zoo = registry()
    zoo.add_file(site / "stranger.py")
    zoo.add(importlib.import_module("stranger"))
    assert [each.plugin for each in zoo.list("optimizer")] == ["stranger"]
    assert zoo.get("optimizer", "simpo") is sys.modules["stranger"].SimPO


def test_a_notebook_may_add_its_plugin_again(install: Install, registry: Callable[[], Registry]) -> None:
    zoo = registry()
    seen: list[type] = []
    for _ in range(2):

        @dataclass(frozen=True)
        class Mine:
            """Scores its own way."""

            def score(self, groups: Any, policy: Any) -> list[Any]:
                return []

        class Plugin:
            reward = Mine

            @alignzoo.hookimpl
            def alignzoo_register(self, zoo: Any) -> None:
                zoo.reward("mine", self.reward)

            @alignzoo.hookimpl
            def alignzoo_run_end(self) -> None:
                seen.append(self.reward)

        zoo.add(Plugin())
        assert zoo.get("reward", "mine") is Mine
        zoo.observe("alignzoo_run_end", run=None, result=None)
        assert seen.pop() is Mine and not seen
    assert [(each.plugin, each.summary) for each in zoo.list("reward")] == [("Plugin", "Scores its own way.")]


def test_a_class_may_be_a_plugin(install: Install, registry: Callable[[], Registry]) -> None:
    class Plugin:
        @staticmethod
        @alignzoo.hookimpl
        def alignzoo_register(zoo: Any) -> None:
            zoo.reward("mine", "other:Nice")

    install("other", {"other.py": REWARD})
    zoo = registry()
    zoo.add(Plugin)
    assert zoo.list("reward")[0].plugin == "Plugin"
    assert zoo.get("reward", "mine").__name__ == "Nice"


def test_a_loose_file_hides_no_module_and_runs_once(
    install: Install, registry: Callable[[], Registry], tmp_path: Path
) -> None:
    import json

    (tmp_path / "json.py").write_text(SIMPO)
    zoo = registry()
    zoo.add_file(tmp_path / "json.py")
    zoo.add_file(tmp_path / "json.py")
    assert zoo.get("optimizer", "simpo").beta == 2.0
    assert sys.modules["json"] is json
    assert [each.target for each in zoo.list("optimizer")] == ["json:SimPO"]
    again = registry()
    again.add_file(tmp_path / "json.py")
    assert again.get("optimizer", "simpo") is zoo.get("optimizer", "simpo")


def test_a_string_target_may_name_a_loose_file_itself(
    install: Install, registry: Callable[[], Registry], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(REWARD + HOOK + "    zoo.reward('nice', 'mine:Nice')\n")
    zoo = registry()
    zoo.add_file(str(tmp_path / "mine.py"))
    assert zoo.list("reward")[0].summary == "Scores everything alike."
    assert zoo.get("reward", "nice").__name__ == "Nice"


def test_files_that_cannot_be_taken(install: Install, registry: Callable[[], Registry], tmp_path: Path) -> None:
    zoo = registry()
    with pytest.raises(PluginError, match=r"missing\.py: there is no such Python file"):
        zoo.add_file(tmp_path / "missing.py")
    (tmp_path / "broken.py").write_text("def (:\n")
    with pytest.raises(
        PluginError, match=r"(?s)plugin 'broken\.py' failed to load:.*SyntaxError.*Correct .*broken\.py"
    ):
        zoo.add_file(tmp_path / "broken.py")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twin.py").write_text(SIMPO)
    zoo.add_file(tmp_path / "a" / "twin.py")
    with pytest.raises(PluginError, match=r"twin\.py, is already called 'twin\.py'"):
        zoo.add_file(tmp_path / "b" / "twin.py")


# --- listing does not import ----------------------------------------------------------------------------------


def test_listing_imports_no_torch_even_for_a_plugin_that_does(install: Install) -> None:
    torch_on_top = "import torch\n" + SIMPO
    site = install("alignzoo-simpo", {"stranger.py": torch_on_top}, stranger="stranger")
    code = """
        import sys
        from alignzoo.registry import Registry
        zoo = Registry()
        print([(each.name, each.summary) for each in zoo.list("optimizer")])
        print(sorted({"torch", "pydantic", "stranger"} & set(sys.modules)))
        zoo.get("optimizer", "simpo")
        print(sorted({"torch", "stranger"} & set(sys.modules)))
    """
    listed, before, after = python(code, site).splitlines()
    assert listed == "[('simpo', 'A margin without a reference.')]"
    assert before == "[]"
    assert after == "['stranger', 'torch']"


def test_importing_the_package_is_light() -> None:
    code = """
        import sys
        import alignzoo, alignzoo.hookspecs, alignzoo.registry
        assert alignzoo.hookimpl and alignzoo.PluginError and alignzoo.__version__
        print(sorted({"torch", "pydantic"} & set(sys.modules)))
        import alignzoo.recipe
        print("torch" in sys.modules)
    """
    assert python(code).splitlines() == ["[]", "False"]


def test_the_package_has_the_names_that_it_lists() -> None:
    there = [name for name in alignzoo.__all__ if name != "run" or importlib.util.find_spec("alignzoo.runs.api")]
    assert all(getattr(alignzoo, name) for name in there)
    assert dir(alignzoo) == sorted(alignzoo.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        alignzoo.Trainer  # noqa: B018  # type: ignore[attr-defined]


SHAPES = {
    "a class of its own": ({"stranger.py": SIMPO}, "stranger", ["stranger:SimPO"]),
    "a string": (
        {
            "stranger.py": "import alignzoo\n" + HOOK + "    zoo.reward('nice', 'elsewhere:Nice')\n",
            "elsewhere.py": REWARD,
        },
        "stranger",
        ["elsewhere:Nice"],
    ),
    "an imported class": (
        {
            "kit/__init__.py": "import alignzoo\nfrom .core import Nice as Nicer\n"
            + HOOK
            + "    zoo.reward('x', Nicer)\n",
            "kit/core.py": REWARD,
        },
        "kit",
        ["kit:Nicer"],
    ),
    "an attribute, a summary and a type hint": (
        {
            "kit/__init__.py": "import alignzoo\nimport kit.core as core\n"
            + HOOK.replace("(zoo)", "(zoo: object) -> None")
            + "    zoo.reward('x', core.Nice, summary='Short.')\n",
            "kit/core.py": REWARD,
        },
        "kit",
        ["kit:core.Nice"],
    ),
    "a ready object": (
        {"stranger.py": REWARD + "nice = Nice()\n" + HOOK + "    zoo.reward('x', nice, summary='Short.')\n"},
        "stranger",
        ["stranger:nice"],
    ),
    "a recipe": (
        {
            "kit/__init__.py": "import alignzoo\n" + HOOK + "    zoo.recipe('x', 'recipes/x.toml')\n",
            "kit/recipes/x.toml": "description = 'All of it.'\n",
        },
        "kit",
        ["x.toml"],
    ),
    "two things, and an observer": (
        {
            "stranger.py": REWARD
            + HOOK
            + "    zoo.reward('b', Nice)\n    zoo.reward('a', Nice)\n"
            + "@alignzoo.hookimpl(tryfirst=True)\ndef alignzoo_after_step(report): pass\n"
        },
        "stranger",
        ["stranger:Nice", "stranger:Nice"],
    ),
    "an observer alone": (
        {"stranger.py": "import alignzoo\n@alignzoo.hookimpl\ndef alignzoo_run_end(result): pass\n"},
        "stranger",
        [],
    ),
    "a plugin below a package": (
        {"heavy/__init__.py": "loaded = True\n", "heavy/light.py": SIMPO},
        "heavy.light",
        ["heavy.light:SimPO"],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_source_says_is_what_it_registers(
    shape: str, install: Install, registry: Callable[[], Registry]
) -> None:
    files, module, targets = SHAPES[shape]
    install("alignzoo-stranger", files, stranger=module)
    zoo = registry()
    listed = zoo.list()
    assert module.partition(".")[0] not in sys.modules
    assert [each.target.rpartition("/")[2] for each in listed] == targets
    zoo.load_all()
    assert not zoo.failures
    assert module in sys.modules
    assert [(each, each.summary) for each in zoo.list()] == [(each, each.summary) for each in listed]
    assert all(each.summary for each in listed)
    for each in listed:
        assert zoo.get(each.kind, each.name)


BODIES = {
    "a loop": "    for name in ['a', 'b']:\n        zoo.reward(name, Nice)\n",
    "a condition": "    if Nice:\n        zoo.reward('a', Nice)\n        zoo.reward('b', Nice)\n",
    "a computed name": "    zoo.reward('a' + '', Nice)\n    zoo.reward('b', Nice)\n",
    "a computed target": "    zoo.reward('a', globals()['Nice'])\n    zoo.reward('b', Nice)\n",
    "keywords": "    zoo.reward(name='a', target=Nice)\n    zoo.reward('b', Nice)\n",
}


@pytest.mark.parametrize("body", BODIES)
def test_any_other_body_is_run(body: str, install: Install, registry: Callable[[], Registry]) -> None:
    install("alignzoo-stranger", {"stranger.py": REWARD + HOOK + BODIES[body]}, stranger="stranger")
    zoo = registry()
    assert "stranger" in sys.modules
    assert not zoo.failures
    assert [(each.name, each.target, each.summary) for each in zoo.list("reward")] == [
        ("a", "stranger:Nice", "Scores everything alike."),
        ("b", "stranger:Nice", "Scores everything alike."),
    ]


def test_the_signature_that_a_dataclass_is_given_is_no_summary(
    install: Install, registry: Callable[[], Registry]
) -> None:
    source = REWARD.replace("'''Scores everything alike.'''", "") + HOOK + "    zoo.reward('nice', Nice)\n"
    install("alignzoo-nice", {"nicer.py": source}, nicer="nicer")
    zoo = registry()
    zoo.load_all()
    assert [each.summary for each in zoo.list()] == [""]


def test_a_source_that_misleads_is_an_error(install: Install, registry: Callable[[], Registry]) -> None:
    other = "\nglobals()['alignzoo_register'] = alignzoo.hookimpl(lambda zoo: zoo.reward('nicer', Nice))\n"
    install(
        "alignzoo-stranger", {"stranger.py": REWARD + HOOK + "    zoo.reward('nice', Nice)\n" + other}, x="stranger"
    )
    zoo = registry()
    assert [each.name for each in zoo.list("reward")] == ["nice"]
    with pytest.raises(
        PluginError, match=r"plugin 'x' \(alignzoo-stranger 1\.0\)(?s:.*)the source .* says stranger:Nice"
    ):
        zoo.get("reward", "nice")


# --- what goes wrong ------------------------------------------------------------------------------------------

END = SIMPO.count("\n") + 1
"""The number of the line after the plugin's last."""

FAILURES = {
    "a missing module": (
        "import gone_xyz.deep\n" + SIMPO,
        ["ModuleNotFoundError", "It imports 'gone_xyz', which is not installed", "pip uninstall alignzoo-broken"],
    ),
    "a missing name": ("from alignzoo import Trainer\n" + SIMPO, ["ImportError", "pip uninstall alignzoo-broken"]),
    "an error on import": (SIMPO + "\n1 / 0\n", ["ZeroDivisionError", f"line {END + 1}", "Report it to the author"]),
    "an exit on import": (SIMPO + "\nraise SystemExit(3)\n", ["SystemExit: 3"]),
    "a syntax error": (SIMPO + "\nclass:\n", ["SyntaxError", f"line {END + 1}"]),
    "an error in the hook": (SIMPO + "    zoo.optimizer('y', 1 / 0)\n", ["ZeroDivisionError", f"line {END}"]),
    "a wrong argument": (SIMPO.replace("(zoo)", "(zoo, config)"), ["PluginValidationError", "config"]),
    "an unknown hook": (
        SIMPO + "\n@alignzoo.hookimpl\ndef alignzoo_afterstep(report): pass\n",
        ["no hook 'alignzoo_afterstep'", "'alignzoo_after_step'"],
    ),
    "no hook": (SIMPO.replace("@alignzoo.hookimpl", ""), ["no function marked with @alignzoo.hookimpl"]),
    "an unknown kind": (
        SIMPO + "    zoo.optimiser('y', SimPO)\n",
        ["zoo.optimiser: there is no such kind", "'optimizer'"],
    ),
    "a name that is none": (SIMPO + "    zoo.optimizer(3, SimPO)\n", ["optimizer 3: a name is a string"]),
    "a name with a slash": (SIMPO + "    zoo.optimizer('a/b', SimPO)\n", ["optimizer 'a/b': a name is"]),
    "a name twice": (SIMPO + "    zoo.optimizer('simpo', SimPO)\n", ["registered twice"]),
    "a target that is none": (SIMPO + "    zoo.optimizer('y', 3)\n", ["optimizer 'y': int has no needs, epochs"]),
    "a name that is not bound": (SIMPO + "    zoo.optimizer('y', Simpo)\n", ["NameError", "Simpo"]),
    "a string without a class": (SIMPO + "    zoo.optimizer('y', 'simpo')\n", ["'simpo'", "'module:Class'"]),
    "no loss": (SIMPO.replace("def loss", "def cost"), ["optimizer 'simpo': SimPO has no loss"]),
    "no dataclass": (SIMPO.replace("@dataclass(frozen=True)", ""), ["SimPO is not a dataclass"]),
    "an unknown column": (SIMPO.replace('{"logprobs"}', '{"logprob"}'), ["needs 'logprob'", "'logprobs'"]),
    "needs that are a field": (
        SIMPO.replace('frozenset({"logprobs"})', "__import__('dataclasses').field(default_factory=set)").replace(
            "ClassVar[frozenset[str]]", "set"
        ),
        ["needs is None, expected frozenset"],
    ),
    "needs that are no set": (SIMPO.replace('frozenset({"logprobs"})', '"logprobs"'), ["needs is 'logprobs'"]),
    "needs by settings that have no default": (
        SIMPO.replace(
            'needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})',
            'needs = property(lambda self: frozenset({"logprobs"}))',
        ).replace("beta: float = 2.0", "beta: float"),
        ["needs is a property, so every field must have a default", "'beta'"],
    ),
    "an unknown column by settings": (
        SIMPO.replace(
            'needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})',
            'needs = property(lambda self: frozenset({"logprob"}))',
        ),
        ["needs 'logprob'", "'logprobs'"],
    ),
    "a field called name": (SIMPO.replace("beta: float = 2.0", "name: str = ''"), ["a field called 'name'"]),
    "a recipe that is not there": (SIMPO + "    zoo.recipe('y', 'y.toml')\n", ["there is no file", "y.toml"]),
    "a recipe that is no path": (SIMPO + "    zoo.recipe('y', 3)\n", ["a recipe is the path"]),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_plugin_that_fails_is_reported_and_hides_no_other(
    case: str, install: Install, registry: Callable[[], Registry]
) -> None:
    source, fragments = FAILURES[case]
    install("alignzoo-broken", {"broken.py": source}, version="2.1", broken="broken")
    install("alignzoo-nice", {"nicer.py": REWARD + HOOK + "    zoo.reward('nice', Nice)\n"}, nicer="nicer")
    zoo = registry()
    zoo.load_all()
    [failure] = zoo.failures
    assert (failure.plugin, failure.distribution, failure.version) == ("broken", "alignzoo-broken", "2.1")
    text = str(failure)
    assert "registry.py" not in failure.traceback and "importlib" not in failure.traceback
    for fragment in fragments:
        assert fragment in text
    with pytest.raises(PluginError) as caught:
        zoo.get("optimizer", "simpo")
    assert "plugin 'broken' (alignzoo-broken 2.1)" in str(caught.value)
    assert failure.last_line in str(caught.value)
    assert zoo.get("reward", "nice").__name__ == "Nice"


@pytest.mark.parametrize(
    "case", ["a syntax error", "an unknown kind", "a name with a slash", "a name that is not bound", "a name twice"]
)
def test_listing_shows_what_the_source_gives_away(
    case: str, install: Install, registry: Callable[[], Registry]
) -> None:
    install("alignzoo-broken", {"broken.py": FAILURES[case][0]}, broken="broken")
    zoo = registry()
    assert zoo.list() == []
    assert [failure.plugin for failure in zoo.failures] == ["broken"]


def test_an_entry_point_without_its_module(install: Install, registry: Callable[[], Registry]) -> None:
    install("alignzoo-gone", {}, gone="gone_xyz", deep="gone_xyz.deep")
    install("alignzoo-flat", {"flat.py": SIMPO}, flat="flat.deep")
    cures = {failure.plugin: failure.cure for failure in registry().failures}
    assert cures["gone"] == "Its module is not there: pip install --force-reinstall alignzoo-gone"
    assert cures["deep"] == cures["gone"]
    assert cures["flat"].endswith("pip install --force-reinstall alignzoo-flat")


@pytest.mark.parametrize(
    ("target", "fragments"),
    [
        ("elsewhere:Nise", ["reward 'y' is elsewhere:Nise: there is no 'Nise'", "'Nice'"]),
        ("elsewhere:Nice.deep", ["there is no 'Nice.deep'"]),
        ("elsewhere:alignzoo", ["reward 'y': alignzoo has no score"]),
        ("nowhere_xyz:Nice", ["nowhere_xyz:Nice cannot be imported", "does not say which package has it"]),
        ("elsewhere_broken:Nice", ["ZeroDivisionError", "pip uninstall alignzoo-stranger"]),
    ],
)
def test_a_string_target_that_is_not_there(
    target: str, fragments: list[str], install: Install, registry: Callable[[], Registry]
) -> None:
    source = f"import alignzoo\n{HOOK}    zoo.reward('y', '{target}')\n    zoo.reward('x', 'elsewhere:Nice')\n"
    files = {"stranger.py": source, "elsewhere.py": REWARD, "elsewhere_broken.py": "1 / 0\n"}
    install("alignzoo-stranger", files, stranger="stranger")
    zoo = registry()
    with pytest.raises(PluginError) as caught:
        zoo.get("reward", "y")
    for fragment in ["plugin 'stranger' (alignzoo-stranger 1.0)", *fragments]:
        assert fragment in str(caught.value)
    assert zoo.get("reward", "x").__name__ == "Nice"
    assert not zoo.failures


def test_what_the_user_added_is_raised_and_what_is_installed_is_collected(
    install: Install, registry: Callable[[], Registry], tmp_path: Path
) -> None:
    install("alignzoo-broken", {"broken.py": SIMPO + "\n1 / 0\n"}, broken="broken")
    zoo = registry()
    zoo.load_all()
    assert len(zoo.failures) == 1
    (tmp_path / "mine.py").write_text(SIMPO + "\n1 / 0\n")
    zoo.add_file(tmp_path / "mine.py")
    assert len(zoo.list("optimizer")) == 2  # listing needs no import
    with pytest.raises(PluginError, match=r"(?s)'mine\.py' failed to load.*ZeroDivisionError.*Correct .*mine\.py"):
        zoo.load_all()
    with pytest.raises(PluginError, match="no function marked"):
        zoo.add(object())
    with pytest.raises(PluginError, match="unhashable"):
        zoo.add(["not", "a", "plugin"])


# --- names ----------------------------------------------------------------------------------------------------


def test_a_name_with_two_owners(install: Install, registry: Callable[[], Registry]) -> None:
    install("alignzoo-simpo", {"one.py": SIMPO}, one="one")
    install("other-simpo", {"two.py": SIMPO}, two="two")
    zoo = registry()
    assert [(each.plugin, each.conflicts) for each in zoo.list("optimizer")] == [
        ("one", ("plugin 'two' (other-simpo 1.0)",)),
        ("two", ("plugin 'one' (alignzoo-simpo 1.0)",)),
    ]
    with pytest.raises(
        PluginError, match=r"'simpo' is registered by .*alignzoo-simpo 1\.0.* and .*other-simpo 1\.0"
    ) as e:
        zoo.get("optimizer", "simpo")
    assert "'one/simpo' or 'two/simpo'" in str(e.value)
    assert zoo.get("optimizer", "one/simpo").__module__ == "one"
    assert zoo.get("optimizer", "other-simpo/simpo").__module__ == "two"
    assert zoo.has("optimizer", "two/simpo") and not zoo.has("optimizer", "three/simpo")


def test_a_broken_rival_takes_no_name_away(install: Install, registry: Callable[[], Registry]) -> None:
    install("alignzoo-simpo", {"one.py": SIMPO}, one="one")
    install("other-simpo", {"two.py": "import gone_xyz\n" + SIMPO}, two="two")
    zoo = registry()
    assert zoo.get("optimizer", "simpo").__module__ == "one"
    assert [each.conflicts for each in zoo.list("optimizer") if each.plugin == "one"] == [()]
    with pytest.raises(PluginError, match="gone_xyz"):
        zoo.get("optimizer", "two/simpo")


def test_two_distributions_with_one_entry_point_name(install: Install, registry: Callable[[], Registry]) -> None:
    install("alignzoo-simpo", {"one.py": SIMPO}, simpo="one")
    install("other-simpo", {"two.py": SIMPO.replace('"simpo"', '"simpo2"')}, simpo="two")
    zoo = registry()
    assert {each.plugin for each in zoo.list()} == {"alignzoo-simpo:simpo", "other-simpo:simpo"}
    assert zoo.get("optimizer", "simpo2").__module__ == "two"


def test_an_unknown_name(install: Install, registry: Callable[[], Registry]) -> None:
    source = SIMPO + "    zoo.reward('nice', Nice)\n"
    install("alignzoo-simpo", {"stranger.py": REWARD + source}, stranger="stranger")
    install("alignzoo-broken", {"broken.py": "class:\n"}, broken="broken")
    zoo = registry()
    with pytest.raises(PluginError, match=r"there is no optimizer 'sympo'\. Did you mean 'simpo'\?") as caught:
        zoo.get("optimizer", "sympo")
    suspect = "It may come from plugin 'broken' (alignzoo-broken 1.0), which failed to load: SyntaxError"
    assert suspect in str(caught.value)
    with pytest.raises(PluginError, match=r"(?s)no optimizer 'nice'.*'nice' is a reward\."):
        zoo.get("optimizer", "nice")
    with pytest.raises(PluginError, match=r"no kind 'optimiser'\. Did you mean 'optimizer'\?"):
        zoo.get("optimiser", "simpo")
    with pytest.raises(PluginError, match="no kind 'rewards'"):
        zoo.list("rewards")


def test_the_environment_restricts_the_plugins(
    install: Install, registry: Callable[[], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("alignzoo-simpo", {"one.py": SIMPO, "two.py": SIMPO}, one="one", two="two")
    monkeypatch.setenv("ALIGNZOO_PLUGINS", " two ,")
    assert [each.plugin for each in registry().list()] == ["two"]
    monkeypatch.setenv("ALIGNZOO_PLUGINS", "")
    assert registry().list() == []
    monkeypatch.setenv("ALIGNZOO_PLUGINS", "one,too")
    with pytest.raises(PluginError, match=r"ALIGNZOO_PLUGINS names 'too'.* Did you mean 'two'"):
        registry()
    monkeypatch.delenv("ALIGNZOO_PLUGINS")
    assert {"one", "two"} <= {each.plugin for each in registry().list()}


def test_the_packages_own_recipes_are_registered(install: Install, tmp_path: Path) -> None:
    (tmp_path / "rlhf.toml").write_text("description = 'The whole pipeline.'\n")
    (tmp_path / "bad.toml").write_text("description = \n")
    (tmp_path / "_online.toml").write_text("description = 'Generic.'\n")
    zoo = Registry(recipes=tmp_path)
    assert [(each.name, each.plugin, each.summary) for each in zoo.list("recipe")] == [
        ("bad", "alignzoo", ""),
        ("rlhf", "alignzoo", "The whole pipeline."),
    ]
    assert zoo.get("recipe", "rlhf") == tmp_path / "rlhf.toml"
    assert zoo.names("recipe") == ["bad", "rlhf"]


# --- watching a run, and saying what ran ----------------------------------------------------------------------

OBSERVER = """
import alignzoo
seen = []

@alignzoo.hookimpl
def alignzoo_after_step(report):
    seen.append(report)

@alignzoo.hookimpl
def alignzoo_run_end():
    seen.append("end")
"""


def test_observers_watch_and_one_that_raises_is_switched_off(install: Install, tmp_path: Path) -> None:
    install("alignzoo-good", {"good.py": OBSERVER}, good="good")
    bad = OBSERVER.replace("seen.append(report)", "seen.append(report); 1 / 0")
    install("alignzoo-bad", {"bad.py": bad}, bad="bad")
    warned: list[str] = []
    zoo = Registry(recipes=tmp_path, warn=warned.append)
    zoo.observe("alignzoo_after_step", report=0)  # nothing is loaded, nobody watches
    zoo.load_all()
    for step in (1, 2):
        zoo.observe("alignzoo_after_step", report=step)
    zoo.observe("alignzoo_run_end", run=None, result=None)
    assert sys.modules["good"].seen == [1, 2, "end"]
    assert sys.modules["bad"].seen == [1]
    assert len(warned) == 1
    assert "plugin 'bad' (alignzoo-bad 1.0) raised in alignzoo_after_step" in warned[0]
    assert "ZeroDivisionError" in warned[0]
    assert [impl.plugin_name for impl in zoo.hook.alignzoo_after_step.get_hookimpls()] == ["good"]


def test_by_default_an_observer_that_raises_is_a_warning(install: Install, tmp_path: Path) -> None:
    install("alignzoo-bad", {"bad.py": OBSERVER.replace("seen.append(report)", "1 / 0")}, bad="bad")
    zoo = Registry(recipes=tmp_path)
    zoo.load_all()
    with pytest.warns(RuntimeWarning, match="no longer watches"):
        zoo.observe("alignzoo_after_step", report=1)


def test_a_failed_plugin_does_not_watch(install: Install, tmp_path: Path) -> None:
    install("alignzoo-bad", {"bad.py": OBSERVER + HOOK + "    zoo.reward('x', 1 / 0)\n"}, bad="bad")
    zoo = Registry(recipes=tmp_path, warn=lambda message: None)
    zoo.load_all()
    zoo.observe("alignzoo_after_step", report=1)
    assert len(zoo.failures) == 1
    assert sys.modules["bad"].seen == []


def test_one_module_under_two_names_watches_once(install: Install, tmp_path: Path) -> None:
    install("alignzoo-good", {"good.py": OBSERVER}, good="good", twin="good")
    zoo = Registry(recipes=tmp_path, warn=lambda message: None)
    zoo.load_all()
    assert "already: it has two names" in zoo.failures[0].last_line
    assert [failure.plugin for failure in zoo.failures] == ["twin"]
    zoo.observe("alignzoo_after_step", report=1)
    assert sys.modules["good"].seen == [1]


def test_the_manifest_tells_each_plugins_distribution_version_and_hash(
    install: Install, registry: Callable[[], Registry]
) -> None:
    import hashlib

    files = {"kit/__init__.py": "import alignzoo\nfrom .core import Nice\n" + HOOK + "    zoo.reward('x', Nice)\n"}
    site = install("alignzoo-kit", files | {"kit/core.py": REWARD}, kit="kit")
    install("alignzoo-simpo", {"stranger.py": SIMPO}, version="0.3", stranger="stranger")
    told = registry().distributions()
    assert told["stranger"] == {
        "distribution": "alignzoo-simpo",
        "version": "0.3",
        "sha256": hashlib.sha256(SIMPO.encode()).hexdigest(),
    }
    (site / "kit" / "core.py").write_text(REWARD + "\n")
    changed = registry().distributions()
    assert changed["kit"]["sha256"] != told["kit"]["sha256"]
    assert changed["stranger"] == told["stranger"]


def test_a_module_of_folders_that_are_no_packages_is_found_without_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignzoo.registry.source import find_spec

    folder = tmp_path / "spread_out" / "further" / "down"
    folder.mkdir(parents=True)
    (folder / "plugin.py").write_text("raise SystemExit('it was run')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_spec("spread_out.further.down.plugin").origin == str(folder / "plugin.py")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'spread_out\.further\.up'"):
        find_spec("spread_out.further.up.plugin")


def test_a_loose_plugin_may_import_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "loose_neighbour.py").write_text("FREE = 3\n")
    (tmp_path / "loose.py").write_text(
        "from dataclasses import dataclass\n"
        "import alignzoo\n"
        "from loose_neighbour import FREE\n"
        "@dataclass(frozen=True)\n"
        "class Mine:\n"
        "    free: int = FREE\n"
        "    def score(self, groups, policy):\n"
        "        return []\n"
        "@alignzoo.hookimpl\n"
        "def alignzoo_register(zoo):\n"
        "    zoo.reward('mine', Mine)\n"
    )
    registry = Registry()
    registry.add_file(tmp_path / "loose.py")
    assert registry.get("reward", "mine")().free == 3


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("DPO", "dpo"),
        ("Dr.GRPO", "dr-grpo"),
        ("dr_grpo", "dr-grpo"),
        ("self-play/Nash_MD", "nash-md"),
        ("gr-po", "grpo"),
    ],
)
def test_case_and_hyphens_of_a_name_do_not_count(written: str, meant: str) -> None:
    registry = Registry()
    assert registry.canonical("optimizer", "REINFORCE++") == "reinforce-pp"
    assert load("Rest_EM", registry=registry).name == "rest-em"
    assert registry.has("optimizer", written)
    assert registry.canonical("optimizer", written).rpartition("/")[2] == meant


def test_a_name_as_it_is_registered_goes_before_one_that_differs_in_case(tmp_path: Path) -> None:
    (tmp_path / "shouting.py").write_text(REWARD + HOOK + "    zoo.reward('MODEL', Nice)\n")
    registry = Registry()
    registry.add_file(tmp_path / "shouting.py")
    found = {name: registry.registration("reward", name) for name in ("MODEL", "model")}
    assert [each.name for each in found.values()] == ["MODEL", "model"]
    assert not any(each.conflicts for each in registry.list("reward"))
    with pytest.raises(PluginError, match="'Model' is registered by"):
        registry.get("reward", "Model")  # either might be meant
