"""`maskserve predict` against a TorchServe on loopback."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pycocotools import mask as coco_mask

from maskserve.cli.main import main
from maskserve.cli.predict_output import LabelmeFolder
from maskserve.client import Client
from maskserve.imaging.rle import rle_iou
from maskserve.protos import wire
from maskserve.protos.types import MaskRle
from maskserve.training.datasets.importing import ImportOptions, import_labels
from tests.fakes.torchserve import FakeTorchServe
from tests.labelme_loader import load_with_labelme


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two photos and a text file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (120, 80), "green").save(folder / "a.jpg")
    Image.new("RGB", (80, 120), "brown").save(folder / "b.png")
    (folder / "notes.txt").write_text("no photo")
    return folder


def run(server: FakeTorchServe, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", "--address", server.address, *map(str, arguments)])


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


@pytest.mark.parametrize(("name", "kind"), [("overlay.png", "PNG"), ("overlay.JPG", "JPEG")])
def test_one_photo_to_one_picture(
    fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path, name: str, kind: str
) -> None:
    """The overlay has the photo's size and the kind that its name says; the last line says where it is."""
    answer = run(fake_torchserve, photos / "a.jpg", "-o", tmp_path / name)
    assert answer.exit_code == 0, answer.output
    with Image.open(tmp_path / name) as picture:
        assert (picture.format, picture.size) == (kind, (120, 80))
    assert "1 giant panda, 1 red panda" in answer.stdout
    assert answer.stderr.splitlines()[-1] == f"1 photo answered, overlay in {tmp_path / name}"


def test_a_folder_to_a_folder(fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path) -> None:
    """Each photo of the folder has its overlay; what is no photo by its name is left alone."""
    answer = run(fake_torchserve, photos, "-o", tmp_path / "new" / "out")
    assert answer.exit_code == 0, answer.output
    names = sorted(path.name for path in (tmp_path / "new" / "out").iterdir())
    assert names == ["a_overlay.jpg", "b_overlay.jpg"]
    assert "2 photos answered" in answer.stderr


def test_photos_of_one_name_do_not_overwrite_each_other(
    fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path
) -> None:
    """a.jpg of two folders makes two overlays."""
    (tmp_path / "more").mkdir()
    Image.new("RGB", (50, 50)).save(tmp_path / "more" / "a.jpg")
    run(fake_torchserve, photos / "a.jpg", tmp_path / "more" / "a.jpg", "-o", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_2_overlay.jpg", "a_overlay.jpg"]


def test_a_number_is_no_name_of_another_photo(fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path) -> None:
    """a.png gets a number, and not that of a_2.jpg; A.webp is not told from a.jpg by every file system."""
    for name in ("a.png", "a_2.jpg", "A.webp"):
        Image.new("RGB", (50, 50)).save(photos / name)
    answer = run(fake_torchserve, photos, "-o", tmp_path / "out")
    assert "5 photos answered" in answer.stderr
    names = {path.name.casefold() for path in (tmp_path / "out").iterdir()}
    assert len(names) == 5, names


def test_no_overlay_is_written_over_a_photo(fake_torchserve: FakeTorchServe, photos: Path) -> None:
    """The photos' own folder may be the overlays' one, again and again."""
    for words in ((photos, "-o", photos), (photos, "-o", photos), (photos / "a.jpg", "-o", photos / "a.jpg")):
        before = {path: path.read_bytes() for path in photos.iterdir()}
        answer = run(fake_torchserve, *words)
        assert {path: path.read_bytes() for path in before} == before
    assert answer.exit_code == 2
    assert "this is the photo itself" in answer.stderr


@pytest.mark.parametrize("name", ["x.jsonl", "x.png"])
def test_a_folder_in_the_place_of_a_file_is_said_before_a_photo_is_asked_about(
    fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path, name: str
) -> None:
    """Not after the last one."""
    (tmp_path / name).mkdir()
    answer = run(fake_torchserve, photos / "a.jpg", "-o", tmp_path / name)
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert f"-o {tmp_path / name}: this is a folder" in answer.stderr
    assert not fake_torchserve.calls


def test_a_glob_that_the_shell_left_alone(fake_torchserve: FakeTorchServe, tmp_path: Path, photos: Path) -> None:
    """`**` reaches into folders, and each photo is asked once."""
    answer = run(fake_torchserve, tmp_path / "**" / "*", photos / "a.jpg", "--json")
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [Path(line["photo"]).name for line in lines] == ["a.jpg", "b.png"]


def test_json_lines_on_stdout(fake_torchserve: FakeTorchServe, photos: Path) -> None:
    """stdout is JSON alone, one object a photo, in the shape of the REST API."""
    answer = run(fake_torchserve, photos, "--json", "-m", wire.MODEL_MNV2)
    first, second = (json.loads(line) for line in answer.stdout.splitlines())
    assert (first["size"], second["size"]) == ([80, 120], [120, 80])
    assert first["model"]["name"] == wire.MODEL_MNV2
    assert first["instances"][0]["mask_rle"]["size"] == [80, 120]


def test_json_lines_in_a_file(fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path) -> None:
    """With polygons, when asked for; the file appears whole."""
    answer = run(fake_torchserve, photos, "-o", tmp_path / "x.jsonl", "--mask-format", "polygon")
    assert answer.exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert "mask_rle" not in lines[0]["instances"][0]
    assert len(lines[0]["instances"][0]["mask_polygons"][0]) > 8
    assert leftovers(tmp_path) == []


def test_a_folder_of_labels_for_a_person_to_correct(
    fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path
) -> None:
    """One labelme file a photo: the class is the label, the description has score and model, the photo stays."""
    answer = run(fake_torchserve, photos, "--format", "labelme", "-o", tmp_path / "labels")
    assert answer.exit_code == 0, answer.output
    assert answer.stderr.splitlines()[-1] == f"2 photos answered, labels of 2 in {tmp_path / 'labels'}/"
    files = sorted((tmp_path / "labels").iterdir())
    assert [file.name for file in files] == ["a.json", "b.json"]
    content = json.loads(files[1].read_text())
    assert (content["imagePath"], content["imageHeight"], content["imageWidth"]) == ("../photos/b.png", 120, 80)
    assert sorted({shape["label"] for shape in content["shapes"]}) == ["giant panda", "red panda"]
    assert re.fullmatch(r"score 0\.\d\d, mask_rcnn_r50_fpn 1\.0", content["shapes"][0]["description"])


def test_labelme_itself_loads_the_labels_and_data_import_takes_them(
    fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path
) -> None:
    """Its own loader finds the photos and the outlines; beside the photos an import trains on them."""
    run(fake_torchserve, photos, "--format", "labelme", "-o", photos)
    loaded = load_with_labelme([photos / "a.json", photos / "b.json"])
    assert [file["imagePath"] for file in loaded] == ["a.jpg", "b.png"]
    assert all(len(shape["points"]) >= 3 for file in loaded for shape in file["shapes"])
    imported = import_labels([photos], tmp_path / "dataset", ImportOptions(test_fraction=0))
    assert imported.counts["train"] == {"giant panda": 2, "red panda": 2}
    assert imported.warnings == ()


def test_the_outlines_fill_to_the_masks_of_the_answer(fake_torchserve: FakeTorchServe, photos: Path) -> None:
    """IoU of each object's polygons with its mask is 0.97 or more, with a few points each."""
    answer = json.loads(run(fake_torchserve, photos / "a.jpg", "--json").stdout)
    run(fake_torchserve, photos / "a.jpg", "--format", "labelme", "-o", photos)
    for instance in answer["instances"]:
        shapes = json.loads((photos / "a.json").read_text())["shapes"]
        flat = [[v for point in s["points"] for v in point] for s in shapes if s["label"] == instance["class_name"]]
        drawn = coco_mask.merge(coco_mask.frPyObjects(flat, *instance["mask_rle"]["size"]))
        assert (
            rle_iou(MaskRle((80, 120), drawn["counts"].decode()), MaskRle((80, 120), instance["mask_rle"]["counts"]))
            >= 0.97
        )
        assert sum(map(len, flat)) < 2 * 60


def test_labels_that_are_there_are_kept_and_their_photos_not_even_asked_about(
    fake_torchserve: FakeTorchServe, photos: Path
) -> None:
    """They may be a person's work; --overwrite replaces them."""
    (photos / "a.json").write_text("a person's work")
    answer = run(fake_torchserve, photos, "--format", "labelme", "-o", photos)
    assert answer.exit_code == 0
    assert (photos / "a.json").read_text() == "a person's work"
    assert len(fake_torchserve.calls) == 1
    assert answer.stderr.splitlines()[-1] == (
        f"1 photo answered, labels of 1 in {photos}/, 1 kept as they were (--overwrite replaces them)"
    )
    run(fake_torchserve, photos, "--format", "labelme", "-o", photos, "--overwrite")
    assert json.loads((photos / "a.json").read_text())["imagePath"] == "a.jpg"


@pytest.mark.parametrize("words", [(), ("--overwrite",)])
def test_labels_of_another_photo_of_that_name_are_no_reason_not_to_ask(
    fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Cameras begin anew with IMG_1 each day: the second day's labels get a number, and keep it when asked again."""
    days = [tmp_path / name / "a.jpg" for name in ("day1", "day2")]
    for photo in days:
        photo.parent.mkdir()
        shutil.copy(photos / "a.jpg", photo)
    for photo in days:
        run(fake_torchserve, photo, "--format", "labelme", "-o", tmp_path / "labels", *words)
    again = run(fake_torchserve, days[1], "--format", "labelme", "-o", tmp_path / "labels", *words)
    assert again.stderr.startswith("1 photo answered, labels of 1" if words else "0 photos answered, 1 kept")
    named = {file.name: json.loads(file.read_text())["imagePath"] for file in (tmp_path / "labels").iterdir()}
    assert named == {"a.json": "../day1/a.jpg", "a_2.json": "../day2/a.jpg"}


def test_labels_saved_while_the_photo_was_asked_about_are_kept(fake_torchserve: FakeTorchServe, photos: Path) -> None:
    """A person may save a file in labelme while predictions run."""
    folder = LabelmeFolder(photos, [photos / "a.jpg"], overwrite=False)
    (photos / "a.json").write_text("a person's work")
    with Client(fake_torchserve.address) as client:
        folder.keep(photos / "a.jpg", b"", client.predict((photos / "a.jpg").read_bytes(), model=wire.MODEL_R50))
    assert (photos / "a.json").read_text() == "a person's work"
    assert folder.finish() == "1 kept as they were (--overwrite replaces them)"


@pytest.mark.parametrize("words", [(), ("-o", "x.png"), ("-o", "x.jsonl"), ("-o", "x", "--mask-format", "none")])
def test_labels_need_a_folder_and_masks(fake_torchserve: FakeTorchServe, photos: Path, words: tuple[str, ...]) -> None:
    """Anything else is a wrong command line."""
    assert run(fake_torchserve, photos / "a.jpg", "--format", "labelme", *words).exit_code == 2


@pytest.mark.parametrize("fault", ["out_of_memory", "overloaded", "reply_too_large", "handler_failed"])
def test_a_photo_that_the_server_fails_on_is_one_line_and_the_rest_goes_on(
    fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path, fault: str
) -> None:
    """Even when the second try fails, too."""
    fake_torchserve.play(wire.MODEL_R50, fault, *([fault] if fault == "out_of_memory" else []))
    answer = run(fake_torchserve, photos, "-o", tmp_path / "x.jsonl")
    assert answer.exit_code == 1
    assert answer.stderr.startswith(f"{photos / 'a.jpg'}: ")
    assert answer.stderr.splitlines()[-1] == f"1 photo answered, answers in {tmp_path / 'x.jsonl'}, 1 failed"
    (line,) = (tmp_path / "x.jsonl").read_text().splitlines()
    assert json.loads(line)["photo"] == str(photos / "b.png")


def test_what_was_answered_before_the_server_went_away_is_kept(
    fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path
) -> None:
    """Under a name that says that there is more; the answers of an earlier run stay, and the next run begins anew."""
    (tmp_path / "x.jsonl").write_text("of yesterday")
    fake_torchserve.play(wire.MODEL_R50, "slow", "drifted")
    answer = run(fake_torchserve, photos, "-o", tmp_path / "x.jsonl")
    assert answer.exit_code == 1
    kept, error = answer.stderr.splitlines()
    assert kept == f"1 photo answered, answers in {tmp_path / 'x.jsonl.part'}"
    assert error.startswith("error: ")
    assert (tmp_path / "x.jsonl").read_text() == "of yesterday"
    assert json.loads((tmp_path / "x.jsonl.part").read_text())["photo"] == str(photos / "a.jpg")
    run(fake_torchserve, photos, "-o", tmp_path / "x.jsonl")
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "x.jsonl.part").exists()


def test_ctrl_c_keeps_what_was_answered(
    fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line before "stopped" says how much and where."""
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: _interrupt() if path.name == "b.png" else read(path))
    answer = run(fake_torchserve, photos, "-o", tmp_path / "x.jsonl")
    assert answer.exit_code == 130
    assert answer.stderr.splitlines() == [f"1 photo answered, answers in {tmp_path / 'x.jsonl.part'}", "stopped"]
    assert len((tmp_path / "x.jsonl.part").read_text().splitlines()) == 1


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


def test_options_are_passed_on(fake_torchserve: FakeTorchServe, photos: Path) -> None:
    """Threshold, count, classes, masks and version arrive at the server."""
    run(fake_torchserve, photos / "a.jpg", "--score-threshold", 0.8, "--max-instances", 3, "--class", "red panda",
        "--class", "giant panda", "--mask-format", "none", "--version", "1.0")  # fmt: skip
    call = fake_torchserve.calls[-1]
    assert (call.options.score_threshold, call.options.max_instances) == (pytest.approx(0.8), 3)
    assert call.options.class_names == ("red panda", "giant panda")
    assert (call.options.mask_format, call.version) == ("none", "1.0")


def test_a_bad_photo_is_one_line_and_the_rest_goes_on(
    fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path
) -> None:
    """The exit code is 1, the line names the photo, and the other overlays are made."""
    (photos / "aa_broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    answer = run(fake_torchserve, photos, "-o", tmp_path / "out")
    assert answer.exit_code == 1
    lines = answer.stderr.splitlines()
    assert len([line for line in lines if "aa_broken.jpg" in line]) == 1
    assert "2 photos answered" in lines[-1]
    assert "1 failed" in lines[-1]
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_photo_that_is_too_long_for_its_overlay_is_one_line_and_the_rest_goes_on(
    fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path
) -> None:
    """A JPEG has no side of 66,000 px; what was not made is not said to be there."""
    Image.new("RGB", (66_000, 8)).save(photos / "aa_strip.png")
    answer = run(fake_torchserve, photos, "-o", tmp_path / "out")
    assert answer.exit_code == 1
    assert "aa_strip.png: A JPEG may have 65500 px a side" in answer.stderr
    assert "aa_strip" not in answer.stdout
    assert answer.stderr.splitlines()[-1] == f"2 photos answered, overlays in {tmp_path / 'out'}/, 1 failed"


def test_a_file_that_may_not_be_read_is_one_line_and_the_rest_goes_on(
    fake_torchserve: FakeTorchServe, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is gone by now."""
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: _refuse() if path.name == "a.jpg" else read(path))
    answer = run(fake_torchserve, photos)
    assert answer.stderr.splitlines() == [f"{photos / 'a.jpg'}: Permission denied", "1 photo answered, 1 failed"]


def _refuse() -> NoReturn:
    raise PermissionError(13, "Permission denied")


def test_an_unknown_class_is_said_once_for_each_photo(fake_torchserve: FakeTorchServe, photos: Path) -> None:
    """With what the model knows instead."""
    answer = run(fake_torchserve, photos / "a.jpg", "--class", "unicorn")
    assert answer.exit_code == 1
    assert "giant panda" in answer.stderr


def test_a_photo_that_is_not_there(fake_torchserve: FakeTorchServe, tmp_path: Path) -> None:
    """One clear line and exit code 1; nothing is sent."""
    answer = run(fake_torchserve, tmp_path / "none.jpg")
    assert answer.exit_code == 1
    assert answer.stderr.count("\n") == 1
    assert "none.jpg" in answer.stderr
    assert not fake_torchserve.attempts


def test_a_folder_without_photos(fake_torchserve: FakeTorchServe, tmp_path: Path) -> None:
    """The line says what counts as a photo."""
    answer = run(fake_torchserve, tmp_path)
    assert answer.exit_code == 1
    assert ".webp" in answer.stderr


def test_no_server(photos: Path, tmp_path: Path) -> None:
    """TorchServe not running: one line, exit code 1, nothing half-written."""
    answer = CliRunner().invoke(
        main, ["predict", str(photos), "--address", "127.0.0.1:9", "-o", str(tmp_path / "out.jsonl")]
    )
    assert answer.exit_code == 1
    assert "is it running" in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_an_unknown_model(fake_torchserve: FakeTorchServe, photos: Path) -> None:
    """Stops at the first photo: no other one would fare better."""
    answer = run(fake_torchserve, photos, "-m", "nope")
    assert answer.exit_code == 1
    assert "not loaded" in answer.stderr
    assert fake_torchserve.attempts["nope"] == 1


def test_several_photos_do_not_fit_into_one_picture(fake_torchserve: FakeTorchServe, photos: Path) -> None:
    """That is a wrong command line: exit code 2."""
    assert run(fake_torchserve, photos, "-o", "one.png").exit_code == 2


def test_tokens(photos: Path, tmp_path: Path) -> None:
    """A token comes from the option, from the environment, or from a file."""
    (tmp_path / "key").write_text("open-sesame")
    with FakeTorchServe(token="open-sesame") as server:
        assert run(server, photos / "a.jpg").exit_code == 1
        assert run(server, photos / "a.jpg", "--token", "open-sesame").exit_code == 0
        assert run(server, photos / "a.jpg", "--token-file", tmp_path / "key").exit_code == 0
        assert run(server, photos / "a.jpg", "--token-file", tmp_path / "none").exit_code == 1
        assert run(server, photos / "a.jpg", "--token", "a", "--token-file", "b").exit_code == 2


@pytest.mark.parametrize("words", [(), ("--format", "labelme")])
def test_the_command_needs_no_torch(
    fake_torchserve: FakeTorchServe, photos: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """A machine with the base install alone can ask: neither torch nor shapely nor flask is loaded."""
    arguments = ["predict", str(photos), "--address", fake_torchserve.address, "-o", str(tmp_path / "out"), *words]
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom maskserve.cli.main import main\n"
        f"answer = CliRunner().invoke(main, {arguments!r})\n"
        "print(answer.exit_code, sorted({'torch', 'flask', 'detectron2', 'matplotlib', 'shapely'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 []"


@pytest.mark.kit
def test_a_real_photo(fake_torchserve: FakeTorchServe, kit: Path, tmp_path: Path) -> None:
    """A real photo goes through the real gRPC and comes back as a picture."""
    photo = next((kit / "photos" / "red-panda").glob("*.jpg"))
    assert run(fake_torchserve, photo, "-o", tmp_path / "o.png").exit_code == 0
    with Image.open(tmp_path / "o.png") as picture, Image.open(photo) as original:
        assert picture.size == original.size
