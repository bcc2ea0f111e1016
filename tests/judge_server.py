"""A server on loopback that speaks chat completions, with a small program where a model would be.

It reads the judge's prompt as a model would have to: the answers between their tags, unescaped. `faults` are what it
does instead, one for each of the next requests; `die_after` makes it drop dead, and `start` brings it back on its port.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-loopback-0123456789-never-written"
"""The key that the server asks for."""

ANSWER = re.compile(r'<answer number="\d+">\n(.*?)\n</answer>', re.DOTALL)

Fault = int | str | bytes | tuple[int, Mapping[str, str]]
"""A status, a status with headers, "hang", "close", text that is replied as it stands, or a whole body of bytes."""


@dataclass(frozen=True)
class Heard:
    """A request for a verdict, or for text."""

    messages: Sequence[Mapping[str, str]]
    body: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def text(self) -> str:
        """The last turn that is a question, whatever was complained of since."""
        asked = [m["content"] for m in self.messages if m["role"] == "user" and "<answer" in m["content"]]
        return asked[-1] if asked else self.messages[-1]["content"]

    @property
    def answers(self) -> list[str]:
        """What is to be judged; empty where text is asked for."""
        return [unescape(text) for text in ANSWER.findall(self.text)]

    @property
    def criterion(self) -> str:
        return self.text.partition("Judge by this alone: ")[2]


def vowels(answers: Sequence[str]) -> float:
    """The share of vowels; of two answers, the first one's part of both shares."""
    shares = [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in answers]
    return shares[0] if len(shares) == 1 else 0.5 + (shares[0] - shares[1]) / 2


def judging(heard: Heard) -> str:
    """The default program: a verdict in JSON by the vowels, or an echo where text is asked for."""
    if not heard.answers:
        return f"echo: {heard.messages[-1]['content']}"
    return json.dumps({"rationale": "by its vowels", "verdict": vowels(heard.answers)})


class JudgeServer:
    """The server, what it has heard, and how it is to behave."""

    def __init__(self, program: Callable[[Heard], str] = judging) -> None:
        self.program = program
        self.faults: deque[Fault] = deque()
        self.delay = 0.0
        self.die_after: int | None = None
        self.heard: list[Heard] = []
        self.answered = 0
        self.busy = self.busiest = 0
        self.hung = threading.Event()
        self.lock = threading.Lock()
        self.port = 0
        self.http: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Serve, on the same port as before."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.serve(self)

            def log_message(self, *told: object) -> None:
                """Quietly."""

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *told: object) -> None:
                """A client that has gone is no error of the server's."""

        self.hung.clear()
        self.http = Quiet(("127.0.0.1", self.port), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Drop dead: nobody answers at the port any more."""
        self.hung.set()
        if self.http is not None:
            self.http.shutdown()
            self.http.server_close()
            self.http = None

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        heard = Heard(body["messages"], body, {name.lower(): value for name, value in handler.headers.items()})
        with self.lock:
            dead = self.http is None or (self.die_after is not None and self.answered >= self.die_after)
            self.heard.append(heard)
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            fault = self.faults.popleft() if self.faults else None
            self.answered += not dead and fault is None
        try:
            time.sleep(self.delay)
            if dead or fault == "close":
                handler.close_connection = True
                handler.connection.close()
            elif fault == "hang":
                self.hung.wait(10)
            else:
                self._reply(handler, heard, fault)
        finally:
            with self.lock:
                self.busy -= 1

    def _reply(self, handler: BaseHTTPRequestHandler, heard: Heard, fault: Fault | None) -> None:
        status, headers = fault if isinstance(fault, tuple) else (fault if isinstance(fault, int) else 200, {})
        if heard.headers.get("authorization") != f"Bearer {KEY}":
            status = 401
        if status != 200:
            said = heard.headers.get("authorization", "")
            self._send(handler, status, {"error": {"message": f"told {status}; you said {said}"}}, headers)
            return
        if isinstance(fault, bytes):
            self._write(handler, 200, fault, {})
            return
        text = fault if isinstance(fault, str) else self.program(heard)
        prompt = sum(len(message["content"].split()) for message in heard.messages)
        written = len(text.split())
        usage = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {"id": "1", "object": "chat.completion", "created": 0, "model": heard.body["model"]}
        self._send(handler, 200, {**whole, "choices": [choice], "usage": usage}, {})

    def _send(self, handler: BaseHTTPRequestHandler, status: int, value: Any, headers: Mapping[str, str]) -> None:
        self._write(handler, status, json.dumps(value).encode(), headers)

    def _write(self, handler: BaseHTTPRequestHandler, status: int, text: bytes, headers: Mapping[str, str]) -> None:
        handler.send_response(status)
        for name, each in {"content-type": "application/json", "content-length": str(len(text)), **headers}.items():
            handler.send_header(name, each)
        handler.end_headers()
        handler.wfile.write(text)
