"""Rewards that are rules: the data's labels, a Python function, a length."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge

import alignzoo
from alignzoo import Completion, Context, DataError, Group, Policy, Prompt, RewardError, Score, StepReport
from alignzoo.calling import OutOfTime, failing, result_of
from alignzoo.files import check_kind
from alignzoo.importing import beside
from alignzoo.interfaces import CheckContext
from alignzoo.surroundings import exits_told


@dataclass(frozen=True)
class Labels:
    """The data's own labels. What the policy itself wrote has none: it abstains."""

    scores_generated: ClassVar[bool] = False

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(self._score(group, i) for i in range(len(group.completions))) for group in groups]

    def _score(self, group: Group, i: int) -> Score:
        if group.completions[i].logprobs is not None:
            return Score(None)
        if len(group.prompt.labels) != len(group.completions):
            raise DataError(
                f"{len(group.completions)} completions but {len(group.prompt.labels)} labels for the prompt "
                f"{str(group.prompt.messages)[:80]!r}"
            )
        return Score(group.prompt.labels[i])


@dataclass(frozen=True)
class Function:
    """What reward `python` opens: the function, imported."""

    call: Callable[..., Any]


@dataclass(frozen=True)
class Python:
    """Any callable with TRL's reward signature, plain or async, as one reward for every online optimizer.

    It is called once for all completions with the keywords that it takes, of `prompts`, `completions`,
    `completion_ids`, and the data's own columns, each a list with one entry per completion; those of one prompt are
    adjacent. One that names `step` is told how many steps the run has finished. `log_metric(name, number)` and
    `log_extra(column, numbers)` add parts to the scores. It returns one number per completion, None to abstain. For
    conversations a completion is [{"role": "assistant", "content": text}], otherwise text.
    """

    function: Any
    """"package.module:function", "file.py:function", or in Python the callable itself."""
    runs_code: ClassVar[tuple[str, ...]] = ("function",)
    step: Annotated[int, Ge(0)] = 0
    """The finished steps that a function is told which takes `step`; a run counts on from here."""
    timeout: Annotated[float, Ge(0)] = 0.0
    """Seconds that one call may take, after which the run stops with an error; 0: no limit."""

    def __post_init__(self) -> None:
        if not isinstance(self.function, str) and not callable(self.function):
            raise ValueError('function: expected "module:function", "file.py:function" or a callable')

    def next(self, report: StepReport) -> Python:
        return replace(self, step=self.step + 1)

    def open(self, context: Context) -> Function:
        """Find the function."""
        return Function(self.function if callable(self.function) else find(self.function))

    def check(self, context: CheckContext) -> None:
        """Raise RewardError where the function is not there, or asks for what nobody gives."""
        columns = {name for prompt in context.prompts for name in prompt.info}
        _check_names(self.callable, columns | set(GIVEN))

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        rows = [(group.prompt, c) for group in groups for c in group.completions]
        parts: list[dict[str, float]] = [{} for _ in rows]
        answers = iter(zip(self._call(rows, parts), parts, strict=True))
        scores = (Score(value, parts=logged) for value, logged in answers)
        return [tuple(next(scores) for _ in group.completions) for group in groups]

    @property
    def callable(self) -> Callable[..., Any]:
        """The function, found."""
        found: Function = alignzoo.live_of(self)
        return found.call

    @property
    def name(self) -> str:
        return getattr(self.callable, "__name__", type(self.callable).__name__)

    def _call(self, rows: Sequence[tuple[Prompt, Completion]], parts: Sequence[dict[str, float]]) -> list[float | None]:
        keywords: dict[str, Any] = {
            "prompts": [prompt.messages if isinstance(prompt.messages, str) else _turns(prompt) for prompt, _ in rows],
            "completions": [_as_given(prompt, completion) for prompt, completion in rows],
            "completion_ids": [list(completion.tokens) for _, completion in rows],
            "log_metric": lambda name, value: self._log(parts, name, [value] * len(parts)),
            "log_extra": lambda column, values: self._log(parts, column, values),
        }
        columns = {name for prompt, _ in rows for name in prompt.info}
        keywords |= {name: [prompt.info.get(name) for prompt, _ in rows] for name in columns - keywords.keys()}
        if "step" in inspect.signature(self.callable).parameters:
            keywords.setdefault("step", self.step)
        return self._numbers(self._answers(_accepted(self.callable, keywords), rows), len(rows))

    def _answers(self, keywords: Mapping[str, Any], rows: Sequence[tuple[Prompt, Completion]]) -> Any:
        """What the function returns. Where it raises or takes too long, the RewardError names the rows."""
        try:
            return result_of(lambda: self.callable(**keywords), self.timeout)
        except (alignzoo.AlignzooError, KeyboardInterrupt):
            raise
        except OutOfTime:
            limit = f"{self.timeout:g} s, which is reward.timeout"
            raise RewardError(f"{self._called(rows)}, and it has not answered within {limit}") from None
        except BaseException as error:
            parts = {name: value for name, value in keywords.items() if isinstance(value, list)}
            rest = {name: value for name, value in keywords.items() if name not in parts and name not in LOGS}
            silent = {name: lambda name, value: None for name in LOGS if name in keywords}

            def again(chosen: Sequence[int]) -> object:
                some = {name: [value[i] for i in chosen] for name, value in parts.items()}
                return result_of(lambda: self.callable(**some, **rest, **silent), self.timeout)

            found = self._called([rows[i] for i in failing(again, len(rows))])
            raise RewardError(f"{found}, and it raised {type(error).__name__}: {error}. --debug shows where") from error

    def _called(self, rows: Sequence[tuple[Prompt, Completion]]) -> str:
        """Which function was called, and for which rows."""
        called = f"the reward 'python' called {self.name} for"
        if not rows:
            return f"{called} no completions"
        prompt, completion = rows[0]
        first = f"the completion {completion.text[:80]!r} of the prompt {str(prompt.messages)[:80]!r}"
        return f"{called} {first}" if len(rows) == 1 else f"{called} {len(rows)} completions together, first {first}"

    def _log(self, parts: Sequence[dict[str, float]], name: str, values: Sequence[Any]) -> None:
        """What the function logs, by completion. Texts are left out: a score's parts are numbers."""
        if len(values) != len(parts):
            raise RewardError(
                f"the reward function {self.name} logged {len(values)} values of {name!r} for {len(parts)} completions"
            )
        for part, value in zip(parts, values, strict=True):
            value = value.item() if hasattr(value, "item") else value  # a number of numpy's or torch's
            if isinstance(value, int | float) and not isinstance(value, bool):
                part[name] = float(value)

    def _numbers(self, answers: Any, expected: int) -> list[float | None]:
        if isinstance(answers, str | bytes | Mapping | AbstractSet) or not hasattr(answers, "__len__"):
            raise RewardError(
                f"the reward function {self.name} returned {type(answers).__name__}, expected a list of {expected} "
                "numbers"
            )
        if len(answers) != expected:
            raise RewardError(
                f"the reward function {self.name} returned {len(answers)} scores for {expected} completions: "
                "one per completion is expected"
            )
        return [self._number(given) for given in answers]

    def _number(self, given: Any) -> float | None:
        if given is None:
            return None
        if isinstance(given, str | bytes):
            raise RewardError(
                f"the reward function {self.name} returned {given!r} as a score, expected a number or None"
            )
        try:
            return float(given)
        except (TypeError, ValueError) as error:
            raise RewardError(
                f"the reward function {self.name} returned a {type(given).__name__} as a score, expected a number or "
                "None"
            ) from error


def find(path: str) -> Callable[..., Any]:
    """The callable at "package.module:function", "package.module.function" or "file.py:function"."""
    module_name, _, name = path.rpartition(":") if ":" in path else path.rpartition(".")
    if not module_name or not name:
        raise RewardError(f"reward function {path!r}: write package.module:function or file.py:function")
    file = Path(module_name).absolute() if module_name.endswith(".py") else None
    try:
        with exits_told(), beside(file.parent if file else Path.cwd()):
            module = _from_file(file) if file else importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise RewardError(
            f"reward function {path!r}: {type(error).__name__} while importing {module_name}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise RewardError(f"{module_name} has no function {name!r}. {alignzoo.errors.did_you_mean(name, known)}")
    return found


def _from_file(path: Path) -> Any:
    check_kind(path, RewardError)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


LOGS = ("log_metric", "log_extra")
GIVEN = ("prompts", "completions", "completion_ids", "step", *LOGS)
"""What every reward function can have, beside the data's columns."""

NOT_GIVEN = {
    "trainer_state": "TRL's trainer has a state, and a run here has none that a reward may depend on",
    "environments": "tools and their environments are not known to rewards",
}
"""Names by which TRL gives more."""


def _check_names(function: Callable[..., Any], known: Collection[str]) -> None:
    """Raise where the function cannot do without a name that is not known, also where it takes **kwargs."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]
    missing = [name for name in required if name not in known]
    for name in missing:
        if name in NOT_GIVEN:
            raise RewardError(
                f"the reward function asks for {name}, which cannot be given: {NOT_GIVEN[name]}. Give the parameter a "
                f"default, as in {name}=None"
            )
    if missing:
        raise RewardError(
            f"the reward function asks for {', '.join(missing)}, but the data have the columns "
            f"{', '.join(sorted(set(known) - set(LOGS)))}"
        )


def _accepted(function: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """The keywords that the function takes; all of them when it takes **kwargs, but for those that it can only name."""
    _check_names(function, keywords)
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        named = {p.name for p in parameters}
        return {name: value for name, value in keywords.items() if name not in LOGS or name in named}
    return {p.name: keywords[p.name] for p in parameters if p.name in keywords}


def _turns(prompt: Prompt) -> list[dict[str, str]]:
    return [dict(message) for message in prompt.messages if not isinstance(message, str)]


def _as_given(prompt: Prompt, completion: Completion) -> Any:
    text = completion.text
    return text if isinstance(prompt.messages, str) else [{"role": "assistant", "content": text}]


@dataclass(frozen=True)
class Length:
    """The length of a completion beyond a free allowance; weigh it negatively to keep answers short."""

    unit: Literal["tokens", "words", "characters"] = "tokens"
    """What is counted."""
    free: Annotated[int, Ge(0)] = 0
    """So many cost nothing."""

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(Score(float(max(0, self._count(c) - self.free))) for c in g.completions) for g in groups]

    def _count(self, completion: Completion) -> int:
        if self.unit == "tokens":
            return completion.n_own
        return len(completion.text.split()) if self.unit == "words" else len(completion.text)


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.reward("labels", Labels)
    zoo.reward("python", Python)
    zoo.reward("length", Length)
