"""Engines as plugins: one decoding for all, the kit's checks, what opens and closes, what is recorded."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from alignzoo import Decoding, ModelError, PluginError, Prompt, RecipeError, RunError, Score
from alignzoo import functional as fn
from alignzoo.batching import collate
from alignzoo.decoding import AS_SET, CompleteDecoding
from alignzoo.engines import EngineModel, Generated, OpenEngine, stopped_at, until_stop
from alignzoo.policies import lacking
from alignzoo.recipe import part
from alignzoo.registry import Registry
from alignzoo.testing import ConformanceError, check_engine, toy_policy
from alignzoo.training.importance import importance
from alignzoo.types import Completion, Forward, Group, Terms
from alignzoo_hf.decode.engines import Continuous, Generate, ServedModel, Slots
from alignzoo_hf.decode.sampling import draw
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF

PROMPTS = [Prompt("Count to 3: "), Prompt("Say hi")]


def texts(groups: Sequence[Group]) -> list[tuple[int, ...]]:
    return [each.tokens for group in groups for each in group.completions]


# --- decoding ---------------------------------------------------------------------------------------------------------


def test_what_a_decoding_leaves_out_is_as_the_settings_have_it() -> None:
    own = CompleteDecoding(30, 0.7, top_k=5, stop=("x",))
    assert AS_SET.over(own) == own
    asked = Decoding(max_new_tokens=4, greedy=True, stop=()).over(own)
    assert asked == CompleteDecoding(4, 0.7, top_k=5, greedy=True)
    assert asked.filters and not CompleteDecoding(4).filters and CompleteDecoding(4, min_p=0.1).filters
    with pytest.raises(ValueError, match="stop holds an empty text"):
        CompleteDecoding(stop=("a", ""))


@pytest.mark.parametrize(
    ("tokens", "stop", "end"),
    [("abcabc", ["c"], 3), ("abcabc", ["ca", "zz"], 4), ("abc", ["d"], None), ("abc", [], None), ("aéb", ["éb"], 3)],
)
def test_a_stop_text_ends_with_the_token_that_completes_it(tokens: str, stop: list[str], end: int | None) -> None:
    ids = tuple(map(ord, tokens))
    assert stopped_at(ids, stop, lambda some: "".join(map(chr, some))) == end
    found = until_stop(Generated(ids, (-1.0,) * len(ids), False), stop, lambda some: "".join(map(chr, some)))
    assert (found.tokens, found.finished) == (ids[: end or len(ids)], end is not None)


def test_min_p_keeps_what_is_likely_enough() -> None:
    # 0.1 / 0.5 = 0.2: the last is dropped at min_p = 0.3, at 0.2 it stays. 0.4 of (0.5, 0.4) is 4 of 9.
    logits = torch.tensor([[0.5, 0.4, 0.1]]).log().expand(9000, -1)
    uniform = (torch.arange(9000).double() + 0.5) / 9000
    tokens, logprobs = draw(logits, uniform, CompleteDecoding(1, min_p=0.3))
    assert tokens.bincount(minlength=3).tolist() == [5000, 4000, 0]
    assert logprobs[-1].item() == pytest.approx(math.log(0.4), abs=1e-6), "of the whole distribution"
    tokens, _ = draw(logits, uniform, CompleteDecoding(1, min_p=0.199))
    assert tokens.bincount(minlength=3).tolist() == [4500, 3600, 900]


# --- the kit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "engine",
    [Slots(), *(pytest.param(each, marks=pytest.mark.slow) for each in (Generate(), Continuous()))],
    ids=repr,
)
def test_first_party_engines_conform(engine: Any) -> None:
    check_engine(engine)


@dataclass(frozen=True)
class Broken:
    """An engine that does one thing wrong with what engine `generate` does."""

    what: str = ""
    exact: ClassVar[bool] = True
    separate: ClassVar[bool] = False

    def open(self, model: EngineModel) -> OpenEngine:
        if self.what == "weights":  # a copy that stays as it is
            model = ServedModel(HF(), copy.deepcopy(model.module), model.tokenizer, model.stop_ids)
        return OpenBroken(self.what, Generate().open(model))


class OpenBroken:
    def __init__(self, what: str, inner: OpenEngine) -> None:
        self.what, self.inner = what, inner

    def generate(
        self, prefixes: Sequence[Any], n: int, decoding: CompleteDecoding, *, seeds: Sequence[int], at_once: int
    ) -> list[Generated]:
        changes: dict[str, Any] = {"temperature": 1.0} if self.what == "numbers" else {}
        changes |= {"stop_tokens": ()} if self.what == "decoding" else {}
        changes |= {"temperature": 0.5} if self.what == "draws" else {}
        seeds = {"neighbours": range(len(seeds)), "seeds": [3 for _ in seeds]}.get(self.what, seeds)
        found = self.inner.generate(prefixes, n, replace(decoding, **changes), seeds=seeds, at_once=at_once)
        return [each._replace(finished=True) for each in found] if self.what == "answers" else found

    def close(self) -> None: ...


@pytest.mark.parametrize("what", ["answers", "numbers", "seeds", "neighbours", "decoding", "draws", "weights"])
def test_a_broken_engine_is_found_out(what: str) -> None:
    with pytest.raises(ConformanceError):
        check_engine(Broken(what), only=[what])


# --- through a policy -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counted:
    """Engine `alignzoo`, whose openings and closings are counted, and which keeps weights of its own where told."""

    log: list[str] = field(default_factory=list, compare=False)
    exact: ClassVar[bool] = True
    separate: ClassVar[bool] = True

    def open(self, model: EngineModel) -> OpenEngine:
        self.log.append("open")
        return OpenCounted(self.log, model)


class OpenCounted(OpenBroken):
    def __init__(self, log: list[str], model: EngineModel) -> None:
        super().__init__("", Slots().open(model))
        self.log, self.model = log, model

    def generate(self, *given: Any, **how: Any) -> list[Generated]:
        self.log.append(self.model.version())
        return super().generate(*given, **how)

    def close(self) -> None:
        self.log.append("close")


def test_an_engine_is_opened_once_told_of_new_weights_and_closed(plain_model: Path) -> None:
    engine = Counted()
    spec = HF(model=str(plain_model), max_new_tokens=5, device="cpu", engine=engine)
    policy = spec.load(frozenset({"logprobs", "ref_logprobs"}))
    assert isinstance(policy, HFPolicy) and spec.samples_exactly(bf16=False)
    first = texts(policy.generate(PROMPTS, 2, seeds=[0, 1]))
    assert first == texts(policy.generate(PROMPTS, 2, seeds=[0, 1]))
    with torch.no_grad():
        next(policy.lm.parameters()).add_(0.5)
    policy.generate(PROMPTS, 2, seeds=[0, 1])
    with policy.answering("ref"):
        policy.generate(PROMPTS, 1, seeds=[0, 1])  # by engine `alignzoo`: this one holds the policy's weights
    opened, *versions = engine.log
    assert opened == "open" and versions[0] == versions[1] != versions[2] and len(versions) == 3
    policy.close()
    policy.close()
    assert engine.log[4:] == ["close"]
    policy.generate(PROMPTS, 1, seeds=[0, 1])
    assert engine.log[5:6] == ["open"]


def test_a_call_says_how_it_decodes(plain_model: Path) -> None:
    policy = HF(model=str(plain_model), max_new_tokens=6, device="cpu", temperature=0.9).load(frozenset())
    assert policy.info().decoding == CompleteDecoding(6, 0.9)
    plain = policy.generate(PROMPTS, 2, seeds=[0, 1])
    short = policy.generate(PROMPTS, 2, seeds=[0, 1], decoding=Decoding(max_new_tokens=2))
    assert texts(short) == [each[:2] for each in texts(plain)], "a limit changes no beginning"
    stop = plain[0].completions[0].tokens[1]
    ended = policy.generate(PROMPTS[:1], 1, seeds=[0], decoding=Decoding(stop_tokens=(stop,)))[0].completions[0]
    assert ended.tokens[-1] == stop and ended.finished
    with pytest.raises(ModelError, match=r"leaves no room for policy.max_new_tokens = 5000"):
        policy.generate(PROMPTS, 1, seeds=[0, 1], decoding=Decoding(max_new_tokens=5000))


def test_special_tokens_are_shown_where_the_settings_say_so(tiny_model: Path) -> None:
    asked = Prompt(({"role": "user", "content": "Say abc"},))
    specs = [HF(model=str(tiny_model), device="cpu", special_tokens=shown) for shown in (False, True)]
    hidden, shown = (spec.load(frozenset()).encode(asked, ["abc"]).completions[0] for spec in specs)
    assert hidden.tokens == shown.tokens and hidden.text == "abc"
    assert shown.text.startswith("abc<") and shown.text.endswith(">")


def test_an_engine_is_a_part_of_the_recipe(plain_model: Path) -> None:
    zoo = Registry()
    assert {"alignzoo", "generate", "continuous", "vllm"} <= set(zoo.names("engine"))
    hf = zoo.get("policy", "hf")
    assert part(hf, ["engine=generate"], "hf", registry=zoo).engine == Generate()
    assert part(hf, ['engine={name="vllm", memory=0.5}'], "hf", registry=zoo).engine.memory == 0.5
    with pytest.raises(RecipeError, match=r"policy.engine.*no engine 'vlm'.*vllm|vlm"):
        part(hf, ["engine=vlm"], "hf", registry=zoo)
    with pytest.raises(PluginError, match="no engine 'nobody'"):
        HF(model=str(plain_model), engine="nobody").load(frozenset({"logprobs"})).generate(PROMPTS, 1, seeds=[0, 1])


# --- what is recorded -------------------------------------------------------------------------------------------------


def test_what_an_engine_does_not_know_is_no_number_and_weighs_nothing() -> None:
    """Probabilities of a filtered distribution are not the forward's: importance weights by them would be wrong."""
    unknown = Completion((2, 3), "2 3", True, (math.nan, math.nan))
    known = Completion((2, 1), "2", True, (-1.0, -2.0))
    prompt = Prompt("x")
    for completions, recorded in (((known, known), True), ((known, unknown), False)):
        batch = collate([Group(prompt, (4,), completions, scores=(Score(1.0), Score(0.0)))], torch.device("cpu"))
        assert ("sampled_logprobs" in batch.extra) == recorded
    with pytest.raises(RunError, match=r"importance_cap is 2, but nothing has recorded .* top_k, top_p or min_p"):
        importance(Terms(torch.zeros(2, 2)), batch, Forward(), 2.0)


@pytest.mark.slow
def test_continuous_batching_records_nothing_of_a_filtered_distribution() -> None:
    from test_hf_engine import random_model

    model = ServedModel(HF(), random_model("Llama"), None, frozenset({1}))
    live = Continuous().open(model)
    (found,) = live.generate([(5, 6)], 1, CompleteDecoding(2, top_k=3), seeds=[0], at_once=2)
    assert found.logprobs == () and len(found.tokens) == 2


# --- former names -----------------------------------------------------------------------------------------------------


def test_a_policy_that_cannot_be_told_how_to_decode_is_refused() -> None:
    policy: Any = toy_policy()

    class Former(type(policy)):  # type: ignore[misc]
        def generate(self, prompts: Any, n: int, *, seeds: Any, greedy: bool = False) -> Any: ...

    policy.__class__ = Former
    assert "generate() has no argument decoding: alignzoo.Decoding" in lacking(policy)
    assert "in the place of greedy" in lacking(policy) and lacking(toy_policy()) == ""


def test_one_seed_says_the_same_with_any_engine(plain_model: Path) -> None:
    settings = {"model": str(plain_model), "max_new_tokens": 6, "device": "cpu", "top_p": 0.9}
    asked = Decoding(min_p=0.02, stop=("e",))
    policies = [HF(**settings, engine=engine).load(frozenset()) for engine in ("alignzoo", "generate")]
    one, other = (texts(each.generate(PROMPTS, 3, seeds=fn.seeds(2, 7), decoding=asked)) for each in policies)
    assert one == other
