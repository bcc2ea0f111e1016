"""Rewards that are rules, and the reward `model`: groups in, one score per completion out."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from alignzoo import Completion, DataError, Group, ModelError, Prompt, RewardError
from alignzoo.interfaces import CheckContext
from alignzoo.rewards import WeightedReward, score
from alignzoo_hf.reward import ModelReward
from alignzoo_match import Match
from alignzoo_rules import Labels, Length, Python, find

NOBODY: Any = None
"""Rules ask no policy."""


def group(question: Any, *answers: str, labels: tuple[float, ...] = (), own: bool = True, **info: Any) -> Group:
    """A prompt and what was answered, by the policy itself or by the data."""
    completions = tuple(
        Completion(tuple(range(5, 5 + len(text))), text, logprobs=(-1.0,) * len(text) if own else None)
        for text in answers
    )
    return Group(Prompt(question, answers, labels, info), (1, 2), completions)


def values(reward: Any, *groups: Group) -> list[list[float | None]]:
    """Scores as `collate.score` passes them on, checks and all."""
    return [[s.value for s in g.scores or ()] for g in score(groups, [WeightedReward("it", reward)], NOBODY)]


TALK = ({"role": "user", "content": "Say it."},)

# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_are_the_datas_own_in_their_order() -> None:
    groups = [group("a", "x", "y", "z", labels=(0.0, 2.5, 1.0), own=False), group("b", "x", labels=(7.0,), own=False)]
    assert values(Labels(), *groups) == [[0.0, 2.5, 1.0], [7.0]]


def test_labels_abstain_on_what_the_policy_wrote() -> None:
    assert values(Labels(), group("a", "x", "y", labels=(1.0, 0.0))) == [[None, None]]


def test_labels_must_be_as_many_as_completions() -> None:
    with pytest.raises(DataError, match="2 completions but 1 labels for the prompt 'a'"):
        values(Labels(), group("a", "x", "y", labels=(1.0,), own=False))


# --- python -----------------------------------------------------------------------------------------------------------


def lengths(completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


async def slowly(completions: list[str], **columns: Any) -> list[float]:
    return lengths(completions)


class Callables:
    def __call__(self, completions: list[str]) -> list[float]:
        return lengths(completions)


class AsyncCallables:
    async def __call__(self, completions: list[str]) -> list[float]:
        return lengths(completions)


@pytest.mark.parametrize("function", [lengths, slowly, Callables(), AsyncCallables(), lambda completions: [1, 2, 3]])
def test_python_takes_any_callable(function: Any) -> None:
    assert values(Python(function), group("a", "x", "yy"), group("b", "zzz")) == [[1.0, 2.0], [3.0]]


def test_python_waits_for_a_coroutine_inside_a_running_loop() -> None:
    import asyncio

    async def notebook() -> list[list[float | None]]:
        return values(Python(slowly), group("a", "x"))

    assert asyncio.run(notebook()) == [[1.0]]


def test_python_finds_a_function_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "def count(completions):\n    return [len(c) for c in completions]\nnumber = 3\n"
    (tmp_path / "my_rewards.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for path in ("my_rewards:count", "my_rewards.count", f"{tmp_path / 'my_rewards.py'}:count"):
        assert values(Python(path), group("a", "x", "yy")) == [[1.0, 2.0]], path
        sys.modules.pop("my_rewards", None)


def test_python_says_what_a_path_lacks(tmp_path: Path) -> None:
    (tmp_path / "rewards_here.py").write_text("def count(completions): ...\nnumber = 3\n")
    (tmp_path / "rewards_broken.py").write_text("import nothing_of_the_kind\n")
    for path, message in {
        f"{tmp_path / 'rewards_here.py'}:cuont": "has no function 'cuont'. Did you mean 'count'",
        f"{tmp_path / 'rewards_here.py'}:number": "has no function 'number'",
        f"{tmp_path / 'rewards_gone.py'}:count": "FileNotFoundError while importing .*no such file",
        f"{tmp_path / 'rewards_broken.py'}:count": "ModuleNotFoundError while importing .*nothing_of_the_kind",
        "no_such_package.rewards:count": "ModuleNotFoundError while importing no_such_package",
        "count": "write package.module:function or file.py:function",
    }.items():
        with pytest.raises(RewardError, match=message):
            find(path)


def test_python_passes_the_keywords_that_a_function_takes() -> None:
    seen: dict[str, Any] = {}

    def everything(**columns: Any) -> list[float]:
        seen.update(columns)
        return [0.0] * 3

    def chosen(
        completions: list[str], answer: list[str], level: list[int] | None = None, other: str = "!"
    ) -> list[float]:
        seen.update(answer=answer, level=level, other=other)
        return [0.0] * 3

    groups = group("a", "x", "y", answer="A", level=1), group("b", "z", answer="B")
    values(Python(everything), *groups)
    assert seen == {
        "prompts": ["a", "a", "b"],
        "completions": ["x", "y", "z"],
        "completion_ids": [[5], [5], [5]],
        "answer": ["A", "A", "B"],
        "level": [1, 1, None],
    }
    seen.clear()
    values(Python(chosen), *groups)
    assert seen == {"answer": ["A", "A", "B"], "level": [1, 1, None], "other": "!"}


def test_python_gives_conversations_as_trl_does() -> None:
    def check(prompts: Any, completions: Any) -> list[float]:
        assert prompts == [[{"role": "user", "content": "Say it."}]] * 2
        assert completions == [[{"role": "assistant", "content": text}] for text in ("x", "y")]
        return [0.0, 1.0]

    assert values(Python(check), group(TALK, "x", "y")) == [[0.0, 1.0]]


def test_python_asks_for_a_column_that_the_data_lack() -> None:
    def needs(completions: list[str], solution: list[str]) -> list[float]:
        return []

    with pytest.raises(RewardError, match="asks for solution, but the data have the columns answer, completion_ids"):
        values(Python(needs), group("a", "x", answer="A"))


@pytest.mark.parametrize(
    "answers, expected",
    [
        ([1, 2.5], [1.0, 2.5]),
        ([None, True], [None, 1.0]),
        ((0.5, 0.25), [0.5, 0.25]),
        (np.array([1.0, 2.0], dtype=np.float32), [1.0, 2.0]),
        ([np.float64(3), np.int64(2)], [3.0, 2.0]),
        (torch.tensor([1.0, -1.0]), [1.0, -1.0]),
        ([torch.tensor(4.0, requires_grad=False), 1], [4.0, 1.0]),
    ],
)
def test_python_takes_numbers_of_every_kind(answers: Any, expected: list[float | None]) -> None:
    given = values(Python(lambda completions: answers), group("a", "x", "y"))[0]
    assert given == expected and all(value is None or type(value) is float for value in given)


@pytest.mark.parametrize(
    "answers, message",
    [
        ([1.0], "returned 1 scores for 2 completions: one per completion is expected"),
        (1.0, "returned float, expected a list of 2 numbers"),
        (None, "returned NoneType, expected a list of 2 numbers"),
        ("ab", "returned str, expected a list of 2 numbers"),
        (["1", "2"], "returned '1' as a score, expected a number or None"),
        ([[1], [2]], "returned a list as a score, expected a number or None"),
        ([1.0, float("nan")], r"gave nan for 'y': a finite number of at most 1e\+15 in size is expected, or None to"),
        ([float("inf"), 1.0], "gave inf for 'x'"),
    ],
)
def test_python_says_what_is_wrong_with_an_answer(answers: Any, message: str) -> None:
    def odd(completions: list[str]) -> Any:
        return answers

    with pytest.raises(RewardError, match=message):
        values(Python(odd), group("a", "x", "y"))


def test_python_that_raises_is_named_with_its_error() -> None:
    def fails(completions: list[str]) -> Any:
        raise KeyError("answer")

    async def fails_later(completions: list[str]) -> Any:
        raise KeyError("answer")

    for function in (fails, fails_later):
        with pytest.raises(RewardError, match="for the completion 'x' of the prompt 'a', and it raised KeyError"):
            values(Python(function), group("a", "x"))


def test_trls_own_rewards_work() -> None:
    rewards = pytest.importorskip("trl.rewards")
    right, wrong = r"So it is $\boxed{\frac{1}{2}}$.", r"So it is $\boxed{3}$."
    asked = group(TALK, right, wrong, solution=r"$\frac{1}{2}$")
    assert values(Python(rewards.accuracy_reward), asked) == [[1.0, 0.0]]
    assert values(Python("trl.rewards:accuracy_reward"), asked) == [[1.0, 0.0]]
    thought = group(TALK, "<think>\nHm.\n</think>\nYes.", "Yes.")
    assert values(Python(rewards.think_format_reward), thought) == [[1.0, 0.0]]
    soft = rewards.get_soft_overlong_punishment(max_completion_len=10, soft_punish_cache=5)
    assert values(Python(soft), group(TALK, "12345", "12345678", "12345678901")) == [[0.0, -0.6, -1.0]]


# --- match ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode, answer, given, right",
    [
        ("exact", "Paris", "  Paris\n", True),
        ("exact", "Paris", "paris", False),
        ("exact", 42, "42", True),
        ("regex", r"^\s*(yes|no)\b", " yes, it is", True),
        ("regex", r"^\s*(yes|no)\b", "perhaps, yes", False),
        ("numeric", "#### 42", "6 * 7 = 42.", True),
        ("numeric", "He has 3 * 4 = <<3*4=12>>12.\n#### 12", "The answer is 12", True),
        ("numeric", "#### 1,234", "That makes $1234", True),
        ("numeric", 1234, "1,234.00 dollars", True),
        ("numeric", 7, "either 5,7", True),
        ("numeric", -5, "it is -5", True),
        ("numeric", 5, "10-5", True),
        ("numeric", -5, "10-5", False),
        ("numeric", 0.5, ".5", True),
        ("numeric", 1e-3, "1e-3", True),
        ("numeric", "2", "3", False),
        ("numeric", "2", "two", False),
        ("numeric", "1000000", "1000000.5", True),
        ("numeric", "1000000", "1000001", False),
        ("numeric", "0.25", "0.2501", False),
        ("numeric", "5", "\u22125", False),
        ("numeric", "-5", "x = \u22125", True),
        ("numeric", "-3", "-$3", True),
        ("numeric", "3", "-$3", False),
        ("numeric", "3/4", "1/4", False),
        ("numeric", "3/4", "0.75", True),
        ("numeric", "3/4", "3/0", False),
        ("numeric", r"\frac{1}{2}", r"\frac{3}{2}", False),
        ("numeric", "-0.5", r"-\dfrac{1}{2}", True),
        ("numeric", "1.75", "1 3/4 cups", True),
        ("numeric", "10 m^2", "7 m^2", False),
        ("numeric", "10", "10 m^{2}", True),
        ("numeric", "3000", r"3 \times 10^{3}", True),
        ("numeric", "0.001", "10^{-3}", True),
        ("numeric", "1234", "1{,}234", True),
        ("numeric", "12345678901234567890", "12345678901234567891", False),
        ("numeric", "1" * 5000, "1" * 5000, True),
        ("numeric", "2", "1e9999999999999999999", False),
        ("numeric", ["7", "8"], "7", True),
        ("exact", ["7", "seven"], "seven", True),
        ("exact", 7.0, "7", True),
        ("math", r"2\pi", r"\boxed{2\pi}", True),
        ("math", r"2\pi", "$2$", False),
        ("math", r"3\frac{1}{2}", r"$\frac{7}{2}$", True),
        ("math", "6 - 5i", "$6-5i$", True),
        ("math", r"5 \text{ inches}", "$5$", True),
        ("math", "18 dollars", "18", True),
        ("math", "18", "The answer is 18.", True),
        ("math", "1/2", "0.5", True),
        ("math", r"\frac{1}{2}", r"$\frac{2}{4}$", True),
        ("math", r"$x^2 - 1$", r"$(x-1)(x+1)$", True),
        ("math", "1/2", r"\boxed{0.25}", False),
        ("math", "1/2", "no idea", False),
    ],
)
def test_match_judges(mode: Any, answer: Any, given: str, right: bool) -> None:
    assert values(Match(mode=mode), group("q", given, answer=answer)) == [[float(right)]]


def test_match_math_works_outside_the_main_thread() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(values(Match(mode="math"), group("q", "0.5", answer="1/2"))))
    thread.start()
    thread.join()
    assert found == [[1.0]]


def test_match_math_abstains_where_the_right_answer_cannot_be_read() -> None:
    assert values(Match(mode="math"), group("q", "0.5", answer="nobody knows")) == [[None]]


@pytest.mark.parametrize("mode", ["exact", "regex", "numeric", "math"])
@pytest.mark.parametrize("nothing", [None, "", " ", float("nan"), [], ["7", None], {"a": 1}])
def test_match_pays_nobody_where_nothing_is_right(mode: Any, nothing: object) -> None:
    given = group("q", str(nothing), answer=nothing)
    with pytest.raises(RewardError, match=r"training prompt 1, 'q': .* has no right answer here"):
        Match(mode=mode).check(CheckContext(frozenset(), [given.prompt], [], True, False, {}))


def test_match_extracts_the_answer() -> None:
    match = Match(extract=r"<answer>(.*?)</answer>")
    texts = (
        "<answer>A</answer>",
        "<answer>B</answer> no, <answer> A </answer>",
        "A",
        "<answer>A</answer><answer>B</answer>",
    )
    assert values(match, group("q", *texts, answer="A")) == [[1.0, 1.0, 0.0, 0.0]]
    assert match.score([group("q", "A", answer="A")], NOBODY)[0][0].note == "no answer found"
    assert values(Match(extract=r"\b[A-D]\b"), group("q", "It is C", answer="C")) == [[1.0]]
    assert values(Match(extract=r"is (A)?"), group("q", "It is B", answer="A")) == [[0.0]]


def test_match_reads_another_column_and_says_when_it_is_missing() -> None:
    assert values(Match(answer="solution"), group("q", "A", solution="A")) == [[1.0]]
    with pytest.raises(RewardError, match=r"no column 'answer' \(found: solution\): set reward.answer"):
        values(Match(), group("q", "A", solution="A"))


def test_match_refuses_what_it_cannot_judge_by() -> None:
    with pytest.raises(RewardError, match="'none of them' holds no number: choose another mode"):
        values(Match(mode="numeric"), group("q", "1", answer="none of them"))
    with pytest.raises(ValueError, match="is no regular expression"):
        Match(extract="(")
    with pytest.raises(RewardError, match="is no regular expression"):
        values(Match(mode="regex"), group("q", "1", answer="("))


# --- length -----------------------------------------------------------------------------------------------------------


def test_length_counts_beyond_what_is_free() -> None:
    words = Group(Prompt("q"), (1,), (Completion((4, 5, 6), "two words"), Completion((4,), "")))
    assert values(Length(), words) == [[3.0, 1.0]]
    assert values(Length(unit="words"), words) == [[2.0, 0.0]]
    assert values(Length(unit="characters"), words) == [[9.0, 0.0]]
    assert values(Length(free=2), words) == [[1.0, 0.0]]


# --- a model as a reward ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier(plain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier of two labels on the plain model's trunk."""
    path = tmp_path_factory.mktemp("classifier")
    config = AutoModelForCausalLM.from_pretrained(plain_model).config
    config.num_labels, config.initializer_range = 2, 0.3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForSequenceClassification(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(plain_model).save_pretrained(path)
    return path


def logits(path: Path, texts: Sequence[str], label: int) -> list[float]:
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    with torch.no_grad():
        return [float(model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, label]) for text in texts]


def answered(question: str, *answers: tuple[str, bool]) -> Group:
    return Group(Prompt(question), (9,), tuple(Completion((9, 9), text, finished) for text, finished in answers))


@pytest.mark.parametrize("label", [0, 1])
def test_a_model_scores_as_transformers_does(classifier: Path, label: int) -> None:
    reward = ModelReward(str(classifier), label=label, device="cpu", batch=2)
    groups = answered("Why? ", ("Because.", True), ("", True)), answered("And ", ("you there", True), ("so", True))
    texts = ["Why? Because.<|end|>", "Why? <|end|>", "And you there<|end|>", "And so<|end|>"]
    scores = [value for row in values(reward, *groups) for value in row]
    assert scores == pytest.approx(logits(classifier, texts, label), rel=1e-4)
    assert len({round(value or 0, 4) for value in scores}) == 4


def test_a_model_sees_a_cut_off_completion_without_an_end(classifier: Path) -> None:
    reward = ModelReward(str(classifier), label=0, device="cpu")
    scores = values(reward, answered("Why? ", ("Because", True), ("Because", False), ("", False)))[0]
    assert scores == pytest.approx(logits(classifier, ["Why? Because<|end|>", "Why? Because", "Why? "], 0), rel=1e-4)


def test_of_two_labels_the_reward_does_not_guess_which_is_good(classifier: Path) -> None:
    with pytest.raises(ModelError, match=r"has 2 outputs: 0 \(LABEL_0\), 1 \(LABEL_1\)\. Say by label=NUMBER"):
        values(ModelReward(str(classifier), device="cpu"), answered("Why? ", ("So", True)))


def test_a_model_of_two_labels_has_no_third(classifier: Path) -> None:
    with pytest.raises(ModelError, match=r"score_label is 2, but .* has 2 outputs"):
        values(ModelReward(str(classifier), label=2, device="cpu"), answered("Why? ", ("So", True)))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT classifier over letters."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    letters = {
        token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz ?."])
    }
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = tmp_path_factory.mktemp("encoder")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(
        vocab_size=len(letters), max_position_embeddings=64, initializer_range=0.5, num_labels=2, **sizes
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(path)
    return path


def test_an_encoder_classifier_scores_prompt_and_completion_as_a_pair(encoder: Path) -> None:
    reward = ModelReward(str(encoder), label=1, device="cpu")
    scores = values(reward, answered("why?", ("because.", True), ("no", True), ("", False)))[0]
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(encoder),
        AutoTokenizer.from_pretrained(encoder),
    )
    with torch.no_grad():
        pairs = [tokenizer("why?", text, return_token_type_ids=False) for text in ("because.", "no")]
        expected = [float(model(torch.tensor([pair["input_ids"]])).logits[0, 1]) for pair in pairs]
        expected.append(float(model(torch.tensor([tokenizer("why?")["input_ids"]])).logits[0, 1]))
    assert scores == pytest.approx(expected, rel=1e-4)


# --- names that TRL gives, and files beside one another ---------------------------------------------------------------


def test_a_name_that_only_trl_gives_is_refused_also_beside_other_keywords() -> None:
    def state(completions: list[str], trainer_state: Any, **columns: Any) -> list[float]:
        return [0.0 for _ in completions]

    with pytest.raises(RewardError, match=r"asks for trainer_state, which cannot be given: .*as in trainer_state=None"):
        values(Python(state), group("Why? ", "So"))

    def misspelt(completions: list[str], solutoin: Any, **columns: Any) -> list[float]:
        return [0.0 for _ in completions]

    with pytest.raises(RewardError, match="asks for solutoin, but the data have the columns"):
        values(Python(misspelt), group("Why? ", "So"))


def test_what_a_function_logs_is_in_the_parts_of_its_scores() -> None:
    def logging(completions: list[str], log_metric: Any, log_extra: Any, trainer_state: Any = None) -> list[float]:
        log_metric("batch", len(completions))
        log_extra("length", [len(text) for text in completions])
        log_extra("text", completions)
        return [1.0, 2.0]

    ((first, second),) = Python(logging).score([group("Why? ", "So", "Hence")], NOBODY)
    assert (first.value, first.parts) == (1.0, {"batch": 2.0, "length": 2.0})
    assert (second.value, second.parts) == (2.0, {"batch": 2.0, "length": 5.0})

    def short(completions: list[str], log_extra: Any) -> list[float]:
        log_extra("length", [1])
        return [1.0, 2.0]

    with pytest.raises(RewardError, match="logged 1 values of 'length' for 2 completions"):
        Python(short).score([group("Why? ", "So", "Hence")], NOBODY)


def test_a_file_may_import_its_neighbour_at_once_and_when_it_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    (folder / "neighbour_at_once.py").write_text("value = 3.0\n")
    (folder / "neighbour_later.py").write_text("value = 4.0\n")
    (folder / "rewards_here.py").write_text(
        "from neighbour_at_once import value\n"
        "def reward(completions):\n"
        "    import neighbour_later\n"
        "    return [value + neighbour_later.value for _ in completions]\n"
    )
    assert values(Python(f"{folder / 'rewards_here.py'}:reward"), group("Why? ", "So")) == [[7.0]]


def test_a_module_is_found_from_the_working_directory_in_folders_that_are_no_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "outer_folder" / "inner_folder"
    folder.mkdir(parents=True)
    (folder / "scoring.py").write_text("def reward(completions):\n    return [5.0 for _ in completions]\n")
    monkeypatch.chdir(tmp_path)
    function = "outer_folder.inner_folder.scoring:reward"
    assert values(Python(function), group("Why? ", "So")) == [[5.0]]


def test_a_check_finds_a_prompt_without_a_right_answer() -> None:
    prompts = [Prompt("1 + 1?", info={"answer": "2"}), Prompt("Why?", info={"answer": "because"})]
    context = CheckContext(frozenset({"logprobs"}), prompts, prompts[:1], True, False, {})
    with pytest.raises(
        RewardError, match=r"training prompt 2, 'Why\?': reward match: the answer 'because' holds no num"
    ):
        Match(mode="numeric").check(context)
    Match(mode="exact").check(context)
    with pytest.raises(RewardError, match=r"training prompt 1, .* no column 'solution'"):
        Match(answer="solution").check(context)
