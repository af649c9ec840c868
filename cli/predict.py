"""`maskserve predict`: photos ─▶ TorchServe over gRPC ─▶ overlays, labelme files, JSON lines, or a line each."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from maskserve.cli.predict_output import (
    LINES_SUFFIXES,
    PICTURE_SUFFIXES,
    FolderFormat,
    LabelmeFolder,
    MaskFormat,
    Output,
    open_output,
)
from maskserve.protos import wire

if TYPE_CHECKING:
    from maskserve.protos.types import Segmentation

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@click.command()
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO|FOLDER|GLOB...")
@click.option("-m", "--model", default=wire.MODEL_R50, show_default=True, help="Its name in TorchServe.")
@click.option("--version", default="", help="Version of the model.  [default: TorchServe's]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="PICTURE.png|.jpg, LINES.jsonl or a FOLDER.")
@click.option(
    "--format",
    "folder_format",
    type=click.Choice(["overlay", "labelme"]),
    default="overlay",
    show_default=True,
    help="What a FOLDER is filled with: pictures, or labels to correct in labelme.",
)
@click.option("--overwrite", is_flag=True, help="Replace labelme files that are there already.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a photo.")
@click.option("--score-threshold", type=click.FloatRange(0, 1), help="Leave out instances below it.")
@click.option("--max-instances", type=click.IntRange(1, 1000), help="Keep the best-scored.")
@click.option("--class", "class_names", multiple=True, metavar="NAME", help="Only this class; may be repeated.")
@click.option(
    "--mask-format", type=click.Choice(["rle", "polygon", "none"]), default="rle", show_default=True, help="In JSON."
)
@click.option("--address", default="localhost:7070", show_default=True, help="TorchServe's gRPC inference API.")
@click.option("--token", envvar="MASKSERVE_TOKEN", help="Inference token; better in MASKSERVE_TOKEN than here.")
@click.option("--token-file", type=click.Path(path_type=Path), help="TorchServe's key_file.json, or a text file.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.001), default=60.0, show_default=True, help="Seconds.")
def predict(
    photos: tuple[str, ...],
    model: str,
    version: str,
    output: Path | None,
    folder_format: FolderFormat,
    overwrite: bool,
    as_json: bool,
    score_threshold: float | None,
    max_instances: int | None,
    class_names: tuple[str, ...],
    mask_format: MaskFormat,
    address: str,
    token: str | None,
    token_file: Path | None,
    timeout_s: float,
) -> None:
    """Find the instances in photos, straight from TorchServe.

    \b
    Examples:
      maskserve predict photo.jpg -o overlay.png
      maskserve predict photos/ --model mask_rcnn_mnv2_fpn -o overlays/
      maskserve predict 'photos/**/*.jpg' --score-threshold 0.7 -o answers.jsonl
      maskserve predict photo.jpg --json --mask-format polygon | jq .instances
      maskserve predict new/ --score-threshold 0.5 --format labelme -o new/

    With --format labelme every photo without labels gets a JSON file, which labelme opens for a person to correct.
    A photo that cannot be answered is one line on stderr; the others go on, and the exit code is 1. What was answered
    is kept when the command is stopped: LINES.jsonl is called LINES.jsonl.part until it is whole.
    """
    from maskserve.client import Client, SegmentOptions

    if token and token_file:
        raise click.UsageError("give --token or --token-file, not both")
    paths = find_photos(photos)
    if output:
        _check_output(output, paths)
    labels = _label_folder(output, paths, overwrite, mask_format) if folder_format == "labelme" else None
    paths = labels.photos if labels else paths
    options = SegmentOptions(score_threshold, max_instances, "none" if mask_format == "none" else "rle", class_names)
    sink = open_output(output, paths, as_json=as_json, mask_format=mask_format, labels=labels)
    tally = _Tally()
    try:
        with Client(address, token=token_file or token, timeout_s=timeout_s) as client:
            _predict_all(
                paths, lambda image: client.predict(image, model=model, version=version, options=options), sink, tally
            )
    except BaseException:
        if tally.answered:
            click.echo(_last_line(sink.finish(is_whole=False), tally), err=True)
        raise
    click.echo(_last_line(sink.finish(), tally), err=True)
    if tally.failed:
        click.get_current_context().exit(1)


@dataclass
class _Tally:
    """Photos so far."""

    answered: int = 0
    failed: int = 0


def find_photos(given: Sequence[str]) -> list[Path]:
    """The files that the arguments mean, each once. Raises DataError for an argument that means nothing."""
    return list(dict.fromkeys(path for name in given for path in _photos_at(name)))


def _photos_at(name: str) -> list[Path]:
    """A file as it is, a folder's photos, or a glob's (`**` reaches into folders)."""
    from maskserve.protos.errors import DataError

    path = Path(name)
    if path.is_file():
        return [path]
    # not Path.glob, which refuses absolute patterns
    candidates = path.iterdir() if path.is_dir() else map(Path, glob.glob(name, recursive=True))  # noqa: PTH207
    photos = sorted(one for one in candidates if one.suffix.lower() in PHOTO_SUFFIXES and one.is_file())
    if photos:
        return photos
    if path.is_dir():
        kinds = ", ".join(PHOTO_SUFFIXES)
        raise DataError(f"{name}: no photo ({kinds}) in this folder; '{path}/**' looks into the folders below, too")
    raise DataError(f"{name}: there is no such photo or folder")


def _predict_all(paths: Sequence[Path], ask: Callable[[bytes], Segmentation], output: Output, tally: _Tally) -> None:
    """Raises ServerError when no other photo would fare better."""
    from maskserve.client.errors import ContractDrifted, ModelNotFound, ServerError, Unauthorized, Unavailable
    from maskserve.protos.errors import RequestError

    with _progress(len(paths)) as advance:
        for path in paths:
            try:
                image = _read(path)
                output.keep(path, image, ask(image))
                tally.answered += 1
            except (ContractDrifted, ModelNotFound, Unauthorized, Unavailable):
                raise
            except (RequestError, ServerError) as error:
                tally.failed += 1
                click.secho(f"{path}: {error}", fg="red", err=True)
            advance()


def _read(path: Path) -> bytes:
    from maskserve.protos.errors import RequestError
    from maskserve.protos.types import ErrorCode

    try:
        return path.read_bytes()
    except (FileNotFoundError, PermissionError) as error:
        raise RequestError(ErrorCode.IMAGE_MISSING, str(error.strerror)) from error


def _check_output(output: Path, photos: Sequence[Path]) -> None:
    """Before photos are asked about, not after."""
    is_picture = output.suffix.lower() in PICTURE_SUFFIXES
    if len(photos) > 1 and is_picture:
        raise click.UsageError(f"{len(photos)} photos do not fit into one {output.suffix}; give a folder or a .jsonl")
    if output.is_dir() and (is_picture or output.suffix.lower() in LINES_SUFFIXES):
        raise click.UsageError(f"-o {output}: this is a folder; a file is to be written there")
    if output.exists() and any(map(output.samefile, photos)):
        raise click.UsageError(f"-o {output}: this is the photo itself; name another file")


def _label_folder(
    output: Path | None, paths: Sequence[Path], overwrite: bool, mask_format: MaskFormat
) -> LabelmeFolder:
    if output is None or output.suffix.lower() in (*PICTURE_SUFFIXES, *LINES_SUFFIXES):
        raise click.UsageError("--format labelme needs -o FOLDER; it may be the photos' own")
    if mask_format == "none":
        raise click.UsageError("--format labelme needs the masks; leave out --mask-format none")
    return LabelmeFolder(output, paths, overwrite=overwrite)


def _last_line(made: str, tally: _Tally) -> str:
    answered = f"{tally.answered} photo{'s'[: tally.answered != 1]} answered"
    parts = [answered, made, f"{tally.failed} failed" if tally.failed else ""]
    return ", ".join(part for part in parts if part)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], object]]:
    """A bar on a terminal's stderr, for more than one photo."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), redirect_stdout=sys.stdout.isatty(), transient=True) as bar:
        task = bar.add_task("photos", total=total)
        yield lambda: bar.advance(task)
