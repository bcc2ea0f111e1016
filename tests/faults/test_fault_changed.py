"""A run is not half of one thing and half of another: data and plugins are compared, versions and threads are told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import alignzoo
from alignzoo.errors import RunError
from alignzoo.runs import inputs

PLUGIN = """
import alignzoo
from dataclasses import dataclass
from alignzoo import Score

@dataclass(frozen=True)
class Long:
    "Longer is better."
    def score(self, groups, policy):
        return [tuple(Score(SIGN * len(c.text)) for c in g.completions) for g in groups]

@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.reward("long", Long)
"""


class Stop(Exception):
    pass


def stopped_and_resumed(recipe: Path, out: Path, between: object, **more: object) -> list[str]:
    """A run that is cut off after its first step, then resumed; what it warns of."""

    def progress(stage: str, step: int, steps: int, metrics: object) -> None:
        if stage == "rl" and step == 2:
            raise Stop

    with pytest.raises(Stop):
        alignzoo.run(recipe, out=out, progress=progress, **more)  # type: ignore[arg-type]
    between()  # type: ignore[operator]
    told: list[str] = []
    warn = lambda stage, step, alert: told.append(alert.message)  # noqa: E731
    alignzoo.run(recipe, out=out, resume=True, warn=warn, **more)  # type: ignore[arg-type]
    return told


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_run_that_is_the_same_says_nothing(recipe: Path, tmp_path: Path) -> None:
    assert not stopped_and_resumed(recipe, tmp_path / "out", lambda: None)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "resumed" not in manifest
    assert {Path(name).name for name in manifest["files"]} == {"data.jsonl", "vowels.py"}


@pytest.mark.parametrize(("file", "old", "new"), [("data.jsonl", "0", "9"), ("vowels.py", "aeiou", "aeio")])
def test_other_data_or_another_reward_are_refused(file: str, old: str, new: str, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"cannot be resumed with these:\n  .*{file} has changed: it was \d+ bytes"):
        stopped_and_resumed(recipe, tmp_path / "out", lambda: edited(tmp_path / file, old, new))
    assert (tmp_path / "out" / "metrics.jsonl").read_text().count("\n") == 2  # nothing was touched
    edited(tmp_path / file, new, old)
    alignzoo.run(recipe, out=tmp_path / "out", resume=True)


def test_another_source_of_a_plugin_is_refused(recipe: Path, tmp_path: Path) -> None:
    former, out = {"sha256": "1" * 64, "version": "1"}, {"sha256": "2" * 64, "version": "1"}
    was = {"plugins": {"mine": former, "other": former, "same": out}}
    now = {"files": {}, "plugins": {"mine": out, "other": out, "same": out}}
    with pytest.raises(RunError, match="source of the plugin mine has changed: its SHA-256 was 111111111111, now 2222"):
        inputs.check_unchanged(was, now, {"mine", "same"}, tmp_path / "manifest.json")
    inputs.check_unchanged(was, now, {"same"}, tmp_path / "manifest.json")


def test_a_loose_plugin_is_compared(recipe: Path, tmp_path: Path) -> None:
    from alignzoo.registry import Registry

    path = tmp_path / "long_plugin.py"
    path.write_text(PLUGIN.replace("SIGN", "1"))
    zoo = Registry()
    zoo.add_file(path)
    settings = {"reward": "long", "registry": zoo}
    with pytest.raises(RunError, match=r"the source of the plugin long_plugin\.py has changed"):
        stopped_and_resumed(recipe, tmp_path / "out", lambda: path.write_text(PLUGIN.replace("SIGN", "-1")), **settings)


def test_versions_and_threads_are_told_and_kept(recipe: Path, tmp_path: Path) -> None:
    def change() -> None:
        path = tmp_path / "out" / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["versions"]["torch"] = "1.0"
        manifest["machine"] |= {"threads": 64, "instructions": "SSE"}
        manifest["plugins"]["policy-gradient"]["version"] = "9.9"
        path.write_text(json.dumps(manifest))

    [told] = stopped_and_resumed(recipe, tmp_path / "out", change)
    now = torch.get_num_threads()
    assert f"torch 1.0, now {torch.__version__}" in told and f"64 threads, now {now}" in told
    assert "the instructions SSE of its processor, now " in told
    assert "the plugin policy-gradient 9.9, now " in told
    [former] = json.loads((tmp_path / "out" / "manifest.json").read_text())["resumed"]
    assert (former["versions"], former["machine"]) == ({"torch": "1.0"}, {"threads": 64, "instructions": "SSE"})


def test_a_large_file_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "PART", 8)
    path = tmp_path / "rows.jsonl"
    found = []
    for text in ("a" * 30, "b" + "a" * 29, "a" * 29 + "b", "a" * 31):
        path.write_text(text)
        found.append(inputs.files({"data": {"path": str(path)}})[str(path)])
    assert len({each["sha256"] for each in found[:3]}) == 3
    assert found[3]["size"] == 31 and found[0]["size"] == 30


def test_another_model_in_the_same_directory_is_refused(recipe: Path, tmp_path: Path, plain_model: Path) -> None:
    model = Path(shutil.copytree(plain_model, tmp_path / "model"))
    edited(recipe, json.dumps(str(plain_model)), json.dumps(str(model)))
    settings = json.loads((model / "generation_config.json").read_text())
    with pytest.raises(RunError, match=r"cannot be resumed with these:\n  .*/model has changed: it was \d+ bytes"):
        (model / "README.md").write_text("1")  # nothing is loaded from it
        text = json.dumps(settings | {"temperature": 0.5})
        stopped_and_resumed(recipe, tmp_path / "out", lambda: (model / "generation_config.json").write_text(text))
