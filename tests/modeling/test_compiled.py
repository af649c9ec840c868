"""Compiled kernels outlive the process, wherever the source lies; and nothing has to be writable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maskserve.modeling import compiled

SCRIPT = """
import sys
import numpy as np
from maskserve.modeling import compiled
boxes = np.array([[0, 0, 10, 10], [1, 1, 10, 10], [30, 30, 40, 40]])
kernel = compiled.kernels().first_apart
for dtype in sys.argv[1:]:
    assert kernel(boxes.astype(dtype), np.zeros(3, np.int64), 1, 0.5, 3).tolist() == [0, 2]
print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))
"""
SOURCES = Path(compiled.__file__).parents[1]
KERNELS = SOURCES / "modeling" / "kernels.py"


def run(place: Path, cache: Path, *dtypes: str, before: str = "") -> str:
    """(times that compiled code was found, times that it was not) of a process whose maskserve lies at `place`."""
    shutil.copytree(SOURCES / "modeling", place / "maskserve" / "modeling")
    shutil.copytree(SOURCES / "protos", place / "maskserve" / "protos")
    environment = {**os.environ, "PYTHONPATH": str(place), "MASKSERVE_CACHE": str(cache)}
    command = [sys.executable, "-c", before + SCRIPT, *(dtypes or ["float32"])]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def test_a_second_archive_finds_what_the_first_compiled(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert run(tmp_path / "first", cache) == "0 1"
    assert run(tmp_path / "second", cache) == "1 0"


THREADS = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from maskserve.modeling import compiled
together = Barrier(8)
def load(_number):
    together.wait()
    return compiled.winograd_kernels()
with ThreadPoolExecutor(8) as pool:
    print(len(set(pool.map(load, range(8)))))
"""


def test_threads_that_ask_at_once_get_the_same_module() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_what_kernels_import_makes_their_compiled_code_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "cache_folder", lambda: tmp_path / "cache")
    for name in (KERNELS.name, *compiled.SHARED):
        shutil.copy(KERNELS.with_name(name), tmp_path)
    copies = [compiled._lasting_copy(tmp_path / KERNELS.name)]
    for name in compiled.SHARED:
        (tmp_path / name).write_text("another")
        copies.append(compiled._lasting_copy(tmp_path / KERNELS.name))
    assert len(set(copies)) == 1 + len(compiled.SHARED) > 2
    assert all(copy.read_bytes() == KERNELS.read_bytes() for copy in copies)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    cache = tmp_path / "a-file"
    cache.write_text("no folder")
    assert run(tmp_path / "archive", cache) == "0 1"


FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))  # the copied source is smaller, what is compiled larger
"""


def test_a_disk_that_is_full_is_done_without_and_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "archive", tmp_path / "cache", "float32", "float64", before=FULL_DISK) == "0 2"
    assert capfd.readouterr().err.count("cannot be kept") == 1


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_what_was_cut_off_is_compiled_anew_and_kept_again(tmp_path: Path, kind: str) -> None:
    cache = tmp_path / "cache"
    run(tmp_path / "first", cache)
    (file,) = cache.rglob(f"*.{kind}")
    os.truncate(file, 20)
    assert run(tmp_path / "second", cache) == "0 1"
    assert run(tmp_path / "third", cache) == "1 0"


def test_the_code_of_another_signature_is_not_run(tmp_path: Path) -> None:
    cache, both = tmp_path / "cache", ("float32", "float64")
    run(tmp_path / "first", cache, *both)
    one, other = cache.rglob("*.nbc")
    shutil.copy(one, other)
    assert run(tmp_path / "second", cache, *both) == "1 1"
    assert run(tmp_path / "third", cache, *both) == "2 0"


SLOW_DISK = """
import time
from numba.core.caching import IndexDataCacheFile
write = IndexDataCacheFile._save_index
IndexDataCacheFile._save_index = lambda self, overloads: (time.sleep(1.5), write(self, overloads))
"""


def test_processes_that_fill_the_cache_together_keep_what_both_compiled(tmp_path: Path) -> None:
    cache, both = tmp_path / "cache", ("float32", "float64")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda dtype: run(tmp_path / dtype, cache, dtype, before=SLOW_DISK), both))
    assert run(tmp_path / "third", cache, *both) == "2 0"


def test_a_copy_that_was_cut_off_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "cache_folder", lambda: tmp_path)
    copy = compiled._lasting_copy(KERNELS)
    copy.write_bytes(b"")
    assert compiled._lasting_copy(KERNELS).read_bytes() == KERNELS.read_bytes()


def test_a_user_without_a_home_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compiled, "cache_folder", homeless)
    assert compiled._lasting_copy(KERNELS) == KERNELS


def test_the_width_of_the_kernels_is_known_without_them() -> None:
    lanes = pytest.importorskip("maskserve.modeling.lanes", exc_type=ImportError)
    assert lanes.LANES == compiled.NUMBERS_AT_ONCE
