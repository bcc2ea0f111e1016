"""A web server of this process: it listens, serves in a thread of its own or in this one, and ends. It takes uvicorn,
and whoever imports it names the extra that brings that."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any, Self

import uvicorn

from alignzoo.errors import RunError

PATIENCE = 30.0
"""Seconds that a server may take to start."""


class Served:
    """An application that uvicorn serves on a socket. `app` is an ASGI application, and `more` further settings of
    uvicorn's."""

    def __init__(self, listening: socket.socket, app: Any, **more: Any) -> None:
        self._socket = listening
        self.port = int(listening.getsockname()[1])
        config = uvicorn.Config(
            app, log_level="error", access_log=False, lifespan="off", server_header=False, ws="none",
            timeout_graceful_shutdown=2, **more,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Serve in the background. Raises RunError where that does not begin."""
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()
        until = time.monotonic() + PATIENCE
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise RunError(f"the server on port {self.port} did not start")
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


def listening(host: str, port: int, *, otherwise: bool = False) -> socket.socket:
    """A socket at this port; with `otherwise` at any where that one is taken. Raises RunError where neither can be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        if otherwise:
            return socket.create_server((host, 0), family=family, backlog=128)
        raise RunError(f"{host}:{port} cannot be listened on: {error.strerror}. Give another --port") from error
