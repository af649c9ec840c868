"""`maskserve compare`: two runs with random weights, compared for real."""

from __future__ import annotations

import gzip
import html
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from maskserve.cli.main import main
from maskserve.training.datasets.manifest import load_manifest
from tests.runs import make_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return make_run(folder / "big", "resnet50"), make_run(folder / "small", "mobilenetv2")


def compare(*words: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, words)])


@pytest.fixture(scope="module")
def compared(runs: tuple[Path, Path], pandas: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """One comparison that several tests look at."""
    folder = tmp_path_factory.mktemp("out") / "comparison"
    return compare(*runs, "--data", pandas, "--latency-photos", 5, "--resamples", 100, "-o", folder, "--json"), folder


def test_a_comparison_from_end_to_end(compared: tuple[Result, Path], pandas: Path):
    """Page, JSON and answers appear; stdout is the JSON, and the last lines say the verdict and where the page is."""
    done, folder = compared
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in folder.iterdir()) == [
        "comparison.html", "comparison.json", "detections_a.json.gz", "detections_b.json.gz", "plots",
    ]  # fmt: skip
    value: dict[str, Any] = json.loads(done.stdout)
    assert value == json.loads((folder / "comparison.json").read_text())
    assert value["statistics"]["image_count"] == 2
    assert value["origin"] == {"data_hash": load_manifest(pandas / "train.json").data_hash, "split": "test"}
    assert value["cost"]["a"]["parameters"] > value["cost"]["b"]["parameters"]
    assert len(value["cost"]["a"]["latency_ms"]) == 5
    assert (value["a"]["label"], value["b"]["label"]) == ("ResNet-18", "MobileNetV2")
    assert value["served"] is None
    sentence, last = done.stderr.splitlines()[-2:]
    assert sentence == value["verdict"]["sentence"]
    assert str(folder / "comparison.html") in last


def test_the_page_holds_the_verdict_and_the_photos(compared: tuple[Result, Path]):
    done, folder = compared
    page = html.unescape((folder / "comparison.html").read_text())
    assert json.loads(done.stdout)["verdict"]["sentence"] in page
    assert page.count("data:image/jpeg;base64,") == 2 * 3
    assert len(page) < 5_000_000


def test_the_answers_can_be_scored_by_others(compared: tuple[Result, Path], pandas: Path):
    """pycocotools takes them as they are."""
    from pycocotools.coco import COCO

    _, folder = compared
    found = json.loads(gzip.decompress((folder / "detections_a.json.gz").read_bytes()))
    assert len(COCO(str(pandas / "test.json")).loadRes(found).anns) == len(found) > 0


def refused(tmp_path: Path, *words: object) -> str:
    """stderr of a comparison that cannot be; nothing is left where it would have gone."""
    done = compare(*words, "-o", tmp_path / "out")
    assert done.exit_code == 1, done.output
    assert not (tmp_path / "out").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    return done.stderr


def test_other_classes_are_named(runs, pandas: Path, tmp_path: Path):
    stranger = make_run(tmp_path / "stranger", "mobilenetv2", ["cat", "dog"])
    text = refused(tmp_path, runs[0], stranger, "--data", pandas)
    assert "stranger knows the classes cat, dog" in text
    assert "giant panda" in text


def test_a_split_that_is_not_there_is_named(runs, pandas: Path, tmp_path: Path):
    assert "has no val.json" in refused(tmp_path, *runs, "--data", pandas, "--split", "val")


def test_a_missing_run_is_named(runs, pandas: Path, tmp_path: Path):
    assert "nothing: no such run folder" in refused(tmp_path, runs[0], tmp_path / "nothing", "--data", pandas)


@pytest.mark.parametrize(("option", "few"), [("--latency-photos", 4), ("--resamples", 99)])
def test_so_few_that_chance_would_decide_are_refused(runs, pandas: Path, option: str, few: int):
    """One photo on the clock made a run faster than itself, one resample made an interval of no width."""
    done = compare(*runs, "--data", pandas, option, few)
    assert done.exit_code == 2
    assert option in done.output


@pytest.mark.parametrize("place", ["file", "file/deeper"])
def test_a_file_in_the_place_of_the_output_is_named_before_anything_is_measured(
    runs, pandas: Path, tmp_path: Path, place: str
):
    (tmp_path / "file").touch()
    done = compare(*runs, "--data", pandas, "-o", tmp_path / place)
    assert done.exit_code == 1
    assert f"{tmp_path / 'file'} is a file" in done.stderr
    assert "loading" not in done.stderr


def test_no_torchserve_is_said_before_anything_is_measured(runs, pandas: Path, tmp_path: Path):
    text = refused(tmp_path, *runs, "--data", pandas, "--served", "--address", "127.0.0.1:9")
    assert "is it running" in text
    assert "statistics" not in text


def test_ctrl_c_leaves_nothing(runs, pandas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whenever it comes: here, while the page is drawn."""
    from maskserve.comparison import run

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(run, "render_page", interrupted)
    words = (*runs, "--data", pandas, "--latency-photos", 5, "--resamples", 100, "-o", tmp_path / "out" / "deep")
    assert compare(*words).exit_code == 130
    assert list(tmp_path.iterdir()) == []


def test_every_option_is_in_the_docs(repo_root: Path):
    from maskserve.cli.compare import compare as command

    text = (repo_root / "docs" / "compare.md").read_text()
    for option in (option for one in command.params for option in one.opts if option.startswith("--")):
        assert option in text or option == "--output", option
