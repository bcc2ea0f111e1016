"""Data that stay in their files: the same prompts as in memory, read once, and known again at the next start."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import alignzoo
from alignzoo import DataError, Prompt
from alignzoo.data import Data, read, train_and_heldout
from alignzoo.data.indexed import Indexed, changed, chosen, fact, has_column
from alignzoo.data.sources import Lines
from alignzoo.data.turns import heard, settled

ROWS = [
    {"prompt": f"what is {i % 9} and {i}?", "chosen": f"ähm, {i} 🙂", "rejected": "no" * (i % 4 + 1), "weight": i / 4}
    for i in range(40)
]


def json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """With what people's files have: a mark at the beginning, empty lines, ends of lines as Windows has them."""
    text = "\ufeff" + "".join(
        json.dumps(row, ensure_ascii=i % 2 == 0) + "\r\n" * (1 + i % 3) for i, row in enumerate(rows)
    )
    path.write_bytes(text.encode())


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Every file is a large one, and the cache the test's own."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets.disable_progress_bars()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("alignzoo.data.sources.LARGE", 0)
    return monkeypatch


def written(kind: str, folder: Path) -> str:
    """ROWS as a file, or a directory, of a kind."""
    import datasets

    made = folder / f"data.{kind}"
    if kind == "jsonl":
        json_lines(made, ROWS)
    elif kind == "parquet":
        datasets.Dataset.from_list(ROWS).to_parquet(str(made))
    elif kind == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(str(made))
    elif kind == "arrow":
        datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
        return str(next((folder / "saved").glob("*.arrow")))
    else:
        made.mkdir()
        for number, start in enumerate(range(0, 40, 15)):
            if kind == "jsonl shards":
                json_lines(made / f"part-{number}.jsonl", ROWS[start : start + 15])
            else:
                datasets.Dataset.from_list(ROWS[start : start + 15]).to_parquet(str(made / f"part-{number}.parquet"))
    return str(made)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved", "arrow", "jsonl shards", "parquet shards"])
def test_large_data_are_the_same_prompts(kind: str, tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    path = written(kind, tmp_path)
    kept = read(Data(path))
    train, heldout = train_and_heldout(Data(path, heldout=0.3))
    large.setattr("alignzoo.data.sources.LARGE", 2**40)
    plain = read(Data(path))
    assert isinstance(kept, Indexed) and isinstance(plain, list)
    assert list(kept) == plain and len(plain) == 40
    assert (kept[-1], list(kept[3:20:4]), list(kept[::-1][:2])) == (plain[-1], plain[3:20:4], plain[::-1][:2])
    assert [list(each) for each in (train, heldout)] == [list(e) for e in train_and_heldout(Data(path, heldout=0.3))]
    for name in ("point", "completions", "answers", "bad"):
        assert np.array_equal(fact(kept, name), fact(plain, name)), name
    with pytest.raises(IndexError):
        kept[40]


def test_what_is_asked_of_all_prompts_needs_no_row(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    kept = read(Data(written("jsonl", tmp_path)))
    large.setattr(Lines, "get", lambda *_: pytest.fail("a row was read"))
    some = chosen(changed(kept, settled), fact(kept, "point") % np.uint64(2) == 0)
    assert 0 < len(some[1:]) < len(kept) - 1
    assert has_column(some, "weight") and not has_column(some, "wait")
    assert fact(some, "completions").tolist() == [2] * len(some)


def test_changes_are_made_when_a_prompt_is_read(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    kept = read(Data(written("jsonl", tmp_path)))
    asked = changed(chosen(kept, np.arange(40) % 2 == 1), heard("auto", "Be brief."))
    assert [turn["content"] for turn in asked[2].messages] == ["Be brief.", ROWS[5]["prompt"]]  # type: ignore[index]


def test_a_second_start_reads_nothing_and_a_changed_file_is_read_anew(
    tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.jsonl"
    json_lines(path, ROWS)
    first, scan = read(Data(str(path))), Lines.scan
    large.setattr(Lines, "scan", lambda self: pytest.fail("the file was read again"))
    again = read(Data(str(path)))
    assert list(again) == list(first)
    with pytest.raises(pytest.fail.Exception):  # another setting is another index
        read(Data(str(path), format="preference"))
    large.setattr(Lines, "scan", scan)
    json_lines(path, ROWS[:7])
    assert len(read(Data(str(path)))) == 7
    (folder,) = (tmp_path / "cache" / "alignzoo" / "prompts").iterdir()
    (folder / "key").write_bytes(b"broken")
    assert list(read(Data(str(path)))) == list(first[:7])
    assert not [each for each in folder.parent.iterdir() if each.name.startswith(".partial")]


def test_a_file_that_changes_under_a_run_is_told(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.jsonl"
    json_lines(path, ROWS)
    kept = read(Data(str(path)))
    path.write_bytes(b" " + path.read_bytes()[:2000])
    with pytest.raises(DataError, match="was changed after it was read"):
        list(kept)


def test_errors_name_shard_and_row_and_leave_no_index(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    folder = Path(written("jsonl shards", tmp_path))
    wrong = json.loads((folder / "part-1.jsonl").read_text(encoding="utf-8-sig").splitlines()[0]) | {"chosen": 3}
    with (folder / "part-1.jsonl").open("a") as file:
        file.write(json.dumps(wrong) + "\n")
    with pytest.raises(DataError, match=r"part-1.jsonl, row 16 \(preference\), column 'chosen'"):
        read(Data(str(folder)))
    assert not list((tmp_path / "cache" / "alignzoo" / "prompts").iterdir())


def test_limits_and_echoes(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.jsonl"
    json_lines(path, [{"prompt": "a", "completion": "ab"}] * 3)
    large.setattr("alignzoo.data.reading.FEW", 1)
    assert isinstance(read(Data(str(path), limit=1)), list)
    with pytest.warns(UserWarning, match="each of the 2 answers begins with its whole prompt"):
        assert len(read(Data(str(path), limit=2))) == 2


def test_rows_with_held_out_prompts_are_left_out(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    json_lines(tmp_path / "train.jsonl", ROWS)
    json_lines(tmp_path / "held.jsonl", ROWS[:5])
    data = Data(str(tmp_path / "train.jsonl"), heldout_path=str(tmp_path / "held.jsonl"))
    with pytest.warns(UserWarning, match="their prompts are held out: 5"):
        train, heldout = train_and_heldout(data)
    assert (len(train), len(heldout)) == (35, 5)


def test_a_run_on_large_data_is_the_run_on_small_ones(
    tiny_model: Path, tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    path = written("jsonl shards", tmp_path)

    def losses(out: str) -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schedule = {"steps": 3, "prompts": 4}
            result = alignzoo.run("dpo", policy=str(tiny_model), data=path, out=tmp_path / out, schedule=schedule)
        return [json.loads(line)["loss"] for line in (result.out / "metrics.jsonl").read_text().splitlines()]

    stayed = losses("large")
    large.setattr("alignzoo.data.sources.LARGE", 2**40)
    assert stayed == losses("small") and len(stayed) == 3


def test_facts_of_a_prompt() -> None:
    turns = ({"role": "assistant", "content": "b"}, {"role": "user", "content": "c"})
    prompts = [Prompt("a", ("b",), (0.0,)), Prompt("a", ("x", "y"), (1.0, 0.0)), Prompt("b", (turns,), (1.0,))]  # type: ignore[arg-type]
    assert fact(prompts, "bad").tolist() == [True, False, False]
    assert fact(prompts, "answers").tolist() == [True, True, False]
    assert fact(prompts, "completions").tolist() == [1, 2, 1]
    points = fact(prompts, "point")
    assert points[0] == points[1] != points[2]
    assert points.dtype == np.uint64


def test_an_index_that_another_process_has_just_made_is_taken(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.jsonl"
    json_lines(path, ROWS)
    scan, others = Lines.scan, []

    def slowly(self: Lines) -> Any:
        yield from scan(self)
        if not others:  # another one reads the same file, and is ready first
            others.append(None)
            others[0] = read(Data(str(path)))

    large.setattr(Lines, "scan", slowly)
    mine = read(Data(str(path)))
    assert list(mine) == list(others[0]) and len(mine) == 40
    assert len(list((tmp_path / "cache" / "alignzoo" / "prompts").iterdir())) == 1
