"""`alignzoo list`: quick, complete, and loud about what is broken."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from alignzoo.cli import listing
from alignzoo.registry import Registry

PLUGIN = """
import alignzoo
from alignzoo_policy_gradient.ppo import PPO

@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer({name!r}, PPO)
"""


def test_every_first_party_algorithm_is_listed_and_nothing_is_cut(alignzoo) -> None:
    said = alignzoo("list")
    assert said.code == 0
    for name in ("sft", "reward-model", "ppo", "dpo", "grpo", "hf", "labels", "rlhf"):
        assert f"  {name} " in said.out
    assert "…" not in said.out


def test_who_reads_the_first_line_alone_hears_of_no_error() -> None:
    command = f"{shlex.quote(str(Path(sys.executable).with_name('alignzoo')))} list | head -n 1"
    said = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=100)
    assert (said.stdout, said.stderr) == ("optimizers\n", "")


def test_one_kind(alignzoo) -> None:
    said = alignzoo("list", "--kind", "sampler")
    assert "samplers" in said.out and "optimizers" not in said.out


def test_the_lines_of_optimizers_and_all_names_are_whole_on_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(listing, "console", lambda: Console(file=out, width=80, highlight=False))
    listed = Registry().list()
    listing._print(listed)
    said = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, said)) <= 80
    for each in listed:
        line = f"{each.name} " if each.kind != "optimizer" else each.summary
        assert any(line in other for other in said), each.name


def test_an_unknown_kind_is_told_with_the_known_ones(alignzoo) -> None:
    said = alignzoo("list", "--kind", "optimiser")
    assert said.code == 1
    assert said.err.startswith("error: there is no kind 'optimiser'. Did you mean 'optimizer'?")


def test_json_has_everything(alignzoo) -> None:
    listed = json.loads(alignzoo("list", "--json").out)
    ppo = next(each for each in listed["plugins"] if (each["kind"], each["name"]) == ("optimizer", "ppo"))
    assert ppo["target"] == "alignzoo_policy_gradient.ppo:PPO"


def test_a_loose_file_is_a_plugin(alignzoo, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN.format(name="mine"))
    assert "mine" in alignzoo("list", "--plugin", file).out


def test_a_conflict_is_shown_with_its_cure(alignzoo, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN.format(name="ppo"))
    said = alignzoo("list", "--plugin", file)
    assert "conflict: optimizer 'ppo'" in said.out
    assert "Write 'mine.py/ppo', or uninstall one of them." in said.out


def test_a_plugin_that_cannot_be_read_is_shown_with_its_cure(alignzoo, tmp_path: Path, monkeypatch) -> None:
    info = tmp_path / "broken_zoo-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-zoo\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[alignzoo]\nbroken = broken_zoo\n")
    (tmp_path / "broken_zoo.py").write_text("import alignzoo\ndef (\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    said = alignzoo("list")
    assert "  ppo " in said.out
    assert "failed: plugin 'broken' (broken-zoo 1.2): SyntaxError" in said.out
    assert "pip uninstall broken-zoo" in said.out


def test_it_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv[1:] = ['list']\n"
        "from alignzoo.cli import app\n"
        "app(standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'matplotlib', 'pygments'} & sys.modules.keys(), 'heavy import'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_policy_is_checked_with_a_model(alignzoo) -> None:
    said = alignzoo("check", "hf")
    assert (said.code, said.out) == (1, "")
    assert "a policy is checked with a model: alignzoo check hf model=DIRECTORY" in said.err
