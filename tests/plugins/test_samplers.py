"""Where groups come from: the data's completions, or the policy's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from alignzoo import Completion, DataError, Group, Prompt, Score
from alignzoo.batching import collate
from alignzoo_samplers import DatasetSampler, PolicySampler, SelfPlaySampler


class Scribe:
    """A policy that encodes a letter as a token and writes its seed."""

    device = torch.device("cpu")

    def encode(self, prompt: Prompt, texts: Any) -> Group:
        return Group(prompt, (1,), tuple(Completion(tuple(map(ord, text)), text) for text in texts))

    def generate(self, prompts: Any, n: int, *, seeds: Any, decoding: Any = None) -> list[Group]:
        assert decoding is None or not decoding.greedy

        def written(seed: int) -> tuple[Completion, ...]:
            return tuple(Completion((seed, i), f"{seed}.{i}", logprobs=(-1.0, -1.0)) for i in range(n))

        return [Group(prompt, (1,), written(seed)) for prompt, seed in zip(prompts, seeds, strict=True)]


SCRIBE: Any = Scribe()


def test_the_dataset_sampler_brings_the_datas_completions_in_order() -> None:
    prompts = [Prompt("a", ("x", "yy")), Prompt("b", ("z",))]
    groups = DatasetSampler().sample(prompts, SCRIBE, seeds=[0] * len(prompts))
    assert [[c.text for c in group.completions] for group in groups] == [["x", "yy"], ["z"]]
    assert [group.prompt for group in groups] == prompts
    assert groups == DatasetSampler().sample(prompts, SCRIBE, seeds=[1] * len(prompts))
    assert not DatasetSampler.online


def test_numeric_columns_of_the_data_become_columns_of_the_batch() -> None:
    prompt = Prompt(
        "a", ("x", "yy"), (1.0, 0.0), {"margin": 2, "weight": 0.5, "source": "web", "safe": True, "gap": None}
    )
    group = DatasetSampler().sample([prompt], SCRIBE, seeds=[0])[0]
    assert group.extra == {"margin": (2.0, 2.0), "weight": (0.5, 0.5)}
    batch = collate([replace(group, scores=(Score(1.0), Score(0.0)))])
    assert batch.extra["margin"].tolist() == [2.0, 2.0]


def test_an_answer_that_was_cut_off_is_read_without_an_end_whoever_speaks_in_it() -> None:
    class Turns(Scribe):
        """In each answer the second token is somebody else's, and the last is the end."""

        def encode(self, prompt: Prompt, texts: Any) -> Group:
            own = (True, False, True)
            return Group(prompt, (1,), tuple(Completion((5, 6, 7), text, own=own, turns=(0, 1, 2)) for text in texts))

    policy: Any = Turns()
    for sampler in (DatasetSampler(), SelfPlaySampler()):
        whole, cut = (
            sampler.sample([Prompt("a", ("x",), finished=ended)], policy, seeds=[0])[0].completions[0]
            for ended in ((True,), (False,))
        )
        assert (whole.tokens, whole.finished) == ((5, 6, 7), True)
        assert (cut.tokens, cut.own, cut.turns, cut.finished) == ((5, 6), (True, False), (0, 1), False)


def test_self_play_refuses_answers_to_another_prompt() -> None:
    class Longer(Scribe):
        """Its given answers have turns, of which the first are read as the prompt's."""

        def encode(self, prompt: Prompt, texts: Any) -> Group:
            return replace(super().encode(prompt, texts), prompt_tokens=(1, 2))

    policy: Any = Longer()
    with pytest.raises(DataError, match=r"'a' has several turns, .* set data.turns=last"):
        SelfPlaySampler().sample([Prompt("a", ("x",))], policy, seeds=[0])


def test_a_prompt_without_completions_is_refused() -> None:
    with pytest.raises(DataError, match=r"'a' has no completions to learn from: .* sampler=policy and a reward"):
        DatasetSampler().sample([Prompt("a")], SCRIBE, seeds=[0])


def test_the_policy_sampler_lets_the_policy_write_n() -> None:
    groups = PolicySampler(n=3).sample([Prompt("a", ("given",)), Prompt("b")], SCRIBE, seeds=[7, 8])
    assert [[c.text for c in group.completions] for group in groups] == [["7.0", "7.1", "7.2"], ["8.0", "8.1", "8.2"]]
    assert PolicySampler.online
