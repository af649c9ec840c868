"""The process that trains: the same bits from the same seed, where the log goes, how much memory it took."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

LIBRARY_LOGGERS = ("detectron2", "fvcore", "maskserve.training")


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Only operations that give the same bits each time; torch warns of those that have no such form.

    Costs time on a GPU (cuDNN no longer chooses its fastest kernels); before the GPU is first used.
    """
    if not enabled:
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
    _choose(True, True, True, False)
    try:
        yield
    finally:
        _choose(*before)


def _choose(algorithms: bool, warn_only: bool, cudnn: bool, benchmark: bool) -> None:
    torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
    torch.backends.cudnn.deterministic = cudnn
    torch.backends.cudnn.benchmark = benchmark


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Detectron2's log goes into a file; the terminal belongs to the progress bar."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in LIBRARY_LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
        handler.close()


def forget_peak_memory(device: str) -> None:
    """Count peaks from here on: what trained before in this process is another arm's.

    Not all of it is given back: after a ResNet-50, a MobileNetV2 counts about 0.1 GB more than alone.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc keeps what was freed
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # Linux only; elsewhere the process' own peak is told
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    if torch.cuda.is_initialized() and device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes() -> int:
    """Resident memory of this process at most; workers that read photos are not in it.

    On Linux since it began its own program: getrusage would count what it was forked from, too.
    """
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="ascii").splitlines() if status.is_file() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_gpu_memory_bytes(device: str) -> int | None:
    """Allocated by torch on the GPU `device` at most; None for the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None
