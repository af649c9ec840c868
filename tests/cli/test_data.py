"""`maskserve data`: exit codes, JSON for machines, one clear last line."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from maskserve.cli.main import main
from tests.training.datasets.coco_files import SQUARE, annotation, write_coco
from tests.training.datasets.labelme_files import square, write_labelme
from tests.training.datasets.via_files import polygon, write_via


def _run(*words: object) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, words)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(10):
        write_labelme(tmp_path / "in" / str(number), [square("cat" if number % 2 else "dog")])
    return tmp_path / "in"


def test_drawn_pandas_go_the_way_of_a_users_photos(tmp_path: Path) -> None:
    drawn = _run("make-pandas", tmp_path / "pandas", "--train", 6, "--test", 3)
    assert drawn.exit_code == 0, drawn.output
    assert drawn.stdout.strip().endswith(f"maskserve data import {tmp_path / 'pandas'} -o dataset")
    imported = _run("import", tmp_path / "pandas", "-o", tmp_path / "set")
    assert imported.exit_code == 0, imported.output
    assert imported.stdout.strip().endswith(f"maskserve train all --data {tmp_path / 'set'}")
    checked = _run("check", tmp_path / "pandas", tmp_path / "set")
    assert checked.exit_code == 0, checked.output
    assert checked.stdout.strip().endswith("Ready to train.")
    shown = _run("show", tmp_path / "set", "-o", tmp_path / "sheet.png", "--count", 4)
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_command_that_comes_next_can_be_pasted_whatever_the_folder_is_called(folder: Path, tmp_path: Path) -> None:
    """A shell takes blanks and brackets in a path for its own."""
    given = folder.rename(tmp_path / "my photos (new)")
    manifests, labels, drawn = (tmp_path / f"{given.name} {number}" for number in range(3))
    said = [
        _run("import", given, "-o", manifests),
        _run("export", manifests, "-o", labels),
        _run("make-pandas", drawn, "--train", 1, "--test", 0),
    ]
    pasted = [shlex.split(one.stdout[one.stdout.rindex("maskserve ") :]) for one in said]
    assert pasted == [
        ["maskserve", "train", "all", "--data", str(manifests)],
        ["maskserve", "data", "import", str(labels), "-o", "dataset"],
        ["maskserve", "data", "import", str(drawn), "-o", "dataset"],
    ]


def test_an_import_prints_json_for_machines(folder: Path, tmp_path: Path) -> None:
    summary = json.loads(_run("import", folder, "-o", tmp_path / "set", "--json").stdout)
    assert summary["class_names"] == ["cat", "dog"]
    assert summary["images"] == {"train": 8, "test": 2}
    assert summary["instances"]["test"] == {"cat": 1, "dog": 1}
    assert len(summary["data_hash"]) == 64


def test_a_label_list_is_read_from_a_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndog\n\ncat\n")
    summary = json.loads(
        _run("import", folder, "-o", tmp_path / "set", "--json", "--labels", tmp_path / "labels.txt").stdout
    )
    assert summary["class_names"] == ["dog", "cat"]


def test_warnings_of_an_import_are_told_and_not_all_of_many(folder: Path, tmp_path: Path) -> None:
    point = {"label": "cat", "points": [[1, 1]], "shape_type": "point"}
    write_labelme(folder / "points", [point] * 12)
    result = _run("import", folder, "-o", tmp_path / "set")
    assert result.exit_code == 0
    assert result.stderr.count("no-area") == 10
    assert "and 2 more; see them all with --json" in result.stderr


def test_the_commands_first_name_still_works_and_is_not_listed(folder: Path, tmp_path: Path) -> None:
    result = _run("import-labelme", folder, "-o", tmp_path / "set")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "set/train.json").is_file()
    assert "import-labelme" not in _run("--help").stdout


def test_via_labels_are_imported_with_the_attribute_that_is_the_class(tmp_path: Path) -> None:
    corners = [(1, 1), (30, 1), (30, 30)]
    path = write_via(tmp_path / "via.json", {f"{n}.jpg": [polygon(corners, kind="cat", sex="f")] for n in range(5)})
    refused = _run("import", path, "-o", tmp_path / "set")
    assert refused.exit_code == 1
    assert "kind (cat); sex (f)" in refused.stderr
    imported = _run("import", path, "-o", tmp_path / "set", "--via-attribute", "kind", "--json")
    assert json.loads(imported.stdout)["class_names"] == ["cat"]


def test_a_dataset_goes_out_to_labelme_and_in_again(folder: Path, tmp_path: Path) -> None:
    _run("import", folder, "-o", tmp_path / "set")
    exported = _run("export", tmp_path / "set", "--format", "labelme", "-o", tmp_path / "labels")
    assert exported.exit_code == 0, exported.output
    again = f"maskserve data import {tmp_path / 'labels'} -o dataset"
    assert exported.stdout.strip().endswith(
        f"10 files with 10 polygons in {tmp_path / 'labels'}. Next: correct them in labelme, then {again}"
    )
    first, second = (
        json.loads(_run("import", path, "-o", tmp_path / "again", "--json").stdout)
        for path in (tmp_path / "set", tmp_path / "labels")
    )
    assert first == second
    assert _run("export", tmp_path / "set", "-o", tmp_path / "labels").exit_code == 1
    replaced = _run("export", tmp_path / "set", "-o", tmp_path / "labels", "--overwrite", "--json")
    assert json.loads(replaced.stdout)["shapes"] == 10


def test_check_exits_with_1_on_errors_and_names_file_and_shape(folder: Path) -> None:
    path = write_labelme(folder / "bad", [square("cat"), square("cat", points=[[1, 1], [2, 2]])])
    result = _run("check", folder)
    assert result.exit_code == 1
    assert f"error: {path}, shape 1: " in result.stdout
    assert result.stdout.strip().endswith(
        "11 photos checked: 1 error, 2 warnings. Correct the errors, then check again."
    )


def test_check_exits_with_0_on_warnings(folder: Path) -> None:
    write_labelme(folder / "none", [])
    result = _run("check", folder)
    assert result.exit_code == 0
    assert "0 errors, 3 warnings." in result.stdout


def test_check_prints_json_for_machines(folder: Path) -> None:
    path = write_labelme(folder / "bad", [square("cat", points=[])])
    result = _run("check", folder, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (report["photos"], report["errors"], report["warnings"]) == (11, 1, 3)
    assert report["codes"] == {"class-imbalance": 2, "empty-polygon": 1, "no-labels": 1}
    assert report["findings"][0]["file"] == str(path)


@pytest.mark.parametrize(
    "words",
    [
        ("import", "nowhere"),
        ("import", "empty"),
        ("import", "broken"),
        ("export", "nowhere", "-o", "labels"),
        ("export", "broken", "-o", "labels"),
        ("check", "nowhere"),
        ("check", "empty"),
        ("show", "nowhere"),
        ("show", "broken"),
        ("make-pandas", "broken"),
        ("import", "good", "--labels", "nowhere.txt"),
        ("check", "good", "--labels", "empty.txt"),
        ("check", "good", "--fix", "-o", "good"),
        ("check", "good", "--fix", "-o", "broken"),
        ("check", "nowhere", "--fix", "-o", "fixed"),
        ("card", "nowhere"),
        ("card", "broken"),
    ],
)
def test_bad_input_ends_with_one_message_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/a.json").write_text("{")
    Path("empty.txt").touch()
    write_labelme(Path("good/a"), [square("cat")])
    before = sorted(tmp_path.rglob("*"))
    result = _run(*words)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("import",),
        ("import", "x", "--test-fraction", "2"),
        ("import", "x", "--test-fraction", "0.6", "--val-fraction", "0.6"),
        ("export", "x"),
        ("export", "x", "-o", "labels", "--format", "voc"),
        ("make-pandas", "x", "--train", "0"),
        ("show", "x", "--count", "0"),
        ("check", "x", "--fix"),
        ("check", "x", "-o", "y"),
        ("check", "x", "y", "--fix", "-o", "z"),
    ],
)
def test_a_wrong_command_line_exits_with_2(words: tuple[str, ...]) -> None:
    assert _run(*words).exit_code == 2


@pytest.mark.parametrize("command", ["import", "export", "check", "card", "show", "make-pandas"])
def test_help_has_an_example(command: str) -> None:
    result = _run(command, "--help")
    assert result.exit_code == 0
    assert f"maskserve data {command} " in result.stdout


@pytest.mark.parametrize("command", ["import", "export"])
def test_the_docs_name_every_option(repo_root: Path, command: str) -> None:
    text = (repo_root / "docs/data.md").read_text()
    options = re.findall(r"--[a-z][a-z-]+", _run(command, "--help").stdout)
    assert [option for option in options if option != "--help" and option not in text] == []


def test_help_loads_neither_numpy_nor_torch() -> None:
    code = "import maskserve.cli.data, sys; print([m for m in ('numpy', 'torch', 'cv2', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_check_repairs_into_a_new_folder_and_says_what_is_left(folder: Path, tmp_path: Path) -> None:
    tie = square("caat", points=[[10, 10], [30, 30], [30, 10], [10, 30]])
    path = write_labelme(folder / "bad", [tie, square("zebra")])
    (tmp_path / "labels.csv").write_text("label,class\nkitten,cat\ndog,dog\n")
    before = path.read_bytes()
    result = _run("check", folder, "--labels", tmp_path / "labels.csv", "--fix", "-o", tmp_path / "fixed")
    assert result.exit_code == 1
    assert f"repaired: 1 × self-intersecting, first {path}, shape 0: " in result.stdout
    assert "repaired: 1 × unknown-label, first" in result.stdout
    assert f"2 repairs, written to {tmp_path / 'fixed'}; {folder} is as it was. Left for a person:" in result.stdout
    assert f"error: {tmp_path / 'fixed/bad.json'}, shape 2: the label 'zebra' is not in the label list" in result.stdout
    assert result.stdout.strip().endswith("Correct the errors, then check again.")
    assert path.read_bytes() == before
    labels = [shape["label"] for shape in json.loads((tmp_path / "fixed/bad.json").read_text())["shapes"]]
    assert labels == ["cat", "cat", "zebra"]


def test_repairs_are_told_as_json_for_machines(folder: Path, tmp_path: Path) -> None:
    write_labelme(folder / "bad", [square("cat"), square("cat", 300)])
    result = _run("check", folder, "--fix", "-o", tmp_path / "fixed", "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["errors"], report["output"]) == (0, 0, str(tmp_path / "fixed"))
    assert [(change["code"], change["shape"]) for change in report["changes"]] == [("outside-image", 1)]
    assert report["codes"] == {"class-imbalance": 2}


def test_a_label_table_merges_classes_on_import(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.yaml").write_text("cat: animal\ndog: animal\n")
    words = ("import", folder, "-o", tmp_path / "set", "--json", "--labels", tmp_path / "labels.yaml")
    assert json.loads(_run(*words).stdout)["instances"] == {"train": {"animal": 8}, "test": {"animal": 2}}


def test_a_data_card_is_one_page_and_json(folder: Path, tmp_path: Path) -> None:
    words = ("--title", "Pets", "--source", "our garden", "--licence", "CC BY 4.0", "--json")
    result = _run("card", folder, "-o", tmp_path / "new/card.html", *words)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["title"], told["objects"]["cat"]) == ("Pets", {"all": 5})
    page = (tmp_path / "new/card.html").read_text()
    for word in ("<title>Pets: data card</title>", "our garden", "CC BY 4.0", "data:image/jpeg;base64,"):
        assert word in page
    assert result.stderr.strip().startswith(f"{tmp_path / 'new/card.html'}: the card of 10 photos.")


def test_what_is_left_of_a_repaired_file_of_any_name_is_told(tmp_path: Path) -> None:
    """CVAT calls its COCO files `instances_default.json`."""
    path = write_coco(tmp_path / "in/instances_default.json", [annotation(1, [SQUARE]), annotation(2, [[300, 1] * 3])])
    result = _run("check", path, "--fix", "-o", tmp_path / "fixed", "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, [change["annotation"] for change in report["changes"]]) == (0, [1, 2])
    assert {finding["file"] for finding in report["findings"]} == {str(tmp_path / "fixed/instances_default.json")}


def test_a_file_name_that_is_no_utf_8_is_printed_with_escapes(tmp_path: Path) -> None:
    write_labelme(tmp_path / "in" / os.fsdecode(b"caf\xe9"), [square("cat", -15)])
    assert "caf\\udce9.json, shape 0: 'cat' reaches 15 px outside" in _run("check", tmp_path / "in").stdout
    findings = json.loads(_run("check", tmp_path / "in", "--json").stdout)["findings"]
    assert Path(findings[0]["file"]).name == os.fsdecode(b"caf\xe9.json")


def test_a_folder_that_is_no_utf_8_has_a_card(tmp_path: Path) -> None:
    write_labelme(tmp_path / os.fsdecode(b"caf\xe9") / "a", [square("cat")])
    result = _run("card", tmp_path / os.fsdecode(b"caf\xe9"), "-o", tmp_path / "card.html")
    assert result.exit_code == 0, result.output
    assert "caf\\udce9" in (tmp_path / "card.html").read_text(encoding="utf-8")
