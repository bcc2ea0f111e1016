"""No text breaks a run: lines end with \\n alone, and what no part can read is refused with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import alignzoo
from alignzoo.data.reading import Data, read
from alignzoo.errors import DataError, RecipeError, RunError
from alignzoo.evaluation.answers import Answer, read_answers, write_answers
from alignzoo.files import DEPTH, DIGITS, decoded, line_of, read_lines
from alignzoo.recipe.tables import read_manifest, read_toml
from alignzoo.training.journal import Journal

CUTS = "\u2028\u2029\x85\x1c\x1d\x1e\x0b\x0c"
"""Where `str.splitlines` cuts, beside the ends of lines."""

BEYOND = {
    "nesting": ("[" * 100_000 + "]" * 100_000, "nested more than 100 deep"),
    "open brackets": ("[" * 100_000, "nested more than 100 deep|not JSON"),
    "objects": ('{"a":' * 500 + "1" + "}" * 500, "nested more than 100 deep"),
    "a long integer": ("9" * 5000, "an integer of 5000 digits"),
    "an integer beyond floats": ("-" + "9" * 400, "an integer of 401 digits"),
    "half a pair": (r'"a \ud83d b"', r"ud83d is half of a surrogate pair"),
    "the other half": (r'"\uDE00"', r"ude00 is half of a surrogate pair"),
    "half a pair in a key": (r'{"\ud83d": 1}', r"ud83d is half of a surrogate pair"),
}


@pytest.mark.parametrize("cut", CUTS, ids=ascii)
def test_a_journal_gives_back_every_text(cut: str, tmp_path: Path) -> None:
    journal, texts = Journal(tmp_path, "s"), [cut, f"a{cut}b", f"{cut}\n\r\t{cut}", "\u0000"]
    journal.write_all("samples", 1, [{"text": text} for text in texts])
    assert [line["text"] for line in journal.read("samples")] == texts
    extent = journal.extent()
    journal.write("samples", 2, {"text": cut})
    assert not journal.lacks(extent)
    journal.rewind(extent)
    assert [line["text"] for line in journal.read("samples")] == texts


def test_what_utf_8_cannot_hold_is_written_as_the_replacement_character(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    journal.write("samples", 1, {"note": "half \ud83d", "whole": "\U0001f600"})
    assert journal.read("samples") == [{"step": 1, "note": "half \ufffd", "whole": "\U0001f600"}]


def test_answers_of_a_comparison_too(tmp_path: Path) -> None:
    answers = [Answer(0, "asked", f"a{cut}b", (1,), finished=True, greedy=False) for cut in CUTS]
    write_answers(tmp_path / "answers.jsonl", answers)
    assert list(read_answers(tmp_path / "answers.jsonl")) == answers


@pytest.mark.parametrize("ending", [".jsonl", ".json"])
@pytest.mark.parametrize("name", BEYOND)
def test_what_is_json_and_no_data_is_refused_with_file_and_line(name: str, ending: str, tmp_path: Path) -> None:
    text, message = BEYOND[name]
    rows = ['{"prompt": "one"}', '{"prompt": "\\ud83d\\ude00"}', f'{{"prompt": "three", "score": {text}}}']
    path = tmp_path / f"rows{ending}"
    path.write_text("\n".join(rows) + "\n" if ending == ".jsonl" else "[" + ",\n".join(rows) + "]")
    with pytest.raises(DataError, match=message) as caught:
        read(Data(str(path)))
    one_place = "nesting" in name or "objects" in name or "brackets" in name  # JSON's reader does not say where
    assert f"rows{ending}, line {1 if one_place and ending == '.json' else 3}:" in str(caught.value)


@pytest.mark.parametrize("name", BEYOND)
def test_a_journal_or_a_manifest_of_such_lines_is_named(name: str, tmp_path: Path) -> None:
    text, message = BEYOND[name]
    path = tmp_path / "metrics.jsonl"
    path.write_text(line_of({"a": 1}) + f'{{"a": {text}}}\n')
    with pytest.raises(RunError, match=rf"metrics\.jsonl, line 2: .*({message})"):
        read_lines(path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(f'{{"recipe": {text}}}')
    with pytest.raises(RecipeError, match=rf"manifest\.json.*({message})"):
        read_manifest(manifest)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested more than 100 deep"),
        ("{ a = " * 3000 + "1" + "}" * 3000, "nested more than 100 deep"),
        ("9" * 5000, "an integer of 5000 digits"),
        ("9" * 400, "an integer of 400 digits"),
    ],
    ids=["lists", "tables", "long", "beyond floats"],
)
def test_so_is_toml(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f"seed = 1\nname = {text}\n")
    with pytest.raises(RecipeError, match=rf"recipe\.toml, line 2: .*{message}"):
        read_toml(path)
    path.write_text("seed = 1\n" + ".".join(["a"] * 2000) + " = 1\n")
    with pytest.raises(RecipeError, match=r"recipe\.toml, line 2: .*nested more than 100 deep"):
        read_toml(path)
    with pytest.raises(RecipeError, match=message):
        alignzoo.run("sft", task="sort", overrides=[f"data.limit={text}"])


def test_what_is_within_the_limits_is_read() -> None:
    deep = "[" * (DEPTH - 1) + "]" * (DEPTH - 1)
    assert decoded(deep, "x") == json.loads(deep)
    assert decoded("9" * DIGITS, "x") == 10**DIGITS - 1
    assert decoded(r'"\ud83d\ude00 \\ud83d"', "x") == "\U0001f600 \\ud83d"
    assert decoded(b"\xef\xbb\xbf[1]", "x") == [1]
    assert len(decoded(json.dumps([["["] * 200]), "x")[0]) == 200  # brackets in texts are none


def test_a_run_whose_texts_hold_them_ends_and_is_resumed(tiny_model: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "rows.jsonl", tmp_path / "run"
    rows = [{"prompt": f"p{i}{cut}", "completion": f"c{cut}"} for i, cut in enumerate(CUTS)]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    settings = {
        "data.heldout": 0.3,
        "data.chat": "user",
        "schedule.steps": 2,
        "schedule.prompts": 2,
        "schedule.samples_every": 1,
    }
    model = {"name": "hf", "model": str(tiny_model), "max_new_tokens": 2, "device": "cpu"}
    more = {"evaluate.prompts": 2, "data.path": str(data)}
    alignzoo.run("sft", policy=model, out=out, **settings, **more)
    samples = (out / "samples.jsonl").read_bytes()
    assert any(cut.encode() in samples for cut in CUTS[:3])
    (out / "result.json").unlink()
    alignzoo.run("sft", policy=model, out=out, resume=True, **settings, **more)
    assert (out / "samples.jsonl").read_bytes() == samples


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "{% for a in range(9999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "within 0.3 s: does it loop",
        ),
        ("{{ messages[0].content * 1000 }}", "makes 5,000 characters"),
    ],
)
def test_a_template_that_never_ends_or_swells_is_refused_with_its_row(
    source: str, words: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignzoo_hf.model import models, template
    from alignzoo_hf.model.spec import HF

    monkeypatch.setattr(template, "SECONDS", 0.3)
    monkeypatch.setattr(template, "MOST", 4_000)
    asked = template.Template(models.tokenizer(HF(str(tiny_model))), source, print)
    with pytest.raises(DataError, match=words) as caught:
        asked.render(({"role": "user", "content": "hello"},))
    assert "'hello'" in str(caught.value)
