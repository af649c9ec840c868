"""`maskserve data`: labels in, manifests out, and back; drawn pandas; what is wrong with labels, how they look."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from maskserve.cli.data_check import card_command, check_command, plural
from maskserve.cli.progress import progress
from maskserve.training.own_command import own_command

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
@click.option(
    "--labels", type=PATH, help="The classes and their order: a list, or a CSV, TSV or YAML table of label and class."
)
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
    with progress("reading labels") as on_photo:
        imported = import_labels(paths, output, options, on_photo=on_photo)
    _print_warnings(imported.warnings)
    if as_json:
        click.echo(json.dumps(_summary(imported), indent=2, ensure_ascii=False))
    else:
        _print_counts(imported)
    click.echo(f"Manifests in {output}. Next: {own_command('train', 'all', '--data', output)}", err=as_json)


data.add_command(check_command)
data.add_command(card_command)

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

    with progress("writing labels") as on_photo:
        exported = export_labelme(dataset, output, overwrite=overwrite, on_photo=on_photo)
    _print_warnings(exported.warnings)
    made = {"output": str(output), "photos": exported.photos, "shapes": exported.shapes}
    if as_json:
        warnings = [finding.as_json() for finding in exported.warnings]
        click.echo(json.dumps({**made, "warnings": warnings}, indent=2, ensure_ascii=False))
    click.echo(
        f"{plural(exported.photos, 'file')} with {plural(exported.shapes, 'polygon')} in {output}. "
        f"Next: correct them in labelme, then {own_command('data', 'import', output, '-o', 'dataset')}",
        err=as_json,
    )


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
    from maskserve.imaging.encode import encode_picture
    from maskserve.training.datasets.atomic import write_atomically
    from maskserve.training.datasets.show import contact_sheet

    with progress("drawing") as on_photo:
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

    with progress("drawing pandas") as on_photo:
        make_pandas(out, train=train, test=test, seed=seed, on_photo=on_photo)
    click.echo(f"{train} + {test} photos in {out}. Next: {own_command('data', 'import', out, '-o', 'dataset')}")


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
