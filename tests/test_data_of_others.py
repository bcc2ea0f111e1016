"""Data as others leave them: shapes that are easily read as something else are read right, told or refused."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import Data, from_rows
from alignzoo.data.reading import prompts_of, read, train_and_heldout
from alignzoo.errors import DataError
from alignzoo.recipe.parts import describe

USER, YES, NO = (
    {"role": role, "content": text} for role, text in (("user", "Is it?"), ("assistant", "Yes."), ("assistant", "No."))
)

REFUSED: dict[str, tuple[dict[Any, Any], str]] = {
    "a question in a column of another name": (
        {"question": "Is it?", "chosen": "Yes.", "rejected": "No."},
        r"would leave question unread\. .*columns = \{ prompt = 'question' \}",
    ),
    "a context that the question does not say": (
        {"prompt": "Who won?", "completion": "Ann.", "context": "Ann beat Bob."},
        "would leave context unread",
    ),
    "a system's turn under another name": (
        {"prompt": "a", "completion": "b", "system_prompt": "Be brief."},
        r"would leave system_prompt unread\. .*columns = \{ system = 'system_prompt' \}",
    ),
    "tools": (
        {"messages": [USER, YES], "tools": [{"type": "function"}]},
        r"would leave tools unread\. Take them out of the data, or say format = 'messages'",
    ),
    "pictures": ({"prompt": "What is it?", "images": ["a.png"]}, "would leave images unread"),
    "a conversation beside texts": ({"messages": [USER], "chosen": "Yes.", "rejected": "No."}, "leave messages unread"),
    "a name with a space": ({"prompt": "a", " completion": "b"}, "would leave  completion unread"),
    "a name in other letters": ({"prompt": "a", "Chosen": "b", "text": "c"}, "would leave Chosen unread"),
    "two turns of the assistant": (
        {"messages": [USER, YES, NO]},
        r"column 'messages\[2\]': it is the assistant's turn, and so is the one before it: join the two",
    ),
    "a number that no float holds": (
        {"prompt": "a", "completions": ["b", "c"], "scores": [10**400, 1]},
        "column 'scores': expected finite numbers",
    ),
    "a name that is no string": ({1: "a", "prompt": "b"}, "a column's name is a string, found int 1"),
    "no columns": ({}, "row 1 has no columns"),
}


@pytest.mark.parametrize(("row", "match"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_read_as_something_else_is_refused(row: dict[Any, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        from_rows([row])


def test_a_later_row_may_not_leave_out_what_it_says_either() -> None:
    rows = [{"prompt": "a", "completion": "b", "system_prompt": text} for text in ("", "Be brief.")]
    with pytest.raises(DataError, match="row 2 looks like 'prompt-completion', which would leave system_prompt unread"):
        from_rows(rows)
    assert [prompt.info for prompt in from_rows(rows, format="prompt-completion")] == [
        {"system_prompt": ""},
        {"system_prompt": "Be brief."},
    ]


def test_columns_that_a_reward_may_read_or_that_say_it_twice_are_no_gap() -> None:
    assert from_rows([{"prompt": "Who won?", "context": "Ann beat Bob."}])[0].info == {"context": "Ann beat Bob."}
    twice = {"prompt": "Q: Is it?", "question": "Is it?", "completion": "Yes.", "tools": [], "messages": [USER, YES]}
    assert from_rows([twice])[0].messages == "Q: Is it?"


def test_a_split_of_data_that_have_none_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": word, "completion": "x"} for word in "ab"]
    (tmp_path / "rows.jsonl").write_bytes(line("a") + line("b"))
    (tmp_path / "held.jsonl").write_bytes(line("b"))
    for data in (
        Data(rows=rows, heldout_split="test"),
        Data(rows=rows, split="test"),
        Data(str(tmp_path / "rows.jsonl"), heldout_split="test"),
    ):
        with pytest.raises(DataError, match="there are no splits here, and so no 'test'"):
            train_and_heldout(data)
    own = Data(rows={"mine": rows}, split="mine", heldout_path=str(tmp_path / "held.jsonl"))
    with pytest.warns(UserWarning, match="their prompts are held out: 1"):
        assert [len(part) for part in train_and_heldout(own)] == [1, 1]


def test_a_systems_turn_for_texts_without_a_prompt_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.system: a text without a prompt has no turns"):
        prompts_of(Data(rows=[{"text": "once"}], system="Be brief."))


def test_a_question_that_the_answers_say_is_no_gap() -> None:
    text = {"question": "Is it?", "chosen": "Is it? Yes.", "rejected": "Is it? No."}
    talk = {"question": "Was it?", "chosen": [USER, YES], "rejected": [USER, NO]}
    assert from_rows([text])[0].messages == "Is it?"
    assert from_rows([talk])[0].messages == (USER,)


@pytest.mark.parametrize(
    ("dialogue", "turns"),
    [
        ("Human: a\n\nAssistant: b", ["user a"]),
        ("\n\nAssistant: hi\n\nHuman: a\n\nAssistant: b", ["assistant hi", "user a"]),
        ("\n\nHuman: a\n\nAssistant: hm\n\nAssistant: b", ["user a"]),
    ],
)
def test_dialogues_as_files_have_them(dialogue: str, turns: list[str]) -> None:
    (prompt,) = from_rows([{"chosen": dialogue, "rejected": dialogue[:-1] + "c"}])
    assert [f"{turn['role']} {turn['content']}" for turn in prompt.messages] == turns  # type: ignore[index]
    assert [len(text) for text in prompt.completions] == [1, 1]
    assert prompt.completions[0][0]["content"] == ("hm\n\nb" if "hm" in dialogue else "b")  # type: ignore[index]


def line(word: str) -> bytes:
    return json.dumps({"prompt": word, "completion": "x"}).encode() + b"\n"


Folder = dict[str, bytes | None]
FOLDERS: dict[str, tuple[Folder, str, list[str], str]] = {
    "splits by name": ({"train-0.jsonl": line("a"), "test-0.jsonl": line("b")}, "train", ["a"], "test-0.jsonl"),
    "the other split": ({"train-0.jsonl": line("a"), "my_test.jsonl": line("b")}, "test", ["b"], "train-0.jsonl"),
    "one without a word": ({"rows.jsonl": line("a"), "dev.jsonl": line("b")}, "train", ["a"], "dev.jsonl"),
    "one split alone": ({"test-0.jsonl": line("a"), "test-1.jsonl": line("b")}, "train", ["a", "b"], ""),
    "an empty shard": ({"a.jsonl": line("a"), "b.jsonl": b""}, "train", ["a"], "of 0 bytes: b.jsonl"),
    "another ending": ({"a.jsonl": line("a"), "b.jsonl.zst": b"?"}, "train", ["a"], "b.jsonl.zst"),
    "documents": ({"a.jsonl": line("a"), "README.md": b"?", "LICENSE": b"?"}, "train", ["a"], ""),
}


@pytest.mark.parametrize(("files", "split", "prompts", "told"), FOLDERS.values(), ids=FOLDERS)
def test_what_of_a_folder_is_not_read_is_told(
    tmp_path: Path, files: Folder, split: str, prompts: list[str], told: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content or b"")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert [prompt.messages for prompt in read(Data(str(tmp_path), split=split))] == prompts
    assert [told in str(each.message) for each in seen] == [True] * bool(told)


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "gzip under another name": ("a.jsonl", _bytes(b"\x1f\x8b\x08\x00"), r"let its name end in \.gz"),
    "UTF-16": ("a.jsonl", _bytes("{}".encode("utf-16")), "It is UTF-16"),
    "semicolons": ("a.csv", _bytes(b"prompt;completion\na;b\n"), "line 1: the names are separated by ';'"),
    "a link to nowhere among shards": ("f/b.jsonl", lambda path: path.symlink_to("nope"), "symbolic link to nope"),
    "a pipe among shards": ("f/b.jsonl", os.mkfifo, "is a named pipe"),
}


@pytest.mark.parametrize(("name", "make", "match"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, make: Callable[[Path], object], match: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    make(path)
    if path.parent != tmp_path:
        (path.parent / "a.jsonl").write_bytes(line("a"))
        path = path.parent
    with pytest.raises(DataError, match=match):
        read(Data(str(path)))


@pytest.mark.parametrize("inside", ["b.jsonl/rows.txt", "more/b.jsonl"])
def test_a_directory_among_shards_is_told(tmp_path: Path, inside: str) -> None:
    (tmp_path / "f" / inside).parent.mkdir(parents=True)
    (tmp_path / "f" / inside).write_bytes(line("b"))
    (tmp_path / "f" / "pictures").mkdir()
    (tmp_path / "f" / "a.jsonl").write_bytes(line("a"))
    with pytest.warns(UserWarning, match=f"they are directories.*: {inside.split('/')[0]}$"):
        assert len(read(Data(str(tmp_path / "f")))) == 1


def test_an_address_is_no_path_and_a_long_number_of_a_cell_is_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is an address: download it"):
        read(Data("https://example.org/rows.jsonl"))
    (tmp_path / "d.csv").write_text(f"prompt,n\na,{'9' * 400}\n")
    assert read(Data(str(tmp_path / "d.csv")))[0].info == {"n": "9" * 400}


def test_a_table_of_settings_says_what_its_values_are() -> None:
    assert describe(Mapping[str, str]) == "a table, each value a string"
    assert describe(Mapping[str, Any]) == "a table"
