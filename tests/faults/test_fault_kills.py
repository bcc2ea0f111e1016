"""Law 7 at every change to the file system: killed there, and resumed, a run equals the one that was left alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from alignzoo.errors import RunError
from faults import toy


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    toy.run(folder)
    return steady(folder)


def steady(folder: Path) -> dict[str, str]:
    """Checkpoints know the journal's extent, that of seconds.jsonl too: theirs is not the same twice."""
    return {name: digest for name, digest in toy.bytes_of(folder).items() if not name.endswith("state.json")}


def test_killed_at_every_event_and_resumed_it_is_the_same(whole: dict[str, str], tmp_path: Path) -> None:
    out, event = tmp_path / "run", 0

    def start() -> None:
        toy.run(out, resume=(out / "manifest.json").exists())

    while toy.killed_at(event := event + 1, start):
        if event % 3 == 0:
            toy.killed_at(event % 19 + 1, start)
        start()
        assert steady(out) == whole, f"killed at event {event}"
        shutil.rmtree(out)
    assert event > 40


def test_a_start_that_was_killed_before_it_began_starts_with_and_without_resume(tmp_path: Path) -> None:
    for resume in (False, True):
        for event in range(1, 5):
            out = tmp_path / f"{resume}-{event}"
            assert toy.killed_at(event, lambda out=out: toy.run(out))
            toy.run(out, resume=resume)


def test_a_start_that_ended_without_a_word_is_told_by_the_next(tmp_path: Path) -> None:
    assert toy.killed_at(40, lambda: toy.run(tmp_path / "run"))
    toy.told.clear()
    toy.run(tmp_path / "run", resume=True)
    [message] = [each for each in toy.told if "has ended without a word" in each]
    assert message.startswith("the start before, process ")
    toy.told.clear()
    toy.run(tmp_path / "run", resume=True)
    assert not toy.told


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    for resume in (False, True):
        with pytest.raises(RunError, match=r"is not empty|holds no run to resume"):
            toy.run(tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_a_checkpoint_counts_on_is_on_disk_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, str]] = []
    rename = Path.rename

    def synced(descriptor: int) -> None:
        events.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))

    def renamed(path: Path, target: Path) -> Path:
        events.append(("rename", str(target)))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    toy.run(tmp_path / "run")
    at = [number for number, (what, path) in enumerate(events) if what == "rename" and path.endswith("step-000001")]
    before = {Path(path).name for what, path in events[: at[0]] if what == "sync"}
    written = {"metrics.jsonl", "seconds.jsonl", "samples.jsonl", "evaluations.jsonl", "run"}
    assert before >= written | {"weights.safetensors", "adamw.pt", ".partial-step-000001"}
    assert events[at[0] + 1] == ("sync", str(tmp_path / "run" / "checkpoints" / "train"))
