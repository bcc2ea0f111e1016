"""The conformance kit: holds a part to the laws that make any two of its kind interchangeable.

In a plugin's tests, one line: `check_optimizer(MyOptimizer())`. With one test for each part and check:

    @parametrize_with_checks(MyOptimizer(), MyOptimizer(beta=0.5))
    def test_conforms(check, part):
        check(part)

On the command line: `alignzoo check NAME`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from alignzoo.engines import Engine
from alignzoo.errors import did_you_mean
from alignzoo.interfaces import Judge, Optimizer, Policy, PolicySpec, RewardSource, Sampler, Task
from alignzoo.testing.engines import ENGINE_CHECKS
from alignzoo.testing.judges import JUDGE_CHECKS
from alignzoo.testing.laws import LAWS, Check, Checks, ConformanceError, Figures, Given
from alignzoo.testing.optimizers import OPTIMIZER_CHECKS
from alignzoo.testing.parts import KIND_CHECKS, CheckResult, checks_of, kind_of, parametrize_with_checks, results
from alignzoo.testing.policies import POLICY_CHECKS
from alignzoo.testing.rewards import REWARD_CHECKS
from alignzoo.testing.samplers import SAMPLER_CHECKS
from alignzoo.testing.tasks import TASK_CHECKS
from alignzoo.testing.world import ToyPolicy, toy_batch, toy_groups, toy_policy, toy_prompts
from alignzoo.types import Prompt

__all__ = [
    "ENGINE_CHECKS",
    "JUDGE_CHECKS",
    "KIND_CHECKS",
    "LAWS",
    "OPTIMIZER_CHECKS",
    "POLICY_CHECKS",
    "REWARD_CHECKS",
    "SAMPLER_CHECKS",
    "TASK_CHECKS",
    "Check",
    "CheckResult",
    "ConformanceError",
    "Figures",
    "Given",
    "ToyPolicy",
    "check_engine",
    "check_judge",
    "check_optimizer",
    "check_policy",
    "check_reward",
    "check_sampler",
    "check_task",
    "checks_of",
    "kind_of",
    "parametrize_with_checks",
    "results",
    "toy_batch",
    "toy_groups",
    "toy_policy",
    "toy_prompts",
]


def check_optimizer(optimizer: Optimizer, *, only: Collection[str] | None = None, columns: Sequence[str] = ()) -> None:
    """Hold an optimizer to every check, or to those named in `only`. Raises ConformanceError at the first it fails.

    `columns` names columns of the data that it reads from `Batch.extra`; they are made up.
    """
    _make(OPTIMIZER_CHECKS, optimizer, only, Given(columns=tuple(columns)))


def check_sampler(
    sampler: Sampler,
    *,
    only: Collection[str] | None = None,
    prompts: Sequence[Prompt] = (),
    policy: Policy | None = None,
) -> None:
    """Hold a sampler to every check. `prompts` are asked, of `policy`; by default a few short ones of a toy policy."""
    _make(SAMPLER_CHECKS, sampler, only, Given(prompts=tuple(prompts), policy=policy))


def check_reward(
    reward: RewardSource,
    *,
    only: Collection[str] | None = None,
    prompts: Sequence[Prompt] = (),
    policy: Policy | None = None,
) -> None:
    """Hold a reward to every check. The completions of `prompts` are scored, as `policy` encodes them."""
    _make(REWARD_CHECKS, reward, only, Given(prompts=tuple(prompts), policy=policy))


def check_judge(
    judge: Judge,
    *,
    only: Collection[str] | None = None,
    prompts: Sequence[Prompt] = (),
    policy: Policy | None = None,
) -> None:
    """Hold a judge to every check. It is asked about the completions of `prompts`, beside a `policy` in training."""
    _make(JUDGE_CHECKS, judge, only, Given(prompts=tuple(prompts), policy=policy))


def check_engine(engine: Engine, *, only: Collection[str] | None = None) -> None:
    """Hold an engine to every check, with the small embedded model."""
    _make(ENGINE_CHECKS, engine, only, Given())


def check_policy(spec: PolicySpec, *, only: Collection[str] | None = None, prompts: Sequence[Prompt] = ()) -> None:
    """Hold a policy, given by its settings, to every check. `prompts` are what it can be asked."""
    _make(POLICY_CHECKS, spec, only, Given(prompts=tuple(prompts)))


def check_task(task: Task, *, only: Collection[str] | None = None) -> None:
    """Hold a task to every check."""
    _make(TASK_CHECKS, task, only, Given())


def _make(made: Checks, part: Any, only: Collection[str] | None, given: Given) -> None:
    for name in made if only is None else only:
        if name not in made:
            raise ValueError(f"there is no check {name!r}. {did_you_mean(name, made)}")
        made[name](part, given)
