"""Rows -> prompts: every shape, and everything that can be wrong with a row."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from alignzoo.data import Data, from_rows
from alignzoo.data.formats import FORMATS, accepted
from alignzoo.errors import DataError
from alignzoo.types import Prompt


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
ASK, ANSWER, OTHER = user("What color is the sky?"), assistant("It is blue."), assistant("It is green.")

HUMAN = "\n\nHuman: Hello.\n\nAssistant: Hi!\n\nHuman: Help me."

SHAPES: dict[str, tuple[dict[str, Any], Prompt]] = {
    "prompt-only": ({"prompt": "Sort: 3 1 2", "answer": 123}, Prompt("Sort: 3 1 2", info={"answer": 123})),
    "prompt-only, conversation": ({"prompt": [SYSTEM, ASK]}, Prompt((SYSTEM, ASK))),
    "preference": (
        {"prompt": "2+2=", "chosen": "4", "rejected": "5", "margin": 0.5},
        Prompt("2+2=", ("4", "5"), (1.0, 0.0), {"margin": 0.5}),
    ),
    "preference, conversation": (
        {"prompt": [ASK], "chosen": [ANSWER], "rejected": [OTHER]},
        Prompt((ASK,), ((ANSWER,), (OTHER,)), (1.0, 0.0)),
    ),
    "preference, several turns": (
        {"prompt": [ASK], "chosen": [ANSWER, user("Sure?"), assistant("Yes.")], "rejected": [OTHER]},
        Prompt((ASK,), ((ANSWER, user("Sure?"), assistant("Yes.")), (OTHER,)), (1.0, 0.0)),
    ),
    "preference, identical": ({"prompt": "a", "chosen": "b", "rejected": "b"}, Prompt("a", ("b", "b"), (1.0, 0.0))),
    "implicit, the space goes with the completions": (
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        Prompt("The sky is", (" blue.", " green."), (1.0, 0.0)),
    ),
    "implicit, not inside a word": (
        {"chosen": "The sky is blue.", "rejected": "The sky is black."},
        Prompt("The sky is", (" blue.", " black."), (1.0, 0.0)),
    ),
    "implicit, not inside a number": (
        {"chosen": "5+5=10", "rejected": "5+5=12"},
        Prompt("5+5=", ("10", "12"), (1.0, 0.0)),
    ),
    "implicit, nothing shared": ({"chosen": "Yes.", "rejected": "No."}, Prompt("", ("Yes.", "No."), (1.0, 0.0))),
    "implicit, one begins the other": (
        {"chosen": "It is so", "rejected": "It is so not"},
        Prompt("It is", (" so", " so not"), (1.0, 0.0)),
    ),
    "implicit, identical": ({"chosen": "It is", "rejected": "It is"}, Prompt("It", (" is", " is"), (1.0, 0.0))),
    "implicit, conversation": (
        {"chosen": [SYSTEM, ASK, ANSWER], "rejected": [SYSTEM, ASK, OTHER]},
        Prompt((SYSTEM, ASK), ((ANSWER,), (OTHER,)), (1.0, 0.0)),
    ),
    "implicit, conversation, identical": (
        {"chosen": [ASK, ANSWER], "rejected": [ASK, ANSWER]},
        Prompt((ASK,), ((ANSWER,), (ANSWER,)), (1.0, 0.0)),
    ),
    "unpaired": (
        {"prompt": "2+2=", "completion": "5", "label": False},
        Prompt("2+2=", ("5",), (0.0,)),
    ),
    "unpaired, conversation": (
        {"prompt": [ASK], "completion": [ANSWER], "label": True},
        Prompt((ASK,), ((ANSWER,),), (1.0,)),
    ),
    "prompt-completion": (
        {"prompt": "2+2=", "completion": "4", "source": "school"},
        Prompt("2+2=", ("4",), (1.0,), {"source": "school"}),
    ),
    "prompt-completion, conversation": (
        {"prompt": [ASK], "completion": [ANSWER]},
        Prompt((ASK,), ((ANSWER,),), (1.0,)),
    ),
    "text": ({"text": "Once upon a time.", "id": 7}, Prompt("", ("Once upon a time.",), (1.0,), {"id": 7})),
    "messages": ({"messages": [SYSTEM, ASK, ANSWER]}, Prompt((SYSTEM, ASK), ((ANSWER,),), (1.0,))),
    "messages, only the last turn is the completion": (
        {"messages": [ASK, ANSWER, user("Sure?"), assistant("Yes.")]},
        Prompt((ASK, ANSWER, user("Sure?")), ((assistant("Yes."),),), (1.0,)),
    ),
    "messages, keys without content are dropped": (
        {"messages": [{**ASK, "tool_calls": None, "name": ""}, {**ANSWER, "tool_calls": []}]},
        Prompt((ASK,), ((ANSWER,),), (1.0,)),
    ),
    "ranks, with a tie": (
        {"prompt": "2+2=", "completions": ["5", "4", "22"], "ranks": [2, 1, 2]},
        Prompt("2+2=", ("5", "4", "22"), (-2.0, -1.0, -2.0)),
    ),
    "ranks, conversation": (
        {"prompt": [ASK], "completions": [[OTHER], [ANSWER]], "ranks": [2, 1]},
        Prompt((ASK,), ((OTHER,), (ANSWER,)), (-2.0, -1.0)),
    ),
    "scores, an empty completion was ranked too": (
        {"prompt": "2+2=", "completions": ["4", ""], "scores": [0.9, -3]},
        Prompt("2+2=", ("4", ""), (0.9, -3.0)),
    ),
    "scores, before ranks": (
        {"prompt": "a", "completions": ["b", "c"], "scores": [0.5, 0.25], "ranks": [1, 2]},
        Prompt("a", ("b", "c"), (0.5, 0.25), {"ranks": [1, 2]}),
    ),
    "hh": (
        {"chosen": HUMAN + "\n\nAssistant: With what?", "rejected": HUMAN + "\n\nAssistant: No."},
        Prompt(
            (user("Hello."), assistant("Hi!"), user("Help me.")),
            ((assistant("With what?"),), (assistant("No."),)),
            (1.0, 0.0),
        ),
    ),
    "hh, more than one turn differs": (
        {
            "chosen": HUMAN + "\n\nAssistant: With what?\n\nHuman: Tea.\n\nAssistant: Boil water.",
            "rejected": HUMAN + "\n\nAssistant: No.",
        },
        Prompt(
            (user("Hello."), assistant("Hi!"), user("Help me.")),
            ((assistant("With what?"), user("Tea."), assistant("Boil water.")), (assistant("No."),)),
            (1.0, 0.0),
        ),
    ),
    "hh, an empty reply was judged too": (
        {"chosen": "\n\nHuman: Hm.\n\nAssistant: ", "rejected": "\n\nHuman: Hm.\n\nAssistant: What?"},
        Prompt((user("Hm."),), ((assistant(""),), (assistant("What?"),)), (1.0, 0.0)),
    ),
    "alpaca": (
        {"instruction": "Translate.", "input": "Hund", "output": "dog"},
        Prompt("Translate.\n\nHund", ("dog",), (1.0,)),
    ),
    "alpaca, without the column": ({"instruction": "Say hi.", "output": "hi"}, Prompt("Say hi.", ("hi",), (1.0,))),
    "alpaca, with a system and a history": (
        {"instruction": "And?", "input": "", "output": "c", "system": "Be brief.", "history": [["a", "b"]]},
        Prompt((SYSTEM, user("a"), assistant("b"), user("And?")), ((assistant("c"),),), (1.0,)),
    ),
    "alpaca, no input": (
        {"instruction": "Say hi.", "input": "", "output": "hi"},
        Prompt("Say hi.", ("hi",), (1.0,)),
    ),
    # Votes 1, 0 (a tie) and 2, 0: 1 + 1/2 + 0 + 1/2 = 2 of 4 for either.
    "pandalm": (
        {"instruction": "Add.", "input": "2 2", "response1": True, "response2": ""}
        | {"annotator1": 1, "annotator2": "0", "annotator3": 2, "annotator4": 0},
        Prompt(
            "Add.\n\n2 2",
            ("True", ""),
            (0.5, 0.5),
            {"annotator1": 1, "annotator2": "0", "annotator3": 2, "annotator4": 0},
        ),
    ),
    # 1.25: three quarters for the first.
    "alpaca-eval": (
        {"instruction": "Add.", "output_1": "4", "output_2": "5", "preference": 1.25},
        Prompt("Add.", ("4", "5"), (0.75, 0.25), {"preference": 1.25}),
    ),
    "alpaca-eval, a tie": (
        {"instruction": "Add.", "output_1": "4", "output_2": "5", "preference": 0},
        Prompt("Add.", ("4", "5"), (0.5, 0.5), {"preference": 0}),
    ),
}


@pytest.mark.parametrize(("row", "prompt"), SHAPES.values(), ids=SHAPES)
def test_shape(row: dict[str, Any], prompt: Prompt) -> None:
    assert from_rows([row]) == [prompt]


def test_steps_of_a_solution_are_read_by_their_name_alone() -> None:
    """TRL's stepwise supervision, whose three steps would be three answers to a method that ranks them."""
    row = {"prompt": "2 + 3?", "completions": ["It is", "2 + 3", "= 6."], "labels": [True, True, False]}
    read = Prompt("2 + 3?", ("It is", "2 + 3", "= 6."), (1.0, 1.0, 0.0))
    assert from_rows([row], format="stepwise") == [read]
    assert from_rows([row | {"labels": [1, 0.5, 0]}], format="stepwise")[0].labels == (1.0, 0.5, 0.0)
    with pytest.raises(DataError, match="say format = 'stepwise' if these are steps of one solution"):
        from_rows([row])
    for wrong in ([True, False], [True, "no", False], "yes"):
        with pytest.raises(DataError, match="labels"):
            from_rows([row | {"labels": wrong}], format="stepwise")


def test_every_format_has_its_shape_tested_and_its_name_documented() -> None:
    tested = {name.partition(",")[0].replace("implicit", "preference-implicit") for name in SHAPES}
    assert {name for name, form in FORMATS.items() if not form.named} <= tested
    source = " ".join(inspect.getsource(Data).split())
    assert f"{', '.join(list(FORMATS)[:-1])} or {list(FORMATS)[-1]};" in source


def test_columns_are_renamed_and_the_others_kept() -> None:
    row = {"question": "2+2=", "answer": "#### 4", "prompt": 7}
    columns = {"prompt": "question", "number": "prompt"}
    assert from_rows([row], columns=columns) == [Prompt("2+2=", info={"answer": "#### 4", "number": 7})]
    swap = {"chosen": "rejected", "rejected": "chosen"}
    assert from_rows([PAIR], columns=swap) == [Prompt("a", ("c", "b"), (1.0, 0.0))]


def test_a_format_by_name_wins_over_the_columns() -> None:
    row = {"prompt": "x", "chosen": [ASK, ANSWER], "rejected": [ASK, OTHER]}
    expected = Prompt((ASK,), ((ANSWER,), (OTHER,)), (1.0, 0.0), {"prompt": "x"})
    assert from_rows([row], format="preference-implicit") == [expected]
    assert from_rows([{"prompt": "x", "completion": "y", "label": "cat"}], format="prompt-completion") == [
        Prompt("x", ("y",), (1.0,), {"label": "cat"})
    ]


def test_rows_are_not_changed() -> None:
    row = {"messages": [{**ASK, "name": None}, ANSWER]}
    before = json.dumps(row)
    from_rows([row])
    assert json.dumps(row) == before


PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
RANKING = {"prompt": "a", "completions": ["b", "c"], "scores": [1, 0]}
VOTES = {"instruction": "a", "input": "", "response1": "b", "response2": "c", "annotator1": 1}

WRONG: dict[str, tuple[list[Any], str]] = {
    "no format fits": ([{"question": "a", "output": "b"}], "row 1 has .* output, question: no format fits"),
    "not an object": ([PAIR, ["a", "b"]], r"row 2: expected an object, found list \['a', 'b'\]"),
    "missing in the middle": (
        [PAIR, PAIR, {"prompt": "a", "chosen": "b", "rejectd": "c"}],
        r"row 3 \(preference\), column 'rejected': it is missing. Did you mean 'rejectd'",
    ),
    "null in the middle": ([PAIR, {**PAIR, "chosen": None}], r"row 2 .*column 'chosen': expected a text, found null"),
    "another type in the middle": ([PAIR, {**PAIR, "rejected": 5}], r"row 2 .*column 'rejected': .* found int 5"),
    "begun, not finished": ([{"prompt": "a", "chosen": "b"}], "row 1 looks like 'prompt-only', .* leave chosen unread"),
    "unscored ranking": ([{"prompt": "a", "completions": ["b", "c"]}], "row 1 looks .* leave completions unread"),
    "empty prompt": ([{"prompt": ""}], "row 1 .*column 'prompt': it is empty"),
    "empty question": ([{"prompt": [SYSTEM, user("")]}], "row 1 .*column 'prompt': it is empty"),
    "empty chosen": ([{**PAIR, "chosen": ""}], "row 1 .*column 'chosen': it is empty"),
    "empty rejected": ([{"prompt": [ASK], "chosen": [ANSWER], "rejected": [assistant("")]}], "'rejected': it is empty"),
    "no turns": ([{"prompt": [ASK], "chosen": [ANSWER], "rejected": []}], r"'rejected': .* found list \[\]"),
    "empty, implicit": ([{"chosen": "a", "rejected": ""}], r"\(preference-implicit\), column 'rejected': it is empty"),
    "empty reply, implicit": (
        [{"chosen": [ASK, assistant("")], "rejected": [ASK, OTHER]}],
        "column 'chosen': it is empty",
    ),
    "nothing shared": (
        [{"chosen": [ASK, ANSWER], "rejected": [user("Why?"), OTHER]}],
        "column 'chosen': it shares no turn before the last with 'rejected'",
    ),
    "two kinds of text": (
        [{"prompt": [ASK], "completion": "It is blue."}],
        "row 1 .*column 'completion': expected a conversation, found a string",
    ),
    "two kinds, implicit": (
        [{"chosen": "a", "rejected": [ASK, ANSWER]}],
        "column 'rejected': expected a string, found a conversation",
    ),
    "the user's turn": (
        [{"prompt": [ASK], "completion": [user("Why?")]}],
        "column 'completion': expected the assistant's turn at its end, found the user's",
    ),
    "messages end with the user": ([{"messages": [ASK, ANSWER, ASK]}], "'messages': expected the assistant's turn"),
    "messages without a question": ([{"messages": [ANSWER]}], "column 'messages': expected a question before"),
    "messages as a string": ([{"messages": "Hi"}], "column 'messages': expected a conversation, found a string"),
    "a turn of another shape": (
        [{"prompt": [{"from": "human", "value": "Hi"}]}],
        r"""column 'prompt\[0\]': expected \{"role", "content"\} in text, found dict \{'from': 'human'""",
    ),
    "content in parts": (
        [{"prompt": [SYSTEM, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}],
        r"column 'prompt\[1\]': expected",
    ),
    "unknown role": (
        [{"prompt": [ASK, {"role": "tool", "content": "4"}]}],
        r"column 'prompt\[1\]': unknown role 'tool'. Known: system, user, assistant",
    ),
    "tool calls": (
        [{"messages": [ASK, {**ANSWER, "tool_calls": [{"name": "look"}]}]}],
        r"row 1 .*column 'messages\[1\]': only role and content can be kept, found tool_calls",
    ),
    "label is not bool": (
        [{"prompt": "a", "completion": "b", "label": True}, {"prompt": "a", "completion": "b", "label": 1}],
        r"row 2 \(unpaired\), column 'label': expected true or false, found int 1",
    ),
    "one completion": ([{**RANKING, "completions": ["b"]}], "'completions': expected two or more to rank, found 1"),
    "completions are no list": ([{**RANKING, "completions": "b"}], "'completions': expected a list, found str 'b'"),
    "a completion is no text": ([{**RANKING, "completions": ["b", 3]}], r"'completions\[1\]': .* found int 3"),
    "a conversation between": ([{**RANKING, "completions": ["b", [ANSWER]]}], r"'completions\[1\]': .* a conversation"),
    "too few scores": ([RANKING, {**RANKING, "scores": [1]}], "row 2 .*column 'scores': .* found 1 for 2 completions"),
    "NaN": ([{**RANKING, "scores": [1, float("nan")]}], "column 'scores': expected finite numbers, found float nan"),
    "infinity": ([{**RANKING, "scores": [1, float("inf")]}], "column 'scores': .* found float inf"),
    "a bool is no score": ([{**RANKING, "scores": [True, False]}], "column 'scores': .* found bool True"),
    "one score for all": ([{**RANKING, "scores": 1.0}], "column 'scores': expected a list, found float 1.0"),
    "ranks from zero": (
        [{"prompt": "a", "completions": ["b", "c"], "ranks": [0, 1]}],
        r"column 'ranks': expected ranks from 1 \(the best\) on, found list \[0, 1\]",
    ),
    "too many ranks": (
        [{"prompt": "a", "completions": ["b", "c"], "ranks": [1, 2, 3]}],
        "column 'ranks': expected one number per completion, found 3 for 2",
    ),
    "not a dialogue": (
        [{"chosen": HUMAN, "rejected": HUMAN}, {"chosen": "Hello." + HUMAN, "rejected": HUMAN}],
        r"row 2 \(hh\), column 'chosen': expected a dialogue .* found str 'Hello.",
    ),
    "not even a string": ([{"chosen": HUMAN, "rejected": 3}], r"\(hh\), column 'rejected': .* found int 3"),
    "a strange vote": ([{**VOTES, "annotator1": 3}], r"column 'annotator1': expected 0 \(a tie\), 1 or 2, found int 3"),
    "no votes": ([{k: v for k, v in VOTES.items() if k != "annotator1"}], "column 'annotator1': it is missing, and so"),
    "no instruction": ([{**VOTES, "instruction": ""}], "column 'instruction': it is empty, and so is the input"),
    "empty text": ([{"text": "a"}, {"text": ""}], r"row 2 \(text\), column 'text': it is empty"),
    "no rows": ([], "the data holds no rows"),
}


@pytest.mark.parametrize(("rows", "match"), WRONG.values(), ids=WRONG)
def test_wrong_row(rows: list[Any], match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        from_rows(rows)
    assert accepted() in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 20  # one screen


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"prompt": "queston"}, "row 1: columns.prompt = 'queston', but .* Did you mean 'question'"),
        ({"source": "question"}, "row 1: columns.source = 'question' would hide the file's own column 'source'"),
    ],
)
def test_wrong_renaming(columns: dict[str, str], match: str) -> None:
    with pytest.raises(DataError, match=match):
        from_rows([{"question": "a", "source": "b"}], columns=columns)


def test_an_unknown_format_gets_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"no format is called 'prefrence'. Did you mean 'preference'"):
        from_rows([PAIR], format="prefrence")


def test_a_dictionary_of_splits_is_not_rows() -> None:
    with pytest.raises(DataError, match=r"found a mapping\. Give the value of 'train' or 'test'"):
        from_rows({"train": [PAIR], "test": [PAIR]})  # type: ignore[dict-item]
