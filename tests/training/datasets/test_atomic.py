"""Files appear together, or none does."""

from __future__ import annotations

import errno
import stat
import tempfile
from pathlib import Path

import pytest

from maskserve.training.datasets.atomic import landing, write_atomically


def test_files_land_in_a_new_folder_that_others_may_read(tmp_path: Path) -> None:
    target = tmp_path / "a/b"
    with landing(target) as staged:
        (staged / "x").write_text("x")
        assert not target.exists()
    assert (target / "x").read_text() == "x"
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE((tmp_path / "a").stat().st_mode)


def test_files_land_beside_others_and_replace_their_namesakes(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/old").write_text("old")
    (tmp_path / "t/x").write_text("before")
    with landing(tmp_path / "t") as staged:
        (staged / "x").write_text("after")
        (staged / "deep").mkdir()
        (staged / "deep/y").write_text("y")
    assert {p.name for p in (tmp_path / "t").rglob("*")} == {"old", "x", "deep", "y"}
    assert (tmp_path / "t/x").read_text() == "after"


def test_a_folder_that_exists_needs_nothing_of_the_one_that_it_lies_in(tmp_path: Path) -> None:
    target = tmp_path / "mount"
    target.mkdir()
    (target / "old").write_text("old")
    before = tmp_path.stat().st_mtime_ns
    with landing(target) as staged:
        (staged / "deep").mkdir()
        (staged / "deep/y").write_text("y")
        assert [path.name for path in tmp_path.iterdir()] == ["mount"]
    assert {p.name for p in target.rglob("*")} == {"old", "deep", "y"}
    assert tmp_path.stat().st_mtime_ns == before


def test_a_folder_that_cannot_be_written_to_is_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(prefix: str, dir: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(dir / f"{prefix}x"))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(PermissionError) as raised, landing(tmp_path / "t"):
        pass
    assert raised.value.filename == str(tmp_path)


def test_after_an_error_everything_is_as_before(tmp_path: Path) -> None:
    def fail() -> None:
        with landing(tmp_path / "a/b/c") as staged:
            (staged / "x").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_atomically(tmp_path / "x", content)
    assert (tmp_path / "x").read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
