"""The page's server: one HTML file, and the few requests by which it asks for questions and sends verdicts."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from alignzoo.data.turns import as_messages
from alignzoo.errors import AlignzooError
from alignzoo_human.guard import HEADERS, LARGEST, Guard, Refused
from alignzoo_human.state import Asked
from alignzoo_human.store import Conflict, Given, Store

STATIC = Path(__file__).parent / "page"
FILES = {"/": "index.html"} | {
    f"/{name}": name for name in ("page.js", "markdown.js", "ranking.js", "page.css", "icon.svg")
}
TYPES = {"html": "text/html", "svg": "image/svg+xml", "js": "text/javascript", "css": "text/css"}
LONGEST = 10_000
"""Characters of a reason or a comment at most."""

Handler = Callable[[Request, str], Awaitable[Response]]


class Page:
    """The requests of the page, each of a rater who is known."""

    def __init__(self, store: Store, guard: Guard, cookie: str) -> None:
        self.store = store
        self.guard = guard
        self.cookie = cookie

    def app(self) -> Starlette:
        """What uvicorn serves."""
        calls: dict[str, Handler] = {
            "settings": self.settings,
            "next": self.next,
            "ask": self.ask,
            "vote": self.vote,
            "undo": self.undo,
            "others": self.others,
        }
        routes = [Route(path, self._file(name), methods=["GET"]) for path, name in FILES.items()]
        routes += [Route(f"/api/{name}", self._call(call), methods=["POST"]) for name, call in calls.items()]
        return Starlette(routes=routes)

    # --- who asks -----------------------------------------------------------------------------------------------------

    def _file(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        body = (STATIC / name).read_bytes()
        media = TYPES[name.rpartition(".")[2]]

        async def serve(request: Request) -> Response:
            try:
                self.guard.check_host(request.headers)
                token = request.query_params.get("t", "") if name == "index.html" else ""
                self._rater(request, token)
            except Refused as no:
                return _told(PlainTextResponse(str(no), no.status))
            answer = Response(body, media_type=media)
            if token:
                answer.set_cookie(self.cookie, token, httponly=True, samesite="strict", path="/", max_age=30 * 86400)
            return _told(answer)

        return serve

    def _call(self, call: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            try:
                self.guard.check_host(request.headers)
                self.guard.check_origin(request.headers)
                rater = self._rater(request, "")
                return _told(await call(request, rater))
            except Refused as no:
                return _told(JSONResponse({"error": str(no)}, no.status))
            except Conflict as other:
                return _told(JSONResponse({"error": "another verdict stands", "current": other.current}, 409))
            except KeyError:
                return _told(JSONResponse({"error": "you were not asked this"}, 404))
            except (ValueError, TypeError) as error:
                return _told(JSONResponse({"error": str(error)}, 400))
            except ClientDisconnect:
                return Response(status_code=400)
            except AlignzooError as error:
                return _told(JSONResponse({"error": str(error)}, 500))

        return serve

    def _rater(self, request: Request, token: str) -> str:
        client = request.client.host if request.client else ""
        return self.guard.rater(token or request.cookies.get(self.cookie, ""), client)

    # --- what is asked ------------------------------------------------------------------------------------------------

    async def settings(self, request: Request, rater: str) -> Response:
        """How the page asks."""
        given = self.store.settings
        shown = ("criteria", "grades", "reasons", "markdown", "show_others", "instructions")
        return JSONResponse({name: getattr(given, name) for name in shown} | {"rater": rater})

    async def next(self, request: Request, rater: str) -> Response:
        """The next question of a tab of the browser."""
        body = await _body(request)
        asked = self.store.next(rater, _text(body, "tab", 64))
        if asked is None:
            return JSONResponse({"done": True, "progress": self.store.state.progress(rater)})
        return JSONResponse(self._shown(asked, rater))

    async def ask(self, request: Request, rater: str) -> Response:
        """A question that was asked before, with what was said."""
        body = await _body(request)
        return JSONResponse(self._shown(self.store.ask(_number(body, "ask"), rater), rater))

    async def vote(self, request: Request, rater: str) -> Response:
        """A verdict, or a question skipped. It is on disk when this is answered."""
        body = await _body(request)
        action = body.get("action", "vote")
        if action not in ("vote", "skip"):
            raise ValueError(f"action is vote or skip, found {action!r}")
        asked = self.store.ask(_number(body, "ask"), rater)
        given = Given(
            asked.number,
            f"{rater}/{_text(body, 'key', 64, least=8)}",
            action,
            _verdict(body.get("value")),
            _reasons(body.get("reasons"), self.store.settings.criteria, len(asked.screen))
            | ({"bad": True} if body.get("bad") is True else {}),
            _text(body, "comment", LONGEST),
            float(body.get("seconds") or 0.0),
            None if body.get("supersedes") is None else _number(body, "supersedes"),
        )
        if action == "vote" and self.store.settings.reasons == "required" and not _has_reason(given):
            raise ValueError("a reason is asked for: say why, or by which criterion")
        number = self.store.say(rater, given)
        return JSONResponse({"vote": number, "progress": self.store.state.progress(rater)})

    async def undo(self, request: Request, rater: str) -> Response:
        """Take the last verdict back, and ask that question again; or show nothing where there is none."""
        body = await _body(request)
        key = f"{rater}/{_text(body, 'key', 64, least=8)}"
        asks = [self.store.state.asks[ask] for ask in self.store.refresh().raters[rater].asks]
        said = [asked for asked in asks if asked.current is not None]
        if not said:
            return JSONResponse({"none": True})
        last = max(said, key=lambda asked: asked.current or 0)
        before = self.store.said(last.current or 0)
        self.store.say(rater, Given(last.number, key, "undo", supersedes=last.current))
        return JSONResponse(self._shown(self.store.ask(last.number, rater), rater) | {"before": before})

    async def others(self, request: Request, rater: str) -> Response:
        """What other raters said of a question, once one's own verdict is in."""
        body = await _body(request)
        asked = self.store.ask(_number(body, "ask"), rater)
        if not self.store.settings.show_others or asked.action != "vote":
            raise Refused(403, "other raters' verdicts are shown, where they are at all, once yours is in")
        state = self.store.state
        others = (state.asks[ask] for ask in state.items[asked.item].asks)
        votes = [self.store.said_as(each, asked) for each in others if each.action == "vote" and each.rater != rater]
        return JSONResponse({"others": votes})

    def _shown(self, asked: Asked, rater: str) -> dict[str, Any]:
        """A question as the page gets it: nothing that tells where an answer comes from."""
        item = self.store.item(asked.item)
        answers = [item.answers[place] for place in asked.screen]
        return {
            "ask": asked.number,
            "kind": asked.kind,
            "prompt": [dict(turn) for turn in as_messages(item.prompt)] if item.prompt else [],
            "answers": [[dict(turn) for turn in as_messages(answer, "assistant")] for answer in answers],
            "criterion": item.criterion,
            "said": None if asked.current is None else self.store.said(asked.current),
            "progress": self.store.state.progress(rater),
        }


def _told(answer: Response) -> Response:
    answer.headers.update(HEADERS)
    return answer


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request that is not too large."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > LARGEST:
            raise Refused(413, f"a request has at most {LARGEST} bytes")
    try:
        body = json.loads(content or b"{}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(body, dict):
        raise ValueError("an object is expected")
    return body


def _number(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if type(value) is not int or abs(value) > 2**53:
        raise ValueError(f"{name} is a whole number, found {str(value)[:40]!r}")
    return value


def _text(body: dict[str, Any], name: str, most: int, *, least: int = 0) -> str:
    value = body.get(name, "")
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise ValueError(f"{name} is a text of {least} to {most} characters")
    return value.encode("utf-8", "replace").decode()  # half a surrogate pair has no UTF-8


def _verdict(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) and len(value) < 100 else value


def _reasons(given: Any, criteria: Sequence[str], n: int) -> dict[str, Any]:
    """Reasons for the whole and for each answer: a text, and the criteria that speak for it (1) or against it (-1)."""
    if given is None:
        return {}
    if not isinstance(given, dict) or not isinstance(given.get("answers", []), list):
        raise ValueError("reasons is an object with `all` and `answers`")
    answers = given.get("answers", [])
    if len(answers) not in (0, n):
        raise ValueError(f"reasons.answers has {len(answers)} entries for {n} answers")
    whole = _reason(given.get("all"), criteria)
    each = [_reason(answer, criteria) for answer in answers]
    return ({"all": whole} if whole else {}) | ({"answers": each} if any(each) else {})


def _reason(given: Any, criteria: Sequence[str]) -> dict[str, Any]:
    if not given:
        return {}
    if not isinstance(given, dict):
        raise ValueError("a reason is an object with `text` and `criteria`")
    marks = given.get("criteria") or {}
    if not isinstance(marks, dict) or not set(marks) <= set(criteria) or not set(marks.values()) <= {1, -1}:
        raise ValueError(f"criteria are 1 or -1 of {', '.join(criteria) or 'none'}")
    text = _text(given, "text", LONGEST).strip()
    return ({"text": text} if text else {}) | ({"criteria": marks} if marks else {})


def _has_reason(given: Given) -> bool:
    return bool({"all", "answers"} & given.reasons.keys())
