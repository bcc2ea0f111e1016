"""Datasets -> prompts: every kind of file, everything that can be wrong with one, and the split."""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import READERS, Data, from_rows, read, split, train_and_heldout
from alignzoo.errors import DataError
from alignzoo.types import Prompt

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"

Row = dict[str, Any]

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
ASK, ANSWER, OTHER = user("What color is the sky?"), assistant("It is blue."), assistant("It is green.")

# --- files -----------------------------------------------------------------------------------------------------

GREETING, HELLO, NO = user("Grüße?"), assistant("Hallo!"), assistant("\u2028Nein.")
ROWS: list[Row] = [
    {"prompt": [GREETING], "chosen": [HELLO], "rejected": [NO], "source": "a"},
    {"prompt": [SYSTEM, ASK], "chosen": [ANSWER], "rejected": [OTHER], "source": None},
]
PROMPTS = [
    Prompt((GREETING,), ((HELLO,), (NO,)), (1.0, 0.0), {"source": "a"}),
    Prompt((SYSTEM, ASK), ((ANSWER,), (OTHER,)), (1.0, 0.0), {"source": None}),
]


def lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture
def hf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The `datasets` library, quiet, its cache in the test's own directory."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pairs.jsonl", lines(ROWS)),
        ("PAIRS.JSONL", "\ufeff" + lines(ROWS).replace("\n", "\r\n\r\n")),
        ("pairs.json", json.dumps(ROWS, indent=2)),
        ("pairs.json", json.dumps({"version": 1, "data": ROWS})),
    ],
    ids=["lines", "lines, as Windows writes them", "list", "data"],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_json(tmp_path: Path, name: str, content: str, zipped: bool) -> None:
    path = tmp_path / (name + ".gz" * zipped)
    path.write_bytes(gzip.compress(content.encode()) if zipped else content.encode())
    assert read(Data(str(path))) == PROMPTS


def test_parquet(tmp_path: Path, hf: Any) -> None:
    folder = tmp_path / "run [1]"
    folder.mkdir()
    hf.Dataset.from_list(ROWS).to_parquet(folder / "pairs.parquet")
    assert read(Data(str(folder / "pairs.parquet"))) == PROMPTS


def test_csv(tmp_path: Path, hf: Any) -> None:
    path = write(tmp_path / "unpaired.csv", 'prompt,completion,label,id\n"Any, really?",None,True,1\nWhy?,NA,false,2\n')
    assert read(Data(path)) == [
        Prompt("Any, really?", ("None",), (1.0,), {"id": 1}),
        Prompt("Why?", ("NA",), (0.0,), {"id": 2}),
    ]


def test_saved_dataset(tmp_path: Path, hf: Any) -> None:
    dataset = hf.Dataset.from_list(ROWS)
    assert from_rows(dataset) == PROMPTS
    dataset.save_to_disk(tmp_path / "one")
    assert read(Data(str(tmp_path / "one"))) == PROMPTS
    hf.DatasetDict(train=dataset, test=dataset.select([1])).save_to_disk(tmp_path / "two")
    assert read(Data(str(tmp_path / "two"))) == PROMPTS
    assert read(Data(str(tmp_path / "two"), split="test")) == PROMPTS[1:]
    with pytest.raises(DataError, match=r"two has no split 'tset'. Did you mean 'test'"):
        read(Data(str(tmp_path / "two"), split="tset"))


def test_hub(hf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args: Any, split: str) -> list[Row]:
        asked.append((*args, split))
        return ROWS

    monkeypatch.setattr(hf, "load_dataset", load_dataset)
    assert read(Data("owner/name")) == PROMPTS
    assert read(Data("owner/name-2.0:main", split="test")) == PROMPTS
    assert asked == [("owner/name", None, "train"), ("owner/name-2.0", "main", "test")]


def test_a_hub_dataset_out_of_reach(hf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, split: str) -> list[Row]:
        raise RuntimeError("failed to generate") from ConnectionError("Couldn't reach 'owner/name'.\nlong story")

    monkeypatch.setattr(hf, "load_dataset", load_dataset)
    expected = (
        "owner/name is no file here, and its split 'train' cannot be fetched from the hub: "
        "Couldn't reach 'owner/name'. Check its name, split and configuration, the network and HF_TOKEN, "
        "or give a local path."
    )
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        read(Data("owner/name"))


def test_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "few.jsonl", lines([{"prompt": "a"}, {"prompt": "b"}]) + "not JSON")
    assert read(Data(path, limit=2)) == [Prompt("a"), Prompt("b")]


def test_json_is_read_without_datasets_or_pandas(tmp_path: Path) -> None:
    path = write(tmp_path / "few.jsonl", lines(ROWS))
    code = (
        "import sys; from alignzoo.data import Data, read; "
        f"assert len(read(Data({path!r}))) == 2; print({{'datasets', 'pandas', 'pyarrow', 'trl'}} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# --- what is wrong with a file ---------------------------------------------------------------------------------


def broken(name: str, content: str | bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(folder / name)

    return make


def folder_of(*names: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "shards").mkdir()
        for name in names:
            (folder / "shards" / name).write_text("nothing")
        return str(folder / "shards")

    return make


BROKEN: dict[str, tuple[Callable[[Path], str], str]] = {
    "not there": (lambda folder: str(folder / "pairz.jsonl"), r"pairz.jsonl: no such file. Did you mean 'pairs.jsonl'"),
    "no directory": (lambda folder: str(folder / "dat" / "a.jsonl"), "no such file, and no directory .*dat either"),
    "unknown ending": (broken("rows.yaml", "a"), r"no reader for this ending\. Known: .jsonl, .jsonl.gz, .json"),
    "empty": (broken("empty.jsonl", "\n"), "empty.jsonl holds no rows"),
    "empty list": (broken("empty.json", "[]"), "empty.json holds no rows"),
    "empty json": (broken("empty.json", ""), "empty.json holds no rows"),
    "not JSON": (
        broken("rows.jsonl", '{"prompt": "a"}\n\n{"prompt": oops}\n'),
        r"""rows.jsonl, line 3: not JSON \(Expecting value, column 12\): '\{"prompt": oops\}'""",
    ),
    "a list in lines": (broken("rows.jsonl", '[\n{"prompt": "a"}\n]'), r"line 1: .* a list goes into a .json file"),
    "lines in a list": (broken("rows.json", '{"a": 1}\n{"a": 2}\n'), r"line 2: .*one object a line goes into a .jsonl"),
    "an object": (broken("rows.json", '{"rows": []}'), r"expected a list of objects, .* found dict \{'rows': \[\]\}"),
    "not gzip": (broken("rows.jsonl.gz", '{"prompt": "a"}'), "cannot be read: .* wants a whole gzip file"),
    "half a gzip": (broken("rows.jsonl.gz", gzip.compress(b"a" * 99)[:-9]), "cannot be read: .* a whole gzip file"),
    "not UTF-8": (
        broken("rows.jsonl", b'{"prompt": "a"}\n{"prompt": "Gr\xfc\xdfe"}'),
        "rows.jsonl, line 2: not UTF-8 text",
    ),
    "row of a file": (broken("rows.jsonl", lines([PAIR, {"prompt": "a"}])), r"rows.jsonl, row 2 \(pref.*'chosen'"),
    "not Parquet": (broken("rows.parquet", "nope"), "rows.parquet cannot be read: .*It must be a Parquet file"),
    "empty CSV": (broken("rows.csv", ""), "rows.csv cannot be read: No columns.*It must be a CSV file"),
    "no CSV rows": (broken("rows.csv", "prompt\n"), "rows.csv cannot be read: .*one row or more"),
    "a directory without data": (
        folder_of("notes.txt"),
        "cannot be read: .* Give what datasets' save_to_disk wrote, files of one kind, or a single file",
    ),
    "two kinds of shards": (folder_of("a.jsonl", "b.csv"), "files of several kinds, as a.jsonl and b.csv"),
}


@pytest.mark.parametrize(("make", "match"), BROKEN.values(), ids=BROKEN)
def test_broken_file(tmp_path: Path, hf: Any, make: Callable[[Path], str], match: str) -> None:
    write(tmp_path / "pairs.jsonl", lines(ROWS))
    with pytest.raises(DataError, match=match) as caught:
        read(Data(make(tmp_path)))
    assert len(str(caught.value).splitlines()) <= 20


def test_every_ending_is_read_in_a_test() -> None:
    assert set(READERS) == {".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".arrow", ".csv"}


# --- train and held-out ----------------------------------------------------------------------------------------

MANY = [Prompt(f"question {i % 500}", info={"row": i}) for i in range(1000)]


def asked(prompts: list[Prompt]) -> set[Any]:
    return {prompt.messages for prompt in prompts}


def test_split_is_disjoint_whole_and_of_the_share() -> None:
    train, heldout = split(MANY, 0.2)
    assert sorted(p.info["row"] for p in train + heldout) == list(range(1000))
    assert not asked(train) & asked(heldout)
    assert 0.15 < len(asked(heldout)) / 500 < 0.25


def test_split_depends_on_the_text_alone() -> None:
    assert asked(split(MANY[:10], 0.6)[1]) == {"question 4", "question 9"}  # from now on, on every machine
    shuffled = random.Random(0).sample(MANY, len(MANY))
    more = [*MANY, *(Prompt(f"new {i}") for i in range(1000))]
    train, heldout = split(MANY, 0.2)
    for prompts in (shuffled, more):
        train_too, heldout_too = split(prompts, 0.2)
        assert asked(train) <= asked(train_too) and asked(heldout) <= asked(heldout_too)


def test_a_greater_share_holds_out_more_of_the_same() -> None:
    assert asked(split(MANY, 0.1)[1]) < asked(split(MANY, 0.3)[1])
    assert split(MANY, 0) == (MANY, [])


def test_few_prompts_hold_out_one_and_one_prompt_cannot_be_split() -> None:
    few = [Prompt("a"), Prompt("b"), Prompt("c")]
    train, heldout = split(few, 0.001)
    assert (len(train), len(heldout)) == (2, 1)
    assert split(few[::-1], 0.001) == (train[::-1], heldout)
    with pytest.raises(DataError, match=r"too few different prompts \(1\) to hold out a share of 0\.1"):
        split([Prompt("a"), Prompt("a", ("b",), (1.0,))], 0.1)


def test_texts_without_a_prompt_are_split_by_themselves() -> None:
    texts = [Prompt("", (f"story {i}",), (1.0,)) for i in range(500)]
    assert 25 < len(split(texts, 0.1)[1]) < 75


def test_conversations_are_split_by_what_they_say() -> None:
    turns = [Prompt(({"content": f"question {i}", "role": "user"},)) for i in range(100)]
    same = [Prompt((user(f"question {i}"),)) for i in range(100)]
    assert split(turns, 0.3) == split(same, 0.3)


def test_train_and_heldout_of_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / "many.jsonl", lines([{"prompt": p.messages, **p.info} for p in MANY]))
    assert train_and_heldout(Data(path, heldout=0.2)) == split(MANY, 0.2)


def test_heldout_of_its_own(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", lines([{"prompt": "a"}, {"prompt": "b"}]))
    other = write(tmp_path / "other.jsonl", lines([{"prompt": "c"}]))
    shared = write(tmp_path / "shared.jsonl", lines([{"prompt": "b"}, {"prompt": "c"}]))
    assert train_and_heldout(Data(train, heldout_path=other)) == ([Prompt("a"), Prompt("b")], [Prompt("c")])
    with pytest.warns(UserWarning, match="rows left out of training, for their prompts are held out: 1"):
        assert train_and_heldout(Data(train, heldout_path=shared)) == ([Prompt("a")], [Prompt("b"), Prompt("c")])
    with pytest.raises(DataError, match=r"every prompt is also held out, in .*train\.jsonl"):
        train_and_heldout(Data(train, heldout_path=train))


def test_heldout_split_of_the_same_place(tmp_path: Path, hf: Any) -> None:
    place = tmp_path / "saved"
    dataset = hf.Dataset.from_list(ROWS)
    hf.DatasetDict(train=dataset.select([0]), test=dataset.select([1])).save_to_disk(place)
    assert train_and_heldout(Data(str(place), heldout_split="test")) == (PROMPTS[:1], PROMPTS[1:])


# --- real data -------------------------------------------------------------------------------------------------


def real(name: str) -> str:
    if not (SHARED / name).is_file():
        pytest.skip(f"needs {name} in ../shared/data beside the repository")
    return str(SHARED / name)


def test_hh_harmless() -> None:
    prompts = read(Data(real("hh_rlhf/harmless-base-test.jsonl.gz")))
    assert len(prompts) == 2312
    assert {prompt.labels for prompt in prompts} == {(1.0, 0.0)}
    assert prompts[0].messages[:1] == (user("what are some pranks with a pen i can do?"),)
    assert all(isinstance(last := prompt.messages[-1], dict) and last["role"] == "user" for prompt in prompts)
    # Five dialogues have the assistant's mark twice in a row: what it says is one turn, which a model ends once.
    assert all(len(completion) == 1 for prompt in prompts for completion in prompt.completions)
    assert "called drag kings.  Human: Then how" in prompts[1254].completions[0][0]["content"]  # type: ignore[index]
    empty = [row for row, prompt in enumerate(prompts, 1) if (assistant(""),) in prompt.completions]
    assert empty == [87, 517, 926, 1104]


def test_pandalm() -> None:
    prompts = read(Data(real("pandalm/testset-v1.json"), format="pandalm"))
    assert len(prompts) == 999
    assert prompts == read(Data(real("pandalm/testset-v1.json")))
    first = prompts[0]
    assert str(first.messages).startswith("The sentence you are given might be too wordy")
    assert "eliminate unnecessary words.\n\nIf you have any questions" in str(first.messages)
    assert (first.labels, first.info["annotator3"]) == ((0.0, 1.0), 2)
    assert all(abs(sum(prompt.labels) - 1) < 1e-9 for prompt in prompts)
    assert sum("True" in prompt.completions for prompt in prompts) == 6


def test_gsm8k() -> None:
    train, heldout = train_and_heldout(Data(real("gsm8k/train.jsonl.gz"), columns={"prompt": "question"}))
    assert len(train) + len(heldout) == 7473
    assert not asked(train) & asked(heldout)
    assert "#### " in train[0].info["answer"]
