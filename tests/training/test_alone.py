"""Two trainings in one folder: the second is refused, and nothing keeps a third one out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from maskserve.protos.errors import ConfigError
from maskserve.training import alone as module
from maskserve.training.alone import alone


def test_a_second_one_is_refused_until_the_first_ends(tmp_path: Path):
    working = tmp_path / "runs" / ".model.training"
    with alone(working):
        with (
            pytest.raises(ConfigError, match=r"\.model\.training is being trained by another process"),
            alone(working),
        ):
            pytest.fail("two at once")
        with alone(tmp_path / "runs" / ".other.training"):
            pass
    with alone(working):
        pass
    assert [*tmp_path.iterdir()] == []


def test_one_that_was_killed_keeps_nobody_out(tmp_path: Path):
    working = tmp_path / ".model.training"
    program = (
        "import sys, time; from pathlib import Path; from maskserve.training.alone import alone\n"
        "with alone(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(working)], stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(ConfigError, match="another process"), alone(working):
            pass
        other.kill()
    with alone(working):
        pass
    assert [*tmp_path.iterdir()] == []


def test_a_lock_whose_file_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its owner ends between our opening the file and our locking it."""
    flock, taken = module.fcntl.flock, []

    def removed_first(file: object, how: int) -> None:
        if not taken:
            (tmp_path / ".model.lock").unlink()
        taken.append(file)
        flock(file, how)

    monkeypatch.setattr(module.fcntl, "flock", removed_first)
    with alone(tmp_path / ".model.training"):
        assert len(taken) == 2
        assert (tmp_path / ".model.lock").is_file()
