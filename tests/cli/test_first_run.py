"""Which steps `maskserve up` takes before it serves; the steps themselves are recorded, not run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest

from maskserve.cli import first_run
from maskserve.protos.errors import ConfigError, DataError
from maskserve.protos.wire import MODEL_MNV2, MODEL_R50
from tests.waiting import ended, until

ARMS = (MODEL_R50, MODEL_MNV2)
ARCHIVES = {model: f"{model}.mar" for model in ARMS}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def steps(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that were asked for; importing leaves a manifest, as the real one does."""
    taken: list[tuple[str, ...]] = []

    def record(*words: str, why: str) -> None:
        taken.append(words)
        if words[:2] == ("data", "import"):
            write_manifest(Path(words[words.index("-o") + 1]), "hash-of-the-photos")

    monkeypatch.setattr(first_run, "maskserve", record)
    return taken


def write_manifest(folder: Path, data_hash: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    coco = {
        "info": {"maskserve": {"data_hash": data_hash}},
        "images": [{"id": 1, "file_name": "photos/1.jpg", "height": 4, "width": 4}],
        "categories": [{"id": 1, "name": "panda"}],
        "annotations": [],
    }
    (folder / "train.json").write_text(json.dumps(coco))


def write_archive(store: Path, model: str, data_hash: str, **facts: str) -> None:
    store.mkdir(exist_ok=True)
    with zipfile.ZipFile(store / f"{model}.mar", "w") as archive:
        archive.writestr("model_card.json", json.dumps({"training": {"data_hash": data_hash, **facts}}))


def ensure(here: Path, data: Path | None = None, retrain: bool = False) -> None:
    first_run.ensure_archives(ARCHIVES, here / "store", data, preset="quick", retrain=retrain)


def test_without_anything_it_draws_imports_trains_and_packages(here: Path, steps: list[tuple[str, ...]]) -> None:
    """The first `make up`."""
    ensure(here)
    assert [words[:2] for words in steps] == [
        ("data", "make-pandas"),
        ("data", "import"),
        ("train", "all"),
        ("package", f"runs/demo-pandas/{MODEL_R50}"),
        ("package", f"runs/demo-pandas/{MODEL_MNV2}"),
    ]


def test_with_both_archives_nothing_is_done(here: Path, steps: list[tuple[str, ...]]) -> None:
    """The second `make up`, whatever the archives were trained on."""
    for model in ARMS:
        write_archive(here / "store", model, "something else")
    ensure(here)
    assert steps == []


def test_own_photos_replace_archives_of_other_photos(here: Path, steps: list[tuple[str, ...]]) -> None:
    """`make up DATA=photos` after the demo trains anew, into folders of its own."""
    (here / "photos").mkdir()
    for model in ARMS:
        write_archive(here / "store", model, "hash-of-pandas")
    ensure(here, here / "photos")
    assert steps[0] == ("data", "import", str(here / "photos"), "-o", "data/photos")
    assert steps[1][:4] == ("train", "all", "--data", "data/photos")
    assert steps[2][:2] == ("package", f"runs/photos/{MODEL_R50}")


def test_labels_under_data_are_imported_beside_them_each_time(here: Path, steps: list[tuple[str, ...]]) -> None:
    """A manifest among them would be taken as it is, whatever is labelled later."""
    (here / "data" / "photos").mkdir(parents=True)
    for _ in range(2):
        steps.clear()
        ensure(here, Path("data/photos"))
        assert steps[0] == ("data", "import", "data/photos", "-o", "data/photos-dataset")
        assert steps[1][:4] == ("train", "all", "--data", "data/photos-dataset")


def test_own_photos_are_not_trained_on_twice(here: Path, steps: list[tuple[str, ...]]) -> None:
    """The same `make up DATA=photos` again only looks whether the photos changed."""
    (here / "photos").mkdir()
    for model in ARMS:
        write_archive(here / "store", model, "hash-of-the-photos")
    ensure(here, here / "photos")
    assert [words[:2] for words in steps] == [("data", "import")]


def test_force_reaches_the_training(here: Path, steps: list[tuple[str, ...]]) -> None:
    """`maskserve up --force` trains on data with errors, and only then."""
    for force in (True, False):
        steps.clear()
        first_run.ensure_archives(ARCHIVES, here / "store", None, preset="quick", retrain=False, force=force)
        assert ("--force" in next(words for words in steps if words[0] == "train")) == force


def test_only_the_missing_arm_is_trained(here: Path, steps: list[tuple[str, ...]]) -> None:
    """The other archive stays as it is."""
    write_manifest(here / "data" / "demo-pandas", "hash-of-pandas")
    write_archive(here / "store", MODEL_R50, "hash-of-pandas")
    ensure(here)
    assert [words[:2] for words in steps] == [("train", "mobilenetv2"), ("package", f"runs/demo-pandas/{MODEL_MNV2}")]


def test_a_finished_run_is_only_packaged(here: Path, steps: list[tuple[str, ...]]) -> None:
    """An interrupted first start goes on where it was."""
    write_manifest(here / "data" / "demo-pandas", "hash-of-pandas")
    run = here / "runs" / "demo-pandas" / MODEL_R50
    run.mkdir(parents=True)
    (run / "model_best.pth").touch()
    (run / "run.json").write_text(json.dumps({"data_hash": "hash-of-pandas", "preset": "quick"}))
    ensure(here)
    assert [words[:2] for words in steps] == [
        ("train", "mobilenetv2"),
        ("package", f"runs/demo-pandas/{MODEL_R50}"),
        ("package", f"runs/demo-pandas/{MODEL_MNV2}"),
    ]


@pytest.mark.parametrize(("begun_on", "goes_on"), [("hash-of-pandas", True), ("hash-of-others", False)])
def test_an_interrupted_training_goes_on_if_it_was_of_these_photos(
    here: Path, steps: list[tuple[str, ...]], begun_on: str, goes_on: bool
) -> None:
    """Ctrl-C in the first `make up` loses no finished step; other photos start anew."""
    write_manifest(here / "data" / "demo-pandas", "hash-of-pandas")
    begun = here / "runs" / "demo-pandas" / f".{MODEL_MNV2}.training"
    begun.mkdir(parents=True)
    (begun / "last.pth").touch()
    (begun / "setup.json").write_text(json.dumps({"data_hash": begun_on, "preset": "quick"}))
    ensure(here)
    assert steps[0][:2] == ("train", "all")
    assert ("--resume" in steps[0]) == goes_on


def test_an_arm_that_others_began_starts_anew_beside_one_that_goes_on(here: Path, steps: list[tuple[str, ...]]) -> None:
    """`maskserve train --resume` refuses what has another preset."""
    write_manifest(here / "data" / "demo-pandas", "hash-of-pandas")
    for model, preset in ((MODEL_R50, "quick"), (MODEL_MNV2, "best")):
        begun = here / "runs" / "demo-pandas" / f".{model}.training"
        begun.mkdir(parents=True)
        (begun / "last.pth").touch()
        (begun / "setup.json").write_text(json.dumps({"data_hash": "hash-of-pandas", "preset": preset}))
    ensure(here)
    assert [(words[1], "--resume" in words) for words in steps[:2]] == [("resnet50", True), ("mobilenetv2", False)]


def test_a_dataset_folder_is_taken_as_it_is(here: Path, steps: list[tuple[str, ...]]) -> None:
    """A folder with train.json needs no import."""
    write_manifest(here / "mine", "hash-of-mine")
    ensure(here, here / "mine")
    assert steps[0][:4] == ("train", "all", "--data", str(here / "mine"))


def test_a_missing_folder_is_the_users_error(here: Path, steps: list[tuple[str, ...]]) -> None:
    """It is told before anything is done."""
    with pytest.raises(DataError, match="no such folder"):
        ensure(here, here / "nowhere")
    assert steps == []


def test_a_model_of_the_users_own_is_not_trained(here: Path, steps: list[tuple[str, ...]]) -> None:
    """config.properties may name other models; their archives are the user's to make."""
    write_manifest(here / "data" / "demo-pandas", "hash-of-pandas")
    with pytest.raises(ConfigError, match=r"mine\.mar is to be made, but `maskserve up` makes only"):
        first_run.ensure_archives({"mine": "mine.mar"}, here / "store", None, preset="quick", retrain=False)


def test_an_archive_has_the_name_that_config_properties_gives_it(here: Path, steps: list[tuple[str, ...]]) -> None:
    """`load_models=model=file`: the file is looked for, and never made under the model's name in its place."""
    write_manifest(here / "data" / "demo-pandas", "hash-of-pandas")
    archives = {MODEL_R50: "november.mar"}
    with pytest.raises(ConfigError, match=r"november\.mar is to be made"):
        first_run.ensure_archives(archives, here / "store", None, preset="quick", retrain=False)
    write_archive(here / "store", "november", "something else")
    first_run.ensure_archives(archives, here / "store", None, preset="quick", retrain=False)
    assert steps == []


def test_a_step_that_fails_ends_it(here: Path) -> None:
    """The real command is run, and its failure is ours."""
    with pytest.raises(ConfigError, match="did not finish"):
        first_run.maskserve("data", "import", "nowhere", "-o", "out", why="to see it fail")
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGKILL, "SIGKILL, probably because memory was short;"), (signal.SIGSEGV, "SIGSEGV;")]
)
def test_a_step_that_is_killed_ends_it_and_says_by_what(
    here: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, said: str
) -> None:
    """The kernel kills where memory is short, and the step cannot say it itself."""
    died = here / "python"
    died.write_text(f"#!/bin/sh\nkill -{number} $$\n")
    died.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(died))
    with pytest.raises(ConfigError, match=rf"`maskserve train all` was ended by {said} nothing is being served"):
        first_run.maskserve("train", "all", why="to see it killed")


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell a child that its parent is gone")
def test_a_step_ends_with_a_process_that_is_killed(here: Path) -> None:
    """As with Ctrl-C: no process is left, and no photos that are not all there."""
    program = (
        "import signal; from maskserve.cli.first_run import maskserve\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as `up` does
        "maskserve('data', 'make-pandas', 'photos', '--train', '5000', why='it takes long')"
    )
    with subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"TMPDIR": str(here)}) as starter:
        assert until(lambda: [*here.rglob("*.jpg")])
        (step,) = psutil.Process(starter.pid).children()
        starter.kill()
    assert until(lambda: ended([step]))
    assert not [*here.rglob("*.jpg")]


def test_the_sample_photo_is_one_of_the_users(here: Path) -> None:
    """The printed curl line works when pasted."""
    write_manifest(here / "mine", "hash")
    assert first_run.sample_photo(here / "mine") == Path("mine/photos/1.jpg")


def test_without_data_the_sample_is_of_what_an_archive_was_trained_on(here: Path) -> None:
    """`maskserve train` and `package` before a plain `up`; a machine may lack the photos of some archives."""
    write_manifest(here / "mine", "hash")
    write_archive(here / "store", MODEL_R50, "hash", data=str(here / "moved"))
    write_archive(here / "store", MODEL_MNV2, "hash", data=str(here / "mine"))
    archives = [here / "store" / "none.mar", *(here / "store" / name for name in ARCHIVES.values())]
    assert first_run.sample_photo(None, archives) == Path("mine/photos/1.jpg")


def test_without_photos_a_sample_is_drawn(here: Path) -> None:
    """Archives may have come from elsewhere."""
    photo = first_run.sample_photo(None)
    assert photo.read_bytes().startswith(b"\xff\xd8\xff")


def test_where_no_sample_can_be_drawn_it_is_only_named(here: Path) -> None:
    """Archives are served all the same, also for one who may not write here, and for a split without photos."""
    (here / "data").touch()
    assert first_run.sample_photo(None) == Path("photo.jpg")
    write_manifest(here / "mine", "hash")
    (here / "mine" / "test.json").write_text('{"images": []}')
    assert first_run.sample_photo(here / "mine") == Path("mine/photos/1.jpg")
