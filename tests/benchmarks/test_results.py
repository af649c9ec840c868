"""Rows, the table that is made of them, and the page that it is put into."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.document import BEGIN, END, replaced, write_document
from benchmarks.floor import floor_ms, peak, peaks
from benchmarks.results import Claim, Results, Row, failed, not_measured, ratio_row, read_results
from benchmarks.table import number, summary, target_table

FASTER = Claim("model.r50.800.fp32", "R50-FPN 800 px", "DefaultPredictor", 1.5)
LIMIT = Claim("rest.json.r50.800", "REST ─▶ JSON", "model time", 8.0, "%", at_least=False)
REPORTED = Claim("load.x", "throughput", "an example")


def made_results() -> Results:
    """One row of each kind, and every series."""
    loads = [
        {"concurrency": n, "rate": rate, "shed": 0, "p50_ms": 1000 * n / rate, "p95_ms": 1500 * n / rate, "p99_ms": 2e3}
        for n, rate in ((1, 1.5), (2, 2.5), (4, 2.9))
    ]
    stages = {"DefaultPredictor": {"convolution": 900.0, "ROIAlign": 140.0}, "maskserve": {"convolution": 600.0}}
    rows = (
        ratio_row(FASTER, [30.0, 40.0, 44.0], [20.0, 20.0, 20.0], ("DefaultPredictor", "maskserve")),
        Row(LIMIT, (9.0, 10.0, 12.0), {"request": (109.0, 110.0, 112.0)}),
        not_measured(REPORTED, "no GPU in this machine"),
        failed(replace(REPORTED, name="load.y"), ValueError("it\nbroke")),
    )
    return Results(
        machine="a machine, 2 cores",
        started="2026-11-24 20:00 UTC",
        commit="0123456789abcdef",
        mode="bench",
        rounds=3,
        wall_s=600.0,
        versions={"torch": "2"},
        peaks={"fp32": 170.0, "bf16": "this CPU does not calculate in bfloat16"},
        rows=rows,
        series={
            "stages": {"MNV2-FPN": stages},
            "request": {"r50-800": {"client": [110.0, 120.0], "inference": [100.0, 101.0]}},
            "size": {"DefaultPredictor": {"320": 400.0, "800": 1200.0}, "maskserve": {"320": 200.0, "800": 600.0}},
            "concurrency": {"maskserve": loads, "TorchServe": loads},
            "workers": [{"workers": 1, "threads": 2, **loads[0]}],
        },
    )


def test_a_ratio_is_taken_within_each_round() -> None:
    """Slow rounds slow both; the median and the interval are those of the rounds' ratios."""
    row = ratio_row(FASTER, [30.0, 90.0, 44.0], [20.0, 45.0, 20.0], ("a", "b"))
    assert row.values == (1.5, 2.0, 2.2)
    assert row.median == 2.0


def test_rounds_of_unequal_number_are_refused() -> None:
    """No round is dropped silently."""
    with pytest.raises(ValueError):
        ratio_row(FASTER, [30.0, 40.0], [20.0], ("a", "b"))


@pytest.mark.parametrize(
    ("claim", "values", "met"),
    [
        (FASTER, (1.5, 1.5, 9.0), True),
        (FASTER, (1.49, 1.49, 9.0), False),
        (LIMIT, (8.0,), True),
        (LIMIT, (8.1,), False),
        (REPORTED, (1.0,), None),
        (FASTER, (), None),
    ],
)
def test_a_target_is_met_by_the_median(claim: Claim, values: tuple[float, ...], met: bool | None) -> None:
    """From below or from above; without a target or a measurement there is no verdict."""
    assert Row(claim, values).met is met


def test_results_survive_their_file(tmp_path: Path) -> None:
    """The tables can be made again from results.json."""
    results = made_results()
    (tmp_path / "results.json").write_text(results.to_json())
    read = read_results(tmp_path / "results.json")
    assert read == results


def test_the_table_says_what_was_not_measured_and_why() -> None:
    """A row without numbers has a reason instead, never a number."""
    table = target_table(made_results().rows)
    lines = table.splitlines()[2:]
    assert "**2 ×** [1.5 … 2.2], n = 3 | ✓ | DefaultPredictor 40; maskserve 20 ms" in lines[0]
    assert "≤ 8 % | **10 %** [9 … 12], n = 3 | ✗ |" in lines[1]
    assert "| (reported) | not measured: no GPU in this machine |" in lines[2]
    assert "failed: ValueError: it broke" in lines[3]
    assert summary(made_results().rows) == "1 targets met, 1 missed, 1 rows not measured, 1 failed"


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.01234, "0.0123"), (12.34, "12.3"), (1234.5, "1,234")])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    """Short enough for a table."""
    assert number(value) == text


def test_only_what_lies_between_the_markers_is_replaced() -> None:
    """What people wrote around stays."""
    page = f"# mine\n{BEGIN}\nold\n{END}\nmine too\n"
    assert replaced(page, "new\n") == f"# mine\n{BEGIN}\nnew\n{END}\nmine too\n"
    assert replaced(replaced(page, "x"), "new") == replaced(page, "new")


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_its_markers_is_left_alone(page: str) -> None:
    """It is not guessed where the tables belong."""
    with pytest.raises(ValueError, match="bench"):
        replaced(page, "new")


def test_the_page_names_every_plot_that_was_drawn(tmp_path: Path) -> None:
    """And pictures of an earlier run are gone."""
    page, folder = tmp_path / "benchmarks.md", tmp_path / "benchmarks"
    page.write_text(f"{BEGIN}\n{END}\n")
    folder.mkdir()
    (folder / "older.svg").write_text("")
    write_document(made_results(), page, folder)
    drawn = {path.name for path in folder.glob("*.svg")}
    assert drawn == {"targets.svg", "stages.svg", "size.svg", "load.svg"}
    assert all(f"](benchmarks/{name})" in page.read_text() for name in drawn)


def test_the_floor_is_flops_over_what_the_machine_did_in_that_round() -> None:
    """The best of a round's burst, the median over rounds; what the CPU cannot do has a reason."""
    bursts = [
        {"fp32 product": 100.0, "fp32 convolution": 90.0},
        {"fp32 product": 80.0, "fp32 convolution": 125.0},
        {"fp32 product": 500.0, "fp32 convolution": 90.0},
    ]
    assert [peak(burst, "fp32") for burst in bursts] == [100.0, 125.0, 500.0]
    assert peaks(bursts)["fp32"] == 125.0
    assert isinstance(peaks(bursts)["int8"], str)
    assert floor_ms(250e9, 125.0) == pytest.approx(2000.0)


def test_the_repositorys_page_has_its_markers(repo_root: Path) -> None:
    """`make bench` must not fail after a quarter of an hour."""
    replaced((repo_root / "docs" / "benchmarks.md").read_text(encoding="utf-8"), "new")
