"""`maskserve data`: labels in, manifests out, and back; drawn pandas; what is wrong with labels, how they look."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from maskserve.training.datasets.findings import Finding
    from maskserve.training.datasets.importing import Imported

PATH = click.Path(path_type=Path)
SHARE = click.FloatRange(0, 0.9)
MOST_WARNINGS = 10
"""As many warnings of an import or export are printed; `--json` has them all."""


@click.group()
def data() -> None:
    """Bring labelled photos into shape for training.

    \b
    From labelled photos (labelme, COCO, VIA) to a dataset:
      maskserve data check photos/
      maskserve data import photos/ -o dataset
      maskserve data show dataset -o sheet.png
    """


@data.command("import", short_help="labelme, COCO or VIA labels to manifests, one per split.")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="PATH...")
@click.option("-o", "--output", default=Path("dataset"), show_default=True, type=PATH, help="Folder of the manifests.")
@click.option("--test-fraction", default=0.2, show_default=True, type=SHARE, help="Share held out.")
@click.option("--val-fraction", default=0.0, show_default=True, type=SHARE, help="Share to validate on.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Same seed, same split.")
@click.option("--labels", type=PATH, help="Text file with one class name a line: the classes and their order.")
@click.option("--via-attribute", metavar="NAME", help="VIA's region attribute that is the class, if it has several.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON, with all warnings.")
def import_command(
    paths: tuple[Path, ...],
    output: Path,
    test_fraction: float,
    val_fraction: float,
    seed: int,
    labels: Path | None,
    via_attribute: str | None,
    as_json: bool,
) -> None:
    """Turn labels into one COCO manifest per split: train.json, test.json, perhaps val.json.

    PATH is a folder or a file with labelme JSON, COCO instances or VIA's JSON (VGG Image Annotator 2); which it is
    is seen from the content. A folder with train/ and test/ inside keeps that split, and so do folders and COCO files
    so named; other photos are dealt out so that every split has its share of every class. The photos stay where they
    are.

    \b
    Examples:
      maskserve data import photos/ -o dataset
      maskserve data import photos/ -o dataset --test-fraction 0.25 --labels labels.txt
      maskserve data import instances_train.json instances_test.json -o dataset
      maskserve data import via_region_data.json -o dataset --via-attribute species
    """
    from maskserve.training.datasets.importing import ImportOptions, import_labels
    from maskserve.training.datasets.labels import read_label_table

    if test_fraction + val_fraction >= 1:
        raise click.UsageError("--test-fraction and --val-fraction leave nothing to train on")
    table = read_label_table(labels) if labels else None
    options = ImportOptions(test_fraction, val_fraction, seed, table, via_attribute)
    with _progress("reading labels") as on_photo:
        imported = import_labels(paths, output, options, on_photo=on_photo)
    _print_warnings(imported.warnings)
    if as_json:
        click.echo(json.dumps(_summary(imported), indent=2, ensure_ascii=False))
    else:
        _print_counts(imported)
    click.echo(f"Manifests in {output}. Next: maskserve train all --data {output}", err=as_json)


IMPORT_LABELME = copy.copy(import_command)
"""The name it had when labelme was the only format."""
IMPORT_LABELME.hidden = True
data.add_command(IMPORT_LABELME, "import-labelme")


@data.command("export", short_help="A dataset to labelme JSON, to correct it by hand.")
@click.argument("dataset", type=PATH)
@click.option(
    "--format", type=click.Choice(["labelme"]), default="labelme", expose_value=False, help="What to write: labelme."
)
@click.option("-o", "--output", required=True, type=PATH, metavar="FOLDER", help="Where the labels go.")
@click.option("--overwrite", is_flag=True, help="Replace labels that are there already.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON, with all warnings.")
def export_command(dataset: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Write the labels of a dataset folder or a COCO file as labelme JSON, one file a photo.

    Splits get folders of their own. Polygons stay as they are, RLE masks become polygons, crowds are left out. The
    photos stay where they are and the files name them.

    \b
    Examples:
      maskserve data export dataset -o labels
      maskserve data export instances_val2017.json --format labelme -o labels
    """
    from maskserve.training.datasets.to_labelme import export_labelme

    with _progress("writing labels") as on_photo:
        exported = export_labelme(dataset, output, overwrite=overwrite, on_photo=on_photo)
    _print_warnings(exported.warnings)
    made = {"output": str(output), "photos": exported.photos, "shapes": exported.shapes}
    if as_json:
        warnings = [finding.as_json() for finding in exported.warnings]
        click.echo(json.dumps({**made, "warnings": warnings}, indent=2, ensure_ascii=False))
    click.echo(
        f"{_plural(exported.photos, 'file')} with {_plural(exported.shapes, 'polygon')} in {output}. "
        f"Next: open them in labelme, then maskserve data import {output} -o dataset",
        err=as_json,
    )


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
      maskserve data import pandas -o dataset
    """
    from maskserve.training.datasets.pandas import make_pandas

    with _progress("drawing pandas") as on_photo:
        make_pandas(out, train=train, test=test, seed=seed, on_photo=on_photo)
    click.echo(f"{train} + {test} photos in {out}. Next: maskserve data import {out} -o dataset")


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


def _print_warnings(warnings: tuple[Finding, ...]) -> None:
    for finding in warnings[:MOST_WARNINGS]:
        click.echo(f"left out or doubtful: {finding.where}: {finding.message} [{finding.code}]", err=True)
    if len(warnings) > MOST_WARNINGS:
        click.echo(f"… and {len(warnings) - MOST_WARNINGS} more; see them all with --json", err=True)


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
