"""Rewards that are rules: the data's labels, a Python function, a verifiable answer, a length."""

from __future__ import annotations

import decimal
import importlib
import importlib.util
import inspect
import numbers
import re
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from decimal import Decimal
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


DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
NUMBER = re.compile(
    rf"(?<![\d^])(?<!\^[-{{])(?<!\^{{-)((?:(?<![\w)])[-+])?(?:\d+ (?=\d+/\d))?)({DIGITS})(?:/({DIGITS}))?(?![\d^]|\.\d)"
)
"""A number, a quotient, or a whole number and a quotient: with a sign unless something is subtracted, with commas
between thousands; neither an exponent nor what has one."""
AS_WRITTEN: Sequence[tuple[str, str]] = (
    ("\u2212", "-"),  # the sign that typesetting has for the hyphen of a keyboard
    (r"\{,\}|(?<=\d),\\!(?=\d)", ","),
    (r"(?<=[-+])\\?[$\u00a3\u20ac](?=[\d.])", ""),
    (r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}", r" \1/\2"),
    (r"([-+]) (?=\d+/\d)", r"\1"),
    (r"(?<![\d.])10\^(?:\{([-+]?\d+)\}|([-+]?\d+))", r"1e\1\2"),
    (r"(?<=\d)\s*(?:\\times|\\cdot|[*x\u00d7\u00b7])\s*1e(?=[-+\d])", "e"),
)
"""Patterns of other spellings of the same number, and how NUMBER has them; in this order."""


EXACT = decimal.Context(prec=50, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
"""For quotients and differences; whole numbers are as long as they are written."""


def _last_number(text: str) -> Decimal | None:
    """The last number that a text holds, exactly, and None where it holds none."""
    for pattern, plain in AS_WRITTEN:
        text = re.sub(pattern, plain, text)
    for before, above, below in reversed(NUMBER.findall(text)):
        try:
            value = Decimal(above.replace(",", ""))
            value = EXACT.divide(value, Decimal(below.replace(",", ""))) if below else value
        except ArithmeticError:
            continue  # a quotient by zero is no number, nor is 1e9999999999999999999
        whole = before.strip("+- ")
        value = EXACT.add(Decimal(whole), value) if whole else value
        return value.copy_negate() if before.startswith("-") else value
    return None


@dataclass(frozen=True)
class Match:
    """1 when the completion's answer is right, else 0: a reward that a computer can verify."""

    answer: str = "answer"
    """The data's column with the right answer, or a list of answers, any of which is right."""
    mode: Literal["exact", "regex", "numeric", "math"] = "exact"
    """exact: the same text but for white space around it; regex: the answer is a pattern that the completion must
    contain; numeric: the last number of each, be it -3, 1,234.5, 3/4 or 2 x 10^5; math: equivalent expressions, by
    math-verify."""
    extract: str = ""
    """A pattern whose first group, at its last match, is the completion's answer; empty: the whole completion."""
    tolerance: Annotated[float, Ge(0)] = 1e-6
    """numeric: relative difference that counts as equal, unless both are whole numbers."""
    verifiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _compiled(self.extract)

    def check(self, context: CheckContext) -> None:
        """Raise RewardError where a prompt has no right answer that this mode can read."""
        if self.mode == "math":
            import math_verify  # noqa: F401 - an extra, whose absence is told before the first step
        for number, prompt in enumerate(context.prompts, 1):
            try:
                for right in self._right(prompt):
                    if self.mode != "math":
                        self._judge(right, "")
            except (RewardError, ValueError) as error:
                raise RewardError(f"training prompt {number}, {str(prompt.messages)[:60]!r}: {error}") from error

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(self._score(group.prompt, c.text) for c in group.completions) for group in groups]

    def _score(self, prompt: Prompt, text: str) -> Score:
        right = self._right(prompt)
        if self.extract:
            found = list(_compiled(self.extract).finditer(text))
            if not found:
                return Score(0.0, note="no answer found")
            text = (found[-1].group(1) or "") if found[-1].groups() else found[-1].group()
        scores = [self._judge(each, text) for each in right]
        return max(scores, key=lambda score: -1.0 if score.value is None else score.value)

    def _right(self, prompt: Prompt) -> list[str]:
        """The right answers, any of which counts; raise where the data bring none."""
        if self.answer not in prompt.info:
            raise RewardError(
                f"reward match: the data have no column {self.answer!r} (found: {', '.join(prompt.info) or 'none'}): "
                "set reward.answer to the column with the right answer"
            )
        value = prompt.info[self.answer]
        found = value if isinstance(value, (list, tuple)) else [value]
        if not found or not all(map(_is_answer, found)):
            raise RewardError(
                f"reward match: the column {self.answer!r} has no right answer here, but {str(value)[:80]!r}: leave "
                "the row out, or give it a text, a number, or a list of them, any of which is right"
            )
        return [str(int(each)) if isinstance(each, float) and each.is_integer() else str(each) for each in found]

    def _judge(self, right: str, given: str) -> Score:
        if self.mode == "exact":
            return Score(float(given.strip() == right.strip()))
        if self.mode == "regex":
            return Score(float(_compiled(right).search(given) is not None))
        if self.mode == "numeric":
            return self._numeric(right, given)
        return _math(right, given)

    def _numeric(self, right: str, given: str) -> Score:
        expected, found = _last_number(right), _last_number(given)
        if expected is None:
            raise RewardError(f"reward match: the answer {right[:80]!r} holds no number: choose another mode")
        if found is None:
            return Score(0.0, note="no number found")
        if expected == found or all(each == each.to_integral_value() for each in (expected, found)):
            return Score(float(expected == found))
        allowed = EXACT.multiply(Decimal(self.tolerance), max(Decimal(1), expected.copy_abs()))
        return Score(float(EXACT.subtract(expected, found).copy_abs() <= allowed))


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def _is_answer(value: object) -> bool:
    """Whether a value says what is right: a text that is not empty, or a number."""
    return bool(value.strip()) if isinstance(value, str) else isinstance(value, numbers.Real) and value == value


def _readings(text: str) -> list[str]:
    """As what math-verify is to read a text, in this order: of 2\\pi that stands alone it would find the 2, and of
    prose as an expression the product of its letters."""
    if re.search(r"\$|\\boxed|\\\(|\\\[", text):
        return [text, f"${text}$"]
    plain = re.sub(r"\\(?:text|mathrm|mbox)\s*\{[^}]*\}|\\[a-zA-Z]+", "", text)
    return [text] if re.search(r"(?:^|\s)[A-Za-z]{2,}|[A-Za-z]{4,}", plain) else [f"${text}$", text]


def _math(right: str, given: str) -> Score:
    """Equivalence by math-verify, as TRL's accuracy reward has it; an answer that it cannot read is abstained from."""
    from math_verify import parse, verify

    # It keeps time by a signal, which only the main thread can set; elsewhere it would find nothing, silently.
    alarm = threading.current_thread() is threading.main_thread()
    parsing, verifying = (10, 5) if alarm else (None, None)

    def read(text: str) -> Any:
        return next(filter(None, (parse(each, parsing_timeout=parsing) for each in _readings(text))), [])

    expected = read(right)
    if not expected:
        return Score(None, note="the right answer cannot be read as mathematics")
    return Score(float(verify(expected, read(given), timeout_seconds=verifying)))


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
    zoo.reward("match", Match)
    zoo.reward("length", Length)
