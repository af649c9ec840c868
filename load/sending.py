"""One upload ─▶ one POST ─▶ its outcome.

The standard library's HTTP client in threads, since the generator shares the machine with what it measures: a request
cost it 0.18 to 0.27 ms of CPU (20 and 300 kB), and 0.32 to 0.48 ms with aiohttp, side by side, at 1 to 64 connections.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead, InvalidURL
from typing import Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from maskserve.load.photos import CONTENT_TYPE
from maskserve.protos.errors import ConfigError

Kind = Literal["answered", "shed", "error", "timeout"]
SHED = "too_many_requests"
_AS_IT_IS = "!#$%&'()*+,/:;=?@[]~"
"""What a path and a query may have beside letters and digits, escapes included; the rest is escaped."""
_IDLE_S = 10.0
"""An idle connection is not used again after this, before the server closes it (the gateway: 20 s)."""
_PIECE_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    kind: Kind
    arm: str = ""
    """Who answered, or refused; "" when nobody said so."""
    code: str = ""
    """Of a problem: its code, "http_<status>" for an answer without one, "connection_failed", "timeout"."""
    detail: str = ""
    """The problem in the server's words."""
    retry_after_s: float = 0.0


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    secure: bool
    host: str
    port: int | None
    path: str

    @classmethod
    def at(cls, url: str, *, arm: str = "", compare: bool = False, kind: str = "") -> Target:
        """`url` with what is asked for; /v1/predictions (or /v1/compare) where it has no path. Raises ConfigError."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            (host or "").encode("idna")
            HTTPConnection(host or "", port or 80)  # connects to nothing yet, and knows what no host has in its name
        except (ValueError, InvalidURL):
            parts, host, port = urlsplit(""), None, None
        if parts.scheme not in ("http", "https") or not host:
            raise ConfigError(f"{url!r} is no address of a gateway; write it as http://127.0.0.1:8000")
        has_path = bool(parts.path.strip("/"))
        if has_path and compare:
            raise ConfigError(f"{url}: the address has a path already; leave out --compare")
        path = parts.path if has_path else f"/v1/{'compare' if compare else 'predictions'}"
        asked = {name: value for name, value in (("arm", arm), ("format", kind)) if value}
        for name, _ in parse_qsl(parts.query, keep_blank_values=True):
            if name in asked:
                raise ConfigError(f"{url}: the address has `{name}` already; leave out --{name}")
        query = "&".join(filter(None, [parts.query, urlencode(asked)]))
        return cls(parts.scheme == "https", host, port, quote(f"{path}?{query}" if query else path, _AS_IT_IS))

    def connect(self, timeout_s: float) -> HTTPConnection:
        kind = HTTPSConnection if self.secure else HTTPConnection
        # a port that is said is not looked for in an IPv6 address
        return kind(self.host, self.port or kind.default_port, timeout=timeout_s)


class Sender:
    """Thread-safe. The connection that was used last is used next, so a low load needs few.

    Args:
        timeout_s: within it an answer must be there, whole; a server that drips its headers gets more.
    """

    def __init__(self, target: Target, timeout_s: float) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._closed = False
        self._open: set[HTTPConnection] = set()
        self._idle: list[tuple[HTTPConnection, float]] = []

    def send(self, body: bytes) -> Outcome:
        """Raises nothing that the server or the network can cause."""
        connection, is_fresh = self._take()
        deadline = time.monotonic() + self._timeout_s
        try:
            try:
                response, sock = self._ask(connection, body, deadline)
            except ConnectionError:
                if is_fresh or self._closed:
                    raise
                connection.close()  # the server had closed it in the meantime
                response, sock = self._ask(connection, body, deadline)
            outcome = _outcome(response, b"".join(_pieces(response, sock, deadline)))
            keep = not response.will_close
        except TimeoutError:
            outcome, keep = Outcome("timeout", code="timeout"), False
        except (OSError, HTTPException) as error:
            outcome, keep = Outcome("error", code="connection_failed", detail=str(error)), False
        self._give_back(connection, keep)
        return outcome

    def close(self) -> None:
        """Ends all connections; requests under way fail at once. Nothing more can be sent."""
        self._closed = True
        with self._lock:
            for connection in self._open:
                # a thread that waits for an answer wakes up
                if connection.sock:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)
            for connection, _ in self._idle:
                connection.close()
            self._idle.clear()

    def _ask(self, connection: HTTPConnection, body: bytes, deadline: float) -> tuple[HTTPResponse, socket.socket]:
        """An answer whose body is still to come. Raises TimeoutError, OSError and HTTPException."""
        if connection.sock is None:
            connection.timeout = _left_s(deadline)
            connection.connect()
        sock = connection.sock  # the last answer of a connection takes it away from there
        sock.settimeout(_left_s(deadline))
        connection.request("POST", self._target.path, body, {"Content-Type": CONTENT_TYPE})
        sock.settimeout(_left_s(deadline))
        return connection.getresponse(), sock

    def _take(self) -> tuple[HTTPConnection, bool]:
        with self._lock:
            while self._idle:
                connection, since = self._idle.pop()
                if time.monotonic() - since < _IDLE_S:
                    return connection, False
                connection.close()
                self._open.discard(connection)
            connection = self._target.connect(self._timeout_s)
            self._open.add(connection)
            return connection, True

    def _give_back(self, connection: HTTPConnection, keep: bool) -> None:
        with self._lock:
            if keep:
                self._idle.append((connection, time.monotonic()))
            else:
                self._open.discard(connection)
                connection.close()


def _left_s(deadline: float) -> float:
    if (left_s := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return left_s


def _pieces(response: HTTPResponse, sock: socket.socket, deadline: float) -> Iterator[bytes]:
    """The body as it arrives; nothing is reserved for the length that the server says."""
    with response:
        while not response.isclosed():
            sock.settimeout(_left_s(deadline))
            if not (piece := response.read1(_PIECE_BYTES)):
                break
            yield piece
    if response.length:
        raise IncompleteRead(b"", response.length)


def _outcome(response: HTTPResponse, body: bytes) -> Outcome:
    arm = response.headers.get("X-Maskserve-Arm", "")
    if response.status == 200:
        return Outcome("answered", arm)
    problem = _problem(body)
    code = str(problem.get("code", f"http_{response.status}"))
    kind: Kind = "shed" if response.status == 503 and code == SHED else "error"
    wait = response.headers.get("Retry-After", "")
    detail = str(problem.get("detail", response.reason))
    return Outcome(kind, arm or str(problem.get("arm", "")), code, detail, float(wait) if wait.isdecimal() else 0.0)


def _problem(body: bytes) -> dict[str, object]:
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return problem if isinstance(problem, dict) else {}
