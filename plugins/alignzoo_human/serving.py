"""A page that is served: on loopback, and to other machines only where that is asked for."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Sequence

from alignzoo.errors import PluginError
from alignzoo_human.guard import NAME, Guard, secret_of
from alignzoo_human.store import Store

try:
    from alignzoo.serving import Served, listening
    from alignzoo_human.server import Page
except ModuleNotFoundError as error:
    if error.name not in ("uvicorn", "starlette"):
        raise
    raise PluginError(f"the page needs {error.name}: pip install 'alignzoo[human]'") from error


PORT = 8765
"""Where the page is, where that is free."""


class Serving(Served):
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
        heard = listening(host, port)
        port = int(heard.getsockname()[1])
        known = [*(("localhost", "127.0.0.1", "[::1]") if self.local else (host,)), *names]
        hosts = [*(f"{name}:{port}" for name in known), *names]
        name = names[0] if names else host
        self.base = f"http://{f'[{name}]' if ':' in name else name}:{port}"
        self.guard = Guard(secret_of(store.path), raters, hosts, rate=rate)
        self.links = {rater: self.guard.link(self.base, rater) for rater in raters}
        page = Page(store, self.guard, f"alignzoo-{port}")
        super().__init__(heard, page.app(), limit_concurrency=512, timeout_keep_alive=30)


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
