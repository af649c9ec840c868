"""A run folder is whole or not there."""

from pathlib import Path

import pytest

from maskserve.protos.errors import ConfigError
from maskserve.training.run_folder import RunFolder, publish, versions, working_folder


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


def test_a_complete_run_takes_the_place_of_the_earlier_one(tmp_path: Path):
    fill(RunFolder(tmp_path / "model"), "earlier")
    done = publish(fill(working_folder(tmp_path, "model"), "later"), tmp_path / "model")
    assert done.read_json("run.json") == "later"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


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
