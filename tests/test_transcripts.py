"""Completions in which others speak, too: what they are, how they are laid out, and what is counted of them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch

from alignzoo import Batch, Completion, DataError, Forward, Group, Prompt, RewardError, Score, Terms, cost
from alignzoo import functional as fn
from alignzoo.batching import collate, fill, trim
from alignzoo.cost import Work
from alignzoo.interfaces import PolicyInfo
from alignzoo.metrics import generated, shared
from alignzoo.microbatch import MicroBatcher, cut
from alignzoo.schedule import Schedule
from alignzoo.testing import toy_policy
from alignzoo.training.importance import importance
from alignzoo.training.journal import samples
from alignzoo.training.passes import Passes
from alignzoo.training.reference_cache import Remembered
from alignzoo.training.token_log import token_columns
from alignzoo_policy_gradient.rloo import RLOO

QUESTION = Completion((1, 2), "ask", True, (-1.0, -2.0))
HEARD = Completion.observation((3, 4), "[four]")
REPLY = Completion((5,), "so", False, (-3.0,))
TALK = QUESTION.then(HEARD, REPLY)
ECHO = replace(TALK, mask=(True, True, True, False, True))
"""The same, in which the first word that the policy heard is trained on as well."""


def group(*completions: Completion, **changes: Any) -> Group:
    scores = tuple(Score(float(i)) for i in range(len(completions)))
    return replace(Group(Prompt("?"), (7, 8), completions, scores), **changes)


# --- a completion -------------------------------------------------------------------------------------------------


def test_turns_make_a_transcript() -> None:
    assert (
        Completion(
            (1, 2, 3, 4, 5),
            "ask[four]so",
            False,
            (-1.0, -2.0, 0.0, 0.0, -3.0),
            own=(True, True, False, False, True),
            turns=(0, 2, 4),
        )
        == TALK
    )
    assert TALK.n_own == 3 and TALK.trained == TALK.own
    assert QUESTION.then(HEARD).then(REPLY) == TALK
    assert Completion((), "").then(TALK) == TALK
    assert QUESTION.then(HEARD).finished is False and QUESTION.then(replace(REPLY, finished=True)).finished is True
    assert pickle.loads(pickle.dumps(ECHO)) == ECHO


def test_what_was_not_recorded_of_one_turn_is_not_known_of_the_whole() -> None:
    assert TALK.then(Completion((6,), "given")).logprobs is None
    assert replace(QUESTION, policy_version=4).then(HEARD, replace(REPLY, policy_version=3)).policy_version == 3


def test_a_transcript_can_be_cut() -> None:
    assert ECHO.cut(3) == Completion(
        (1, 2, 3), ECHO.text, False, (-1.0, -2.0, 0.0), own=(True, True, False), mask=(True,) * 3, turns=(0, 2)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"own": (True,)}, "own has 1 entries for 2 tokens"),
        ({"mask": (True,) * 3}, "mask has 3 entries for 2 tokens"),
        ({"logprobs": (-1.0,)}, "logprobs has 1 entries for 2 tokens"),
        ({"turns": (1, 0)}, "turns are \\(1, 0\\), expected ascending places among 2 tokens"),
        ({"turns": (0, 2)}, "turns are \\(0, 2\\)"),
    ],
)
def test_what_does_not_fit_the_tokens_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Completion((1, 2), "", **changes)


def test_age_is_told_what_it_is_called_now() -> None:
    with pytest.raises(TypeError, match=r"no `age`: it has `policy_version`.*and `step`"):
        Completion((1,), "", age=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match="no `age`: it has `policy_version`"):
        _ = TALK.age
    assert not hasattr(TALK, "ages")


def test_a_run_notes_the_step_and_the_version_once() -> None:
    noted = TALK.generated_for(3)
    assert (noted.step, noted.policy_version) == (3, 2)
    assert noted.generated_for(9) is noted
    older = replace(TALK, policy_version=1).generated_for(3)
    assert (older.step, older.policy_version) == (3, 1)
    given = Completion((1,), "given")
    assert given.generated_for(3) is given


# --- a batch ------------------------------------------------------------------------------------------------------


def test_what_is_trained_on_and_what_is_the_policys_own() -> None:
    unsaid = replace(REPLY, tokens=(5, 6), logprobs=(-3.0, -4.0), mask=(False, True))
    batch = collate([group(TALK, ECHO, HEARD.then(unsaid))])
    assert batch.attend.int().tolist() == [[1] * 7, [1] * 7, [1] * 6 + [0]]
    assert batch.mask.int().tolist() == [[0, 0, 1, 1, 0, 0, 1], [0, 0, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 1, 0]]
    assert batch.own.int().tolist() == [[0, 0, 1, 1, 0, 0, 1], [0, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 1, 1, 0]]
    assert batch.prompt_length.tolist() == [2, 2, 2]
    assert batch.extra["sampled_logprobs"].tolist() == [
        [0, 0, -1, -2, 0, 0, -3],
        [0, 0, -1, -2, 0, 0, -3],
        [0, 0, 0, 0, 0, -4, 0],
    ]
    assert batch.extra["turn"].tolist() == [[0, 0, 0, 0, 0, 0, 2], [0, 0, 0, 0, 1, 0, 2], [0, 0, 0, 0, 0, 1, 0]]
    assert "turn" not in collate([group(QUESTION)]).extra


def test_where_nothing_is_trained_there_is_no_row() -> None:
    batch = collate([group(TALK, HEARD, replace(TALK, mask=(False,) * 5))])
    assert batch.row.tolist() == [0]


def test_batches_by_hand_know_their_prompts_by_what_is_generated_or_trained_on() -> None:
    rows = collate([group(TALK)])
    given = Batch(rows.tokens, rows.attend, rows.mask, rows.group, rows.rewards, rows.weights)
    assert torch.equal(given.own, given.mask) and given.prompt_length.tolist() == [2]
    nothing = replace(given, mask=torch.zeros_like(given.mask), own=None, prompt_length=None)  # type: ignore[arg-type]
    assert nothing.prompt_length.tolist() == [7]


def test_a_tokens_reward_where_nothing_is_trained_is_an_error() -> None:
    dense = group(TALK, scores=(Score(1.0, (0.25, 0.0, 0.0, 0.0, 0.5)),))
    assert collate([dense]).token_rewards.tolist() == [[0, 0, 0.25, 0, 0, 0, 0.5]]
    with pytest.raises(RewardError, match=r"reward of 0.75 stands on token 3 of a completion of '\?'.*last token"):
        collate([group(TALK, scores=(Score(1.0, (0.0, 0.0, 0.0, 0.75, 0.0)),))])


def test_a_column_may_have_a_number_for_each_token() -> None:
    extra = {"label": ((1.0, 2.0, 3.0, 4.0, 5.0), (6.0, 7.0)), "margin": (0.5, 0.25)}
    batch = collate([group(TALK, QUESTION, extra=extra)])
    assert batch.extra["label"].tolist() == [[0, 0, 1, 2, 0, 0, 5], [0, 0, 6, 7, 0, 0, 0]]
    assert batch.extra["margin"].tolist() == [0.5, 0.25]
    assert trim(batch.select(slice(1, 2))).extra["label"].tolist() == [[0, 0, 6, 7]]
    for wrong, found in ((((1.0,) * 5, (1.0,)), "1 numbers"), (((1.0,) * 5, 2.0), "one number")):
        with pytest.raises(DataError, match=f"the column 'label' has {found} for a completion of 2 tokens"):
            collate([group(TALK, QUESTION, extra={"label": wrong})])


def test_a_rows_media_goes_where_the_row_goes() -> None:
    seen = group(TALK, QUESTION, prompt=Prompt("?", media="cat.png"))
    batch = collate([group(TALK), seen])
    assert batch.media == (None, "cat.png", "cat.png")
    assert batch.select(torch.tensor([1, 0])).media == ("cat.png", None)
    assert batch.select(batch.rewards > 0).media == ("cat.png",)
    assert [part.media for part in batch.split(1)] == [(None,), ("cat.png", "cat.png")]
    assert trim(batch).to("cpu").media == batch.media and replace(batch, weights=batch.rewards).media == batch.media
    assert collate([group(TALK)]).media == ()
    with pytest.raises(ValueError, match="media has 1 entries for 3 rows"):
        replace(batch, media=("cat.png",))
    (line, *_) = samples([seen], "training")
    assert "cat.png" not in str(line)


def test_staleness_counts_from_the_present_version() -> None:
    rows = group(replace(TALK, policy_version=1), replace(TALK, policy_version=3), TALK)
    assert collate([rows]).extra["staleness"].tolist() == [2, 0, 0]
    assert collate([rows], version=5).extra["staleness"].tolist() == [4, 2, 0]


# --- the mathematics over holes -----------------------------------------------------------------------------------


def test_credit_steps_over_what_others_say() -> None:
    # V = (0.5, 0.25, 0.75) on the policy's own tokens, R = 1 at the last of them, γ = 1, λ = 0.5:
    # A₃ = 1 - 0.75 = 0.25, A₂ = 0.75 - 0.25 + 0.5·0.25 = 0.625, A₁ = 0.25 - 0.5 + 0.5·0.625 = 0.0625
    batch = collate([group(TALK.then(HEARD), scores=(Score(1.0),))])
    rewards = fn.at_last_token(batch.rewards, batch.mask)
    assert rewards.tolist() == [[0, 0, 0, 0, 0, 0, 1, 0, 0]]
    values = fn.scatter(torch.tensor([0.5, 0.25, 0.75]), batch.mask)
    advantages, returns = fn.gae(rewards, values, batch.mask, lam=0.5)
    assert advantages.tolist() == [[0, 0, 0.0625, 0.625, 0, 0, 0.25, 0, 0]]
    assert returns.tolist() == [[0, 0, 0.5625, 0.875, 0, 0, 1, 0, 0]]
    assert fn.sequence_mean(batch.mask)[0, 6] == pytest.approx(1 / 3)


def test_nobody_has_sampled_what_others_say() -> None:
    batch = collate([group(ECHO)])
    old = fn.scatter(torch.tensor([-0.5, -2.0, -4.0, -3.5]), batch.mask)
    weights = importance(Terms(old), replace(batch, old_logprobs=old), Forward(), 2.0)
    # e^0.5 = 1.648721, e^0 = 1, what was heard 1, e^-0.5 = 0.606531
    expected = [1, 1, 1.648721, 1, 1, 1, 0.606531]
    assert weights[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_what_was_recorded_serves_only_where_all_was_sampled() -> None:
    policy = toy_policy()
    talks = [group(*(replace(each, logprobs=(-1.0,) * 5) for each in (TALK, TALK))) for _ in range(2)]
    echoes = [group(*(replace(each, logprobs=(-1.0,) * 5) for each in (ECHO, TALK))) for _ in range(2)]

    def deferred(groups: list[Group]) -> bool:
        made = Passes(policy, Schedule(), MicroBatcher(policy, tokens=8))
        return bool(made.ready(RLOO(), collate(groups), groups, watched=frozenset()).deferred.names)

    assert deferred(talks) and not deferred(echoes)


# --- what is counted ----------------------------------------------------------------------------------------------


def test_what_others_say_is_read_and_not_generated() -> None:
    # A prompt of 2: 3 pairs, its head once. Then 4 tokens before the last: 4·2 + 10 = 18 pairs; the head at 2 of them.
    rows = [group(TALK)]
    assert cost.writing_groups(rows) == Work(tokens=2 + 4, pairs=3 + 18, answers=1 + 2)
    # Read, all 5: 5·2 + 15 = 25 pairs, the head at 3.
    assert cost.reading_batch(collate(rows)) == Work(tokens=2 + 5, pairs=3 + 25, answers=3)
    # Who hears something first has no use for the head at the prompt's end; what is heard last is not read.
    assert cost.writing_groups([group(HEARD.then(REPLY, HEARD))]) == Work(tokens=2 + 2, pairs=3 + 7, answers=1)
    noted = [group(TALK.generated_for(2))]
    assert cost.writing_groups(noted, 2).tokens == 6 and cost.writing_groups(noted, 3) == Work()


def test_a_shared_prompt_ends_where_the_completion_begins() -> None:
    batch = collate([group(HEARD.then(REPLY), HEARD.then(REPLY))])  # 2 shared, 3 + 3 of their own
    assert len(list(cut(batch, tokens=8))) == 1 and len(list(cut(batch, tokens=7, couples="row"))) == 2


def test_figures_speak_of_the_policys_own_words() -> None:
    fresh, late = TALK.generated_for(2), replace(TALK, policy_version=0).generated_for(2)
    again = replace(ECHO, policy_version=0, step=1)
    groups = [group(fresh, late, again)]
    assert generated(groups, 2) == 6
    batch = collate(groups, version=1)
    column = batch.mask.float()
    batch = replace(batch, old_logprobs=-1.0 * column, ref_logprobs=-1.5 * column)
    figures = shared(groups, batch, batch, 1, 2)
    assert figures["length"] == 3 and figures["tokens/generated"] == 6
    assert figures["staleness/mean"] == pytest.approx(2 / 3) and figures["staleness/max"] == 1
    assert figures["kl"] == pytest.approx(1.5)  # of the first row alone: 3·0.5
    heard = [group(replace(ECHO, step=2, policy_version=1))]
    batch = collate(heard, version=1)
    column = batch.mask.float()
    figures = shared(heard, replace(batch, old_logprobs=-1.0 * column, ref_logprobs=-1.5 * column), batch, 1, 2)
    assert figures["kl"] == pytest.approx(1.5) and figures["kl/token"] == pytest.approx(0.5)  # what was heard is no KL
    assert "staleness/mean" not in figures


def test_samples_show_every_token_and_whose_it_is() -> None:
    class Speller:
        def info(self) -> PolicyInfo:
            return PolicyInfo(token_strings=lambda tokens: [f"<{token}>" for token in tokens])

    groups = [group(ECHO, QUESTION)]
    batch = collate(groups)
    places = torch.arange(7) / 10 * batch.mask
    batch = replace(batch, old_logprobs=places, advantages=torch.tensor([0.5, -0.5]))
    talk, question = token_columns(groups, Speller(), groups, batch, batch)  # type: ignore[arg-type]
    assert talk == {
        "tokens": ["<1>", "<2>", "<3>", "<4>", "<5>"],
        "own": [True, True, False, False, True],
        "turns": [0, 2, 4],
        "logprobs": [0.2, 0.3, 0.4, None, 0.6],
        "advantages": [0.5, 0.5, 0.5, None, 0.5],
    }
    assert question == {"tokens": ["<1>", "<2>"], "logprobs": [0.2, 0.3], "advantages": [-0.5, -0.5]}


def test_a_reference_is_remembered_by_what_is_trained_on() -> None:
    groups = [group(TALK, ECHO)]
    batch = fill(collate(groups), toy_policy(drift=0.3), frozenset({"ref_logprobs"}))
    rows = [((7, 8), each.tokens, each.trained) for each in (TALK, ECHO)]
    known = Remembered({row: batch.ref_logprobs[i][batch.mask[i]] for i, row in enumerate(rows)})
    assert torch.equal(known.column(batch, groups), batch.ref_logprobs)
    other = [group(replace(TALK, mask=(True,) * 5))]
    assert known.column(collate(other), other) is None


def test_what_others_say_in_given_answers_is_never_learnt() -> None:
    talk = (("assistant", "a"), ("user", "bc"), ("assistant", "d"))
    turns = tuple({"role": who, "content": said} for who, said in talk)
    (given,) = toy_policy().encode(Prompt("?"), [turns]).completions
    assert given.own == (True, True, False, False, True, True)  # each answer with its end
    assert given.turns == (0, 2, 4) and given.logprobs is None and given.finished
