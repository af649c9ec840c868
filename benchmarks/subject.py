"""A process of its own for whatever is timed: allocator, threads and memory formats are a whole process' matter.

parent: Subject("package.module:load", …)          child: python -m benchmarks.subject package.module:load {…}
  __enter__  starts it ───────────────────────────▶ step = load(**arguments); says it is ready
  step()     "go" ────────────────────────────────▶ step(), between two looks at the clock
             (ms, what step returned) ◀──────────── one line of JSON
  __exit__   closes the pipe; the child ends with it, also when the parent has died

A child is a process group of its own in the parent's session: Ctrl-C is the parent's, and should the parent be killed
while the group is stopped, the kernel hangs it up instead of leaving it there.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

from maskserve.modeling.waiting import VARIABLES as WAITING

ROOT = Path(__file__).resolve().parents[1]
TUNED_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**31),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""glibc keeps freed memory instead of giving it back and faulting every page in anew."""
_PATIENCE_S = 300.0
_AWAKE_S = 0.05
Step = Callable[[], Mapping[str, Any] | None]
"""Does one piece of work and tells about it."""
_MALLOC = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


class Turn(NamedTuple):
    ms: float
    told: dict[str, Any]
    """What the step returned."""


class SubjectError(RuntimeError):
    """A subject could not be started, or died, or hangs; the text ends with the last line it wrote."""


def clean_environment(changes: Mapping[str, str] = {}) -> dict[str, str]:
    """This process' environment with the allocator's own defaults, and threads that hardly spin while they wait.

    Idle subjects wait beside the one that works; spinning, they would take its time.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_MALLOC)}
    return {**kept, **WAITING, "PYTHONWARNINGS": "ignore", **changes}


class Subject:
    """A context manager around one child process.

    Args:
        load: "package.module:function"; the function does the one-time work and returns the step.
        environment: changes to `clean_environment`.
        paused: whether the child and all its own children are stopped whenever it is not its turn, so that they
            prepare nothing at the others' cost.
        arguments: of the function, as JSON can carry them.
    """

    def __init__(
        self, load: str, *, environment: Mapping[str, str] = {}, paused: bool = False, **arguments: Any
    ) -> None:
        self.load = load
        self._paused = paused
        self._environment = clean_environment(environment)
        self._arguments = json.dumps(arguments, default=str)
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def start(self) -> None:
        """Starts the child and does not wait for it: several load at the same time. Only before `with`."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the child)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.subject", self.load, self._arguments],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            process_group=0,
        )

    def __enter__(self) -> Subject:
        if self._process is None:
            self.start()
        try:
            self._read()
        except BaseException:
            self.stop()
            raise
        self._pause()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def step(self) -> Turn:
        """One turn. Raises SubjectError."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("ended") from None
        answer = self._read()
        self._pause()
        return Turn(answer["ms"], answer["told"])

    def step_ms(self) -> float:
        return self.step().ms

    def _pause(self) -> None:
        if self._paused:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        """To the child and its children."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], _PATIENCE_S)[0]:
            raise self._failure(f"says nothing for {_PATIENCE_S:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._failure("ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failure(self, what: str) -> SubjectError:
        assert self._errors is not None
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return SubjectError(f"{self.load} {what}: {lines[-1] if lines else 'it wrote nothing'}")

    def stop(self) -> None:
        """Ends the child and its children; harmless when there is none."""
        if self._process is None:
            return
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._signal(signal.SIGKILL)  # what is left of it, its own children too
        self._process.wait()
        self._process = None
        if self._errors is not None:
            self._errors.close()


def load_step(load: str, arguments: Mapping[str, Any]) -> Step:
    """What `package.module:function` makes of the arguments."""
    module, _, name = load.partition(":")
    step: Step = getattr(importlib.import_module(module), name)(**arguments)
    return step


def several(steps: Mapping[str, tuple[str, Mapping[str, Any]]]) -> Step:
    """A step that takes several in one process, one after the other, and tells each one's "ms" and what it told.

    Args:
        steps: by name, for `load_step`.
    """
    loaded = {name: load_step(load, arguments) for name, (load, arguments) in steps.items()}
    return lambda: {name: _timed(step) for name, step in loaded.items()}


def _timed(step: Step) -> dict[str, Any]:
    start = time.perf_counter()
    told = step()
    return {"ms": (time.perf_counter() - start) * 1000, **(told or {})}


def _serve(load: str, arguments: str) -> None:
    """The child's side."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is none of the parent's business
    step = load_step(load, json.loads(arguments))
    _say(answers, {"ready": True})
    for _ in sys.stdin:
        _wake()
        start = time.perf_counter()
        told = step()
        ms = (time.perf_counter() - start) * 1000
        _say(answers, {"ms": ms, "told": dict(told or {})})


def _wake() -> None:
    """Keeps torch's threads busy for a moment, if there are any.

    While another subject had its turn they slept, and Linux may wake them all on one core, to spread them only after
    some 20 ms: a photo of 100 ms took 105 to 125 after a pause (docs/benchmarks.md).
    """
    if torch := sys.modules.get("torch"):
        square, end = torch.ones(512, 512), time.perf_counter() + _AWAKE_S
        while time.perf_counter() < end:
            square @ square


def _say(answers: Any, message: Mapping[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
