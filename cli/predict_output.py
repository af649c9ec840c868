"""One photo's answer ─▶ an overlay, a labelme file, a line of JSON, or a line for people; for `maskserve predict`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import click

if TYPE_CHECKING:
    from maskserve.protos.types import Segmentation

PICTURE_SUFFIXES: dict[str, Literal["png", "jpeg"]] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
LINES_SUFFIXES = (".jsonl", ".json")
MaskFormat = Literal["rle", "polygon", "none"]
FolderFormat = Literal["overlay", "labelme"]


class Output(Protocol):
    """Where answers go."""

    def keep(self, photo: Path, image: bytes, answer: Segmentation) -> None:
        """Takes one photo's answer. Raises RequestError for a picture that cannot be made."""

    def finish(self, is_whole: bool = True) -> str:
        """Ends it, after the last photo or (not `is_whole`) before; returns what was made, or ""."""


def open_output(
    output: Path | None,
    photos: Sequence[Path],
    *,
    as_json: bool,
    mask_format: MaskFormat,
    labels: LabelmeFolder | None = None,
) -> Output:
    """What `-o` and `--json` ask for; a line for people unless stdout is for JSON; a folder is filled by `labels`."""
    suffix = output.suffix.lower() if output else ""
    outputs: list[Output] = []
    if output and suffix in LINES_SUFFIXES:
        outputs.append(JsonLines(output, mask_format))
    elif output and suffix in PICTURE_SUFFIXES:
        outputs.append(Picture(output))
    elif output:
        outputs.append(labels or PictureFolder(output, photos))
    # stdout last: what cannot be made is not said to be there
    return Outputs([*outputs, JsonLines(None, mask_format) if as_json else TextLines()])


class Outputs:
    """Several at once."""

    def __init__(self, outputs: list[Output]) -> None:
        self._outputs = outputs

    def keep(self, photo: Path, image: bytes, answer: Segmentation) -> None:
        for output in self._outputs:
            output.keep(photo, image, answer)

    def finish(self, is_whole: bool = True) -> str:
        return ", ".join(filter(None, [output.finish(is_whole) for output in self._outputs]))


class TextLines:
    """A line for people on stdout."""

    def keep(self, photo: Path, _image: bytes, answer: Segmentation) -> None:
        click.echo(f"{photo}: {describe(answer)}")

    def finish(self, _is_whole: bool = True) -> str:
        return ""


class JsonLines:
    """One JSON object a line: on stdout, or in a file, which is called `….part` until it is whole."""

    def __init__(self, path: Path | None, mask_format: MaskFormat) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part") if path else None
        self._mask_format = mask_format
        self._is_begun = False

    def keep(self, photo: Path, _image: bytes, answer: Segmentation) -> None:
        line = json.dumps(answer_json(photo, answer, self._mask_format), ensure_ascii=False)
        if self._part:
            self._append(self._part, line + "\n")
        else:
            click.echo(line)

    def finish(self, is_whole: bool = True) -> str:
        if not self._path or not self._part:
            return ""
        if not is_whole:
            return f"answers in {self._part}" if self._is_begun else ""
        self._append(self._part, "")  # a file, even if no photo was answered
        self._part.replace(self._path)
        return f"answers in {self._path}"

    def _append(self, part: Path, text: str) -> None:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("a" if self._is_begun else "w", encoding="utf-8") as file:
            file.write(text)
        self._is_begun = True


class Picture:
    """The overlay of one photo."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made = ""

    def keep(self, _photo: Path, image: bytes, answer: Segmentation) -> None:
        _write(self._path, overlay(image, answer, PICTURE_SUFFIXES[self._path.suffix.lower()]))
        self._made = f"overlay in {self._path}"

    def finish(self, _is_whole: bool = True) -> str:
        return self._made


class PictureFolder:
    """`photo_overlay.jpg` for each photo; photos of one name, and of one that another photo has, get numbers."""

    def __init__(self, folder: Path, photos: Sequence[Path]) -> None:
        from maskserve.training.datasets.labelme_writer import file_names

        self._folder = folder
        taken = {photo.resolve() for photo in photos}
        names = file_names(photos, "_overlay.jpg", lambda _photo, name: (folder / name).resolve() not in taken)
        self._names = dict(zip(photos, names, strict=True))
        self._written = 0

    def keep(self, photo: Path, image: bytes, answer: Segmentation) -> None:
        _write(self._folder / self._names[photo], overlay(image, answer, "jpeg"))
        self._written += 1

    def finish(self, _is_whole: bool = True) -> str:
        return f"overlays in {self._folder}/" if self._written else ""


class LabelmeFolder:
    """`photo.json` for each photo, for a person to correct in labelme.

    A file that is there already may be a person's work: its photo is not even asked about, unless `overwrite`. One that
    names another photo stays in any case, and this photo's gets a number.
    """

    def __init__(self, folder: Path, photos: Sequence[Path], *, overwrite: bool) -> None:
        from maskserve.training.datasets.labelme_writer import file_names, names_another_photo

        self._folder = folder
        self._overwrite = overwrite
        names = file_names(photos, ".json", lambda photo, name: not names_another_photo(folder / name, photo))
        self._files = {photo: folder / name for photo, name in zip(photos, names, strict=True)}
        self.photos = [photo for photo in photos if overwrite or not self._files[photo].exists()]
        """Those to ask about."""
        self._kept = len(photos) - len(self.photos)
        self._written = 0

    def keep(self, photo: Path, _image: bytes, answer: Segmentation) -> None:
        if self._files[photo].exists() and not self._overwrite:
            self._kept += 1
            return
        _write(self._files[photo], labelme_answer(photo, answer, self._folder))
        self._written += 1

    def finish(self, _is_whole: bool = True) -> str:
        written = f"labels of {self._written} in {self._folder}/" if self._written else ""
        kept = f"{self._kept} kept as they were (--overwrite replaces them)" if self._kept else ""
        return ", ".join(filter(None, [written, kept]))


def describe(answer: Segmentation) -> str:
    """ "2 giant panda, 1 red panda · 23.4 % covered · 312 ms"."""
    counts = Counter(instance.class_name for instance in answer.instances)
    found = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing found"
    return f"{found} · {answer.coverage.total:.1%} covered · {answer.timings.total_ms:.0f} ms"


def answer_json(photo: Path, answer: Segmentation, mask_format: MaskFormat) -> dict[str, Any]:
    """An answer as the REST API writes it, with the photo's path in front."""
    from maskserve.imaging.rle import rle_to_polygons
    from maskserve.protos.codec import segmentation_to_json

    body = segmentation_to_json(answer)
    for instance, typed in zip(body["instances"], answer.instances, strict=True):
        if mask_format != "rle":
            del instance["mask_rle"]
        if mask_format == "polygon":
            instance["mask_polygons"] = rle_to_polygons(typed.mask_rle) if typed.mask_rle else []
    return {"photo": str(photo), **body}


def labelme_answer(photo: Path, answer: Segmentation, folder: Path) -> bytes:
    """An answer as a labelme file in `folder`; a shape's description has its score and the model."""
    from maskserve.imaging.outlines import mask_to_outlines
    from maskserve.training.datasets.labelme_writer import labelme_json, shapes_of

    shapes: list[dict[str, Any]] = []
    for group_id, instance in enumerate(answer.instances, 1):
        outlines = mask_to_outlines(instance.mask_rle) if instance.mask_rle else []
        description = f"score {instance.score:.2f}, {answer.model.name} {answer.model.version}".rstrip()
        shapes += shapes_of(instance.class_name, outlines, group_id, description)
    return labelme_json(shapes, photo, folder, answer.size)


def overlay(image: bytes, answer: Segmentation, kind: Literal["png", "jpeg"]) -> bytes:
    """The photo with its instances drawn in, as a file's bytes."""
    from maskserve.imaging.decode import decode_rgb
    from maskserve.imaging.encode import encode_picture
    from maskserve.imaging.overlay import paint_overlay

    return encode_picture(paint_overlay(decode_rgb(image), answer), kind)


def _write(path: Path, content: bytes) -> None:
    from maskserve.training.datasets.atomic import write_atomically

    write_atomically(path, content)
