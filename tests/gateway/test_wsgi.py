"""Waitress as the gateway uses it: how an answer is sent, and how many threads there are."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from waitress import wasyncore
from waitress.server import create_server

from maskserve.gateway.wsgi import Channel, Dispatcher
from tests.waiting import until

LARGE_BYTES = 20 * 1024 * 1024
"""More than sockets and waitress's own water mark hold."""
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Watched(Channel):
    """Notes what each send of a thread was, and what the main thread would have done meanwhile."""

    sent: list[bytes]
    writable_meanwhile: list[bool]

    def send(self, data: bytes, do_close: bool = True) -> int:
        if threading.current_thread().name.startswith("waitress"):
            self.sent.append(bytes(data))
            self.writable_meanwhile.append(self.writable())
        return int(super().send(data, do_close))


@contextmanager
def served(
    app: Callable[..., Any], channel: type[Channel] = Channel, threads: int = 4, **adjustments: int
) -> Iterator[tuple[int, Any]]:
    """(port, dispatcher) of a WSGI application behind our waitress."""
    dispatcher, sockets, stopping = Dispatcher(), {}, threading.Event()
    dispatcher.set_thread_count(threads)
    # in memory, as in the gateway: a channel that is closed with its server leaves a file on disk open
    adjustments |= {"port": 0, "outbuf_overflow": 4 * LARGE_BYTES}
    server = create_server(app, map=sockets, host="127.0.0.1", _dispatcher=dispatcher, **adjustments)
    server.channel_class = channel

    def loop() -> None:
        while not stopping.is_set():
            wasyncore.loop(timeout=0.02, map=sockets, use_poll=True, count=1)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield server.effective_port, dispatcher
    finally:
        stopping.set()
        thread.join()
        dispatcher.shutdown()
        wasyncore.close_all(sockets)


def answering(*pieces: bytes, **headers: str) -> Callable[..., Any]:
    def app(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [(name.replace("_", "-"), value) for name, value in headers.items()])
        return list(pieces)

    return app


def ask(port: int, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, "/")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_an_answer_is_sent_as_one_piece_while_the_main_thread_leaves_it_alone() -> None:
    class Seen(Watched):
        sent: list[bytes] = []  # noqa: RUF012
        writable_meanwhile: list[bool] = []  # noqa: RUF012

    with served(answering(b"hello", Content_Length="5"), Seen) as (port, _):
        assert ask(port) == (200, b"hello")
    assert len(Seen.sent) == 1
    assert Seen.sent[0].startswith(b"HTTP/1.1 200")
    assert Seen.sent[0].endswith(b"\r\n\r\nhello")
    assert Seen.writable_meanwhile == [False]


@pytest.mark.parametrize(
    ("app", "method", "body"),
    [
        (answering(b"hel", b"lo", Content_Length="5"), "GET", b"hello"),
        (answering(b"hel", b"lo"), "GET", b"hello"),
        (answering(b"hello"), "GET", b"hello"),
        (answering(b"", Content_Length="0"), "GET", b""),
        (answering(b"", Content_Length="5"), "HEAD", b""),
        (answering(b"x" * 100_000, Content_Length="100000"), "GET", b"x" * 100_000),
    ],
)
def test_other_answers_are_sent_as_waitress_does(app: Callable[..., Any], method: str, body: bytes) -> None:
    with served(app) as (port, _):
        assert ask(port, method) == (200, body)


def test_an_application_that_fails_is_answered_for() -> None:
    def app(_environ: Any, _start_response: Any) -> list[bytes]:
        raise RuntimeError("a bug")

    with served(app) as (port, _):
        status, body = ask(port)
    assert status == 500
    assert b"a bug" not in body


def test_large_answers_reach_a_reader_who_takes_his_time() -> None:
    """What a thread could not send at once, the main thread sends later, also when two answers are under way."""
    with (
        served(answering(b"x" * LARGE_BYTES, Content_Length=str(LARGE_BYTES))) as (port, _),
        socket.create_connection(("127.0.0.1", port), 20) as connection,
    ):
        connection.sendall(GET * 2)
        time.sleep(0.3)
        received = 0
        while received < 2 * LARGE_BYTES:
            data = connection.recv(1024 * 1024)
            assert data, "the connection was closed too early"
            received += data.count(b"x")
    assert received == 2 * LARGE_BYTES


def test_a_reader_whose_pauses_are_longer_than_a_connection_may_be_idle_gets_it_all() -> None:
    app = answering(b"x" * LARGE_BYTES, Content_Length=str(LARGE_BYTES))
    with (
        served(app, channel_timeout=1, cleanup_interval=1) as (port, _),
        socket.create_connection(("127.0.0.1", port), 20) as connection,
    ):
        connection.sendall(GET)
        time.sleep(2.5)
        received = 0
        while received < LARGE_BYTES:
            data = connection.recv(1024 * 1024)
            assert data, "the connection was closed too early"
            received += data.count(b"x")
        time.sleep(2.5)
        assert connection.recv(1) == b""  # idle now


def test_threads_are_started_for_requests_that_find_none_idle_and_never_too_many() -> None:
    gate = threading.Semaphore(0)

    def app(_environ: Any, start_response: Any) -> list[bytes]:
        gate.acquire(timeout=10)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    with served(app, threads=3) as (port, dispatcher):
        for _ in range(3):
            gate.release()
            assert ask(port) == (200, b"ok")
            assert until(lambda: not dispatcher.active_count)  # a client has its answer before the thread is idle
        assert len(dispatcher.threads) == 1
        answers: list[tuple[int, bytes]] = []
        askers = [threading.Thread(target=lambda: answers.append(ask(port))) for _ in range(6)]
        for asker in askers:
            asker.start()
        assert until(lambda: len(dispatcher.queue) == 3)
        assert len(dispatcher.threads) == 3
        gate.release(6)
        for asker in askers:
            asker.join()
        assert answers == [(200, b"ok")] * 6
