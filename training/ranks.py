"""One process a GPU, started by Detectron2's `launch`, on this machine and perhaps on others.

    this process: launch ─▶ a process for each GPU: run_steps ─▶ the run folder's last.pth, outcome.json
                  progress ◀── pipe ◀── steps, notes, errors

Ctrl-C reaches this process alone or all of them, as the terminal likes: every process ends before the same next step.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

from detectron2.engine import launch
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing.spawn import ProcessExitedException

from maskserve.protos.errors import ConfigError, MaskserveError
from maskserve.training.hooks import Progress
from maskserve.training.job import Job
from maskserve.training.step import StepTrainer
from maskserve.training.steps import run_steps

PEER_WAITS = timedelta(hours=2)
"""How long a process waits for the others: until another machine is started, or a validation is done."""


def run_steps_in_ranks(job: Job, progress: Progress) -> None:
    """As `run_steps`, in a process for each GPU of this machine.

    Raises:
        ConfigError: a process died, or as `run_steps` does.
        DataError: as `run_steps` does.
        KeyboardInterrupt: stopped; last.pth holds the steps done.
    """
    machines = job.machines
    ours, theirs = multiprocessing.Pipe(duplex=False)
    errors: list[MaskserveError] = []
    listener = Thread(target=_listen, args=(ours, progress, errors))
    listener.start()
    crash: Exception | None = None
    with _interrupts_passed_on() as was_stopped:
        try:
            launch(
                _rank,
                machines.gpus,
                num_machines=machines.count,
                machine_rank=machines.rank,
                dist_url=machines.url,
                args=(job, theirs),
                timeout=PEER_WAITS,
            )
        except Exception as error:  # noqa: BLE001  (raised below, when it is nothing that a process has explained)
            crash = error
        finally:
            theirs.close()
            listener.join()
    if errors:
        raise errors[0]
    if was_stopped():
        raise KeyboardInterrupt
    if isinstance(crash, ProcessExitedException):
        raise ConfigError(f"{job.backbone}: {crash} (out of memory?); go on with\n  {job.resume_command()}") from crash
    if crash:
        raise crash


def _rank(job: Job, pipe: Connection) -> None:
    """What each process does."""
    stopped: list[int] = []
    trainers: list[StepTrainer] = []

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)
        for trainer in trainers:
            trainer.stop_asked = True

    def on_trainer(trainer: StepTrainer) -> None:
        trainers.append(trainer)
        trainer.stop_asked = bool(stopped)

    signal.signal(signal.SIGINT, stop)
    try:
        run_steps(job, _Piped(pipe), on_trainer)
        comm.synchronize()
        distributed.destroy_process_group()
    except MaskserveError as error:
        pipe.send(("error", error))
        raise
    except KeyboardInterrupt:
        return  # not a failure: `launch` would end the process that still saves


class _Piped:
    """A Progress in the process that shows it."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def step(self, done: int, total: int, losses: dict[str, float]) -> None:
        self.pipe.send(("step", (done, total, losses)))

    def note(self, text: str) -> None:
        self.pipe.send(("note", text))


def _listen(pipe: Connection, progress: Progress, errors: list[MaskserveError]) -> None:
    """Until all processes and `run_steps_in_ranks` have closed their end."""
    while True:
        try:
            kind, content = pipe.recv()
        except EOFError:
            return
        if kind == "step":
            progress.step(*content)
        elif kind == "note":
            progress.note(content)
        else:
            errors.append(content)


@contextmanager
def _interrupts_passed_on() -> Iterator[Callable[[], bool]]:
    """Ctrl-C goes to the child processes; gives the function that tells whether there was one."""
    numbers: list[int] = []

    def pass_on(number: int, _frame: Any) -> None:
        numbers.append(number)
        for child in multiprocessing.active_children():
            if child.pid:
                os.kill(child.pid, number)

    before = signal.signal(signal.SIGINT, pass_on)
    try:
        yield lambda: bool(numbers)
    finally:
        signal.signal(signal.SIGINT, before)
