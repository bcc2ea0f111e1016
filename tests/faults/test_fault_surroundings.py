"""What a process shares stays as it was: a plugin or a reward that changes it is named, and the change is put back."""

from __future__ import annotations

import io
import os
import random
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import alignzoo
from alignzoo import functional
from alignzoo.calling import OutOfTime, failing, result_of
from alignzoo.errors import PluginError, RewardError
from alignzoo.registry import Registry
from alignzoo.types import Batch

CHANGES = {
    "the working directory": "import os\nos.chdir('/')",
    "the environment variable FAULTY": "import os\nos.environ.update(FAULTY='1')",
    "the environment variable HOME": "import os\ndel os.environ['HOME']",
    "the random state of Python": "import random\nrandom.seed(0)",
    "the random state of numpy": "import numpy\nnumpy.random.rand()",
    "the random state of torch": "import torch\ntorch.manual_seed(0)",
    "alignzoo.functional.seeds": "from alignzoo import functional\nfunctional.seeds = print",
    "alignzoo.functional.derive": "from alignzoo import functional as f\nf.derive.__code__ = (lambda *a: 0).__code__",
    "alignzoo.types.Batch.__post_init__": "from alignzoo import Batch\nBatch.__post_init__ = lambda self: None",
}
HOOK = "\nimport alignzoo\n@alignzoo.hookimpl\ndef alignzoo_trackers():\n    return {}\n"


def shared() -> list[object]:
    states = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()
    code = functional.derive.__code__
    return [os.getcwd(), dict(os.environ), *states, functional.seeds, code, Batch.__post_init__]


def loading(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNZOO_PLUGINS", "")  # none but this one
        zoo = Registry()
    zoo.add_file(path)
    zoo.load_all()


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("ending", ["", "\nraise BaseException"], ids=["ends well", "raises"])
def test_a_plugin_that_changes_it_is_named_and_kept_out(what: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / "changing.py"
    path.write_text(CHANGES[what] + HOOK + ending)
    before = shared()
    for _ in range(2):  # it is imported anew by another registry, and refused again
        with pytest.raises(PluginError, match=r"'changing\.py' failed to load") as caught:
            loading(path)
        assert ending or f"it changes what all share, {what}, " in str(caught.value)
        assert shared() == before


def test_in_an_installed_package_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "changing_zoo"
    package.mkdir()
    (package / "deep.py").write_text("import os\nos.environ['FAULTY'] = '1'\n")
    (package / "__init__.py").write_text("import changing_zoo.deep" + HOOK)
    about = tmp_path / "changing-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: changing\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[alignzoo]\nchanging = changing_zoo\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    zoo = Registry(warn=lambda told: None)
    zoo.load_all()
    [failure] = [each for each in zoo.failures if each.plugin == "changing"]
    assert "the environment variable FAULTY" in failure.last_line and "FAULTY" not in os.environ
    assert "changing_zoo.deep" not in sys.modules
    assert zoo.get("optimizer", "sft")  # the others are there


def test_what_a_library_does_to_the_environment_is_its_own_business(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_library_xyz.py").write_text("import os\nos.environ['OF_A_LIBRARY'] = '1'\n")
    (tmp_path / "using.py").write_text("import some_library_xyz" + HOOK)
    monkeypatch.setenv("OF_A_LIBRARY", "0")
    loading(tmp_path / "using.py")


def test_an_observer_that_leaves_the_folder_is_switched_off(tmp_path: Path) -> None:
    class Walker:
        @alignzoo.hookimpl
        def alignzoo_after_step(self, report: object) -> None:
            os.chdir("/")

    told: list[str] = []
    zoo = Registry(warn=told.append)
    zoo.add(Walker())
    before = os.getcwd()
    zoo.observe("alignzoo_after_step", report=None)
    assert os.getcwd() == before
    [message] = [each for each in told if "no longer watches the run" in each]
    assert "has changed the working directory to /" in message


CALCULUS = {
    "torch.set_grad_enabled(False), where it was True": lambda: torch.set_grad_enabled(False),
    "torch.set_default_dtype(torch.float64), where it was torch.float32": lambda: torch.set_default_dtype(
        torch.float64
    ),
    "torch.set_num_threads(3), where it was ": lambda: torch.set_num_threads(3),
}


def calculus() -> list[object]:
    return [torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()]


@pytest.fixture
def same_calculus() -> Iterator[None]:
    grad, dtype, threads = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_grad_enabled(grad), torch.set_default_dtype(dtype), torch.set_num_threads(threads)


@pytest.mark.parametrize("what", CALCULUS)
@pytest.mark.usefixtures("same_calculus")
def test_an_observer_that_changes_how_torch_computes_is_switched_off(what: str) -> None:
    class Changes:
        @alignzoo.hookimpl
        def alignzoo_after_step(self, report: object) -> None:
            CALCULUS[what]()

    told: list[str] = []
    zoo = Registry(warn=told.append)
    zoo.add(Changes())
    before = calculus()
    zoo.observe("alignzoo_after_step", report=None)
    assert calculus() == before
    [message] = [each for each in told if "no longer watches the run" in each]
    assert f"has changed how torch computes for the whole run: {what}" in message


# --- rewards ------------------------------------------------------------------------------------------------------


def scored(function: Any, texts: list[str], **settings: Any) -> list[float | None]:
    from alignzoo import Completion, Group, Prompt
    from alignzoo.rewards import WeightedReward, score
    from alignzoo_rules import Python

    group = Group(Prompt("q"), (), tuple(Completion((1,), text, finished=True) for text in texts))
    [found] = score([group], [WeightedReward("mine", Python(function, **settings))], None)  # type: ignore[arg-type]
    return [each.value for each in found.scores or ()]


def bad(completions: list[str]) -> list[float]:
    if "odd" in completions:
        raise KeyError("odd")
    return [1.0] * len(completions)


def leaving(completions: list[str]) -> list[float]:
    if "odd" in completions:
        sys.exit(7)
    return [1.0] * len(completions)


async def waiting(completions: list[str]) -> list[float]:
    return bad(completions)


class Panic(BaseException):
    pass


def panics(completions: list[str]) -> list[float]:
    raise Panic


@pytest.mark.parametrize(
    ("function", "error"), [(bad, "KeyError: 'odd'"), (waiting, "KeyError"), (leaving, "SystemExit: 7")]
)
@pytest.mark.parametrize("timeout", [0, 60])
def test_what_a_reward_raises_is_told_with_its_row(function: Any, error: str, timeout: float) -> None:
    texts = [*"abcdef", "odd", *"ghi"]
    with pytest.raises(
        RewardError, match=f"'python' called .* for the completion 'odd' of the prompt 'q', and it raised {error}"
    ):
        scored(function, texts, timeout=timeout)
    assert scored(function, ["a", "b"], timeout=timeout) == [1.0, 1.0]


def test_what_it_raises_for_several_together_names_the_first() -> None:
    def pair(completions: list[str]) -> list[float]:
        return [1.0 / (3 - len(completions))] * len(completions)

    with pytest.raises(RewardError, match="called pair for 3 completions together, first the completion 'a'"):
        scored(pair, ["a", "b", "c"])
    with pytest.raises(RewardError, match=r"called panics for .* raised Panic"):
        scored(panics, ["a"])


def test_a_reward_that_hangs_is_named_when_its_time_is_over() -> None:
    free = threading.Event()

    def hangs(completions: list[str]) -> list[float]:
        free.wait(60)
        return [0.0]

    with pytest.raises(RewardError, match=r"called hangs for the completion 'a' .* within 0\.02 s, which is reward"):
        scored(hangs, ["a"], timeout=0.02)
    free.set()


def test_a_reward_that_leaves_the_folder_is_named() -> None:
    def walks(completions: list[str]) -> list[float]:
        os.chdir("/")
        return [0.0]

    before = os.getcwd()
    with pytest.raises(PluginError, match="the reward 'mine' has changed the working directory to /"):
        scored(walks, ["a"])
    assert os.getcwd() == before


@pytest.mark.parametrize("what", CALCULUS)
@pytest.mark.usefixtures("same_calculus")
def test_a_reward_that_changes_how_torch_computes_is_named(what: str) -> None:
    def changes(completions: list[str]) -> list[float]:
        CALCULUS[what]()
        return [0.0]

    before = calculus()
    with pytest.raises(
        PluginError, match=re.escape(f"'mine' has changed how torch computes for the whole run: {what}")
    ):
        scored(changes, ["a"])
    assert calculus() == before


def test_a_reward_that_closes_a_stream_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def closes(completions: list[str]) -> list[float]:
        sys.stdout.close()
        return [0.0]

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(PluginError, match="the reward 'mine' has closed standard output, on which"):
        scored(closes, ["a"])


@pytest.mark.parametrize("answer", [{0: 1.0}, {1.0}, b"a"], ids=["a table", "a set", "bytes"])
def test_what_has_no_order_is_no_list_of_scores(answer: Any) -> None:
    with pytest.raises(RewardError, match=r"returned (dict|set|bytes), expected a list of 1 numbers"):
        scored(lambda completions: answer, ["a"])


@pytest.mark.parametrize("n", [1, 2, 7])
def test_halving_finds_each_row(n: int) -> None:
    def call(rows: Any) -> None:
        assert worst not in rows

    for worst in range(n):
        assert failing(call, n) == [worst]
    worst = n
    assert failing(call, n) == list(range(n))


def test_a_result_is_awaited_within_its_time() -> None:
    async def slowly(seconds: float) -> int:
        time.sleep(seconds)
        return 3

    assert result_of(lambda: slowly(0)) == result_of(lambda: slowly(0), 60) == result_of(lambda: 3, 60) == 3
    with pytest.raises(OutOfTime):
        result_of(lambda: slowly(0.2), 0.01)


def test_deep_in_namespace_packages_a_plugin_is_listed_without_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = 'from dataclasses import dataclass\n@dataclass(frozen=True)\nclass {}:\n    "It."\n'
    part += "    def score(self, groups, policy): return []\n"
    hook = "import alignzoo\n@alignzoo.hookimpl\ndef alignzoo_register(zoo):\n"
    hook += "    zoo.reward('near', Near)\n    zoo.reward('far', 'spread_xyz.inner.deep.other:Far')\n"
    folder = tmp_path / "spread_xyz" / "inner" / "deep"
    folder.mkdir(parents=True)
    (folder / "plug.py").write_text("from spread_xyz.inner.deep.other import Far\n" + part.format("Near") + hook)
    (folder / "other.py").write_text(part.format("Far"))
    about = tmp_path / "spread-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: spread\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[alignzoo]\nspread = spread_xyz.inner.deep.plug\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ALIGNZOO_PLUGINS", "spread")
    zoo = Registry()
    assert zoo.names("reward") == ["far", "near"] and "spread_xyz.inner" not in sys.modules
    assert [zoo.get("reward", name).__name__ for name in ("near", "far")] == ["Near", "Far"]


def test_a_loose_plugin_imports_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_xyz.py").write_text("NUMBER = 3\n")
    (tmp_path / "loose.py").write_text("from beside_xyz import NUMBER" + HOOK)
    loading(tmp_path / "loose.py")
