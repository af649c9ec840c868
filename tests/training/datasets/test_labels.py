"""A list or a table says which labels there may be and which class each means."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskserve.protos.errors import DataError
from maskserve.training.datasets.labels import IGNORED_LABEL, LabelTable, read_label_table


def _written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_list_keeps_its_order_and_leaves_labelmes_own_words_out(tmp_path: Path) -> None:
    table = read_label_table(_written(tmp_path, "labels.txt", "__ignore__\n_background_\ndog\n\n  cat \n"))
    assert table == LabelTable.of_names(["dog", "cat"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'label,class\n"panda, giant",giant panda\nred,red panda\nblurred,\n'),
        ("t.CSV", '"panda, giant", giant panda\n\nred,red panda\nblurred,__ignore__\n'),
        ("t.tsv", "panda, giant\tgiant panda\nred\tred panda\nblurred\t\n"),
        ("t.yaml", "panda, giant: giant panda\nred: red panda\nblurred:\n"),
        ("t.yml", '{"panda, giant": giant panda, "red": "red panda", blurred: null}'),
    ],
)
def test_every_way_to_write_a_table_says_the_same(tmp_path: Path, name: str, text: str) -> None:
    table = read_label_table(_written(tmp_path, name, text))
    assert table.class_names == ("giant panda", "red panda")
    labels = ["panda, giant", "giant panda", "red", "blurred", "bear"]
    assert [table.class_of(label) for label in labels] == [
        *("giant panda", "giant panda", "red panda", IGNORED_LABEL, "bear")
    ]


def test_yaml_takes_a_list_and_its_words_as_they_are_written(tmp_path: Path) -> None:
    table = read_label_table(_written(tmp_path, "t.yaml", "- no\n- 12\n- yes\n"))
    assert table.class_names == ("no", "12", "yes")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.txt", "", "names no class"),
        ("t.txt", "cat\ndog\ncat\n", "line 3: 'cat' stands in line 1 already"),
        ("t.csv", "label,class\ncat\n", "line 2: has 1 columns"),
        ("t.csv", "cat,feline\n\n,dog\n", "line 3: has no label"),
        ("t.csv", 'cat,feline\n"dog,canine\n', "line 2: "),
        ("t.csv", "cat,feline\ndog,canine\ncat,dog\n", "line 3: 'cat' stands in line 1 already"),
        ("t.tsv", "cat,feline\n", "line 1: has 1 columns"),
        ("t.csv", "kitten,cat\ncat,feline\n", "line 1: the class 'cat' is itself a label that line 2 makes 'feline'"),
        ("t.csv", "kitten,\n", "names no class"),
        ("t.yaml", "cat: [1, 2]\n", "line 1: needs one class name"),
        ("t.yaml", "cat: feline\ndog: canine\ncat: tiger\n", "line 3: 'cat' stands in line 1 already"),
        ("t.yaml", "cat: feline\ndog: {\n", "line 3: is no YAML"),
        ("t.yaml", "cat", "needs lines of"),
        ("t.yaml", "", "needs lines of"),
    ],
)
def test_a_mistake_is_told_with_its_file_and_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = _written(tmp_path, name, text)
    with pytest.raises(DataError) as caught:
        read_label_table(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "nowhere.txt", tmp_path / "bytes.txt"):
        with pytest.raises(DataError, match="cannot be read as a list of labels"):
            read_label_table(path)


@pytest.mark.parametrize(
    ("written", "became"),
    [
        ("giant pnada", "giant panda"),
        ("Giant_Panda", "giant panda"),
        ("giantpanda", "giant panda"),
        ("panda", "giant panda"),
        ("zebra", "zebra"),
        ("cab", "cab"),
        ("blured", IGNORED_LABEL),
    ],
)
def test_a_misspelling_is_corrected_only_when_one_label_can_be_meant(written: str, became: str) -> None:
    classes = {"giant panda": "giant panda", "panda": "giant panda", "cabs": "cabs", "cabx": "cabx", "blurred": ""}
    table = LabelTable(("giant panda", "cabs", "cabx"), classes)
    assert table.corrected(written) == became


@pytest.mark.parametrize(
    ("names", "written", "became"),
    [
        (("A", "A-"), "a ", "A"),
        (("A", "A-"), "a-", "A-"),
        (("A", "A-"), "A+", "A+"),
        (("bolt_1.0", "bolt_10"), "bolt 1.0", "bolt_1.0"),
        (("bolt_1.0", "bolt_10"), "bolt-10", "bolt_10"),
        (("1", "2", "10"), "1.0", "1.0"),
        (("1", "2", "10"), "-1", "-1"),
        (("+", "cat"), "-", "-"),
    ],
)
def test_classes_that_differ_in_punctuation_are_not_taken_for_each_other(
    names: tuple[str, ...], written: str, became: str
) -> None:
    assert LabelTable.of_names(names).corrected(written) == became


def test_two_labels_of_one_class_can_both_be_meant() -> None:
    table = LabelTable(("cat",), {"kitten 1": "cat", "kitten 2": "cat"})
    assert table.corrected("kitten_3") == "cat"
