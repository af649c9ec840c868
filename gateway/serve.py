"""Settings ─▶ client, application, listening sockets ─▶ requests until SIGTERM or Ctrl-C ─▶ a graceful end.

Waitress reads a whole request before it takes a thread, so slow senders cost no thread. On the way out the listening
sockets and idle connections close first, requests in flight get their answers, their connections' last, and then the
process ends.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from waitress import wasyncore
from waitress.server import BaseWSGIServer, create_server

from maskserve.client.client import Client
from maskserve.gateway.app import create_app
from maskserve.gateway.routes import Gateway
from maskserve.gateway.settings import Settings
from maskserve.gateway.upload import MAX_BODY_BYTES
from maskserve.gateway.wsgi import Channel, Dispatcher
from maskserve.protos.errors import ConfigError

CONNECTIONS = 1000
IDLE_CONNECTION_S = 20
_SPARE_THREADS = 8
"""For everything but predictions: a full house must not make /healthz wait."""
_RECEIVED_AT_ONCE_BYTES = 128 * 1024
"""Waitress looks at all connections and at the request again after each piece; its own 8 KiB makes many of a photo."""
_IN_MEMORY_BYTES = 128 * 1024 * 1024

Sockets = dict[int, Any]


def serve(
    settings: Settings,
    *,
    ready_callback: Callable[[str], None] | None = None,
    stopping: threading.Event | None = None,
) -> None:
    """Serves until SIGTERM, SIGINT or `stopping`; then lets requests in flight finish.

    Args:
        ready_callback: called with the address (`http://host:port`) as soon as connections are accepted.
        stopping: for callers that end it themselves, and for those outside the main thread, where no signals are.
    Raises: ConfigError when the address cannot be listened on.
    """
    _keep_memory_small()
    _send_logs_to_stderr(access_log=settings.server.access_log)
    stopping = stopping or threading.Event()
    torchserve = settings.torchserve
    with (
        Client(
            torchserve.address,
            management_address=torchserve.management_address,
            token=torchserve.token_file or torchserve.token or None,
            management_token=torchserve.management_token_file or torchserve.management_token or None,
            timeout_s=torchserve.timeout_s,
        ) as client,
        _signals_set(stopping),
    ):
        app = create_app(settings, client)
        gateway: Gateway = app.extensions["maskserve"]
        sockets: Sockets = {}
        server = _listen(app, settings, sockets)
        if ready_callback:
            ready_callback(_address(settings, sockets))
        try:
            _loop(sockets, lambda: not stopping.is_set())
            _drain(sockets, settings.server.shutdown_s)
        finally:
            server.task_dispatcher.shutdown()
            wasyncore.close_all(sockets)
            gateway.dispatcher.close()


def check_port(settings: Settings) -> None:
    """Raises ConfigError when `serve` could not listen now; for callers with long work to do before."""
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, ValueError) as error:
            raise ConfigError(_why_not_listening(host, port, error)) from None


def _listen(app: Any, settings: Settings, sockets: Sockets) -> Any:
    host, port = settings.server.host, settings.server.port
    threads = Dispatcher()
    # as many requests may be at the arms, and as many wait for their pictures
    threads.set_thread_count(2 * settings.places + _SPARE_THREADS)
    try:
        server = create_server(
            app,
            map=sockets,
            host=host,
            port=port,
            _dispatcher=threads,
            connection_limit=CONNECTIONS,
            channel_timeout=IDLE_CONNECTION_S,
            max_request_body_size=MAX_BODY_BYTES,
            max_request_header_size=16 * 1024,
            recv_bytes=_RECEIVED_AT_ONCE_BYTES,
            # nothing is written to disk on the request path
            inbuf_overflow=_IN_MEMORY_BYTES,
            outbuf_overflow=_IN_MEMORY_BYTES,
            ident=None,
            log_socket_errors=False,  # the clients'; the application's own faults are answered and logged by it
            asyncore_use_poll=True,
        )
    except (OSError, ValueError) as error:
        wasyncore.close_all(sockets)
        raise ConfigError(_why_not_listening(host, port, error)) from None
    for listener in _listeners(sockets):
        listener.channel_class = Channel
        # its connections inherit it: the kernel (Linux) gives up whoever takes nothing of his answer for so long
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, IDLE_CONNECTION_S * 1000)
    return server


def _why_not_listening(host: str, port: int, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return f"{host}: there is no such host; choose an address of this machine (server.host, --host)"
    if error.errno == errno.EADDRINUSE:
        return f"{host}:{port} is in use by another program; stop it, or choose another port (server.port, --port)"
    if error.errno == errno.EACCES:
        return f"{host}:{port}: no permission to listen there; ports below 1024 need privileges (server.port, --port)"
    return f"{host}:{port}: cannot listen there ({error.strerror or error}); see server.host and server.port"


def _listeners(sockets: Sockets) -> list[Any]:
    return [one for one in sockets.values() if isinstance(one, BaseWSGIServer)]


def _channels(sockets: Sockets) -> list[Channel]:
    return [one for one in sockets.values() if isinstance(one, Channel)]


def _address(settings: Settings, sockets: Sockets) -> str:
    host = settings.server.host
    return f"http://{f'[{host}]' if ':' in host else host}:{_listeners(sockets)[0].effective_port}"


def _loop(sockets: Sockets, goes_on: Callable[[], bool]) -> None:
    while goes_on():
        wasyncore.loop(timeout=0.2, map=sockets, use_poll=True, count=1)


def _drain(sockets: Sockets, at_most_s: float) -> None:
    """Refuses new connections and goes on until every request has its answer, also one that is still arriving."""
    for listener in _listeners(sockets):
        wasyncore.dispatcher.close(listener)
    deadline = time.monotonic() + at_most_s

    def goes_on() -> bool:
        for channel in _channels(sockets):
            channel.end()
        return time.monotonic() < deadline and bool(_channels(sockets))

    _loop(sockets, goes_on)


@contextmanager
def _signals_set(stopping: threading.Event) -> Iterator[None]:
    """SIGTERM and Ctrl-C set `stopping`; a second one ends the process as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, _frame: FrameType | None) -> None:
        stopping.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send_logs_to_stderr(*, access_log: bool) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # waitress warns about its queue when all threads are busy; the gateway's own limits answer for that
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    access = logging.getLogger("maskserve.gateway.access")
    if access_log and not access.handlers:
        access.addHandler(logging.StreamHandler())
        access.setLevel(logging.INFO)
        access.propagate = False


def _keep_memory_small() -> None:
    """Tells glibc to share two arenas and to give big blocks back at once: photos come and go in many threads."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return
    m_mmap_threshold, m_arena_max = -3, -8  # malloc.h
    mallopt(m_arena_max, 2)
    mallopt(m_mmap_threshold, 1024 * 1024)
