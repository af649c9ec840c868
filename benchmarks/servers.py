"""A server as a child process: started, waited for, and gone with all its children when the block ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from benchmarks.subject import ROOT, clean_environment

_STARTS_S = 300.0
_STOPS_S = 20.0


class ServerError(RuntimeError):
    """A server did not start; the text ends with what it wrote last."""


class Server:
    """A context manager; entered, it answers.

    Args:
        command: what to run.
        ready: a URL that answers 200 as soon as the server can work.
        environment: changes to `clean_environment`.
        folder: where it runs; the repository's root by default.
        stops: the signal that ends it in order.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        ready: str,
        environment: Mapping[str, str] = {},
        folder: Path = ROOT,
        stops: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._command = [str(word) for word in command]
        self._ready, self._folder, self._stops = ready, folder, stops
        self._temp = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
        self._environment = clean_environment({"TMPDIR": str(self._temp), "TEMP": str(self._temp), **environment})
        self._environment["PYTHONPATH"] = str(ROOT)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Server:
        with (self._temp / "output").open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def _wait(self) -> None:
        deadline = time.monotonic() + _STARTS_S
        while not answers(self._ready):
            assert self._process is not None
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline:
                what = "is not ready in time" if ended is None else f"ended with status {ended}"
                raise ServerError(f"{' '.join(self._command[:4])} {what}: {self._last_line()}")
            time.sleep(0.1)

    def _last_line(self) -> str:
        lines = (self._temp / "output").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"

    def _stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                self._process.send_signal(self._stops)
                self._process.wait(_STOPS_S)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        shutil.rmtree(self._temp, ignore_errors=True)


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
