"""A constitution as data, and the sampler that criticises and revises by it."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import alignzoo
from alignzoo import Completion, DataError, Group, Message, Prompt, RecipeError, Text
from alignzoo import functional as fn
from alignzoo.decoding import AS_SET, Decoding
from alignzoo.interfaces import PolicyInfo
from alignzoo.rewards import WeightedReward, score
from alignzoo.training.journal import samples
from alignzoo_constitution import dialogue
from alignzoo_constitution.files import Example, Principle, chosen, load
from alignzoo_constitution.revise import Revise
from alignzoo_rules import Labels

SHARED = Path(__file__).parents[3] / "shared"
ANTHROPIC = SHARED / "data" / "constitutional"
STORIES = SHARED / "models" / "stories260K"
there = pytest.mark.skipif(not ANTHROPIC.is_dir(), reason=f"no real prompts at {ANTHROPIC}")

GOOD = """\
description = "Mine"

[[principle]]
name = "kind"
critique = "Is it unkind?"
revision = "Say it kindly."
question = "Which is kinder?"
weight = 2.0

[[principle.examples]]
prompt = "Hi"
answer = "Go away."
critique = "It is unkind."
revision = "Hello!"

[[principle]]
name = "short"
question = "Which is shorter?"
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# The files


def test_our_own_principles_have_all_three_forms() -> None:
    ours = load("zoo")
    assert len(ours) >= 12 and len({each.name for each in ours}) == len(ours)
    assert {"helpful", "honest", "harmless", "non_evasive", "polite", "brief"} <= {each.name for each in ours}
    for each in ours:
        assert each.critique.endswith((".", "?")) and each.revision.endswith(".") and each.question.endswith("?")
    shown = [example for each in ours for example in each.examples]
    assert len(shown) >= 5 and all(example.critique and example.revision != example.answer for example in shown)


def test_a_users_own_file(tmp_path: Path) -> None:
    kind, short = load(written(tmp_path / "mine.toml", GOOD))
    example = Example("Hi", "Go away.", "Hello!", "It is unkind.")
    assert kind == Principle("kind", "Is it unkind?", "Say it kindly.", "Which is kinder?", 2.0, (example,))
    assert short == Principle("short", question="Which is shorter?")
    assert example.turns == ({"role": "user", "content": "Hi"},)
    assert chosen((kind, short), (), asks="critique") == (kind,)
    assert chosen((kind, short), (), asks="question") == (kind, short)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("weight = 2.0", "weight = 0", r"line 8: principle\.kind\.weight: found 0, allowed: a number above 0"),
        ("weight = 2.0", 'weight = "2"', r'line 8: .*found "2" \(a string\), allowed: a number above 0'),
        ("weight", "wieght", r"line 8: principle\.kind\.wieght: Principle has no such field. Did you mean 'weight'"),
        ('name = "kind"', 'name = "so kind"', r'line 4: principle\.so kind\.name, found "so kind".*digits'),
        ('name = "kind"', "", r"line 3: principle\.1\.name is missing; Principle needs it: a string"),
        ('name = "short"', 'name = "kind"', r"line 16: a second principle is called 'kind'; the first is at .* line 3"),
        ('revision = "Say it kindly."', "", r"line 5: principle\.kind\.critique.*belong together"),
        ('question = "Which is shorter?"', "", r"line 16: principle\.short: it asks for nothing"),
        ('answer = "Go away."', "", r"line 10: principle\.kind\.examples\.0\.answer is missing"),
        (
            'prompt = "Hi"',
            "prompt = 3",
            r"line 11: principle\.kind\.examples\.0\.prompt: found 3, allowed: a string or",
        ),
        ("[[principle.examples]]", "[principle.examples]", r"examples: found a table, allowed: tables, each under"),
        ('description = "Mine"', 'descriptoin = "Mine"', r"line 1: 'descriptoin' is no key of a constitution. Did you"),
        ("[[principle]]", "[[principal]]", r"line 3: 'principal' is no key of a constitution. Did you mean 'princ"),
        (GOOD, "", r"there is no principle; a constitution needs one \[\[principle\]\] or more"),
        (GOOD, "principle = 3", r"line 1: principle: found 3, allowed: tables, each under \[\[principle\]\]"),
        ('"Mine"', '"Mine', r"line 1, column 20: Illegal character"),
    ],
)
def test_a_file_that_is_wrong_says_where(before: str, after: str, message: str, tmp_path: Path) -> None:
    assert before in GOOD
    with pytest.raises(RecipeError, match=message):
        load(written(tmp_path / "mine.toml", GOOD.replace(before, after)))


def test_names_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no constitution 'zo'. Did you mean 'zoo'"):
        load("zo")
    with pytest.raises(RecipeError, match=r"mine.toml: cannot be read: No such file"):
        load(tmp_path / "mine.toml")
    with pytest.raises(DataError, match=r"holds no constitution"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"x.json: 0: found 3: .* string.*Anthropic"):
        load(written(tmp_path / "x.json", "[3]"))
    with pytest.raises(DataError, match=r"x.json, line 1: not JSON"):
        load(written(tmp_path / "x.json", "{"))
    with pytest.raises(RecipeError, match=r"the constitution has no 'kinder'. .*'kind'"):
        chosen(load(written(tmp_path / "mine.toml", GOOD)), ["kinder"], asks="question")
    with pytest.raises(RecipeError, match=r"'short' of the constitution has no critique"):
        chosen(load(tmp_path / "mine.toml"), ["short"], asks="critique")


@there
def test_anthropics_prompts_are_read_as_they_are() -> None:
    principles = load(ANTHROPIC)
    revising = chosen(principles, (), asks="critique")
    comparing = chosen(principles, (), asks="question")
    assert (len(revising), len(comparing), len(principles)) == (16, 16, 32)
    whole = (ANTHROPIC / "CritiqueRevisionInstructions.json").read_text()
    for each in revising:
        assert each.critique in whole and each.revision in whole
        assert not each.critique.startswith("CritiqueRequest") and not each.revision.endswith("Revision:")
        assert len(each.examples) == 5 and all(example.critique for example in each.examples)
    questions = json.loads((ANTHROPIC / "RLMadisonInstructions.json").read_text())
    for each, question in zip(comparing, questions, strict=True):
        assert question.strip() == f"{each.question} Options:"
        assert len(each.examples) == 5 and not any(example.critique for example in each.examples)
    first = revising[0].examples[0]
    assert [turn["role"] for turn in first.turns] == ["user", "assistant", "user"]
    assert first.revision.endswith("arson is considered a serious crime.")
    assert load(ANTHROPIC / "RLMadisonInstructions.json") == tuple(replace(each, examples=()) for each in comparing)


# What the writer is shown

KIND = Principle("kind", "Is it unkind?", "Say it kindly.", examples=(Example("Hi", "Go away.", "Hello!", "Rude."),))


def chat(text: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": text},)


def test_a_conversation_goes_on_with_requests() -> None:
    asked = dialogue.request(chat("Help?"), "No.", KIND, "Curt.", examples=KIND.examples)
    assert [turn["role"] for turn in asked if not isinstance(turn, str)] == ["user", "assistant"] * 5 + ["user"]
    said = [turn["content"] for turn in asked if not isinstance(turn, str)]
    assert said[:6] == ["Hi", "Go away.", "Is it unkind?", "Rude.", "Say it kindly.", "Hello!"]
    assert said[6:] == ["Help?", "No.", "Is it unkind?", "Curt.", "Say it kindly."]
    assert dialogue.request(chat("Help?"), "No.", KIND) == asked[6:9]


def test_plain_text_is_written_as_in_the_paper() -> None:
    asked = "\n\nHuman: Help?\n\nAssistant:"
    critique = f"{asked} No.\n\nCritiqueRequest: Is it unkind?\n\nCritique:"
    assert dialogue.request(asked, " No.", KIND) == critique
    revision = f"{critique} Curt.\n\nRevisionRequest: Say it kindly.\n\nRevision:"
    assert dialogue.request(asked, " No.", KIND, "Curt.") == revision
    shown = dialogue.request(asked, " No.", KIND, "Curt.", examples=KIND.examples)
    assert str(shown).endswith(revision) and str(shown).startswith(
        "\n\nHuman: Hi\n\nAssistant: Go away.\n\nCritiqueReq"
    )
    assert str(shown).count("Revision: Hello!") == 1


def test_a_turn_ends_where_the_next_begins() -> None:
    assert dialogue.ended(" Curt.\n\nRevisionRequest: more") == ("Curt.", True)
    assert dialogue.ended("no Critique: here ") == ("no Critique: here", False)


# The sampler


@dataclass
class Scribe:
    """A policy that answers with its prompt's length, and takes what is written at its word: a token a letter."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    finished: bool = True
    answer: str = "raw"
    seeds: list[int] = field(default_factory=list)

    def info(self) -> PolicyInfo:
        return PolicyInfo()

    def encode(self, prompt: Prompt, texts: Sequence[Text]) -> Group:
        done = [Completion((*map(ord, str(text)), 0), str(text)) for text in texts]
        return Group(prompt, (1,), tuple(done))

    def generate(
        self, prompts: Sequence[Prompt], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[Group]:
        self.seeds += seeds
        text = self.answer if len(self.seeds) == 1 else f"{self.answer}{len(self.seeds)}"
        logprobs = (-1.0,) * len(text)
        one = Completion(tuple(map(ord, text)), text, self.finished, logprobs)
        return [Group(prompt, (1,), (one,) * n) for prompt in prompts]


@dataclass
class Echo:
    """A writer that says what it was asked, and how often it has been asked."""

    replies: tuple[str, ...] = ()
    asked: list[Text] = field(default_factory=list)

    def judge(self, questions: Any, policy: Any) -> Any: ...

    def write(self, conversations: Sequence[Text], policy: Any, *, seeds: Any) -> list[str]:
        self.asked += conversations
        return [self.replies[(len(self.asked) - 1) % len(self.replies)] if self.replies else f"w{seeds[0] % 97}"] * len(
            conversations
        )


def sampled(seed: int = 0, prompts: Sequence[Prompt] = (Prompt(chat("q")),), **settings: Any) -> list[Group]:
    policy: Any = settings.pop("policy", Scribe())
    return Revise(**{"constitution": "safe", **settings}).sample(prompts, policy, seeds=fn.seeds(len(prompts), seed))


def test_the_group_is_the_original_and_its_revisions_preferring_the_last() -> None:
    writer = Echo(("critique one", "better", "critique two", "best"))
    (group,) = sampled(rounds=2, writer=writer)
    assert [completion.text for completion in group.completions] == ["raw", "better", "best"]
    assert group.prompt.labels == (0.0, 0.5, 1.0) and group.prompt.completions == ("raw", "better", "best")
    assert all(completion.logprobs is None for completion in group.completions)
    (scored,) = score([group], [WeightedReward("labels", Labels())], Scribe())  # type: ignore[arg-type]
    assert [given.value for given in scored.scores or ()] == [0.0, 0.5, 1.0]
    lines = samples([scored], "training")
    assert [line["trail"]["step"] for line in lines] == ["answer", "revision 1", "revision 2"]
    assert [line["trail"].get("critique") for line in lines] == [None, "critique one", "critique two"]
    assert lines[1]["trail"]["principle"] != lines[2]["trail"]["principle"]
    # the second round speaks of the first revision, and of nothing before it
    third: Any = writer.asked[2]
    assert [turn["content"] for turn in third[:2]] == ["q", "better"] and len(third) == 3


def test_what_changed_nothing_is_preferred_to_nothing() -> None:
    (group,) = sampled(rounds=3, writer=Echo(("c", "raw", "c", "better", "c", "better ")))
    assert [completion.text for completion in group.completions] == ["raw", "raw", "better", "better"]
    assert group.prompt.labels == pytest.approx((1 / 3, 1 / 3, 1.0, 1.0))
    assert group.completions[1].trail["note"] == group.completions[3].trail["note"] == "unchanged"
    (group,) = sampled(rounds=1, writer=Echo(("c", " ")))
    assert group.completions[1].text == "raw" and group.prompt.labels == (1.0, 1.0)
    assert group.completions[1].trail["note"].startswith("nothing was written")


def test_the_policy_writes_by_default_and_its_ends_are_kept() -> None:
    policy = Scribe()
    (group,) = sampled(policy=policy)
    assert [completion.text for completion in group.completions] == ["raw", "raw3"]  # the second was the critique
    assert group.completions[1].trail["critique"] == "raw2"
    assert len(set(policy.seeds)) == 3  # answer, critique, revision
    assert group.completions[1].tokens[-1] == 0 and group.completions[1].finished
    (cut,) = sampled(policy=Scribe(finished=False))
    assert cut.completions[1].tokens[-1] != 0 and not cut.completions[1].finished


def test_plain_text_ends_at_the_next_mark() -> None:
    policy = Scribe(finished=False, answer=" done.\n\nHuman: more")
    (group,) = sampled(policy=policy, prompts=[Prompt("say")])
    assert group.completions[1].text == "done." and group.completions[1].finished
    assert group.completions[1].trail["critique"] == "done."


def test_principles_are_drawn_by_weight_and_none_twice_before_all(tmp_path: Path) -> None:
    prompts = [Prompt(chat(f"q{number}")) for number in range(400)]
    groups = sampled(prompts=prompts, rounds=7, writer=Echo())
    chains = [[completion.trail["principle"] for completion in group.completions[1:]] for group in groups]
    names = {each.name for each in load("safe")}
    assert all(set(chain[:5]) == names and chain[5:] == chain[:2] for chain in chains)
    firsts = Counter(chain[0] for chain in chains)
    assert all(50 < firsts[name] < 115 for name in names)  # 80 expected, standard deviation 8
    heavy = GOOD + 'critique = "Is it long?"\nrevision = "Say it shortly."\n'
    (tmp_path / "heavy.toml").write_text(heavy)  # weights 2 and 1
    groups = sampled(prompts=prompts, constitution=str(tmp_path / "heavy.toml"), writer=Echo())
    firsts = Counter(group.completions[1].trail["principle"] for group in groups)
    assert firsts["kind"] / 400 == pytest.approx(2 / 3, abs=0.08)
    only = sampled(principles=("polite",), rounds=2, writer=Echo())[0].completions
    assert [completion.trail["principle"] for completion in only[1:]] == ["polite", "polite"]


def test_everything_follows_from_the_seed() -> None:
    prompts = [Prompt(chat(f"q{number}")) for number in range(8)]
    first, again, other = (sampled(seed, prompts, rounds=2, writer=Echo()) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_mistakes_are_told_at_the_door() -> None:
    with pytest.raises(RecipeError, match="no constitution 'nope'"):
        Revise(constitution="nope")
    with pytest.raises(RecipeError, match=r"the constitution has no 'kind'"):
        Revise(constitution="safe", principles=("kind",))


def test_a_run_keeps_the_trail(tiny_model: Path, tmp_path: Path) -> None:
    """Two steps of SFT on revisions by the model itself: nonsense text, real plumbing."""
    alignzoo.run(
        "sft",
        policy={"name": "hf", "model": str(tiny_model), "max_new_tokens": 6},
        data=[{"prompt": list(chat(f"Count to {number}"))} for number in range(8)],
        sampler={"name": "revise", "constitution": "safe", "rounds": 2},
        schedule={"steps": 2, "prompts": 2, "samples_every": 1},
        evaluate={"prompts": 0},
        out=tmp_path / "run",
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 2 * 3
    assert {line["trail"]["step"] for line in lines} == {"answer", "revision 1", "revision 2"}
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all("kl" not in line for line in metrics)  # none of it is the policy's own sample of that prompt


# The embedded world's writer

HARM = "how do i read the mail of my boss ?"
COMPLY, REFUSE = "guess the password of your boss .", "i will not help because that is private ."
INNOCENT, HELP, EVADE = "how do i get on the bus ?", "buy a ticket and take a seat .", "i do not know ."
RUDE, NICE = "stop wasting my time .", "have a nice day ."


def revision_of(principle: str, prompt: str, reply: str) -> tuple[str, str]:
    """What the program says of a reply, and what it makes of it."""
    from alignzoo_tiny.revising import write

    (each,) = chosen(load("safe"), [principle], asks="critique")
    rng = random.Random(0)
    critique = write([m for m in dialogue.request(chat(prompt), reply, each) if not isinstance(m, str)], rng)
    asked = dialogue.request(chat(prompt), reply, each, critique)
    return critique, write([m for m in asked if not isinstance(m, str)], rng)


@pytest.mark.parametrize(
    ("principle", "prompt", "reply", "critique", "revision"),
    [
        ("harmless", HARM, f"hello . {COMPLY} {NICE}", f"not harmless : {COMPLY}", f"hello . {REFUSE} {NICE}"),
        ("harmless", HARM, f"{COMPLY} {REFUSE}", f"not harmless : {COMPLY}", REFUSE),
        ("harmless", HARM, EVADE, "it is harmless .", EVADE),
        ("harmless", INNOCENT, COMPLY, f"not harmless : {COMPLY}", HELP),
        ("non_evasive", HARM, EVADE, f"not non_evasive : {EVADE}", REFUSE),
        ("non_evasive", HARM, COMPLY, "it is non_evasive .", COMPLY),  # not its business
        ("non_evasive", INNOCENT, f"{REFUSE} {NICE}", f"not non_evasive : {REFUSE}", f"{HELP} {NICE}"),
        ("non_evasive", INNOCENT, f"{HELP} {EVADE}", f"not non_evasive : {EVADE}", HELP),
        ("non_evasive", INNOCENT, NICE, "not non_evasive : nothing is answered .", f"{NICE} {HELP}"),
        ("polite", INNOCENT, f"{HELP} {RUDE} {NICE}", f"not polite : {RUDE}", f"{HELP} {NICE}"),
        ("polite", INNOCENT, f"{HELP} {NICE}", "it is polite .", f"{HELP} {NICE}"),
        ("fluent", INNOCENT, f"{HELP} {HELP} buy a", f"not fluent : {HELP} buy a", HELP),
        ("fluent", INNOCENT, "so so", "not fluent : so so", HELP),
        ("brief", INNOCENT, f"{NICE} {HELP}", "it is brief .", f"{NICE} {HELP}"),
        (
            "brief",
            INNOCENT,
            f"hello . {HELP} our shop is open every day . {NICE} good day . thank you for telling us .",
            "not brief : good day . our shop is open every day .",  # 31 words, less 3, less 7
            f"hello . {HELP} {NICE} thank you for telling us .",
        ),
    ],
)
def test_the_program_mends_what_it_is_asked_about(
    principle: str, prompt: str, reply: str, critique: str, revision: str
) -> None:
    assert revision_of(principle, prompt, reply) == (critique, revision)


def test_five_revisions_in_any_order_leave_nothing_to_mend() -> None:
    from alignzoo_tiny import safe

    rng = random.Random(0)
    names = [each.name for each in load("safe")]
    assert set(names) == set(safe.PRINCIPLES)
    before = []
    for prompt in rng.choices(safe.prompts("train"), k=150):
        reply = safe.write(prompt, rng.random(), rng) + rng.choice(["", " we will", " our shop is open every day ."])
        before.append(safe.gold(prompt, reply))
        for name in rng.sample(names, 5):
            worse = safe.PRINCIPLES[name](prompt, reply)
            _, reply = revision_of(name, prompt, reply)
            assert safe.PRINCIPLES[name](prompt, reply) >= worse
        assert safe.gold(prompt, reply) == 2 + safe.understand(prompt).harmful  # the best that can be
    assert sum(before) / 150 < 1


def test_the_program_answers_only_what_it_knows() -> None:
    from alignzoo_tiny.revising import write

    with pytest.raises(DataError, match=r"Found 3 turns, the last 'is it good \?'.*constitution 'safe'"):
        write([*chat(HARM), {"role": "assistant", "content": COMPLY}, *chat("is it good ?")], random.Random(0))
    with pytest.raises(DataError, match="Found 1 turns"):
        write(chat(HARM), random.Random(0))
