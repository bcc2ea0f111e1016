"""Groups -> Batch: rewards combined, rows laid out, columns filled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from alignzoo import Batch, Completion, DataError, Group, Prompt, RewardError, Score
from alignzoo.batching import answer, collate, fill, only, trim
from alignzoo.microbatch import MicroBatcher
from alignzoo.rewards import WeightedReward, score
from alignzoo.testing import toy_groups, toy_policy


def group(*completions: tuple[int, ...], scores: Sequence[float | None] = (), extra: Any = None) -> Group:
    given = tuple(Completion(tokens, "") for tokens in completions)
    return Group(Prompt("what?"), (7, 8), given, tuple(map(Score, scores)) or None, extra or {})


@dataclass(frozen=True)
class Fixed:
    """A reward that answers what it is told."""

    answers: Any

    def score(self, groups: Sequence[Group], policy: Any) -> Any:
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers


def scored(groups: list[Group], *answers: Any, weights: Sequence[float] = (1.0, 1.0)) -> list[Group]:
    rewards = [WeightedReward(name, Fixed(a), w) for name, a, w in zip("ab", answers, weights, strict=False)]
    return score(groups, rewards, toy_policy())


# --- rewards ------------------------------------------------------------------------------------------------------


def test_rewards_are_weighed_and_added_and_each_is_a_part() -> None:
    # 1·2 - 0.5·3 = 0.5
    a, b = [(Score(2.0, parts={"x": 4.0}, note="good"),)], [(Score(3.0, note="long"),)]
    (given,) = scored([group((1,))], a, b, weights=(1.0, -0.5))[0].scores or ()
    assert given.value == 0.5
    assert given.parts == {"a": 2.0, "a/x": 4.0, "b": 3.0}
    assert given.note == "good; long"


def test_a_source_that_abstains_adds_nothing_and_when_all_abstain_there_is_no_score() -> None:
    given = scored([group((1,), (2,))], [(Score(None), Score(None))], [(Score(3.0), Score(None))])[0].scores or ()
    assert [s.value for s in given] == [3.0, None]
    assert given[0].parts == {"b": 3.0}


def test_several_rewards_stay_apart_in_the_batch() -> None:
    a, b = [(Score(2.0), Score(1.0, parts={"x": 4.0}))], [(Score(3.0, parts={"b": 9.0}), Score(None))]
    groups = scored([group((1,), (2,))], a, b, weights=(0.1, 5.0))
    batch = collate(groups, source_weights={"a": 0.1, "b": 5.0})
    # 0.1·2 + 5·3 = 15.2; b abstains of the second: 0.1·1 = 0.1
    assert batch.rewards.tolist() == pytest.approx([15.2, 0.1])
    assert batch.sources["a"].tolist() == [2.0, 1.0]
    assert batch.sources["b"][0] == 3.0 and batch.sources["b"][1].isnan()
    assert list(batch.sources) == ["a", "b"]  # "a/x" and "b/b" are components, in `parts` alone
    assert batch.source_weights == {"a": 0.1, "b": 5.0}
    turned = batch.select(torch.tensor([1, 0])).to("cpu")
    assert turned.sources["a"].tolist() == [1.0, 2.0] and turned.source_weights == batch.source_weights


def test_a_reward_that_gave_nothing_has_its_column_too() -> None:
    batch = collate([group((1,), (2,), scores=(1.0, 2.0))], source_weights={"a": 0.5})
    assert batch.sources["a"].isnan().all() and batch.rewards.tolist() == [1.0, 2.0]
    assert collate([group((1,), scores=(1.0,))]).sources == {}


def test_groups_that_come_with_scores_keep_them() -> None:
    own, new = group((1,), scores=(7.0,)), group((2,))
    found = scored([own, new, own], [(Score(2.0),)])  # one answer: the reward is asked about one group
    assert [[s.value for s in each.scores or ()] for each in found] == [[7.0], [2.0], [7.0]]
    assert scored([own], AssertionError("a reward was asked about nothing"))[0] is own


def test_whoever_only_asks_about_completions_invents_no_score() -> None:
    groups = [group((1,), (2,)), group((3,), scores=(None,))]
    batch = collate(groups, scored=False)
    assert batch.row.tolist() == [0, 1, 2] and batch.rewards.tolist() == [0.0, 0.0, 0.0]
    assert groups[0].scores is None


def test_dense_rewards_are_weighed_and_added_by_token() -> None:
    a, b = [(Score(1.0, (1.0, 2.0)),)], [(Score(1.0, (0.5, 0.0)),)]
    (given,) = scored([group((1, 2))], a, b, weights=(1.0, 2.0))[0].scores or ()
    assert given.tokens == (2.0, 2.0)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (ZeroDivisionError("by zero"), r"reward 'a' raised ZeroDivisionError: by zero.*--debug"),
        (RewardError("no column"), "no column"),
        ([], "reward 'a' answered 0 groups, expected 1"),
        ([(Score(1.0),)], "reward 'a' gave 1 scores for 2 completions of 'what\\?'"),
        ([(Score(1.0), Score(math.nan))], "reward 'a' gave nan for .* finite number"),
        ([(Score(1.0), Score(math.inf))], "reward 'a' gave inf"),
        ([(Score(1.0), Score("1.0"))], "reward 'a' gave '1.0'"),
        ([(Score(1.0, (math.nan, 0.0)), Score(1.0))], "reward 'a' gave nan"),
        ([(Score(1.0), Score(1.0, (math.nan,)))], "reward 'a' gave"),
        ([(Score(1.0), Score(1.0, (1.0, 2.0)))], "reward 'a' gave 2 token rewards for 1 tokens"),
    ],
)
def test_a_wrong_answer_says_which_reward_and_what_was_found(answers: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        scored([group((1,), (2,))], answers)


# --- layout -------------------------------------------------------------------------------------------------------


def test_rows_are_padded_on_the_right_and_groups_are_adjacent() -> None:
    first, second = group((1, 2, 3), (4,), scores=(1.0, 0.0)), group((5, 6), scores=(2.0,))
    batch = collate([first, replace(second, prompt_tokens=(9,))])
    assert batch.tokens.tolist() == [[7, 8, 1, 2, 3], [7, 8, 4, 0, 0], [9, 5, 6, 0, 0]]
    assert batch.attend.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert batch.mask.int().tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, 0, 0], [0, 1, 1, 0, 0]]
    assert batch.group.tolist() == [0, 0, 1]
    assert batch.rewards.tolist() == [1.0, 0.0, 2.0]
    assert batch.weights.tolist() == [1.0, 1.0, 1.0]
    assert batch.token_rewards is None


def test_what_has_no_score_or_no_tokens_is_left_out() -> None:
    first = group((1,), (2,), (), scores=(None, 1.0, 3.0))
    batch = collate([first, group((3,), scores=(None,)), group((4,), scores=(2.0,))])
    assert batch.tokens[:, 2].tolist() == [2, 4]
    assert batch.group.tolist() == [0, 2]


def test_no_rows_at_all() -> None:
    for groups in ([], [group((1,), scores=(None,))]):
        batch = collate(groups)
        assert len(batch) == 0 and batch.tokens.shape == (0, 1)
        names = frozenset({"old_logprobs", "ref_logprobs", "old_values"})
        filled = fill(batch, toy_policy(), names)
        assert filled.old_logprobs.shape == filled.ref_logprobs.shape == filled.old_values.shape == (0, 1)


def test_dense_rewards_stand_on_their_tokens() -> None:
    plain = group((1, 2), (3,), scores=(1.0, 1.0))
    dense = replace(plain, scores=(Score(1.0, (0.25, 0.5)), Score(1.0)))
    assert collate([dense]).token_rewards.tolist() == [[0, 0, 0.25, 0.5], [0, 0, 0, 0]]


def test_parts_and_extra_columns() -> None:
    given = replace(group((1,), (2,), extra={"margin": (0.5, 0.5)}), scores=(Score(1.0, parts={"a": 2.0}), Score(1.0)))
    given = replace(given, completions=(given.completions[0], replace(given.completions[1], finished=False)))
    batch = collate([given])
    assert batch.parts["a"].tolist() == [2.0, 0.0]
    assert batch.extra["margin"].tolist() == [0.5, 0.5]
    assert batch.extra["finished"].tolist() == [1.0, 0.0]


def test_a_column_that_some_groups_lack_or_that_has_a_name_of_the_batchs_own_is_left_out() -> None:
    both = {"gap": (0.5,), "staleness": (9.0,), "sampled_logprobs": (9.0,)}
    groups = [group((1,), scores=(1.0,), extra={"margin": (0.5,)} | both), group((1,), scores=(1.0,), extra=both)]
    extra = collate(groups).extra
    assert extra.keys() == {"gap", "staleness", "finished"} and extra["staleness"].tolist() == [0.0, 0.0]


def test_groups_without_scores_cannot_be_collated() -> None:
    with pytest.raises(DataError, match="give it a reward first"):
        collate([group((1,))])


# --- columns ------------------------------------------------------------------------------------------------------


def test_trim_takes_off_padding_that_no_row_uses() -> None:
    batch = collate([group((1, 2, 3), (4,), scores=(1.0, 0.0))])
    batch = replace(batch, weights=batch.mask.float(), extra={"tokenwise": batch.mask.float(), "row": batch.rewards})
    short = trim(batch.select(slice(1, 2)))
    assert short.tokens.tolist() == [[7, 8, 4]]
    assert short.weights.shape == short.extra["tokenwise"].shape == (1, 3)
    assert short.extra["row"].shape == (1,)
    assert trim(batch) is batch
    assert trim(batch.select(slice(0, 0))).tokens.shape == (0, 1)


@pytest.mark.parametrize("size", [{}, {"rows": 1}, {"rows": 3}, {"tokens": 1}, {"tokens": 30}], ids=str)
def test_answers_do_not_depend_on_the_micro_batch(size: dict[str, int]) -> None:
    batch, policy = collate(toy_groups()), toy_policy()
    names = frozenset({"logprobs", "values", "scores"})
    found = answer(policy, batch, names, batcher=MicroBatcher(policy, **size))
    assert found.keys() == names
    for name, column in found.items():
        assert column.shape == (batch.tokens.shape if name != "scores" else batch.rewards.shape)
        torch.testing.assert_close(column, getattr(policy.forward(batch, names), name).detach())
        assert not column.requires_grad


def test_fill_adds_what_is_needed_and_nothing_else() -> None:
    batch, policy = collate(toy_groups()), toy_policy(drift=0.3)
    filled = fill(batch, policy, frozenset({"logprobs", "old_logprobs", "ref_logprobs", "old_values"}))
    columns = frozenset({"logprobs", "values"})
    now = policy.forward(batch, columns)
    with policy.answering("ref"):
        then = policy.forward(batch, columns)
    assert torch.equal(filled.old_logprobs, now.logprobs.detach())
    assert torch.equal(filled.old_values, now.values.detach())
    assert torch.equal(filled.ref_logprobs, then.logprobs.detach())
    assert not torch.equal(filled.old_logprobs, filled.ref_logprobs)
    plain = fill(batch, policy, frozenset({"logprobs"}))
    assert plain.old_logprobs is plain.ref_logprobs is plain.old_values is None


def test_reference_columns_that_are_there_are_kept() -> None:
    batch = collate(toy_groups())
    given = torch.full(batch.tokens.shape, -1.0) * batch.mask
    filled = fill(replace(batch, ref_logprobs=given), toy_policy(), frozenset({"ref_logprobs"}))
    assert filled.ref_logprobs is given


def test_only_hides_what_an_optimizer_does_not_need() -> None:
    batch: Batch = fill(collate(toy_groups()), toy_policy(), frozenset({"old_logprobs", "ref_logprobs", "old_values"}))
    seen = only(batch, frozenset({"logprobs", "ref_logprobs"}))
    assert seen.ref_logprobs is batch.ref_logprobs
    assert seen.old_logprobs is seen.old_values is None
