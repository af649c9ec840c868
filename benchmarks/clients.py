"""The one client that loads every server, so that it costs all of them the same.

closed loop: C connections, each sends its next photo when it has its answer ─▶ Load(seconds, latencies)
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

_TIMEOUT_S = 300.0
_BOUNDARY = "maskserve-benchmark"
_BUSY = (429, 503)


@dataclass(frozen=True)
class Post:
    """A request that is sent again and again."""

    url: str
    body: bytes
    content_type: str

    @classmethod
    def raw(cls, url: str, photo: Path) -> Post:
        """As `curl -T photo.jpg`."""
        return cls(url, photo.read_bytes(), "image/jpeg")

    @classmethod
    def form(cls, url: str, photo: Path, field: str = "image") -> Post:
        """As `curl -F image=@photo.jpg`."""
        head = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{photo.name}"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        body = head.encode() + photo.read_bytes() + f"\r\n--{_BOUNDARY}--\r\n".encode()
        return cls(url, body, f"multipart/form-data; boundary={_BOUNDARY}")


@dataclass(frozen=True)
class Answer:
    ms: float
    status: int
    body: bytes
    timings_ms: dict[str, float]
    """Of the Server-Timing header."""


class RefusedError(RuntimeError):
    """An answer that is neither 200 nor, where that is counted, "busy"."""

    def __init__(self, url: str, status: int, body: bytes) -> None:
        super().__init__(f"{url} answers {status}: {body[:200]!r}")
        self.status = status


@dataclass(frozen=True)
class Load:
    """What a closed loop saw."""

    seconds: float
    latencies_ms: tuple[float, ...]
    """Of the requests that were answered, in no order."""
    shed: int
    """Requests that were told to come back."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies_ms) / self.seconds

    def percentile_ms(self, share: float) -> float:
        return float(np.percentile(self.latencies_ms, share)) if self.latencies_ms else float("nan")


class Connection:
    """One that is kept open."""

    def __init__(self, post: Post) -> None:
        parts = urlsplit(post.url)
        self._post = post
        self._path = parts.path + (f"?{parts.query}" if parts.query else "")
        self._http = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)

    def ask(self) -> Answer:
        """Raises RefusedError for a status that is neither 200 nor "busy"."""
        start = time.perf_counter()
        try:
            self._http.request("POST", self._path, self._post.body, {"Content-Type": self._post.content_type})
            response = self._http.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            self._http.close()  # the server had closed the idle connection
            self._http.request("POST", self._path, self._post.body, {"Content-Type": self._post.content_type})
            response = self._http.getresponse()
        body = response.read()
        ms = (time.perf_counter() - start) * 1000
        if response.status != 200 and response.status not in _BUSY:
            raise RefusedError(self._post.url, response.status, body)
        return Answer(ms, response.status, body, dict(_timings(response.getheader("Server-Timing") or "")))

    def close(self) -> None:
        self._http.close()


def ask_once(post: Post) -> Answer:
    connection = Connection(post)
    try:
        return connection.ask()
    finally:
        connection.close()


def closed_loop(post: Post, *, concurrency: int, requests: int) -> Load:
    """`requests` in all over `concurrency` connections; the first error of any ends it and is raised."""
    left = iter(range(requests))
    lock = threading.Lock()
    answered: list[Answer] = []
    errors: list[Exception] = []

    def work() -> None:
        connection = Connection(post)
        try:
            while not errors:
                with lock:
                    if next(left, None) is None:
                        return
                answer = connection.ask()
                with lock:
                    answered.append(answer)
        except Exception as error:  # noqa: BLE001  (told to the caller below)
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(concurrency)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if errors:
        raise errors[0]
    fine = tuple(answer.ms for answer in answered if answer.status == 200)
    return Load(seconds, fine, len(answered) - len(fine))


def _timings(header: str) -> Iterator[tuple[str, float]]:
    for entry in filter(None, (part.strip() for part in header.split(","))):
        name, _, rest = entry.partition(";dur=")
        if rest:
            yield name, float(rest)
