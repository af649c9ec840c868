"""Cores and memory that this process may use: what the machine has, less what a container or an affinity takes away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil  # TorchServe requires it


def usable_cores(root: Path = Path("/")) -> int:
    """Physical cores, at least 1: hyper-threads do not help a convolution. Less where a container has a quota.

    Args:
        root: where /proc and /sys are; for tests.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [int(limit) // int(period) for limit, period in map(str.split, _limits(root, "cpu.max"))]
    return max(1, min([allowed, psutil.cpu_count(logical=False) or allowed, *quotas]))


def usable_memory_bytes(root: Path = Path("/")) -> int:
    """What can be taken before the machine swaps or the container is killed."""
    return min([psutil.virtual_memory().available, *map(int, _limits(root, "memory.max"))])


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
