"""Twelve mistakes that are made in optimizers, in ours: `alignzoo check` names the law that each one breaks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[1] / "plugins"


@dataclass(frozen=True)
class Mutant:
    """A first-party optimizer with one change."""

    file: str
    name: str
    before: str
    after: str
    check: str
    law: int
    settings: tuple[str, ...] = ()
    says: str = ""
    """A part of what `alignzoo check` says of it."""


PPO, GRPO = ("policy_gradient/ppo", "ppo"), ("policy_gradient/grpo", "grpo")
NEW, OLD = "out.logprobs", "batch.old_logprobs"

MUTANTS = {
    "sign": Mutant(
        *(*PPO, "Terms(policy +", "Terms(-policy +"),
        check="prefers_better", law=6, says="a sign",
    ),
    "mask": Mutant(
        *(*PPO, f"fn.log_ratio({NEW}, {OLD}, batch.mask)", f"({NEW} - {OLD})"),
        check="mask", law=2, says="no gradient in logprobs under the mask",
    ),
    "padding": Mutant(
        *(*GRPO, "self.reduction, self.length)", "self.reduction, self.length) / mask.shape[1]"),
        check="padding", law=1, says="five more columns of padding",
    ),
    "pair order": Mutant(
        *("dpo", "dpo", "better - worse", "worse - better"),
        check="prefers_better", law=6, says="best and worst mixed up",
    ),
    "missing detach": Mutant(
        *(*PPO, "(ratio, batch.advantages)", "(ratio, batch.advantages + batch.old_values - out.values)"),
        check="critic_alone", law=6, says="without detach()",
    ),
    "undeclared column": Mutant(
        *(*PPO, 'super().needs | {"entropy"}', "super().needs"),
        check="needs", law=2, says="`needs` does not name",
    ),
    "in-place change": Mutant(
        *(*GRPO, "return fn.group", "batch.rewards.sub_(batch.rewards.mean())\n        return fn.group"),
        check="pure", law=3, says="the batch's rewards after prepare",
    ),
    "wrong normaliser": Mutant(
        *("imitation/sft", "sft"),
        *("Terms(-out.logprobs,", "Terms(-out.logprobs * batch.mask.numel() / batch.mask.sum(),"),
        check="micro_batches", law=1, says="micro-batches of",
    ),
    "swapped old and new": Mutant(
        *(*PPO, f"fn.log_ratio({NEW}, {OLD}", f"fn.log_ratio({OLD}, {NEW}"),
        check="prefers_better", law=6, says="new and old swapped",
    ),
    "ignored weights": Mutant(
        *(*GRPO, "weighting(mask, self.reduction,", 'weighting(mask, "sequence",'),
        check="settings", law=13, says="some effect of reduction",
    ),
    "wrong shift": Mutant(
        *(*PPO, "log_ratio = fn.log_ratio(out.logprobs,", "log_ratio = fn.log_ratio(out.logprobs.roll(-1, 1),"),
        check="mask", law=2, says="a shift by one",
    ),
    "lost entropy term": Mutant(
        *(*PPO, " - self.entropy * out.entropy", ""),
        check="settings", law=13, says="some effect of entropy",
    ),
}  # fmt: skip


REGISTRATION = """
import alignzoo

@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer("mutant", {})
"""


def registered(source: str, name: str) -> str:
    """A plugin that registers this optimizer as `mutant`; in a package, a file by itself registers nothing."""
    if "alignzoo_register" not in source:
        return source + REGISTRATION.format(re.findall(r"^class (\w+)", source, re.MULTILINE)[-1])
    renamed, times = re.subn(rf'(zoo\.optimizer\(\s*)"{name}"', r'\1"mutant"', source)
    assert times == 1, "the plugin registers in another way"
    return renamed


def source_of(file: str) -> str:
    """The source of an optimizer: a module of its own, or a module of its family's package."""
    own = PLUGINS / f"alignzoo_{file}.py"
    return (own if own.exists() else next(PLUGINS.glob(f"alignzoo_*/{file}.py"))).read_text()


@pytest.mark.parametrize("name", MUTANTS)
def test_check_names_the_law_that_a_mutant_breaks(name: str, alignzoo, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    source = source_of(mutant.file)
    assert source.count(mutant.before) == 1, "the mutant does not fit the source any more"
    mutated = source.replace(mutant.before, mutant.after)
    file = tmp_path / "mutant.py"
    file.write_text(registered(mutated, mutant.name))
    said = alignzoo("check", "mutant", "--plugin", file, "--json")
    assert said.code == 1
    broken = {each["check"]: each for each in json.loads(said.out)["checks"] if not each["ok"]}
    assert broken[mutant.check]["law"] == mutant.law
    assert mutant.says in " ".join(broken[mutant.check]["failure"].values())


def test_a_table_names_law_and_cause_and_tells_the_failure_whole(alignzoo, tmp_path: Path) -> None:
    file = tmp_path / "mutant.py"
    source = (PLUGINS / "alignzoo_imitation" / "sft.py").read_text()
    file.write_text(registered(source, "sft").replace("Terms(-out", "Terms(out"))
    said = alignzoo("check", "mutant.py/mutant", "--plugin", file, "--only", "prefers_better", "--only", "padding")
    assert said.code == 1
    assert "prefers_better    6  FAILED  a sign, new and old swapped" in said.out
    assert "padding           1  ok" in said.out
    for part in ("law 6 is broken", "input:       groups with one", "expected:", "found:", "1 of 2 checks failed"):
        assert part in said.out


def test_what_cannot_be_checked(alignzoo) -> None:
    for arguments, says in (
        (("rlhf",), "is a recipe"),
        (("ppo", "clop=1"), "Did you mean 'clip'"),
        (("ppo", "--only", "sing"), "there is no check 'sing' of kind 'optimizer'"),
    ):
        said = alignzoo("check", *arguments)
        assert said.code == 1 and says in said.err


@pytest.mark.slow
def test_no_check_fails_for_the_originals(alignzoo) -> None:
    for name in sorted({mutant.name for mutant in MUTANTS.values()}):
        assert alignzoo("check", name).code == 0
