"""A policy answers requests: those that wait, and are alike, are generated together."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from alignzoo.calling import kept
from alignzoo.decoding import Decoding
from alignzoo.errors import AlignzooError
from alignzoo.interfaces import Policy
from alignzoo.transcript import Completion
from alignzoo.types import Prompt
from alignzoo_serve.asked import Asked, BadRequest

TOGETHER = 64
"""Prompts that are answered at once at most."""

Answered = list[tuple[tuple[int, ...], list[Completion]]]
"""For each prompt of a request its tokens and its completions."""


class Answering:
    """One thread that asks the policy. What a request gets depends on its own prompt, seed and decoding alone, and so
    not on who else asks at the time."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.chats = policy.info().chats
        self._waiting: queue.Queue[tuple[Asked, Future[Answered]] | None] = queue.Queue()
        self._left: deque[tuple[Asked, Future[Answered]]] = deque()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def answer(self, asked: Asked) -> Future[Answered]:
        """What will come of a request. Raises BadRequest where the model cannot answer such a one."""
        if not self.chats and any(isinstance(p, Prompt) and not isinstance(p.messages, str) for p in asked.prompts):
            raise BadRequest("this model has no chat template: ask /v1/completions, or serve it with --chat-template")
        shape = self.policy.info().shape
        largest = max((max(p) for p in asked.prompts if not isinstance(p, Prompt)), default=0)
        if shape is not None and largest >= shape.vocab:
            raise BadRequest(f"prompt: there is no token {largest}: the model has {shape.vocab}")
        found: Future[Answered] = Future()
        self._waiting.put((asked, found))
        return found

    def close(self) -> None:
        """Answer what is under way, and stop."""
        self._waiting.put(None)
        self._thread.join(10)

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (first := self._next()) is not None:
            together = [first, *self._alike(first[0])]
            live = [(asked, found) for asked, found in together if found.set_running_or_notify_cancel()]
            with kept() as failed:  # a request's error is its asker's, and the next ones are answered
                answers = iter(self._generated([asked for asked, _ in live]))
                shares = [[next(answers) for _ in asked.prompts] for asked, _ in live]
            if failed.error is not None:
                self._fail(live, failed.error)
                continue
            for (_, found), share in zip(live, shares, strict=True):
                found.set_result(share)

    def _fail(self, live: list[tuple[Asked, Future[Answered]]], error: BaseException) -> None:
        """One of several may be at fault: each is asked alone."""
        if len(live) == 1:
            told = BadRequest(str(error)) if isinstance(error, AlignzooError | ValueError) else error
            live[0][1].set_exception(told)
            return
        for asked, found in live:
            with kept() as failed:
                answers = list(self._generated([asked]))
            if failed.error is None:
                found.set_result(answers)
            else:
                self._fail([(asked, found)], failed.error)

    def _next(self) -> tuple[Asked, Future[Answered]] | None:
        return self._left.popleft() if self._left else self._waiting.get()

    def _alike(self, first: Asked) -> list[tuple[Asked, Future[Answered]]]:
        """What waits and can be generated in the same call."""
        time.sleep(0.002)  # for those that were sent together
        while True:
            try:
                each = self._waiting.get_nowait()
            except queue.Empty:
                break
            if each is None:
                self._waiting.put(None)
                break
            self._left.append(each)
        found, room = [], TOGETHER - len(first.prompts)
        for each in list(self._left):
            if _key(each[0]) == _key(first) and len(each[0].prompts) <= room:
                self._left.remove(each)
                found.append(each)
                room -= len(each[0].prompts)
        return found

    def _generated(self, asked: list[Asked]) -> Answered:
        if not asked:
            return []
        prompts = [prompt for each in asked for prompt in each.prompts]
        seeds = [seed for each in asked for seed in each.seeds]
        n, decoding = asked[0].n, asked[0].decoding
        found: dict[int, tuple[tuple[int, ...], list[Completion]]] = {}
        told = [i for i, prompt in enumerate(prompts) if isinstance(prompt, Prompt)]
        tokens = [i for i, prompt in enumerate(prompts) if not isinstance(prompt, Prompt)]
        if told:
            some: Any = [prompts[i] for i in told]
            self._check_room(some)
            groups = self.policy.generate(some, n, seeds=[seeds[i] for i in told], decoding=decoding)
            found |= {i: (g.prompt_tokens, list(g.completions)) for i, g in zip(told, groups, strict=True)}
        if tokens:
            rows: Any = [prompts[i] for i in tokens]
            made = self.policy.go_on(rows, n, seeds=[seeds[i] for i in tokens], decoding=decoding)
            found |= {i: (row, list(c)) for i, row, c in zip(tokens, rows, made, strict=True)}
        return [found[i] for i in range(len(prompts))]

    def _check_room(self, prompts: list[Prompt]) -> None:
        """Raise BadRequest for a prompt that would lose its beginning: who asks would not know, and a run of tokens
        that is too long is refused, too."""
        fits = self.policy.info().fits
        if fits is not None and not all(map(fits, prompts)):
            raise BadRequest(
                "the prompt is longer than what the model's context leaves beside an answer of --max-new-tokens, by "
                "which this server was started: shorten it, or start the server with fewer"
            )


def _key(asked: Asked) -> tuple[int, Decoding]:
    return asked.n, asked.decoding


def without_stop(completion: Completion, stop: tuple[str, ...] | None) -> Completion:
    """As the interface has it: the text ends before what stopped it. The tokens are all that were generated."""
    places = [place for each in stop or () if (place := completion.text.find(each)) >= 0]
    return replace(completion, text=completion.text[: min(places)]) if places else completion
