"""What a notebook gives to `compare`: files, modules and their functions work, and anything else is told why not."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from alignzoo.compare import compare
from alignzoo.compare.given import check_names, plugin_file, reward_override
from alignzoo.errors import AlignzooError, RunError


class Mine:
    pass


def near(completions: list[str]) -> list[float]:
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"plugins": [Mine()]}, "plugins: found 'Mine'"),
        ({"plugins": [Mine]}, "plugins: found 'Mine'"),
        ({"reward": lambda completions: [0.0]}, "reward: found '.*<lambda>'"),
        ({"reward": Mine()}, "reward: found 'Mine'"),
        ({"judge": Mine()}, "judge: found 'Mine'"),
        ({"task": Mine()}, "task: found 'Mine'"),
    ],
)
def test_an_object_of_this_process_alone_is_told_why_not(given: dict[str, Any], where: str, tmp_path: Path) -> None:
    with pytest.raises(AlignzooError, match=rf"{where}.*each cell of a comparison runs in a process of its own"):
        compare("grpo", **{"task": "sort", "out": tmp_path / "out", **given})
    assert not (tmp_path / "out").exists()


def test_files_modules_and_their_functions_are_found_again_by_a_cell() -> None:
    check_names(algorithms=("grpo",), task="sort", judge="gold")
    assert plugin_file("mine.py") == str(Path("mine.py").resolve())
    assert plugin_file(textwrap) == textwrap.__file__
    assert reward_override("length") == 'reward="length"'
    assert reward_override(near).endswith(f"function = {json.dumps(f'{Path(__file__).resolve()}:near')} }}")


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(RunError, match=r"holds no comparison, but thesis\.txt"):
        compare("grpo", task="sort", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
