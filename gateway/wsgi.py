"""Waitress, with refusals in our form: the application answers, logs and counts also what waitress refuses.

    too long a header 431 · too long a body 413 · not HTTP 400 · an odd transfer encoding 501

A body that is announced as too long gets no `100 Continue`. If it comes anyway, up to four times the limit is read
and thrown away first, since a sender that is cut off in the middle sees a broken connection instead of the 413.

And in fewer turns: threads for as many requests as there are, an answer sent as one piece, and a main thread that does
not spin meanwhile.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import BadRequest, InternalServerError, RequestEntityTooLarge, RequestHeaderFieldsTooLarge

from maskserve.gateway.problems import Problem, too_large

REFUSAL = "maskserve.refusal"
"""In a WSGI environment: the Problem that is to be the answer."""

_DRAINED_AT_MOST = 4
_JOINED_BYTES = 64 * 1024
"""What is copied behind its header to be sent with it: JSON; a picture of megabytes is not held twice."""
_NEXT_REQUEST_S = 1.0
"""On the way out a connection is closed so long after its last answer: its next request may be under way already."""
_TEXTS = {
    400: "This is not an HTTP request that the gateway understands; in its address, letters beyond ASCII must be "
    "percent-encoded.",
    431: "The request's headers are too large.",
    501: "This transfer encoding is not supported; send a Content-Length.",
}


class Parser(HTTPRequestParser):  # type: ignore[misc]
    """Swallows a body that is too long instead of cutting its sender off."""

    _to_drain_bytes = 0
    expect_continue: bool
    # of a request that ends before waitress knows them
    command = path = query = request_uri = ""
    url_scheme = "http"

    def received(self, data: bytes) -> int:
        if self._to_drain_bytes:
            taken = min(len(data), self._to_drain_bytes)
            self._to_drain_bytes -= taken
            self.completed = not self._to_drain_bytes
            return taken
        try:
            taken = int(super().received(data))
        except ValueError as error:  # a length of thousands of digits, an address that is no URL: waitress lets it out
            self.error, self.completed, taken = BadRequest(str(error)), True, len(data)
        if self.chunked:
            self._refuse_endless_line()
        if isinstance(self.error, RequestEntityTooLarge):
            self._read_on()
        if self.error:
            self.expect_continue = False
            self.headers["CONNECTION"] = "close"  # where the next request would begin is not known
        if isinstance(self.error, RequestHeaderFieldsTooLarge):
            self.command = self.path = ""  # waitress makes up "GET /"
        return taken

    def _refuse_endless_line(self) -> None:
        """Between chunks: waitress reads all of a line again with each piece of it that comes."""
        if len(self.body_rcv.control_line + self.body_rcv.trailer) > self.adj.max_request_header_size:
            self.body_rcv.error = BadRequest("too long a line between chunks")
            self.error, self.completed = self.error or self.body_rcv.error, True

    def _read_on(self) -> None:
        """So that the sender sees the answer; what comes is thrown away."""
        limit = self.adj.max_request_body_size * _DRAINED_AT_MOST
        if self.chunked:
            self.body_rcv.buf = OverflowableBuffer(self.adj.inbuf_overflow)
            is_over = self.body_rcv.completed or self.body_rcv.error
            self.completed = bool(is_over or self.body_bytes_received > limit)
        elif not self.expect_continue and self.content_length <= limit:
            self._to_drain_bytes = self.content_length
            self.completed = False


class Task(WSGITask):  # type: ignore[misc]
    """Sends the usual answer, one small piece of known length, together with its header."""

    wrote_header: bool

    def write(self, data: bytes) -> None:
        is_whole = self.has_body and self.content_length == len(data)
        if self.complete and not self.wrote_header and is_whole and 0 < len(data) <= _JOINED_BYTES:
            self.channel.write_soon(self.build_response_header() + data)
            self.wrote_header = True
            self.content_bytes_written = len(data)
        else:
            super().write(data)

    def build_response_header(self) -> bytes:
        if self.channel.is_last_answer:
            self.request.headers["CONNECTION"] = "close"  # as if the client had asked for it
        return bytes(super().build_response_header())


class RefusalTask(Task):
    """Has the application answer a request that waitress refused."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[REFUSAL] = _problem(self.request.error)
        return environ


def _error_task(channel: Channel, request: Parser) -> Any:
    """The task for a request with an error; what the application could not answer, it is not asked again."""
    return (ErrorTask if isinstance(request.error, InternalServerError) else RefusalTask)(channel, request)


class Channel(HTTPChannel):  # type: ignore[misc]
    parser_class = Parser
    task_class = Task
    error_task_class = staticmethod(_error_task)
    _unread_bytes = 1024 * 1024
    _thread_sends = False
    _is_ending = False
    _last_activity = 0.0

    @property
    def last_activity(self) -> float:
        """Waitress closes channels whose last is long ago. While an answer is being sent it is now: a slow reader's
        pieces may lie further apart, and only the kernel knows whether he reads (TCP_USER_TIMEOUT)."""
        return time.time() if self.total_outbufs_len else self._last_activity

    @last_activity.setter
    def last_activity(self, at: float) -> None:
        self._last_activity = at

    @property
    def is_last_answer(self) -> bool:
        """Whether nothing comes after the answer under way."""
        return self._is_ending and len(self.requests) == 1 and self.request is None

    def end(self) -> None:
        """Closes unless a request is arriving or being answered, or may come soon; its answer then says that it is the
        last. For the main thread, again and again until the channel is gone."""
        self._is_ending = True
        # in this order: a thread hands its answer over before it takes the request away
        is_idle = not self.requests and not self.total_outbufs_len and self.request is None
        if is_idle and time.time() - self._last_activity > _NEXT_REQUEST_S:
            self.will_close = True
            self.handle_close()

    def writable(self) -> bool:
        """Not while a thread sends, or the main thread would try the same again and again until it is done; what that
        thread cannot send it leaves to the main thread, which it wakes."""
        return not self._thread_sends and bool(super().writable())

    def _flush_some(self, do_close: bool = True) -> bool:
        self._thread_sends = not do_close  # only threads ask for no close
        try:
            return bool(super()._flush_some(do_close))
        finally:
            self._thread_sends = False

    def handle_close(self) -> None:
        """Closes; what has arrived unread is read first, for the kernel would answer it with a reset, and the sender
        might never see our last answer."""
        if self.will_close and self.connected:
            with suppress(OSError):
                while self._unread_bytes > 0 and (data := self.socket.recv(65536)):
                    self._unread_bytes -= len(data)
        super().handle_close()


class Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Starts a thread when a request finds none idle: forty that take turns cool the caches for eight requests."""

    _most = 0

    def set_thread_count(self, count: int) -> None:
        """The most threads there may be; 0 ends them."""
        self._most = count
        if not count:
            super().set_thread_count(0)

    def add_task(self, task: Any) -> None:
        with self.lock:
            running = len(self.threads)
            lacks_one = running < self._most and len(self.queue) >= running - self.active_count
        if lacks_one:  # only the main thread gets here, unless a sender does not wait for its answers
            super().set_thread_count(running + 1)
        super().add_task(task)


def _problem(error: Any) -> Problem:
    if isinstance(error, RequestEntityTooLarge):
        return too_large()
    code = {400: "bad_request", 431: "headers_too_large", 501: "not_implemented"}.get(error.code, "internal_error")
    return Problem(error.code, code, _TEXTS.get(error.code, "Something went wrong in the gateway."))
