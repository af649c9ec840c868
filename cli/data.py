"""`maskserve data`: labels in, manifests out; drawn pandas; what is wrong with labels, and how they look."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from maskserve.training.datasets.findings import Finding
    from maskserve.training.datasets.import_labelme import Imported

PATH = click.Path(path_type=Path)
SHARE = click.FloatRange(0, 0.9)
MOST_WARNINGS = 10
"""As many warnings of an import are printed; `data check` prints them all."""


@click.group()
def data() -> None:
    """Bring labelled photos into shape for training.

    \b
    From photos labelled with labelme to a dataset:
      maskserve data check photos/
      maskserve data import-labelme photos/ -o dataset
      maskserve data show dataset -o sheet.png
    """


@data.command("import-labelme", short_help="labelme folders to manifests, one per split.")
@click.argument("folders", nargs=-1, required=True, type=PATH, metavar="DIR...")
@click.option("-o", "--output", default=Path("dataset"), show_default=True, type=PATH, help="Folder of the manifests.")
@click.option("--test-fraction", default=0.2, show_default=True, type=SHARE, help="Share held out.")
@click.option("--val-fraction", default=0.0, show_default=True, type=SHARE, help="Share to validate on.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Same seed, same split.")
@click.option("--labels", type=PATH, help="Text file with one class name a line: the classes and their order.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
def import_labelme_command(
    folders: tuple[Path, ...],
    output: Path,
    test_fraction: float,
    val_fraction: float,
    seed: int,
    labels: Path | None,
    as_json: bool,
) -> None:
    """Turn labelme JSON below DIR into one COCO manifest per split: train.json, test.json, perhaps val.json.

    A DIR with train/ and test/ inside keeps that split, and so do folders so named; other photos are dealt out so
    that every split has its share of every class. The photos stay where they are.

    \b
    Examples:
      maskserve data import-labelme photos/ -o dataset
      maskserve data import-labelme photos/ -o dataset --test-fraction 0.25 --labels labels.txt
    """
    from maskserve.training.datasets.import_labelme import ImportOptions, import_labelme
    from maskserve.training.datasets.labels import read_label_table

    if test_fraction + val_fraction >= 1:
        raise click.UsageError("--test-fraction and --val-fraction leave nothing to train on")
    options = ImportOptions(test_fraction, val_fraction, seed, read_label_table(labels) if labels else None)
    with _progress("reading labels") as on_photo:
        imported = import_labelme(folders, output, options, on_photo=on_photo)
    _print_warnings(imported.warnings, folders)
    if as_json:
        click.echo(json.dumps(_summary(imported), indent=2, ensure_ascii=False))
    else:
        _print_counts(imported)
    click.echo(f"Manifests in {output}. Next: maskserve train all --data {output}", err=as_json)


@data.command("check", short_help="Look for mistakes in labels and photos.")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="PATH...")
@click.option("--labels", type=PATH, help="Text file with one class name a line: the only labels allowed.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def check_command(ctx: click.Context, paths: tuple[Path, ...], labels: Path | None, as_json: bool) -> None:
    """Look for mistakes in labelme folders, dataset folders and COCO files; exit code 1 when there are errors.

    Finds missing, damaged and resized photos, empty and self-intersecting polygons, points outside the photo,
    unknown and misspelt labels, photos without labels, and photos that are in two splits.

    \b
    Examples:
      maskserve data check photos/ --labels labels.txt
      maskserve data check dataset --json
    """
    from maskserve.training.datasets.check import check
    from maskserve.training.datasets.labels import read_label_table

    with _progress("checking photos") as on_photo:
        report = check(paths, read_label_table(labels) if labels else None, on_photo=on_photo)
    if as_json:
        counts = {"photos": report.photo_count, "errors": report.error_count, "warnings": report.warning_count}
        found = [finding.as_json() for finding in report.findings]
        click.echo(json.dumps({**counts, "findings": found}, indent=2, ensure_ascii=False))
    else:
        _print_findings(report.findings)
    verdict = "Correct the errors, then check again." if report.error_count else "Ready to train."
    click.echo(
        f"{report.photo_count} photos checked: {_plural(report.error_count, 'error')}, "
        f"{_plural(report.warning_count, 'warning')}. {verdict}",
        err=as_json,
    )
    ctx.exit(1 if report.error_count else 0)


@data.command("show", short_help="Draw a contact sheet of labelled photos.")
@click.argument("path", type=PATH)
@click.option("-o", "--output", default=Path("sheet.png"), show_default=True, type=PATH, help="The PNG to write.")
@click.option("--count", default=24, show_default=True, type=click.IntRange(1, 400), help="Photos on the sheet.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Which photos are chosen.")
def show_command(path: Path, output: Path, count: int, seed: int) -> None:
    """Draw a contact sheet of labelled photos from a labelme folder, a dataset folder or a COCO file.

    \b
    Example:
      maskserve data show dataset -o sheet.png --count 12
    """
    from maskserve.imaging.overlay import encode_picture
    from maskserve.training.datasets.atomic import write_atomically
    from maskserve.training.datasets.show import contact_sheet

    with _progress("drawing") as on_photo:
        sheet = contact_sheet(path, count=count, seed=seed, on_photo=on_photo)
    write_atomically(output, encode_picture(sheet, "png"))
    click.echo(f"{output}: {sheet.shape[1]}×{sheet.shape[0]} px. Open it and look whether the masks fit.")


@data.command("make-pandas", short_help="Draw labelled photos of pandas to try things with.")
@click.argument("out", type=PATH)
@click.option("--train", default=120, show_default=True, type=click.IntRange(1), help="Photos to train on.")
@click.option("--test", default=40, show_default=True, type=click.IntRange(0), help="Photos held out.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Same seed, same photos.")
def make_pandas_command(out: Path, train: int, test: int, seed: int) -> None:
    """Draw photos of giant pandas and red pandas, labelled with labelme JSON, into OUT/train and OUT/test.

    \b
    Example:
      maskserve data make-pandas pandas --train 120 --test 40
      maskserve data import-labelme pandas -o dataset
    """
    from maskserve.training.datasets.pandas import make_pandas

    with _progress("drawing pandas") as on_photo:
        make_pandas(out, train=train, test=test, seed=seed, on_photo=on_photo)
    click.echo(f"{train} + {test} photos in {out}. Next: maskserve data import-labelme {out} -o dataset")


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, gone when the block ends; gives the function to call with (done, total)."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def _print_findings(findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        level = click.style(finding.level, fg="red" if finding.level == "error" else "yellow")
        click.echo(f"{level}: {finding.where}: {finding.message} [{finding.code}]")


def _print_warnings(warnings: tuple[Finding, ...], folders: tuple[Path, ...]) -> None:
    for finding in warnings[:MOST_WARNINGS]:
        click.echo(f"left out or doubtful: {finding.where}: {finding.message} [{finding.code}]", err=True)
    if len(warnings) > MOST_WARNINGS:
        rest, names = len(warnings) - MOST_WARNINGS, " ".join(map(str, folders))
        click.echo(f"… and {rest} more; see them all with `maskserve data check {names}`", err=True)


def _print_counts(imported: Imported) -> None:
    width = max(map(len, imported.class_names))
    splits = list(imported.images)
    click.echo(" " * width + "".join(f"{split:>8}" for split in splits))
    for name in imported.class_names:
        click.echo(f"{name:<{width}}" + "".join(f"{imported.counts[split][name]:>8}" for split in splits))
    click.echo(f"{'photos':<{width}}" + "".join(f"{imported.images[split]:>8}" for split in splits))


def _summary(imported: Imported) -> dict[str, object]:
    return {
        "output": str(imported.out_dir),
        "class_names": list(imported.class_names),
        "images": imported.images,
        "instances": imported.counts,
        "data_hash": imported.data_hash,
        "warnings": [finding.as_json() for finding in imported.warnings],
    }


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
