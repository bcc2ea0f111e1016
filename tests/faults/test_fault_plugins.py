"""A plugin may raise anything: it is named and kept out, and only a real Ctrl-C of the user's ends the program."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import alignzoo
from alignzoo.errors import PluginError, RewardError
from alignzoo.registry import Registry
from alignzoo.surroundings import exits_told

BAD = {
    "a BaseException": "class Panic(BaseException): pass\nraise Panic('rust')",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
    "sys.exit": "import sys\nsys.exit(7)",
    "os._exit": "import os\nos._exit(7)",
}


@pytest.mark.parametrize("name", BAD)
def test_whatever_a_plugin_raises_at_import_it_is_named_and_kept_out(name: str, tmp_path: Path, alignzoo: Any) -> None:
    path = tmp_path / "bad_plugin.py"
    path.write_text(f"import alignzoo\n{BAD[name]}\n")
    with pytest.raises(PluginError, match=r"bad_plugin\.py' failed to load"):
        Registry().add_file(path)
    said = alignzoo("list", "--plugin", path)
    assert said.code == 1 and "'bad_plugin.py' failed to load" in said.err and "Traceback" not in said.err


def test_a_real_interrupt_passes(tmp_path: Path) -> None:
    path = tmp_path / "slow_plugin.py"
    path.write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(1)\n")
    outer = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start the tests with it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            Registry().add_file(path)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, outer)


def test_an_observer_that_raises_anything_is_switched_off(tmp_path: Path) -> None:
    class Panic(BaseException):
        pass

    class Watcher:
        @alignzoo.hookimpl
        def alignzoo_after_step(self, report: object) -> None:
            raise Panic

    told: list[str] = []
    zoo = Registry(warn=told.append)
    zoo.add(Watcher())
    zoo.observe("alignzoo_after_step", report=None)
    assert len([each for each in told if "no longer watches the run" in each]) == 1


@pytest.mark.parametrize("call", ["sys.exit", "os._exit"])
@pytest.mark.parametrize("place", ["def vowels(completions):\n    ", ""], ids=["called", "imported"])
def test_a_reward_that_ends_the_program_is_an_error_that_names_it(
    place: str, call: str, recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "vowels.py").write_text(f"import os, sys\n{place}{call}(7)\n")
    with pytest.raises(RewardError, match=r"vowels.*SystemExit|SystemExit.*vowels|'python' raised SystemExit"):
        alignzoo.run(recipe, out=tmp_path / "out")


@pytest.mark.parametrize("call", ["sys.exit", "os._exit"])
def test_no_part_ends_a_command_in_silence(call: str, tmp_path: Path, alignzoo: Any, recipe: Path) -> None:
    plugin = tmp_path / "leaving.py"
    plugin.write_text(
        "import os, sys\nfrom dataclasses import dataclass\nimport alignzoo\n\n\n@dataclass(frozen=True)\n"
        'class Leaving:\n    "It leaves."\n    online = True\n\n    def sample(self, prompts, policy, *, seeds):\n'
        f"        {call}(3)\n\n\n"
        '@alignzoo.hookimpl\ndef alignzoo_register(zoo):\n    zoo.sampler("leaving", Leaving)\n'
    )
    out = tmp_path / "out"
    said = alignzoo("run", recipe, "sampler=leaving", "--plugin", plugin, "--trust", "--out", out, "--quiet")
    assert said.code == 1
    assert "leaving.py, line 12, ended the program with status 3" in said.err


def test_a_child_of_others_code_ends_as_it_means_to() -> None:
    with exits_told():
        with pytest.raises(SystemExit):
            os._exit(5)
        pid = os.fork()
        if not pid:
            os._exit(6)
        with exits_told():
            pass
        with pytest.raises(SystemExit):
            os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
    assert os._exit.__module__ == "posix"
