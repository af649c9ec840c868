"""Cores and memory are counted as the kernel will grant them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from maskserve.modeling.machine import usable_cores, usable_memory_bytes


def _group(root: Path, folder: str, **files: str) -> None:
    """A control group of a made-up machine at `root`; the process is in /pods/ours."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text("0::/pods/ours\n")
    where = root / "sys/fs/cgroup" / folder
    where.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (where / name.replace("_", ".")).write_text(f"{text}\n")


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 cores with two hyper-threads each."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(128)))
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 128 if logical else 64)


@pytest.mark.usefixtures("many_cores")
def test_a_container_s_quota_counts_and_not_what_the_machine_has(tmp_path: Path):
    """Its own group's, or that of a group above it; half a core is one."""
    assert usable_cores(tmp_path) == 64
    _group(tmp_path, "pods/ours", cpu_max="max 100000")
    assert usable_cores(tmp_path) == 64
    _group(tmp_path, "pods", cpu_max="800000 100000")
    assert usable_cores(tmp_path) == 8
    _group(tmp_path, "pods/ours", cpu_max="250000 100000")
    assert usable_cores(tmp_path) == 2
    _group(tmp_path, "pods/ours", cpu_max="50000 100000")
    assert usable_cores(tmp_path) == 1


@pytest.mark.usefixtures("many_cores")
def test_an_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 4, 5})
    assert usable_cores(tmp_path) == 3


def test_a_container_s_memory_limit_counts(tmp_path: Path):
    assert usable_memory_bytes(tmp_path) > 2**20
    _group(tmp_path, "pods/ours", memory_max="1048576")
    assert usable_memory_bytes(tmp_path) == 2**20
