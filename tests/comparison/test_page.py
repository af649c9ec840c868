"""The page, made of a comparison that was written by hand: nothing is lost, nothing is loaded, nothing runs."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from maskserve.comparison.cautions import cautions
from maskserve.comparison.page import chance_text, command_line, confusion_rows, plot_files, render_page, signed_text
from maskserve.comparison.plots import PLACEHOLDERS
from maskserve.comparison.results import Kind, Origin
from maskserve.comparison.run import write
from tests.comparison.made import CLASSES, HOSTILE, SENTENCE, make_comparison, make_galleries

VOID = {"meta", "img", "br", "link"}


class Read(HTMLParser):
    """Elements with their attributes, and the text outside of styles; fails on tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(make_comparison(), make_galleries())


@pytest.fixture(scope="module")
def read(page: str) -> Read:
    return Read(page)


def test_the_verdict_comes_first_and_whole(read: Read):
    """The sentence is the page's only h1, and its reasons, numbers and all, come before every table."""
    assert len(read.all("h1")) == 1
    assert SENTENCE in read.text
    verdict = read.text[: read.text.index("What was compared Accuracy")]
    for number in ("51.3", "47.2", "+4.1 [+1.2, +7.3]", "310 ms", "106 ms", "2.93 [2.81, 3.07]", "12.4 M", "700 MB"):
        assert number in verdict.replace(" ]", "]"), number
    assert make_comparison().verdict.reasons[0] in verdict


def test_an_open_verdict_looks_like_one():
    text = Read(render_page(make_comparison(decided=False), [])).text
    assert "these photos do not decide which is more accurate" in text
    assert "do not decide" not in Read(render_page(make_comparison(), [])).text


def test_a_hostile_class_name_is_text(page: str, read: Read):
    """Neither the template nor a plot lets it become an element or a formula."""
    assert HOSTILE in read.text
    assert read.all("script") == []
    assert "<script" not in page


def test_nothing_is_loaded(page: str, read: Read):
    """One file: no address of anything but itself, and a policy that would forbid it."""
    assert "://" not in page
    assert not re.findall(r"@import|url\((?!#)", page)
    for _, attributes in read.elements:
        for key in ("src", "href", "srcset", "action", "data"):
            if value := attributes.get(key):
                assert value.startswith(("#", "data:image/jpeg;base64,")), value
        assert not [key for key in attributes if key.startswith("on")]
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in read.all("meta"))


def test_plots_take_the_pages_colours(page: str):
    """Else they would be unreadable in dark mode."""
    for placeholder, variable in PLACEHOLDERS.items():
        assert placeholder not in page
        assert f": {variable}" in page


def test_plots_are_files_of_their_own_too():
    """Well-formed SVG that brings every colour it names, and no class name becomes a path."""
    files = plot_files(make_comparison())
    assert {"forest_mask.svg", "speed.svg", "curve_0_all.svg"} <= set(files)
    for name, svg in files.items():
        assert Path(name).name == name
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert set(re.findall(r"var\((--\w+)\)", svg)) <= set(re.findall(r"(--\w+):", svg))


def test_any_class_name_makes_plots_that_can_be_written_and_read(tmp_path: Path):
    """Longer than a file name, of letters of several bytes, with control characters; alike at their beginnings."""
    made = make_comparison()
    names = ["熊" * 300, "熊" * 299, "a\x00\x1b\ufffeb -->"]
    curves = [
        replace(curve, class_name=name)
        for name in names
        for curve in made.statistics.mask.curves
        if not curve.class_name
    ]
    rows = [replace(made.statistics.mask.rows[0], class_name=name) for name in names]
    mask = Kind((*made.statistics.mask.rows, *rows), (*made.statistics.mask.curves, *curves))
    files = plot_files(replace(made, statistics=replace(made.statistics, mask=mask)))
    assert len(files) == 4 + 1 + len(CLASSES) + len(names)
    for name, svg in files.items():
        (tmp_path / name).write_text(svg, encoding="utf-8")
        ElementTree.fromstring(svg)


def test_nothing_labelled_makes_plots_all_the_same():
    """And matplotlib has nothing to warn of, which is an error here."""
    made = make_comparison()
    nothing = replace(made.statistics.mask.rows[0], a=None, b=None, difference=None, low=None, high=None)
    kind = Kind((nothing,), ())
    assert len(plot_files(replace(made, statistics=replace(made.statistics, mask=kind, box=kind)))) == 4


def test_a_path_that_is_no_utf_8_loses_no_comparison(tmp_path: Path):
    comparison = make_comparison()
    data = os.fsdecode(b"caf\xe9/test.json")
    comparison = replace(comparison, statistics=replace(comparison.statistics, data=data))
    write(tmp_path, comparison, make_galleries(), {"a": [], "b": []})
    assert "caf\\udce9/test.json" in (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))["statistics"]["data"] == data


def test_a_comparison_leaves_no_curve_of_the_one_before(tmp_path: Path):
    made, folder = make_comparison(), tmp_path / "out"
    mask = made.statistics.mask
    fewer = replace(mask, curves=tuple(curve for curve in mask.curves if not curve.class_name))
    own = folder / "plots/mine.svg"
    for kind in (mask, fewer):
        write(folder, replace(made, statistics=replace(made.statistics, mask=kind)), [], {})
        own.touch()
    assert [path.name for path in folder.glob("plots/curve_*")] == ["curve_0_all.svg"]
    assert own.exists()


def test_links_lead_somewhere_and_no_id_is_there_twice(read: Read):
    """Plots bring ids of their own, which must not meet."""
    ids = Counter(attributes["id"] for _, attributes in read.elements if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    targets = {value[1:] for _, attributes in read.elements if (value := attributes.get("href") or "").startswith("#")}
    assert targets <= set(ids)
    used = set(re.findall(r"url\(#([^)]+)\)", " ".join(str(attributes) for _, attributes in read.elements)))
    assert used <= set(ids)


def test_what_is_seen_is_said(read: Read):
    """Pictures and plots have texts, table heads a scope, columns that scroll can be reached by keyboard."""
    assert all(image["alt"] for image in read.all("img"))
    plots = [one for one in read.all("div") if one.get("role") == "img"]
    assert len(plots) == len(read.all("svg")) == 4 + 1 + len(CLASSES)
    assert all(len(plot["aria-label"] or "") > 20 for plot in plots)
    assert all(head.get("scope") for head in read.all("th"))
    assert all(region.get("tabindex") == "0" for region in read.all("div") if region.get("role") == "region")


def test_both_arms_rows_are_there(read: Read):
    """By class and by size, with the count of objects; a size without objects has dashes."""
    assert "AP of giant panda 50.4 50.0 +0.4 [−2.0, +2.9] 99.8 % 68" in read.text
    assert "AP of small objects – – – – 0" in read.text
    assert f"AP50 of {HOSTILE}" in read.text


@pytest.mark.parametrize(
    ("served", "said", "unsaid"),
    [
        (True, "Served AP equals offline AP within 0.1 points", "does not answer what was measured"),
        (False, "The server does not answer what was measured here", "Served AP equals"),
        (None, "How it was measured", "As served"),
    ],
)
def test_the_served_answers_are_vouched_for_or_not(served: bool | None, said: str, unsaid: str):
    text = Read(render_page(make_comparison(served=served), [])).text
    assert said in text
    assert unsaid not in text


def test_a_photo_shown_before_is_linked(read: Read):
    assert [one["href"] for one in read.all("a")].count("#photo-0") == 1


def test_the_command_makes_the_page_again():
    words = command_line(make_comparison())
    assert words.startswith("maskserve compare runs/model_a runs/model_b --data /data/pandas/test.json ")
    assert "--seed 0" in words
    assert "--served --address localhost:7070 --model-a model_a:1.0" in words


def test_unequal_conditions_are_named():
    """Precisions, starts, schedules, data, rare classes; nothing where there is nothing to say."""
    made = make_comparison()
    same = replace(made.a, name="b", label="other")
    fair = replace(made, b=same, statistics=replace(made.statistics, instances={"giant panda": 61}))
    assert cautions(fair) == []
    other = replace(same, facts={**same.facts, "steps": 10, "data_hash": "f" * 64})
    other = replace(other, init="random weights: trained from scratch", precision="bf16")
    unfair = " ".join(cautions(replace(made, b=other)))
    for words in (
        "half-width ResNet-50 in fp32 and other in bf16",
        "started from different weights",
        "differ in steps",
        "different data",
        HOSTILE,
    ):
        assert words in unfair, words


@pytest.mark.parametrize(
    ("data_hash", "split", "said"),
    [
        ("d" * 64, "train", "half-width ResNet-50 and other were trained on these very photos"),
        ("d" * 64, "val", "chose the weights of half-width ResNet-50 and other"),
        ("d" * 64, "test", ""),
        ("e" * 64, "train", "cannot be told whether half-width ResNet-50 and other were trained on some of these"),
        ("e" * 64, "test", "cannot be told whether half-width ResNet-50 and other were trained on some of these"),
    ],
)
def test_photos_that_an_arm_has_seen_are_named(data_hash: str, split: str, said: str):
    """By data set and split; of another data set, or with no data set named by the run, that it cannot be told."""
    made = make_comparison()
    labelled = replace(made.statistics, instances={"giant panda": 61})
    other = replace(made.a, name="b", label="other")
    same = replace(made, b=other, statistics=labelled, origin=Origin(data_hash, split))
    assert len(cautions(same)) == bool(said)
    assert said in " ".join(cautions(same))
    one = replace(same, b=replace(other, facts={}), origin=Origin("d" * 64, "train"))
    assert [text[:45] for text in cautions(one)] == [
        "half-width ResNet-50 was trained on these ver",
        "It cannot be told whether other was trained o",
    ]


def test_numbers_as_text():
    assert [signed_text(value) for value in (4.06, -0.04, -1.25, None)] == ["+4.1", "0.0", "−1.2", "–"]
    assert [chance_text(value) for value in (0.0, 0.004, 0.5, 0.9975, 1.0)] == [
        "< 0.1 %",
        "0.4 %",
        "50 %",
        "99.8 %",
        "> 99.9 %",
    ]


def test_confusion_of_all_classes_is_their_sum():
    (title, rows), *_ = confusion_rows(make_comparison().statistics.confusion)
    assert title == "all classes"
    assert (rows["b"].labelled, rows["b"].found, rows["b"].spurious) == (80, 62, 12)
