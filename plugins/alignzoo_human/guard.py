"""Who may talk to the page: links with a token, cookies, Host and Origin, limits of size and of rate."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alignzoo.errors import RunError

NAME = re.compile(r"[\w][\w .@+-]{0,63}")
"""What a rater may be called."""

LARGEST = 256 * 1024
"""Bytes of a request at most."""

HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""What every answer says: nothing is loaded from elsewhere, nothing is kept, nobody frames the page."""


class Refused(Exception):
    """A request that is not answered, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def secret_of(store: Path) -> bytes:
    """The secret from which a store's links are made: in a file of its own beside it, that nobody else may read."""
    path = store.with_name(store.name + ".key")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        known = path.read_bytes()
        if len(known) < 16:
            raise RunError(f"{path} holds no secret: delete it, and new links are made") from None
        return known
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
    made = secrets.token_bytes(32)
    with os.fdopen(handle, "wb") as file:
        file.write(made)
    return made


def token_of(secret: bytes, rater: str) -> str:
    """The 128 bits by which a rater is known; the same after a restart."""
    return hmac.new(secret, rater.encode(), hashlib.sha256).hexdigest()[:32]


def check_name(rater: str) -> str:
    """Raise where somebody cannot be called so."""
    if not NAME.fullmatch(rater):
        raise RunError(f"a rater is called by letters, digits, spaces and . _ @ + -, at most 64, found {rater!r}")
    return rater


@dataclass
class Bucket:
    """So many requests at once, and then so many a second."""

    rate: float
    burst: float
    level: float = -1.0
    at: float = field(default_factory=time.monotonic)

    def take(self) -> bool:
        """Whether one more is within the limit."""
        now = time.monotonic()
        full = self.burst if self.level < 0 else min(self.burst, self.level + (now - self.at) * self.rate)
        self.level, self.at = full, now
        if full < 1:
            return False
        self.level -= 1
        return True


class Guard:
    """Lets in the raters that have a link, from this machine or from whom the page was opened to."""

    def __init__(self, secret: bytes, raters: Iterable[str], hosts: Iterable[str], *, rate: float = 20.0) -> None:
        self._tokens = {check_name(rater): token_of(secret, rater) for rater in raters}
        self._hosts = {host.lower() for host in hosts}
        self._rate = rate
        self._raters: dict[str, Bucket] = {}
        self._strangers: dict[str, Bucket] = {}

    def link(self, base: str, rater: str) -> str:
        """The address that a rater opens."""
        return f"{base}/?t={self._tokens[rater]}"

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Raise where the request is for another name: so another page could make its name lead here."""
        if headers.get("host", "").lower() not in self._hosts:
            raise Refused(403, f"this page is not called {headers.get('host', '')!r}")

    def check_origin(self, headers: Mapping[str, str]) -> None:
        """Raise where another page sends the request."""
        origin = headers.get("origin", "").lower()
        if origin.partition("://")[2] not in self._hosts:
            raise Refused(403, f"the request comes from another page, {origin!r}")

    def rater(self, token: str, client: str) -> str:
        """Whose token it is. Who has none is told so, and after some attempts only slowly."""
        found = [rater for rater, known in self._tokens.items() if hmac.compare_digest(known, token)]
        if found:
            if not self._raters.setdefault(found[0], Bucket(self._rate, 4 * self._rate)).take():
                raise Refused(429, "too many requests: wait a moment")
            return found[0]
        if len(self._strangers) > 10_000:
            self._strangers.clear()
        if not self._strangers.setdefault(client, Bucket(0.5, 10)).take():
            raise Refused(429, "too many attempts: wait a moment")
        raise Refused(403, "open the link that was printed where `alignzoo label` runs: it lets you in")
