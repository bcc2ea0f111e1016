"""A page that is served: on loopback, and to other machines only where that is asked for."""

from __future__ import annotations

import getpass
import socket
import threading
import time
from collections.abc import Sequence

from alignzoo.errors import PluginError, RunError
from alignzoo_human.guard import NAME, Guard, secret_of
from alignzoo_human.store import Store

try:
    import uvicorn

    from alignzoo_human.server import Page
except ModuleNotFoundError as error:
    if error.name not in ("uvicorn", "starlette"):
        raise
    raise PluginError(f"the page needs {error.name}: pip install 'alignzoo[human]'") from error


PORT = 8765
"""Where the page is, where that is free."""


class Serving:
    """A page that is served, in a thread of its own or in this one."""

    def __init__(
        self,
        store: Store,
        raters: Sequence[str],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        names: Sequence[str] = (),
        rate: float = 20.0,
    ) -> None:
        self.local = _is_loopback(host)
        try:
            self._socket = socket.create_server((host, port), family=_family(host), backlog=128)
        except OSError as error:
            raise RunError(f"{host}:{port} cannot be listened on: {error.strerror}. Give another --port") from error
        self.port = int(self._socket.getsockname()[1])
        known = [*(("localhost", "127.0.0.1", "[::1]") if self.local else (host,)), *names]
        hosts = [*(f"{name}:{self.port}" for name in known), *names]
        name = names[0] if names else host
        self.base = f"http://{f'[{name}]' if ':' in name else name}:{self.port}"
        self.guard = Guard(secret_of(store.path), raters, hosts, rate=rate)
        self.links = {rater: self.guard.link(self.base, rater) for rater in raters}
        page = Page(store, self.guard, f"alignzoo-{self.port}")
        config = uvicorn.Config(
            page.app(),
            log_level="error",
            access_log=False,
            lifespan="off",
            server_header=False,
            ws="none",
            limit_concurrency=512,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def start(self) -> Serving:
        """Serve in the background."""
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()
        until = time.monotonic() + 20
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise RunError("the page's server did not start")
            time.sleep(0.01)
        return self

    def run(self) -> None:
        """Serve until Ctrl-C, or until it is closed."""
        self._server.run(sockets=[self._socket])

    def close(self) -> None:
        """End what `start` began."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(10)
        self._socket.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def free_port(host: str, wanted: int) -> int:
    """This port, where it is free; or 0, which is any."""
    try:
        socket.create_server((host, wanted), family=_family(host)).close()
    except OSError:
        return 0
    return wanted


def known_raters(store: Store) -> list[str]:
    """Those who have voted already; or whoever is logged in."""
    people = [name for name in store.refresh().raters if NAME.fullmatch(name)]
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container without a user's name
        user = "rater"
    return sorted(people) or [user if NAME.fullmatch(user) else "rater"]
