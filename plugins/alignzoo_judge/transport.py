"""Requests to an endpoint: bounded in number at a time and in all, repeated where that can help, counted."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from alignzoo.errors import PluginError, RecipeError, RewardError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from alignzoo_judge.endpoint import OpenAI

T = TypeVar("T")

OWN_URL = "https://api.openai.com/v1"
WRONG_FOR_ALL = {
    401: "the key is not accepted",
    403: "the key has no right to this",
    404: "there is no such model or address",
}
"""Answers that no repetition and no other question would change."""

MANY = 10**12
"""Tokens of one reply that nobody has generated."""

HALF = re.compile("[\ud800-\udfff]")
"""Half a surrogate pair, which JSON can spell and no file can hold."""

JITTER = random.SystemRandom()
"""Spreads repetitions in time; no result depends on it, and it leaves the seeded generators alone."""


class Unanswered(Exception):
    """A question got no answer; the message says why."""


@dataclass(frozen=True)
class Reply:
    """What a model has said."""

    text: str
    refused: bool = False
    """It declined, or the endpoint's filter did."""
    cut: bool = False
    """It ended at max_tokens."""


@dataclass
class Transport:
    """A judge's way to its endpoint."""

    judge: OpenAI
    counts: Counter[str] = field(default_factory=Counter)
    """What was asked since the judge was made."""
    stopped: RewardError | None = None
    """Why nothing more is asked in this call."""
    failed: int = 0
    """How many requests in a row got no answer, all their repetitions included: a server that has died."""

    # --- where, and with which key ----------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The recipe's address, or the environment's, or OpenAI's own."""
        url = self.judge.base_url or os.environ.get("OPENAI_BASE_URL") or OWN_URL
        check_url(url)
        return url.rstrip("/")

    @property
    def key(self) -> str:
        """The API key: from the environment, and from nowhere else."""
        name = self.judge.key_variable
        if not name:
            return ""
        if not os.environ.get(name):
            raise RewardError(
                f"the judge needs an API key: set the environment variable {name}, or judge.key_variable to the one "
                "that has it, or to '' where the endpoint asks for none"
            )
        return os.environ[name].strip()

    def client(self) -> AsyncOpenAI:
        """The client, for one event loop."""
        try:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient
        except ImportError as error:
            raise PluginError("judge 'openai' needs the openai client: pip install 'alignzoo[judge]'") from error
        # The client's own repetitions are off: they could be neither counted nor kept within a budget.
        # Nor does it follow where an answer sends it: questions hold the user's data, and go where the recipe says.
        http = DefaultAsyncHttpxClient(follow_redirects=False)
        return AsyncOpenAI(
            api_key=self.key or "none",
            base_url=self.url,
            max_retries=0,
            timeout=self.judge.timeout,
            http_client=http,
        )

    # --- all questions of a call --------------------------------------------------------------------------------

    async def answers(self, asks: Sequence[Callable[[AsyncOpenAI], Awaitable[T]]]) -> list[T | Unanswered]:
        """Every question's answer, `concurrency` at a time; one that got none has what went wrong in its place.

        What is wrong for all of them, a used-up budget say, is raised when those under way have come to their end.
        """
        self.stopped, self.failed = None, 0
        found: list[T | Unanswered] = [Unanswered("it was not asked")] * len(asks)
        left = iter(range(len(asks)))

        async def work(client: AsyncOpenAI) -> None:
            for i in left:
                try:
                    found[i] = await self._one(asks[i], client)
                except RewardError as error:
                    self.stopped = self.stopped or error
                if self.stopped:
                    return

        async with self.client() as client:
            await asyncio.gather(*(work(client) for _ in range(min(self.judge.concurrency, len(asks)))))
        if self.stopped:
            raise self.stopped
        return found

    async def _one(self, ask: Callable[[AsyncOpenAI], Awaitable[T]], client: AsyncOpenAI) -> T | Unanswered:
        if self.failed >= max(3, self.judge.concurrency):
            return Unanswered(f"it was not asked: {self.failed} requests in a row got no answer before it")
        try:
            return await ask(client)
        except Unanswered as why:
            return why

    # --- one request --------------------------------------------------------------------------------------------

    async def request(self, client: AsyncOpenAI, request: Mapping[str, Any]) -> Reply:
        """Ask, and ask again after what passes: 429, 5xx, time-outs, broken connections. Raises Unanswered."""
        import openai

        for attempt in range(1 + self.judge.retries):
            self._check_budget()
            self.counts["requests"] += 1
            wait = self._backoff(attempt)
            try:
                async with asyncio.timeout(self.judge.timeout):
                    answer = await client.chat.completions.with_raw_response.create(**request)
                self.failed = 0
                # The client would make objects of all that it holds, some milliseconds for each of many choices.
                return self._reply(json.loads(answer.content))
            except openai.APIStatusError as error:
                problem = self._refused(error)
                wait = self._asked_to_wait(error.response.headers, problem) or wait
            except (openai.APITimeoutError, TimeoutError):
                problem = f"no answer within {self.judge.timeout:g} s"
            except openai.APIConnectionError as error:
                problem = f"no connection: {error.__cause__ or error}"
            except (openai.APIError, ValueError, RecursionError, TypeError, AttributeError, LookupError) as error:
                # Whatever can be wrong with one reply: reading it raises many kinds.
                problem = f"its answer is no chat completion: {self.cut(error, 200)}"
            if attempt < self.judge.retries:
                self.counts["retries"] += 1
                await asyncio.sleep(wait)
        self.failed += 1
        raise Unanswered(self.safe(f"{self.url}: {problem} (asked {1 + self.judge.retries} times)"))

    def _refused(self, error: Any) -> str:
        """What a status that may pass says; raises where it will not pass."""
        status = error.status_code
        told = f"{self.url} answers {status}: {self.cut(error.message, 200)}"
        if 300 <= status < 400:
            place = self.cut(error.response.headers.get("location", "an address that it does not name"), 200)
            raise RewardError(
                f"the judge cannot be asked: {self.url} answers {status} and sends questions on to {place}. Set "
                "judge.base_url to where the endpoint is, if that is it"
            ) from None
        if status in WRONG_FOR_ALL or error.code == "insufficient_quota":
            what = WRONG_FOR_ALL.get(status, "the quota is used up")
            raise RewardError(f"the judge cannot be asked: {what}. {told}") from None  # it might repeat the key
        if status not in (408, 409, 425, 429) and status < 500:
            raise Unanswered(told) from None
        return f"it answers {status}"

    def _asked_to_wait(self, headers: Mapping[str, str], problem: str) -> float:
        """Seconds by Retry-After, 0 where there is none; raises where that is longer than anybody waits."""
        seconds = retry_after(headers)
        if seconds > self.judge.longest_wait:
            raise Unanswered(f"{self.url}: {problem} and asks to wait {seconds:.0f} s, longer than judge.longest_wait")
        return seconds * JITTER.uniform(1.0, 1.1)

    def _backoff(self, attempt: int) -> float:
        return min(self.judge.longest_wait, self.judge.backoff * 2.0**attempt) * JITTER.uniform(0.5, 1.0)

    def _reply(self, completion: Any) -> Reply:
        """The text of a completion as it was sent, its tokens counted; ValueError where it is none."""
        usage = completion.get("usage") if isinstance(completion, dict) else None
        try:
            choice = completion["choices"][0]
            message = choice["message"]
            text, refusal = _text(message.get("content")), message.get("refusal")
            ended = choice.get("finish_reason")
        except (AttributeError, TypeError, LookupError, RecursionError) as error:
            if usage is not None:
                self._count_tokens(usage)  # it was paid for, whatever it says
            raise ValueError(self.cut(completion, 80)) from error
        self._count_tokens(usage)
        said = str(refusal) if refusal else text
        return Reply(self.safe(HALF.sub("\ufffd", said)), bool(refusal) or ended == "content_filter", ended == "length")

    # --- what it costs ------------------------------------------------------------------------------------------

    def _count_tokens(self, usage: Any) -> None:
        budget = self.judge.budget
        names = ("prompt_tokens", "completion_tokens")
        unsaid = isinstance(usage, dict) and any(usage.get(name, 0) is None for name in names)
        if (usage is None or unsaid) and (budget.tokens or budget.cost):
            raise RewardError(
                f"{self.url} does not say how many tokens it used, so judge.budget.tokens and judge.budget.cost "
                "cannot be kept: set judge.budget.requests instead"
            )
        if usage is None:
            return
        known = isinstance(usage, dict) and "prompt_tokens" in usage
        counts = [usage.get(name) or 0 for name in names] if known else []
        if not counts or not all(type(count) is int and 0 <= count < MANY for count in counts):
            raise ValueError(f"its usage is no count of tokens: {self.cut(usage, 80)}")
        self.counts["tokens_in"] += counts[0]
        self.counts["tokens_out"] += counts[1]

    @property
    def tokens(self) -> int:
        return self.counts["tokens_in"] + self.counts["tokens_out"]

    @property
    def cost(self) -> float:
        """In the currency of the budget's prices."""
        budget = self.judge.budget
        return (self.counts["tokens_in"] * budget.price_in + self.counts["tokens_out"] * budget.price_out) / 1e6

    def _check_budget(self) -> None:
        """Raise where nothing more may be asked."""
        if self.stopped:
            raise self.stopped
        budget = self.judge.budget
        spent = {"requests": self.counts["requests"], "tokens": self.tokens, "cost": self.cost}
        for name, amount in spent.items():
            limit = getattr(budget, name)
            if limit and amount >= limit:
                kept = "Its answers are in the cache, so a resumed run asks only what is missing"
                lost = "Its answers are lost, for judge.cache is 'off'"
                raise RewardError(
                    f"the judge's budget is used up: {amount:g} of judge.budget.{name} = {limit:g}. "
                    f"{lost if self.judge.cache == 'off' else kept}; it may spend as much again: go on with --resume"
                )

    def cut(self, told: object, length: int) -> str:
        """The beginning of what an endpoint says. The key is masked first: cut in two, it would be known no more."""
        try:
            return self.safe(str(told))[:length]
        except RecursionError:
            return "it is nested too deep to be shown"

    def safe(self, text: str) -> str:
        """The text without the key, should an endpoint repeat it."""
        key = os.environ.get(self.judge.key_variable, "").strip() if self.judge.key_variable else ""
        return text.replace(key, "***") if key else text


def _text(content: Any) -> str:
    """A message's text; some endpoints send it in parts. TypeError for what is neither."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(_text(part["text"]) for part in content)
    if content is not None and not isinstance(content, str):
        raise TypeError("its content is no text")
    return content or ""


def check_url(url: str) -> None:
    """Raise unless it is an address without a secret in it: it is written to the manifest."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RecipeError("judge.base_url must begin with http:// or https:// and name a host")
    if parts.username or parts.password or parts.query:
        raise RecipeError(
            "judge.base_url must hold neither a user, a password nor a query: it is written to the manifest. Keys "
            "belong into the environment variable that judge.key_variable names"
        )


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait by the header Retry-After, a number or a date; 0 where there is none, or nonsense."""
    value = headers.get("retry-after", "")
    if date := email.utils.parsedate_tz(value):
        return max(0.0, email.utils.mktime_tz(date) - time.time())
    try:
        return max(0.0, float(value))
    except ValueError:
        return 0.0
