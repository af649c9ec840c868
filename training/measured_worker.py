"""A run in a Python of its own that answers photos as a TorchServe worker does, on command, and says how long it took.

    MeasuredWorker ──{"threads": 2}──────────────────▶ process set up, predictor made, photos answered
                   ◀─{"peak_memory_bytes": …, "gpu_share": …}
                   ──{"batch_size": 1, "seconds": 2}─▶ photos one after the other until the time is over
                   ◀─{"photos": 31, "elapsed_s": …, "latencies_ms": […]}

This file is both sides: `MeasuredWorker` starts it as a script. It ends when its standard input does, so it never
outlives whoever started it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from maskserve.protos.errors import ConfigError
from maskserve.training.process import peak_memory_bytes

if TYPE_CHECKING:
    from maskserve.training.variant import Variant


@dataclass(frozen=True, slots=True)
class Answered:
    """What a worker did in a stretch of time."""

    photos: int
    """0: the GPU had no memory for such a batch."""
    elapsed_s: float
    latencies_ms: tuple[float, ...]
    """Of each batch, from a file's bytes to encoded masks."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What has been taken when a worker had answered all photos."""

    peak_memory_bytes: int
    """Of the worker, resident, at most."""
    gpu_share: float
    """Of the GPU's memory, by all processes, 0..1; 0 without a GPU."""


class MeasuredWorker:
    """A context manager; entered, it has loaded the run.

    Args:
        run: a run folder.
        photos: files, answered again and again in this order.
        variant: how it is run; by default as it was trained, in fp32.

    Raises:
        ConfigError: the run or a photo cannot be loaded there.
    """

    def __init__(self, run: Path, photos: Sequence[Path], variant: Variant | None = None) -> None:
        self._run = run
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        chosen = json.dumps(asdict(variant) if variant else {}, default=lambda trunk: str(trunk.resolve()))
        command = [sys.executable, "-m", "maskserve.training.measured_worker", str(run.resolve()), chosen]
        self._process = subprocess.Popen(
            [*command, *(str(photo.resolve()) for photo in photos)],
            env={"OMP_WAIT_POLICY": "PASSIVE"} | os.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # a Ctrl-C in the terminal reaches us, and we stop it
            start_new_session=True,
        )

    def __enter__(self) -> MeasuredWorker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def begin_setup(self, threads: int | None) -> None:
        """Be a worker with so many threads; None: as many as torch takes by itself. `finish_setup` waits.

        All photos are answered the first time, one to warm up later.
        """
        self._tell({"threads": threads})

    def finish_setup(self) -> Memory:
        return Memory(**self._reply())

    def begin_answering(self, batch_size: int, seconds: float) -> None:
        """Photos until the time is over, one batch at least. `finish_answering` waits."""
        self._tell({"batch_size": batch_size, "seconds": seconds})

    def finish_answering(self) -> Answered:
        said = self._reply()
        return Answered(said["photos"], said["elapsed_s"], tuple(said["latencies_ms"]))

    def _tell(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._fail()
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _fail(self) -> None:
        status = self._process.wait()
        self._errors.seek(0)
        last = (self._errors.read().strip().splitlines() or [f"exit status {status}"])[-1]
        raise ConfigError(f"{self._run}: cannot be loaded in a process of its own: {last}")


def peak_memory(run: Path, photos: Sequence[Path], variant: Variant | None = None) -> int:
    """Bytes of resident memory at most of a fresh process that loads a run and answers photos. Raises ConfigError."""
    with MeasuredWorker(run, photos, variant) as worker:
        worker.begin_setup(threads=None)
        return worker.finish_setup().peak_memory_bytes


class _Subject:
    """In the other process: the run's predictor, and the photos' files in memory."""

    def __init__(self, run: Path, variant: Variant, photos: Sequence[Path]) -> None:
        from maskserve.training.run_folder import RunFolder

        self._folder, self._variant = RunFolder(run), variant
        self._files = [photo.read_bytes() for photo in photos]
        self._to_warm_up = self._files

    def set_up(self, threads: int | None) -> dict[str, Any]:
        from maskserve.modeling.process import prepare_process

        if threads:
            prepare_process(threads)
        self._predictor = self._variant.predictor(self._folder)
        for file in self._to_warm_up:
            self._answer([file])
        self._to_warm_up = self._files[:1]
        return {"peak_memory_bytes": peak_memory_bytes(), "gpu_share": self._gpu_share()}

    def _gpu_share(self) -> float:
        import torch

        if not self._predictor.cfg.MODEL.DEVICE.startswith("cuda"):
            return 0.0
        free, total = torch.cuda.mem_get_info(self._predictor.cfg.MODEL.DEVICE)
        return 1 - free / total

    def answer(self, batch_size: int, seconds: float) -> dict[str, Any]:
        import torch

        files = cycle(self._files)
        latencies_ms: list[float] = []
        start = now = time.perf_counter()
        while now - start < seconds or not latencies_ms:
            try:
                self._answer(list(islice(files, batch_size)))
            except torch.OutOfMemoryError:
                return {"photos": 0, "elapsed_s": time.perf_counter() - start, "latencies_ms": [0.0]}
            before, now = now, time.perf_counter()
            latencies_ms.append((now - before) * 1000)
        return {"photos": batch_size * len(latencies_ms), "elapsed_s": now - start, "latencies_ms": latencies_ms}

    def _answer(self, files: Sequence[bytes]) -> None:
        from maskserve.modeling.answer import to_segmentation
        from maskserve.modeling.process import on_all_threads
        from maskserve.protos.types import ModelInfo, SegmentOptions
        from maskserve.training.datasets.photos import decode_as_served

        read = on_all_threads(partial(decode_as_served, seen_at=self._predictor.network_size), files)
        predictions, _ = self._predictor([pixels for pixels, _ in read], [size for _, size in read])
        for prediction in predictions:
            to_segmentation(prediction, SegmentOptions(), self._predictor.class_names, ModelInfo("", "", ""))


def _serve(run: Path, chosen: dict[str, Any], photos: Sequence[Path]) -> None:
    from maskserve.training.variant import Variant

    trunk = Path(chosen["trunk"]) if chosen.get("trunk") else None
    subject = _Subject(run, Variant(**(chosen | {"trunk": trunk})), photos)
    for line in sys.stdin:
        command = json.loads(line)
        reply = subject.set_up(**command) if "threads" in command else subject.answer(**command)
        print(json.dumps(reply), flush=True)  # noqa: T201


if __name__ == "__main__":
    _run, _chosen, *_photos = sys.argv[1:]
    _serve(Path(_run), json.loads(_chosen), [Path(name) for name in _photos])
