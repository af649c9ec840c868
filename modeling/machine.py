"""Cores, memory and folder that a process may use: what is there, less what a container or an affinity takes away."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import psutil  # TorchServe requires it
import torch


def usable_cores(root: Path = Path("/")) -> int:
    """Physical cores, at least 1: hyper-threads do not help a convolution. Less where a container has a quota.

    Args:
        root: where /proc and /sys are; for tests.
    """
    allowed = allowed_cores()
    quotas = [int(limit) // int(period) for limit, period in map(str.split, _limits(root, "cpu.max"))]
    return max(1, min([allowed, psutil.cpu_count(logical=False) or allowed, *quotas]))


def allowed_cores() -> int:
    """Logical cores that this process may be scheduled on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_memory_bytes(root: Path = Path("/")) -> int:
    """What can be taken before the machine swaps or the container is killed."""
    return min([psutil.virtual_memory().available, *map(int, _limits(root, "memory.max"))])


def cache_folder() -> Path:
    """`$MASKSERVE_CACHE`, or `maskserve` in the user's cache folder."""
    named = os.environ.get("MASKSERVE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskserve"


def describe_machine() -> str:
    """Processor, cores, GPU, torch: what figures that were measured here hold for."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{_processor()}, {usable_cores()} cores, {device}; torch {torch.__version__}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _limits(root: Path, name: str) -> Iterator[str]:
    """What `name` says in this process' control group and those above it (version 2, Linux), where it is a limit."""
    membership = root / "proc/self/cgroup"
    if not membership.is_file():
        return
    top = root / "sys/fs/cgroup"
    own = top / membership.read_text().rpartition("::")[2].strip().lstrip("/")
    for folder in (own, *own.parents):
        if folder.is_relative_to(top) and (folder / name).is_file():
            limit = (folder / name).read_text().strip()
            if not limit.startswith("max"):
                yield limit
