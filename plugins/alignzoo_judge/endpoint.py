"""Judge `openai`: a model behind any endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le

from alignzoo import Context, Policy, Question, Text, Verdict, live_of
from alignzoo.errors import RewardError, RunError
from alignzoo.interfaces import CheckContext
from alignzoo.judging import instructed, read_verdict
from alignzoo_judge.cache import Cache, key_of, place
from alignzoo_judge.transport import Reply, Transport, Unanswered, check_url

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

SCHEMA = {
    "type": "object",
    "properties": {"rationale": {"type": "string"}, "verdict": {"type": ["number", "null"]}},
    "required": ["rationale", "verdict"],
    "additionalProperties": False,
}
QUESTION = Question("What is the capital of France?", ("Paris.",), "Is the answer right?")
"""What is asked before a run, to see that the judge answers at all."""
FORM = 1
"""The version of what the cache keeps; another form has other keys."""
FORMATS: Mapping[str, Mapping[str, Any]] = {
    "text": {},
    "json": {"response_format": {"type": "json_object"}},
    "schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA},
        }
    },
}


@dataclass(frozen=True)
class Budget:
    """What one start of a run may spend on a judge, in each of its processes; 0 is without limit."""

    requests: Annotated[int, Ge(0)] = 0
    """HTTP requests, repetitions included."""
    tokens: Annotated[int, Ge(0)] = 0
    """Tokens, read and written. Like `cost` it is known after a request, so those under way may pass it."""
    cost: Annotated[float, Ge(0)] = 0.0
    """Money, in the currency of the prices."""
    price_in: Annotated[float, Ge(0)] = 0.0
    """Price of a million tokens read."""
    price_out: Annotated[float, Ge(0)] = 0.0
    """Price of a million tokens written."""

    def __post_init__(self) -> None:
        if self.cost and not (self.price_in or self.price_out):
            raise ValueError("cost: a limit on money needs price_in or price_out, per million tokens")


@dataclass(frozen=True)
class OpenAI:
    """A model behind any endpoint that speaks OpenAI's chat completions: OpenAI, vLLM, `transformers serve`, Ollama.

    It is asked for a verdict as JSON with its reason. A reply that is anything else is sent back with what is wrong
    with it; one that never comes right is an error. A refusal, or the verdict null, is an abstention. 429, 5xx,
    time-outs and broken connections are asked again with growing waits. It can also write: critiques and revisions.

    Usable replies are kept on disk under the SHA-256 of the whole request (address, model, messages, settings), so a
    repeated or resumed run asks nothing twice. The API key is read from the environment and written nowhere.
    """

    model: str
    """What the endpoint calls the model."""
    base_url: str = ""
    """Address, as in "http://localhost:8000/v1"; empty: the environment's OPENAI_BASE_URL, or else OpenAI's own."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the API key; empty where the endpoint asks for none."""
    temperature: Annotated[float, Ge(0), Le(2)] = 0.0
    """Sampling temperature; 0 gives the most repeatable verdicts."""
    max_tokens: Annotated[int, Ge(0)] = 512
    """The longest reply; 0: not sent, for endpoints that know another name for it, to be given in `extra`."""
    format: Literal["text", "json", "schema"] = "text"
    """What the endpoint is asked to enforce: nothing, any JSON object, or the verdict's JSON schema. The reply is read
    as strictly in each case."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further parameters of every request, as the endpoint knows them."""
    concurrency: Annotated[int, Ge(1)] = 8
    """Requests at a time."""
    timeout: Annotated[float, Gt(0)] = 60.0
    """Seconds to wait for a reply."""
    retries: Annotated[int, Ge(0)] = 5
    """How often a request is repeated that failed in a way that may pass."""
    backoff: Annotated[float, Ge(0)] = 0.5
    """Seconds before the first repetition; doubled each time, less up to half of it at random."""
    longest_wait: Annotated[float, Gt(0)] = 60.0
    """Seconds; no wait is longer, and who asks for a longer one by Retry-After is not asked again."""
    corrections: Annotated[int, Ge(0)] = 2
    """How often a malformed reply is sent back."""
    cache: str = "auto"
    """Where replies are kept: a file; "auto": alignzoo/judges.sqlite in the user's cache folder; "off"."""
    budget: Budget = Budget()
    """Limits; a used-up budget stops the run, and nothing is lost."""

    def __post_init__(self) -> None:
        if self.base_url:
            check_url(self.base_url)

    def check(self, context: CheckContext) -> None:
        """Ask one question, whose answer is kept like any other; where none may be asked, look for the key alone."""
        if not context.ask:
            self._transport.client()
            return
        verdict = self.judge([QUESTION], None)[0]
        if verdict.kind == "error":
            raise RewardError(
                f"the judge was asked one question before the run, and could not answer: {verdict.note}. With --no-ask "
                "a run begins without that question"
            )

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        """A verdict on each question, asked at once."""
        asked = [self._request(instructed(question), FORMATS[self.format]) for question in questions]
        verdicts = self._all(asked, _verdict)
        return [Verdict("error", note=str(v)) if isinstance(v, Unanswered) else v for v in verdicts]

    def write(self, conversations: Sequence[Text], policy: Policy | None, *, seeds: Sequence[int]) -> list[str]:
        """The next turn of each conversation. Raises RunError where one cannot be had."""
        asked = []
        for conversation, seed in zip(conversations, seeds, strict=True):
            alone = [{"role": "user", "content": conversation}] if isinstance(conversation, str) else []
            turns = alone or [dict(turn) for turn in conversation if not isinstance(turn, str)]
            asked.append(self._request(turns, {"seed": seed % 2**31}))
        texts = []
        for text in self._all(asked, _text):
            if isinstance(text, Unanswered):
                raise RunError(f"the model {self.model!r} did not write what it was asked for: {text}")
            texts.append(text)
        return texts

    def costs(self) -> Mapping[str, float]:
        """Requests, replies from the cache, repetitions, malformed replies, tokens and money."""
        names = ("requests", "cached", "retries", "malformed", "tokens_in", "tokens_out")
        counts = {name: float(self._transport.counts[name]) for name in names}
        counts |= {"tokens": float(self._transport.tokens), "cost": self._transport.cost}
        return {f"judge/{name}": value for name, value in counts.items()}

    def open(self, context: Context) -> Transport:
        """The way to the endpoint, with its counters; a connection lasts as long as the questions of one call."""
        return Transport(self)

    @property
    def _transport(self) -> Transport:
        found: Transport = live_of(self)
        return found

    def _request(self, turns: Sequence[Mapping[str, str]], more: Mapping[str, Any]) -> dict[str, Any]:
        request: dict[str, Any] = {"model": self.model, "messages": [dict(turn) for turn in turns]}
        request |= {"temperature": self.temperature, **more}
        if self.max_tokens:
            request["max_tokens"] = self.max_tokens
        if self.extra:
            request["extra_body"] = dict(self.extra)
        return request

    def _all(self, requests: Sequence[Mapping[str, Any]], read: Callable[[Reply], T]) -> list[T | Unanswered]:
        """What the model answers to each request: from the cache, or asked, equal requests once."""
        where = place(self.cache)
        keys = [key_of({"form": FORM, "base_url": self._transport.url, **request}) for request in requests]
        if where is None:
            keys = [f"{key} {index}" for index, key in enumerate(keys)]  # nothing is kept, so each is asked
        found: dict[str, T | Unanswered] = {}
        with ExitStack() as stack:
            cache = stack.enter_context(Cache(where)) if where is not None else None
            missing: dict[str, Mapping[str, Any]] = {}
            for key, request in zip(keys, requests, strict=True):
                if key in found or (kept := cache.get(key) if cache else None) is None:
                    missing |= {} if key in found else {key: request}
                else:
                    found[key] = _kept(kept, where, read)
            asks = [self._ask(request, read, _keeper(cache, key)) for key, request in missing.items()]
            self._transport.counts["cached"] += len(keys) - len(asks)
            if asks:
                found |= dict(zip(missing, run(self._transport.answers(asks)), strict=True))
        return [found[key] for key in keys]

    def _ask(
        self, request: Mapping[str, Any], read: Callable[[Reply], T], keep: Callable[[Reply], None]
    ) -> Callable[[AsyncOpenAI], Awaitable[T]]:
        """Asks until the reply can be read, and keeps that reply."""

        async def ask(client: AsyncOpenAI) -> T:
            messages = list(request["messages"])
            for _ in range(1 + self.corrections):
                reply = await self._transport.request(client, {**request, "messages": messages})
                try:
                    answer = read(reply)
                except ValueError as error:
                    self._transport.counts["malformed"] += 1
                    wrong = f"{error}{', and was cut off at max_tokens' if reply.cut else ''}"
                    complaint = f"This reply cannot be used: {wrong}. Reply again, in the form that was asked for."
                    messages += [
                        {"role": "assistant", "content": reply.text},
                        {"role": "user", "content": complaint},
                    ]
                else:
                    keep(reply)
                    return answer
            raise Unanswered(f"malformed, {1 + self.corrections} times: {wrong}; it replied {reply.text[:80]!r}")

        return ask


def _keeper(cache: Cache | None, key: str) -> Callable[[Reply], None]:
    def keep(reply: Reply) -> None:
        if cache is not None:
            cache.put(key, json.dumps(vars(reply), ensure_ascii=False))

    return keep


def _kept(text: str, where: Path | None, read: Callable[[Reply], T]) -> T:
    """What a reply of the cache says; only such as could be read were kept."""
    try:
        return read(Reply(**json.loads(text)))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(
            f"the judge's cache {where} holds what is no reply ({error}): delete the file, or give another with "
            "judge.cache"
        ) from error


def _verdict(reply: Reply) -> Verdict:
    return Verdict("abstain", note=reply.text or "refused") if reply.refused else read_verdict(reply.text)


def _text(reply: Reply) -> str:
    if reply.refused or not reply.text.strip():
        raise ValueError("it refuses" if reply.refused else "it is empty")
    return reply.text


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end; beside a loop that is running already, a notebook's, in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
