"""Which layouts are measured, which is chosen, and one real measurement from the command line to the archive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
import torch
import yaml
from click.testing import CliRunner

from maskserve.cli import package as command
from maskserve.cli.main import main
from maskserve.protos.errors import ConfigError
from maskserve.training import tuning_photos
from maskserve.training.layouts import (
    MOST_LAYOUTS,
    OBJECTIVES,
    Layout,
    Measured,
    Objective,
    batches,
    choose,
    layouts,
)
from maskserve.training.measured_worker import MeasuredWorker, _Subject
from tests.runs import make_run
from tests.waiting import ended, until

PLENTY = 1000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that answers a photo in some 50 ms."""
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", "mobilenetv2")


# --- which layouts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cores", range(1, 65))
def test_layouts_use_the_cores_and_never_more(cores: int):
    """From one worker with all of them to one worker a core; few, and none that another one beats in both numbers."""
    found = layouts(cores, PLENTY, "cpu")
    assert found[0] == Layout(1, cores)
    assert found[-1] == Layout(cores, 1)
    assert 1 <= len(found) <= MOST_LAYOUTS
    for layout in found:
        assert cores / 2 < layout.workers * layout.threads <= cores
        assert layout.batch_size == 1
    for fewer, more in pairwise(found):
        assert fewer.workers < more.workers
        assert fewer.threads > more.threads


@pytest.mark.parametrize("cores", range(1, 65))
@pytest.mark.parametrize("most_workers", [0, 1, 2, 3, 5, 20])
def test_memory_bounds_the_workers(cores: int, most_workers: int):
    """One is always measured; as many as fit into memory are, too."""
    workers = [layout.workers for layout in layouts(cores, most_workers, "cpu")]
    assert workers[0] == 1
    assert workers[-1] == max(1, min(most_workers, cores))


def test_some_layouts_by_hand():
    assert layouts(6, PLENTY, "cpu") == (Layout(1, 6), Layout(2, 3), Layout(6, 1))
    assert [layout.workers for layout in layouts(64, PLENTY, "cpu")] == [1, 2, 4, 8, 16, 32, 64]
    assert layouts(256, PLENTY, "cpu")[-1] == Layout(128, 2)
    assert layouts(64, PLENTY, "cuda:1") == (Layout(1, 4), Layout(2, 4), Layout(4, 4))
    assert layouts(2, PLENTY, "cuda") == (Layout(1, 2), Layout(2, 1))
    assert layouts(64, 1, "cuda") == (Layout(1, 4),)


def test_batches_are_measured_beside_the_layout_s_own():
    assert [one.batch_size for one in batches(Layout(2, 3), "cpu")] == [1, 2, 4]
    assert [one.batch_size for one in batches(Layout(1, 4), "cuda")] == [1, 2, 4, 8, 16]
    assert {(one.workers, one.threads) for one in batches(Layout(2, 3), "cpu")} == {(2, 3)}


# --- which one is chosen ----------------------------------------------------------------------------------------


def _row(layout: Layout, images_per_s: float, latency_ms: float) -> Measured:
    return Measured(layout, images_per_s, 0.0, latency_ms, 0.0)


ONE, TWO, FOUR, BATCH = Layout(1, 4), Layout(2, 2), Layout(4, 1), Layout(1, 4, 2)


@pytest.mark.parametrize(
    ("rows", "latency", "throughput", "balanced"),
    [
        # more workers answer more, and each more slowly
        ([(ONE, 10, 100), (TWO, 12, 140), (FOUR, 14, 300)], ONE, FOUR, TWO),
        # nothing to gain: the quick one
        ([(ONE, 10, 100), (TWO, 10.3, 140), (FOUR, 10.4, 160)], ONE, ONE, ONE),
        # as quick, within noise, and more
        ([(ONE, 10, 100), (TWO, 12, 104)], TWO, TWO, TWO),
        # a batch that gains nothing is only a wait
        ([(ONE, 10, 100), (BATCH, 10.2, 110)], ONE, ONE, ONE),
        ([(ONE, 10, 100), (BATCH, 15, 110)], ONE, BATCH, BATCH),
    ],
)
def test_the_objective_decides(
    rows: list[tuple[Layout, float, float]], latency: Layout, throughput: Layout, balanced: Layout
):
    """Differences below the noise decide nothing."""
    measured = [_row(*row) for row in rows]
    assert choose(measured, "latency").layout == latency
    assert choose(measured, "throughput").layout == throughput
    assert choose(measured, "balanced").layout == balanced


def test_the_command_knows_the_objectives():
    """It lists them without loading torch."""
    assert command.OBJECTIVES == OBJECTIVES == get_args(Objective)


# --- for real ---------------------------------------------------------------------------------------------------


def test_what_was_measured_is_what_the_archive_runs(run: Path, pandas: Path, tmp_path: Path):
    """Two cores: both layouts and the batches of the better one, in settings, model card and answer."""
    line = f"package {run} -o {tmp_path} --tune throughput --cores 2 --tune-seconds 1 --data {pandas} --json"
    done = CliRunner().invoke(main, line.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (made,) = json.loads(done.stdout)
    tuning = made["tuning"]
    rows = tuning["rows"]
    assert [(row["workers"], row["threads"], row["batch_size"]) for row in rows[:2]] == [(1, 2, 1), (2, 1, 1)]
    assert [row["batch_size"] for row in rows[2:]] == [2, 4]
    assert all(row["images_per_s"] > 0 and row["latency_p95_ms"] >= row["latency_ms"] > 0 for row in rows)
    assert (tuning["objective"], tuning["cores"], tuning["photos"]) == ("throughput", 2, 2)
    assert tuning["worker_memory_bytes"] > 100e6
    (chosen,) = (row for row in rows if row["chosen"])
    with zipfile.ZipFile(made["path"]) as archive:
        settings = yaml.safe_load(archive.read("model-config.yaml"))
        assert json.loads(archive.read("model_card.json"))["tuning"] == tuning
        assert "| chosen |" in archive.read("MODEL_CARD.md").decode()
    assert settings["minWorkers"] == settings["maxWorkers"] == chosen["workers"]
    assert (settings["threads"], settings["batchSize"]) == (chosen["threads"], chosen["batch_size"])
    assert "◀ throughput" in done.stderr


def test_what_tune_chooses_cannot_be_given_too(run: Path, tmp_path: Path):
    done = CliRunner().invoke(main, ["package", str(run), "-o", str(tmp_path), "--tune", "--batch-size", "2"])
    assert done.exit_code == 2
    assert "--tune chooses --batch-size" in done.stderr


def test_a_measured_process_that_fails_says_why(run: Path, tmp_path: Path):
    """Its last line, and nothing hangs."""
    (tmp_path / "photo.jpg").write_text("no photo")
    with MeasuredWorker(run, [tmp_path / "photo.jpg"]) as worker:
        worker.begin_setup(1)
        with pytest.raises(ConfigError, match="no readable photo"):
            worker.finish_setup()


def test_a_batch_without_memory_is_left_out(monkeypatch: pytest.MonkeyPatch):
    """The process stays, and answers smaller ones."""
    monkeypatch.setattr(_Subject, "__init__", lambda self: None)
    subject = _Subject()
    subject._files = [b"photo"]

    def answer(files: list[bytes]) -> None:
        if len(files) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(subject, "_answer", answer)
    assert subject.answer(2, 0)["photos"] == 2
    assert subject.answer(4, 0)["photos"] == 0


def test_photos_are_the_run_s_own_or_drawn(run: Path, pandas: Path, tmp_path: Path):
    """Held-out ones of the data that run.json names, while it is there."""
    facts = json.loads((run / "run.json").read_text())
    for name, data, count in (("its own", str(pandas), 2), ("gone", "/nowhere", 6)):
        copy = make_run(tmp_path / name, "mobilenetv2")
        (copy / "run.json").write_text(json.dumps(facts | {"data": data}))
        (tmp_path / f"scratch {name}").mkdir()
        assert len(tuning_photos.tuning_photos(copy, tmp_path / f"scratch {name}")) == count


def _children(process: subprocess.Popen[Any]) -> list[psutil.Process]:
    found = []
    for one in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):  # others, that have just ended
            if "measured_worker" in " ".join(one.cmdline()):
                found.append(one)
    return found


def test_ctrl_c_leaves_no_process_and_no_archive(run: Path, pandas: Path, tmp_path: Path):
    words = ["package", str(run), "-o", str(tmp_path / "store"), "--tune", "--cores", "2", "--tune-seconds", "600"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "maskserve.cli.main", *words, "--data", str(pandas)], env=environment
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while len(children := _children(process)) < 2:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        finally:
            process.kill()  # or leaving this block waits for it
    # one that has just been started may not be known yet: it ends with its standard input, when it has loaded torch
    assert until(lambda: ended(children))
    assert not (tmp_path / "store").exists()
    assert not list(tmp_path.glob("maskserve-tune-*"))
