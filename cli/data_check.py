"""`maskserve data check` and `data card`: what is wrong with labels, mending it, and what a set consists of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maskserve.cli.progress import progress

if TYPE_CHECKING:
    from maskserve.training.datasets.changes import Change
    from maskserve.training.datasets.check import Report
    from maskserve.training.datasets.findings import Finding
    from maskserve.training.datasets.labels import LabelTable

PATH = click.Path(path_type=Path)
LABELS_HELP = "The labels allowed: a list, one class name a line, or a CSV, TSV or YAML table of label and class."


@click.command("check", short_help="Look for mistakes in labels and photos, and repair them.")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="PATH...")
@click.option("--labels", type=PATH, help=LABELS_HELP)
@click.option("--fix", "fixing", is_flag=True, help="Repair what is mechanical, into new files.")
@click.option("-o", "--output", type=PATH, metavar="FOLDER", help="With --fix: the new folder for the repaired labels.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def check_command(
    ctx: click.Context, paths: tuple[Path, ...], labels: Path | None, fixing: bool, output: Path | None, as_json: bool
) -> None:
    """Look for mistakes in labelme folders, dataset folders and COCO files; exit code 1 when there are errors.

    Finds missing, damaged and resized photos, empty and self-intersecting polygons, points outside the photo,
    unknown and misspelt labels, photos without labels, photos that are in two splits or look like one of another
    split, classes too rare to be learnt, and objects too small for a preset.

    With --fix it writes repaired labels into a new folder, says what it changed and what is left for a person. The
    originals stay as they are, and the photos where they are. docs/data-check.md explains every finding.

    A label table merges, renames and (with an empty class) leaves out labels; it is a CSV, TSV or YAML file.

    \b
    Examples:
      maskserve data check photos/ --labels labels.txt
      maskserve data check dataset --json
      maskserve data check photos/ --fix -o photos-fixed --labels classes.csv
    """
    from maskserve.training.datasets.labels import read_label_table

    if fixing != (output is not None) or (fixing and len(paths) != 1):
        raise click.UsageError("--fix takes one PATH and -o FOLDER for the repaired labels: PATH --fix -o FOLDER")
    table = read_label_table(labels) if labels else None
    if output is not None:
        report = _fixed(paths[0], output, table, as_json)
    else:
        report = _checked(paths, table)
        _print_report(report, {}, as_json)
    ctx.exit(1 if report.error_count else 0)


def _checked(paths: Sequence[Path], table: LabelTable | None) -> Report:
    from maskserve.training.datasets.check import check

    with progress("checking photos") as on_photo:
        return check(paths, table, on_photo=on_photo)


def _fixed(path: Path, output: Path, table: LabelTable | None, as_json: bool) -> Report:
    from maskserve.training.datasets.fix import fix

    with progress("repairing labels") as on_photo:
        changes = fix(path, output, table, on_photo=on_photo)
    report = _checked([output if path.is_dir() else output / path.name], table)
    if not as_json:
        _print_changes(changes)
        click.echo(f"{plural(len(changes), 'repair')}, written to {output}; {path} is as it was. Left for a person:")
    extra = {"output": str(output), "changes": [change.as_json() for change in changes]}
    _print_report(report, extra, as_json)
    return report


def _print_changes(changes: Sequence[Change]) -> None:
    for code, count in Counter(change.code for change in changes).most_common():
        first = next(change for change in changes if change.code == code)
        example = f"{first.where}: {first.message}"
        click.echo(f"{click.style('repaired', fg='green')}: {count} × {code}, first {example}")


def _print_report(report: Report, extra: dict[str, Any], as_json: bool) -> None:
    if as_json:
        counts = {"photos": report.photo_count, "errors": report.error_count, "warnings": report.warning_count}
        codes = dict(Counter(finding.code for finding in report.findings).most_common())
        found = [finding.as_json() for finding in report.findings]
        content = {**counts, "codes": codes, "findings": found, **extra}
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        _print_findings(report.findings)
    verdict = "Correct the errors, then check again." if report.error_count else "Ready to train."
    click.echo(
        f"{report.photo_count} photos checked: {plural(report.error_count, 'error')}, "
        f"{plural(report.warning_count, 'warning')}. {verdict}",
        err=as_json,
    )


def _print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        level = click.style(finding.level, fg="red" if finding.level == "error" else "yellow")
        click.echo(f"{level}: {finding.where}: {finding.message} [{finding.code}]")


@click.command("card", short_help="Tell on one page what a dataset consists of.")
@click.argument("path", type=PATH, metavar="DATASET")
@click.option("-o", "--output", default=Path("card.html"), show_default=True, type=PATH, help="The HTML to write.")
@click.option("--title", help="Headline of the page; by default the folder's name.")
@click.option("--source", help="Where the photos and labels come from.")
@click.option("--licence", help="On what terms they may be used.")
@click.option("--labels", type=PATH, help=LABELS_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON too.")
def card_command(
    path: Path,
    output: Path,
    title: str | None,
    source: str | None,
    licence: str | None,
    labels: Path | None,
    as_json: bool,
) -> None:
    """Write a data card: one HTML file with counts, sizes, findings and a contact sheet, that needs no network.

    DATASET is a dataset folder, a labelme folder or a COCO file.

    \b
    Example:
      maskserve data card dataset -o card.html --title "Cats and dogs" --licence "CC BY-SA 4.0"
    """
    from maskserve.training.datasets.atomic import write_atomically
    from maskserve.training.datasets.card import card_page, data_card
    from maskserve.training.datasets.labels import read_label_table
    from maskserve.training.datasets.show import contact_sheet

    table = read_label_table(labels) if labels else None
    report = _checked([path], table)
    card = data_card(path, report, title=title or path.resolve().name, source=source, licence=licence)
    with progress("drawing") as on_photo:
        sheet = contact_sheet(path, on_photo=on_photo)
    write_atomically(output, card_page(card, sheet).encode(errors="backslashreplace"))
    if as_json:
        click.echo(json.dumps(card.as_json(), indent=2, ensure_ascii=False))
    photos = sum(card.photos.values())
    click.echo(f"{output}: the card of {photos} photos. Open it in a browser, and keep it with the data.", err=as_json)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
