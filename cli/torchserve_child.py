"""`python -m maskserve.cli.torchserve_child FOLDER ARGS`: TorchServe's program, which ends with whoever started it.

    standard input ends ─▶ SIGTERM to Java (running calls finish) ─▶ FOLDER is removed ─▶ SIGKILL to the group

The starter has the other end of it and closes it for a stop, and the kernel does whatever the starter dies of: a
SIGKILL, too little memory. Java and its workers would live on otherwise, with their ports and gigabytes of memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import runpy
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

PID_FILE = ".model_server.pid"
"""In TorchServe's private folder: Java's process."""
STOP_S = 15.0
"""How long calls in flight may take."""


def main() -> None:
    """In a process group of its own; the private folder is the first argument, the others are TorchServe's."""
    folder, stopping = Path(sys.argv.pop(1)), threading.Event()
    # systemd-tmpfiles, which removes what is some days old from /tmp, leaves locked folders alone
    fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)
    threading.Thread(target=_watch, args=(folder, stopping), daemon=True).start()
    try:
        runpy.run_module("ts.model_server", run_name="__main__", alter_sys=True)  # returns when Java has ended
    finally:
        if stopping.is_set():
            _leave_nothing(folder)


def _watch(folder: Path, stopping: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    stopping.set()
    with contextlib.suppress(OSError, ValueError):  # Java has not started yet, or has ended
        os.kill(int((folder / PID_FILE).read_text()), signal.SIGTERM)
        time.sleep(STOP_S)
    _leave_nothing(folder)


def _leave_nothing(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
