"""The routes: /v1/chat/completions, /v1/completions, /v1/models and /health, on loopback unless told otherwise."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from alignzoo.errors import PluginError, RunError
from alignzoo.interfaces import Policy
from alignzoo.transcript import Completion
from alignzoo_serve import asked as asking
from alignzoo_serve.answering import Answering, without_stop
from alignzoo_serve.asked import Asked, BadRequest

try:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from alignzoo.serving import Served, listening
except ModuleNotFoundError as error:
    if error.name not in ("uvicorn", "starlette"):
        raise
    raise PluginError(f"alignzoo serve needs {error.name}: pip install 'alignzoo[serve]'") from error

PORT = 8767
"""Where the server is, where that is free."""

LARGEST = 16_000_000
"""Bytes of a request at most."""


class Serving(Served):
    """A policy that is served, in a thread of its own or in this one. A policy that is being trained may be served,
    too: what is generated is by its weights at that moment."""

    def __init__(
        self, policy: Policy, name: str, *, host: str = "127.0.0.1", port: int | None = None, key: str = ""
    ) -> None:
        self.name, self.key = name, key
        self.local = ipaddress.ip_address(host).is_loopback
        if not self.local and not key:
            raise RunError(f"--listen {host} lets other machines in: give them a key by --api-key")
        super().__init__(listening(host, PORT if port is None else port, otherwise=port is None), self.app())
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/v1"
        self.answering = Answering(policy)
        self._strings = policy.info().token_strings

    def app(self) -> Starlette:
        """What uvicorn serves."""
        told: Any = {"id": self.name, "object": "model", "created": int(time.time()), "owned_by": "alignzoo"}

        async def models(request: Request) -> Any:
            return {"object": "list", "data": [told]}

        async def health(request: Request) -> Any:
            return {"status": "ok"}

        return Starlette(
            routes=[
                Route("/health", self._guarded(health), methods=["GET"]),
                Route("/v1/models", self._guarded(models), methods=["GET"]),
                Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
                Route("/v1/completions", self._guarded(self._text), methods=["POST"]),
            ]
        )

    def close(self) -> None:
        """End what `start` began."""
        super().close()
        self.answering.close()

    # --- who asks -----------------------------------------------------------------------------------------------------

    def _guarded(self, answer: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[JSONResponse]]:
        async def serve(request: Request) -> JSONResponse:
            try:
                self._check(request)
                return JSONResponse(await answer(request))
            except BadRequest as error:
                kind = "invalid_request_error" if error.code < 500 else "server_error"
                return JSONResponse({"error": {"message": str(error), "type": kind, "code": error.code}}, error.code)

        return serve

    def _check(self, request: Request) -> None:
        """A page in somebody's browser may not ask, nor may who lacks the key."""
        host = request.headers.get("host", "").lower()
        if self.local and host not in {f"{name}:{self.port}" for name in ("localhost", "127.0.0.1", "[::1]")}:
            raise BadRequest("this server is for its own address alone", 421)
        if "origin" in request.headers:
            raise BadRequest("web pages may not ask this server", 403)
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key and not hmac.compare_digest(given.encode(), self.key.encode()):
            raise BadRequest("the key is missing or wrong: send Authorization: Bearer KEY", 401)

    async def _body(self, request: Request) -> Mapping[str, Any]:
        content = b""
        async for chunk in request.stream():
            content += chunk
            if len(content) > LARGEST:
                raise BadRequest(f"a request may have {LARGEST} bytes", 413)
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the request is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise BadRequest("the request is no JSON object")
        if (model := found.get("model", self.name)) not in (self.name, None):
            raise BadRequest(f"model: {model!r} is not served here, {self.name!r} is", 404)
        return found

    # --- what is answered ---------------------------------------------------------------------------------------------

    async def _chat(self, request: Request) -> Any:
        asked = asking.chat(await self._body(request))

        def choice(completion: Completion) -> dict[str, Any]:
            return {"message": {"role": "assistant", "content": completion.text}} | self._chat_logprobs(completion)

        return await self._answered(asked, "chat.completion", choice)

    async def _text(self, request: Request) -> Any:
        asked = asking.text(await self._body(request))

        def choice(completion: Completion) -> dict[str, Any]:
            return {"text": completion.text} | self._text_logprobs(completion)

        return await self._answered(asked, "text_completion", choice)

    async def _answered(self, asked: Asked, kind: str, choice: Callable[[Completion], dict[str, Any]]) -> Any:
        try:
            answers = await asyncio.wrap_future(self.answering.answer(asked))
        except BadRequest:
            raise
        except Exception as error:
            raise BadRequest(f"the model failed: {type(error).__name__}: {error}", 500) from error
        choices: list[dict[str, Any]] = []
        for prompt, completions in answers:
            for completion in completions:
                made = choice(without_stop(completion, asked.decoding.stop))
                made |= {"index": len(choices), "finish_reason": "stop" if completion.finished else "length"}
                if not asked.logprobs:
                    made["logprobs"] = None
                if asked.token_ids:
                    made |= {"token_ids": list(completion.tokens), "prompt_token_ids": list(prompt)}
                choices.append(made)
        read, made_tokens = sum(len(p) for p, _ in answers), sum(len(c.tokens) for _, cs in answers for c in cs)
        return {
            "id": f"{'chatcmpl' if kind.startswith('chat') else 'cmpl'}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": self.name,
            "choices": choices,
            "usage": {
                "prompt_tokens": read,
                "completion_tokens": made_tokens,
                "total_tokens": read + made_tokens,
            },
        }

    def _pieces(self, completion: Completion) -> list[tuple[str, float | None]]:
        """Each token as text, with its log-probability at the temperature that was asked for, where the engine knows
        it."""
        logprobs = [None if math.isnan(each) else each for each in completion.logprobs or ()]
        strings = self._strings(completion.tokens) if self._strings else [""] * len(completion.tokens)
        return list(zip(strings, logprobs, strict=True))

    def _chat_logprobs(self, completion: Completion) -> dict[str, Any]:
        content = [
            {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace")), "top_logprobs": []}
            for text, logprob in self._pieces(completion)
        ]
        return {"logprobs": {"content": content, "refusal": None}}

    def _text_logprobs(self, completion: Completion) -> dict[str, Any]:
        pieces, offsets, at = self._pieces(completion), [], 0
        for text, _ in pieces:
            offsets.append(at)
            at += len(text)
        return {
            "logprobs": {
                "tokens": [text for text, _ in pieces],
                "token_logprobs": [logprob for _, logprob in pieces],
                "top_logprobs": None,
                "text_offset": offsets,
            }
        }
