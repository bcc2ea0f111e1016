"""Rows as people have them: what is read as what, what is refused with row and column, and what a run tells of them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import alignzoo
from alignzoo import DataError, Prompt
from alignzoo.data import Data, Rows, from_rows, read, train_and_heldout
from alignzoo.data.turns import heard
from alignzoo.errors import RecipeError
from alignzoo.recipe import load
from alignzoo.registry import Registry
from alignzoo.runs.arguments import flat, overrides_of


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


ASK, YES, NO = user("Is it?"), assistant("Yes."), assistant("No.")

READ: dict[str, tuple[dict[str, Any], Prompt]] = {
    "the prompt is repeated in the replies": (
        {"prompt": [ASK], "chosen": [ASK, YES], "rejected": [ASK, NO]},
        Prompt((ASK,), ((YES,), (NO,)), (1.0, 0.0)),
    ),
    "repeated without its system's turn": (
        {"prompt": [system("Be brief."), ASK], "completion": [ASK, YES]},
        Prompt((system("Be brief."), ASK), ((YES,),), (1.0,)),
    ),
    "a string, and replies that are whole conversations": (
        {"prompt": "Is it?", "chosen": [ASK, YES], "rejected": [ASK, NO], "score_chosen": 8.0},
        Prompt((ASK,), ((YES,), (NO,)), (1.0, 0.0), {"score_chosen": 8.0}),
    ),
    "a string, and replies of the assistant's turn": (
        {"prompt": "Is it?", "chosen": [YES], "rejected": [NO]},
        Prompt((ASK,), ((YES,), (NO,)), (1.0, 0.0)),
    ),
    "turns before the last are asked": (
        {"prompt": [ASK], "completion": [YES, user("Sure?"), NO]},
        Prompt((ASK, YES, user("Sure?")), ((NO,),), (1.0,)),
    ),
    "turns that both replies share are asked": (
        {"prompt": [ASK], "chosen": [YES, user("Sure?"), YES], "rejected": [YES, user("Sure?"), NO]},
        Prompt((ASK, YES, user("Sure?")), ((YES,), (NO,)), (1.0, 0.0)),
    ),
    "a system's column before a text": (
        {"system": "Be brief.", "prompt": "Is it?", "completion": "Yes."},
        Prompt((system("Be brief."), ASK), ((YES,),), (1.0,)),
    ),
    "a system's column before a conversation": (
        {"system": "Be brief.", "messages": [ASK, YES]},
        Prompt((system("Be brief."), ASK), ((YES,),), (1.0,)),
    ),
    "an empty system's column": ({"system": "", "prompt": "Is it?"}, Prompt("Is it?")),
    "a conversation spelt in JSON": (
        {"prompt": json.dumps([ASK]), "completion": json.dumps([YES])},
        Prompt((ASK,), ((YES,),), (1.0,)),
    ),
    "a conversation as Python prints it": (
        {"messages": str([ASK, YES])},
        Prompt((ASK,), ((YES,),), (1.0,)),
    ),
    "a list in JSON that is no conversation": ({"prompt": '[{"a": 1}]'}, Prompt('[{"a": 1}]')),
}


@pytest.mark.parametrize(("row", "prompt"), READ.values(), ids=READ)
def test_read(row: dict[str, Any], prompt: Prompt) -> None:
    assert from_rows([row]) == [prompt]


REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "null in the first row": (
        [{"prompt": None, "chosen": "a b", "rejected": "a c"}, {"prompt": "a", "chosen": "b", "rejected": "c"}],
        r"row 1 \(preference\), column 'prompt': it is null\. Say format = 'preference-implicit' if",
    ),
    "a label that is null": (
        [{"prompt": "a", "completion": "b", "label": None}, {"prompt": "a", "completion": "c", "label": False}],
        r"row 1 \(unpaired\), column 'label': it is null\. Say format = 'prompt-completion' if",
    ),
    "another question": (
        [{"prompt": "Was it?", "chosen": [ASK, YES], "rejected": [ASK, NO]}],
        "column 'prompt': it is a string, and not what the user asks .* format = 'preference-implicit'",
    ),
    "a reply that begins with another's turn": (
        [{"prompt": [ASK], "completion": [user("What?"), YES]}],
        "column 'completion': it begins with another turn than the assistant's",
    ),
    "an instruction that would be left out": (
        [{"instruction": "Sum up.", "chosen": "a b", "rejected": "a c"}],
        "row 1 looks like 'preference-implicit', which would leave instruction unread",
    ),
    "two systems": (
        [{"system": "Be brief.", "messages": [system("Be long."), ASK, YES]}],
        "column 'system': the conversation has another system's turn, 'Be long.'",
    ),
    "a system of a text without a prompt": ([{"system": "Be brief.", "text": "a"}], "column 'system': a text without"),
    "half a letter": (
        [{"prompt": "a", "completion": "b \ud83d"}],
        r"column 'completion': it has half a letter, \\ud83d",
    ),
    "half a letter in a turn": ([{"prompt": [user("\ude00")]}], r"column 'prompt\[0\]': it has half a letter"),
    "what looks like a conversation": (
        [{"prompt": "[{'role': 'user', 'content': 'a'} {'role': 'assistant', 'content': 'b'}]"}],
        "column 'prompt': it looks like a conversation, but is no JSON",
    ),
    "a richer row than the first": (
        [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "bad", "label": False}],
        r"row 2 looks like 'unpaired', and the first row like 'prompt-completion'",
    ),
    "a history of another shape": (
        [{"instruction": "a", "output": "b", "history": ["c"]}],
        r"column 'history\[0\]': expected a question and its answer",
    ),
}


@pytest.mark.parametrize(("rows", "match"), REFUSED.values(), ids=REFUSED)
def test_refused(rows: list[dict[str, Any]], match: str) -> None:
    with pytest.raises(DataError, match=match):
        from_rows(rows)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_csv_keeps_what_is_written(tmp_path: Path) -> None:
    lines = 'prompt,answer,price,rating,code,sure\n"a, b",007,1.5,4,1e5,True\n12,42,2.0,,2,no\n'
    first, second = read(Data(write(tmp_path / "d.csv", lines)))
    assert first == Prompt("a, b", info={"answer": "007", "price": 1.5, "rating": 4, "code": "1e5", "sure": "True"})
    assert second == Prompt("12", info={"answer": "42", "price": 2.0, "rating": None, "code": "2", "sure": "no"})
    cells = 'prompt,completions,scores\na,"[""b"", ""c""]","[1, 0.5]"\n'
    assert read(Data(write(tmp_path / "e.csv", cells))) == [Prompt("a", ("b", "c"), (1.0, 0.5))]


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ("prompt,prompt\na,b\n", "two columns have one name"),
        ("prompt,answer\na,b,c\n", r"line 2: expected 2 cells, found 3\. A text with commas stands between quotes"),
        ("prompt,completion,label\na,b,maybe\n", r"row 1 \(unpaired\), column 'label': expected true or false"),
        ('prompt\n"a\n', "line 2: unexpected end of data"),
    ],
)
def test_csv_of_the_wrong_shape(tmp_path: Path, lines: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read(Data(write(tmp_path / "d.csv", lines)))


ROWS = [{"prompt": f"question {i}", "completion": f"answer {i}", "n": i} for i in range(6)]


def test_tables_and_dictionaries_of_datasets_are_rows() -> None:
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    expected = from_rows(ROWS)
    assert from_rows(pandas.DataFrame(ROWS)) == expected
    gaps = pandas.DataFrame([{"prompt": "a", "n": 1.0}, {"prompt": "b", "n": None}])
    assert from_rows(gaps) == [Prompt("a", info={"n": 1.0}), Prompt("b", info={"n": None})]
    both = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS), test=datasets.Dataset.from_list(ROWS[:1]))
    assert read(Data(rows=Rows(both))) == expected
    assert read(Data(rows=both, split="test", limit=1)) == expected[:1]
    with pytest.raises(DataError, match=r"the data are a mapping without a split 'tset'\. Did you mean 'test'"):
        read(Data(rows=both, split="tset"))
    with pytest.raises(DataError, match="expected rows, found int 3"):
        from_rows(3)


def test_answers_that_repeat_their_prompt_are_told() -> None:
    rows = [{"prompt": f"Sum {i}:", "completion": f"Sum {i}: done"} for i in range(3)]
    with pytest.warns(UserWarning, match="each of the 3 answers begins with its whole prompt"):
        from_rows(rows)


def test_the_recipe_says_what_texts_are() -> None:
    texts = [Prompt("a", ("b",), (1.0,)), Prompt((ASK,), ((YES,),), (1.0,))]
    assert [prompt.chat for prompt in map(heard("plain", ""), texts)] == ["plain", None]
    brief = list(map(heard("auto", "Be brief."), [*texts, Prompt((system("Mine."), ASK))]))
    assert [prompt.messages[0]["content"] for prompt in brief] == ["Be brief.", "Be brief.", "Mine."]  # type: ignore[index]
    assert brief[0].completions == ((assistant("b"),),)
    with pytest.raises(DataError, match="leave one of them out"):
        heard("plain", "Be brief.")


# --- data from Python -----------------------------------------------------------------------------------------------

GIVEN = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(8)]


def _dataset() -> Any:
    import datasets

    return datasets.Dataset.from_list(GIVEN)


def _splits() -> Any:
    import datasets

    return datasets.DatasetDict(train=_dataset(), test=datasets.Dataset.from_list([{"prompt": "b", "completion": "c"}]))


def _frame() -> Any:
    import pandas

    return pandas.DataFrame(GIVEN)


FROM_PYTHON: dict[str, Callable[[], Any]] = {
    "rows": lambda: GIVEN,
    "an iterator": lambda: iter(GIVEN),
    "a DataFrame": _frame,
    "a Dataset": _dataset,
    "a DatasetDict": _splits,
    "settings with rows": lambda: {"rows": GIVEN, "heldout": 0.5},
    "a Data": lambda: Data(rows=GIVEN, heldout=0.5),
}


@pytest.mark.parametrize("given", FROM_PYTHON)
def test_data_from_python_take_every_setting_of_data(given: str) -> None:
    registry = Registry()
    registry.load_all()
    for setting in ({"data.heldout": 0}, {"data": {"heldout": 0}}):
        changes = overrides_of(None, FROM_PYTHON[given](), None) | flat(setting)
        (stage,) = load("sft", [*changes.items(), "data.limit=5", "data.system=Be brief."], registry=registry).stages
        assert stage.kind == "demonstrations"  # what the recipe says of its data stays
        train, heldout = train_and_heldout(stage.data)
        assert [prompt.completions for prompt in train] == [(f"answer {i}",) for i in range(5)]
        assert (heldout, stage.data.system) == ([], "Be brief.")


def test_a_dictionary_of_datasets_holds_out_a_split_of_its_own() -> None:
    registry = Registry()
    registry.load_all()
    for key in ("data", "sft.data"):
        stage = load("sft", [(key, _splits()), "data.heldout_split=test"], registry=registry).stages[0]
        assert tuple(map(len, train_and_heldout(stage.data))) == (8, 1)
    with pytest.raises(RecipeError, match=r"sft\.data\.heldot: Data has no such field. Did you mean 'heldout'"):
        load("sft", [("data", {"heldot": GIVEN, "path": "x"})], registry=registry)


# --- what a run tells ---------------------------------------------------------------------------------------------


def run(tiny_model: Path, out: Path, recipe: str, rows: Any, *overrides: str) -> tuple[dict[str, Any], str]:
    """What the run says that it trains on, and everything it warned of."""
    alerts: list[str] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        alignzoo.run(
            recipe,
            policy=str(tiny_model),
            data=rows,
            out=out,
            schedule={"steps": 1, "prompts": 2},
            evaluate={"prompts": 0},
            overrides=["policy.max_new_tokens=8", "policy.device=cpu", *overrides],
            warn=lambda stage, step, alert: alerts.append(alert.message),
        )
    found: dict[str, Any] = json.loads((out / "data" / f"{recipe}.json").read_text())
    return found, "\n".join([*alerts, *(str(each.message) for each in told if "alignzoo" in str(each.filename))])


def test_a_run_shows_what_it_trains_on(tiny_model: Path, tmp_path: Path) -> None:
    found, told = run(tiny_model, tmp_path / "auto", "sft", ROWS, "data.heldout=0")
    assert (found["rows"], found["looked_at"], found["answers_cut"]) == (6, 6, 0)
    assert found["prompt"] == "<|user|>question 0<|end|><|assistant|>" and found["answer"] == "answer 0<|end|>"
    assert told.count("each text prompt is a user's turn") == 1
    found, told = run(tiny_model, tmp_path / "plain", "sft", ROWS, "data.heldout=0", "data.chat=plain")
    assert found["prompt"] == "question 0" and "turn" not in told
    found, _ = run(tiny_model, tmp_path / "system", "sft", ROWS, "data.heldout=0", "data.system=Be brief.")
    assert found["prompt"] == "<|system|>Be brief.<|end|><|user|>question 0<|end|><|assistant|>"


def test_what_is_too_long_is_cut_dropped_or_an_error(tiny_model: Path, tmp_path: Path) -> None:
    rows = [*ROWS[:4], {"prompt": "long", "completion": "word " * 99}, {"prompt": "word " * 99, "completion": "x"}]
    rows = [{key: row[key] for key in ("prompt", "completion")} for row in rows]
    settings = ("data.heldout=0", "policy.max_length=64")
    found, told = run(tiny_model, tmp_path / "cut", "sft", rows, *settings)
    assert (found["rows"], found["prompts_cut"], found["answers_cut"]) == (6, 1, 1)
    assert "given answers that are cut at their end, and do not teach to stop: 1 in 6 rows" in told
    assert "prompts that are cut at their beginning to fit into the model's context: 1 of 6 rows" in told
    found, told = run(tiny_model, tmp_path / "drop", "sft", rows, *settings, "data.too_long=drop")
    assert (found["rows"], found["dropped"], found["answers_cut"]) == (4, 2, 0)
    assert "rows left out because they do not fit into the model's context: 2 of 6" in told
    with pytest.raises(DataError, match="the answer of the row 'long' does not fit"):
        run(tiny_model, tmp_path / "error", "sft", rows, *settings, "data.too_long=error")


def test_bad_answers_are_not_imitated(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "completion": "x", "label": i % 3 > 0} for i in range(6)]
    found, told = run(tiny_model, tmp_path / "some", "sft", rows, "data.heldout=0")
    assert found["rows"] == 4 and "2 of 6, for their label says that the answer is bad" in told
    with pytest.raises(DataError, match="no row can be learnt from: 6 of 6"):
        run(tiny_model, tmp_path / "none", "sft", [row | {"label": False} for row in rows], "data.heldout=0")


def test_answers_may_have_several_turns_but_answer_what_is_asked(tiny_model: Path, tmp_path: Path) -> None:
    pair = {"prompt": [ASK], "chosen": [YES], "rejected": [NO]}
    rows = [pair, pair, pair | {"chosen": [YES, user("Sure?"), YES]}]
    found, told = run(tiny_model, tmp_path / "run", "dpo", rows, "data.heldout=0")
    assert found["rows"] == 3 and "left out" not in told
    other = {"chosen": [ASK, YES, user("Sure?"), YES], "rejected": [ASK, YES, user("Why?"), NO]}
    same = [{"chosen": [ASK, YES], "rejected": [ASK, NO]}] * 2
    found, told = run(tiny_model, tmp_path / "other", "dpo", [other, *same], "data.heldout=0")
    assert found["rows"] == 2
    assert "an answer begins or ends with another turn than the assistant's" in told


def test_a_column_that_the_optimizer_names_is_a_number_in_every_row(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b", "gap": i or None, "staleness": 1.0} for i in range(4)]
    run(tiny_model, tmp_path / "unused", "dpo", rows, "data.heldout=0")
    modes = [row | {"group": "easy", "token": "x"} for row in rows]  # columns called like an optimizer's choices
    run(tiny_model, tmp_path / "modes", "dpo", modes, "data.heldout=0")
    with pytest.raises(
        DataError, match=r"optimizer.margin names the column 'gap', which is no finite number in 1 of 4"
    ):
        run(tiny_model, tmp_path / "gap", "reward-model", rows, "data.heldout=0", "optimizer.margin=gap")
    with pytest.raises(DataError, match=r"batches have one of their own of that name: rename it, with data.columns"):
        run(tiny_model, tmp_path / "age", "reward-model", rows, "data.heldout=0", "optimizer.margin=staleness")


def test_a_row_that_the_template_refuses_stops_the_run_before_its_first_step(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "strict.jinja"
    file.write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system here') }}{% endif %}"
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    rows = [{"messages": [ASK, YES]}, {"messages": [system("Be brief."), ASK, YES]}]
    with pytest.raises(DataError, match=r"conversation 'Is it\?' .*says 'No system here'"):
        run(tiny_model, tmp_path / "run", "sft", rows, "data.heldout=0", f"policy.chat_template={file}")
