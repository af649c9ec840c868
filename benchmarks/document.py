"""results.json ─▶ docs/benchmarks.md between its markers, and the plots: `python -m benchmarks.document`."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.plots import draw_plots
from benchmarks.results import Results, read_results
from benchmarks.subject import ROOT
from benchmarks.table import document

PAGE = ROOT / "docs" / "benchmarks.md"
FOLDER = ROOT / "docs" / "benchmarks"
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
BEGIN, END = "<!-- bench: made by `make bench`, do not edit -->", "<!-- /bench -->"


def write_document(results: Results, page: Path = PAGE, folder: Path = FOLDER) -> None:
    """The results beside the page, the plots, and the page's generated part."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(results.to_json(), encoding="utf-8")
    plots = draw_plots(results, folder)
    pictures = "\n\n".join(f"![{text}]({folder.name}/{name})" for name, text in plots)
    page.write_text(replaced(page.read_text(encoding="utf-8"), f"{document(results)}\n\n{pictures}"), encoding="utf-8")


def replaced(text: str, part: str) -> str:
    """`text` with `part` between the markers. Raises ValueError when the markers are not there, once and in order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest:
        raise ValueError(f"the page needs one line {BEGIN!r} and below it one {END!r}")
    return f"{before}{BEGIN}\n{part.strip()}\n{END}{after}"


@click.command()
@click.argument(
    "results", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=FOLDER / "results.json"
)
def main(results: Path) -> None:
    """Make docs/benchmarks.md and its plots anew from RESULTS, the JSON file of a run."""
    write_document(read_results(results))
    click.echo(f"wrote {PAGE.relative_to(ROOT)} and {FOLDER.relative_to(ROOT)}/*.svg from {results}")


if __name__ == "__main__":
    main()
