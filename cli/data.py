"""`maskserve data`: labels in, manifests out; drawn pandas; what is wrong with labels, and how they look."""

from __future__ import annotations

from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)
# a page is wrapped by click unless its paragraphs are marked so
EXAMPLES = "\b\nExamples:\n"


@click.group()
def data() -> None:
    """Bring labelled photos into shape for training."""


@data.command("make-pandas")
@click.argument("out", type=FOLDER)
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
    from rich.console import Console
    from rich.progress import Progress

    from maskserve.training.datasets.pandas import make_pandas

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("drawing pandas", total=train + test)
        make_pandas(out, train=train, test=test, seed=seed, on_photo=lambda: progress.advance(bar))
    click.echo(f"{train} + {test} photos in {out}. Next: maskserve data import-labelme {out} -o dataset")
