"""A run folder is whole or not there."""

import errno
import os
import re
import resource
import subprocess
from pathlib import Path

import pytest
import torch

from maskserve.protos.errors import ConfigError
from maskserve.training.run_folder import RunFolder, git_commit, publish, versions, working_folder


def fill(run: RunFolder, text: str) -> RunFolder:
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_json("run.json", text)
    return run


def test_a_write_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path: Path):
    run = fill(RunFolder(tmp_path), "earlier")

    def half(path: Path) -> None:
        path.write_text("hal")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run.write("run.json", half)
    assert run.read_json("run.json") == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_path_that_is_no_utf_8_can_be_written_and_read(tmp_path: Path):
    data = os.fsdecode(b"caf\xe9")
    assert fill(RunFolder(tmp_path), data).read_json("run.json") == data


def test_a_state_that_does_not_fit_is_the_systems_error(tmp_path: Path):
    """As on a full disk: `maskserve` says an OSError in a line, torch raises something else."""
    run, (soft, hard) = fill(RunFolder(tmp_path), "earlier"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            run.write_state("last.pth", {"weight": torch.zeros(200_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_complete_run_takes_the_place_of_the_earlier_one(tmp_path: Path):
    fill(RunFolder(tmp_path / "model"), "earlier")
    done = publish(fill(working_folder(tmp_path, "model"), "later"), tmp_path / "model", pytest.fail)
    assert done.read_json("run.json") == "later"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path, target: str):
    output, elsewhere = tmp_path / "runs", fill(RunFolder(tmp_path / "elsewhere"), "earlier")
    output.mkdir()
    (output / ".model.previous").symlink_to(elsewhere.path)
    (output / "model").symlink_to(tmp_path / target)
    publish(fill(working_folder(output, "model"), "later"), output / "model", pytest.fail)
    assert [(path.name, path.is_symlink()) for path in output.iterdir()] == [("model", False)]
    assert elsewhere.read_json("run.json") == "earlier"


@pytest.mark.parametrize("busy", ["model", ".model.training"])
def test_what_cannot_be_replaced_stays_and_the_message_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: str
):
    """As a mount point, which nobody can rename."""
    rename = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if path.name == busy:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    for path in (working := tmp_path / ".model.training", final := tmp_path / "model"):
        path.mkdir()
        (path / "name").write_text(path.name)
    with pytest.raises(ConfigError, match=r"complete, but .*model \(.*busy.*unmount it.*--resume"):
        publish(RunFolder(working), final, pytest.fail)
    assert {path.name: (path / "name").read_text() for path in tmp_path.iterdir()} == {
        path.name: path.name for path in (working, final)
    }


def test_an_earlier_run_that_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def rmtree(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("shutil.rmtree", rmtree)
    fill(RunFolder(tmp_path / "model"), "earlier")
    notes: list[str] = []
    done = publish(fill(working_folder(tmp_path, "model"), "later"), tmp_path / "model", notes.append)
    assert done.read_json("run.json") == "later"
    assert notes == [f"{tmp_path}/.model.previous: the earlier run cannot be removed: Permission denied"]


@pytest.mark.parametrize("content", [None, "{"])
def test_a_folder_that_is_no_run_says_how_to_make_one(tmp_path: Path, content: str | None):
    if content:
        (tmp_path / "classes.json").write_text(content)
    with pytest.raises(ConfigError, match=r"train"):
        RunFolder(tmp_path).load_classes()
    with pytest.raises(ConfigError, match=r"maskserve train"):
        RunFolder(tmp_path).load_cfg()


def test_versions_name_python_and_torch():
    assert {"python", "torch", "detectron2"} <= set(versions())


def test_the_commit_is_that_of_our_own_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A virtual environment may lie in another project's."""
    file = tmp_path / ".venv" / "maskserve" / "run_folder.py"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr("maskserve.training.run_folder.__file__", str(file))
    assert git_commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *words], check=True)
    assert git_commit() is None
    for words in (["add", "."], ["commit", "-q", "-m", "ours"]):
        subprocess.run([*git, *words], check=True)
    assert re.fullmatch("[0-9a-f]{40}", git_commit() or "")
    file.write_text("changed")
    assert re.fullmatch("[0-9a-f]{40}-dirty", git_commit() or "")
