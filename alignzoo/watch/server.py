"""The page's server, on loopback: three files, the state, and the report; who has no link sees nothing."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from pathlib import Path

from alignzoo.errors import PluginError
from alignzoo.watch.state import Watched

try:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    from alignzoo.serving import Served, listening
except ModuleNotFoundError as error:
    if error.name not in ("uvicorn", "starlette"):
        raise
    raise PluginError(f"the page needs {error.name}: pip install 'alignzoo[watch]'") from error

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/watch.js": ("watch.js", "text/javascript"),
    "/watch.css": ("watch.css", "text/css"),
}
PORT = 8766
"""Where the page is, where that is free."""

SAFE = (
    "default-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
)
ALONE = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
)
"""The policy of the report's page, which is one file with its own scripts: it can ask for nothing."""

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Watching(Served):
    """A page that is served, in a thread of its own or in this one."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.watched = Watched(folder)
        self._secret = secrets.token_urlsafe(16)
        super().__init__(listening("127.0.0.1", PORT if port is None else port, otherwise=port is None), self.app())
        self._cookie = f"alignzoo-watch-{self.port}"
        self._hosts = {f"{name}:{self.port}" for name in ("localhost", "127.0.0.1")}
        self.link = f"http://127.0.0.1:{self.port}/?t={self._secret}"

    def app(self) -> Starlette:
        """What uvicorn serves."""
        routes = [Route(path, self._guarded(self._file(*file)), methods=["GET"]) for path, file in FILES.items()]
        routes.append(Route("/state", self._guarded(self._state), methods=["GET"]))
        routes.append(Route("/report", self._guarded(self._report), methods=["GET"]))
        return Starlette(routes=routes)

    # --- who asks -----------------------------------------------------------------------------------------------------

    def _guarded(self, answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """Only to this machine's own name, and only to whom the link was given."""

        def serve(request: Request) -> Response:
            given = request.query_params.get("t", "")
            if request.headers.get("host", "").lower() not in self._hosts:
                found: Response = PlainTextResponse("this page is for its own address alone", 421)
            elif not self._known(given or request.cookies.get(self._cookie, "")):
                found = PlainTextResponse("open the link that `alignzoo watch` has printed", 403)
            else:
                found = answer(request)
                if given:
                    found.set_cookie(self._cookie, given, httponly=True, samesite="strict", path="/")
            found.headers.update({"content-security-policy": SAFE} | HEADERS | dict(found.headers))
            return found

        return serve

    def _known(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._secret.encode())

    # --- what is answered ---------------------------------------------------------------------------------------------

    def _file(self, name: str, media: str) -> Callable[[Request], Response]:
        body = (PAGE / name).read_bytes()
        return lambda request: Response(body, media_type=media)

    def _state(self, request: Request) -> Response:
        return JSONResponse(self.watched.state())

    def _report(self, request: Request) -> Response:
        path = self.watched.folder / "report.html"
        if not path.exists():
            return PlainTextResponse("there is no report yet: the first is written when a run has ended", 404)
        return Response(path.read_bytes(), media_type="text/html", headers={"content-security-policy": ALONE})
