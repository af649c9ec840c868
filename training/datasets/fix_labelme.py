"""labelme files ▶ frame ▶ labels ▶ outlines ▶ labelme files of the same names that name the same photos."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from maskserve.protos.errors import DataError
from maskserve.training.datasets import labelme
from maskserve.training.datasets.changes import Change, SplitPhoto, twins
from maskserve.training.datasets.findings import Where
from maskserve.training.datasets.frames import FrameChange, frame_change
from maskserve.training.datasets.geometry import Polygon
from maskserve.training.datasets.labelme import LabelledPhoto, Shape
from maskserve.training.datasets.labelme_writer import relative_name
from maskserve.training.datasets.labels import SKIPPED_LABELS, LabelTable
from maskserve.training.datasets.photos import decode_photo, orientation, pixel_hash
from maskserve.training.datasets.repair import DONE, dropped, repair
from maskserve.training.datasets.sources import find_labelme

Json = dict[str, Any]
Points = Sequence[tuple[float, float]]


def fix_labelme(
    folder: Path,
    out_dir: Path,
    staged: Path,
    labels: LabelTable | None,
    on_photo: Callable[[int, int], None],
) -> Iterator[Change]:
    """Write the files of `folder` repaired into `staged`, as they shall lie in `out_dir`."""
    sources = find_labelme([folder])
    photos: list[SplitPhoto] = []
    for done, source in enumerate(sources, 1):
        name = source.path.relative_to(folder if folder.is_dir() else folder.parent)
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        mender = _Mender(source.path, labels)
        content = mender.mended((out_dir / name).parent)
        (staged / name).write_bytes(content)
        yield from mender.changes
        if mender.digest:
            photos.append(SplitPhoto(name, source.split or "", mender.digest))
        on_photo(done, len(sources))
    for name, stays in twins(photos).items():
        (staged / name).unlink()
        text = f"was taken out, because the same photo is in {stays.split!r} ({stays.key})"
        yield Change("duplicate-photo", Where(str(folder / name)), text)


class _Mender:
    """Mends one file and notes what it changes."""

    def __init__(self, path: Path, labels: LabelTable | None) -> None:
        self.path = path
        self.labels = labels
        self.digest = ""
        self.changes: list[Change] = []
        self.new_groups: Iterator[int] = count()
        self.groups: defaultdict[tuple[str, object], dict[str, object]] = defaultdict(dict)
        """Class and group of before ─▶ what the label meant ─▶ the object's group."""

    def mended(self, folder: Path) -> bytes:
        """The content for the file's place in `folder`; a file that cannot be read is kept as it is."""
        data = self.path.read_bytes()
        try:
            photo = labelme.read_labelme(self.path)
        except DataError:
            return data
        content: Json = json.loads(data)
        size, frame = self._sizes(photo)
        groups = [shape.group_id for shape in photo.shapes if isinstance(shape.group_id, int)]
        self.new_groups = count(max(groups, default=0) + 1)
        if frame is not None:
            self._note("size-mismatch", None, str(frame))
            content |= {"imageHeight": frame.real[0], "imageWidth": frame.real[1]}
        raw_shapes = zip(content["shapes"], photo.shapes, strict=True)
        content["shapes"] = [new for raw, shape in raw_shapes for new in self._shapes(raw, shape, size, frame)]
        if photo.image_path.is_file() or photo.image_data is None:
            content["imagePath"] = relative_name(photo.image_path, folder)
        return json.dumps(content, indent=2).encode("ascii")  # see labelme_writer

    def _sizes(self, photo: LabelledPhoto) -> tuple[tuple[int, int] | None, FrameChange | None]:
        """The size (height, width) that the labels will be in, None where nothing says it, and how they get there."""
        try:
            data = photo.image_bytes()
            pixels = decode_photo(data)
        except DataError:
            return photo.stated_size, None
        self.digest = pixel_hash(pixels)
        real = pixels.shape[:2]
        if photo.stated_size in (None, real):
            return real, None
        points = [point for shape in photo.shapes for point in shape.points]
        return real, frame_change(photo.stated_size or real, real, orientation(data), points)

    def _shapes(
        self, raw: Json, shape: Shape, size: tuple[int, int] | None, frame: FrameChange | None
    ) -> Iterator[Json]:
        """The shapes that one becomes: none, itself, or its parts."""
        label = self._label(shape)
        kept = raw if label == shape.label else raw | {"label": label}
        group = self._group(shape, label)
        if group != shape.group_id:
            kept = kept | {"group_id": group}
        if frame:
            kept = kept | {"points": _as_json(frame.points(shape.points))}
        if label in SKIPPED_LABELS or shape.kind not in labelme.AREA_SHAPES or size is None:
            yield kept
            return
        outlines = labelme.polygons(shape)
        repaired = [repair(frame.points(outline) if frame else outline, size) for outline in outlines]
        codes = list(dict.fromkeys(code for one in repaired for code in one.codes))
        parts = [part for one in repaired for part in one.parts]
        for code, text in [(code, DONE[code]) for code in codes] if parts else [dropped(codes)]:
            self._note(code, shape, f"the {shape.kind} of {label!r}: {text}")
        if not parts:
            return
        if shape.kind == "rectangle" and len(shape.points) == 2:
            yield kept | {"points": _as_json(_inside(kept["points"], size))} if codes else kept
        elif codes or (frame and shape.kind == "mask" and not frame.only_size):
            yield from self._polygons(kept, shape, parts)
        else:
            yield kept

    def _label(self, shape: Shape) -> str:
        label = self.labels.corrected(shape.label) if self.labels else shape.label
        if self.labels and label != shape.label:
            code = "relabelled" if shape.label in self.labels.classes else "unknown-label"
            self._note(code, shape, f"the label {shape.label!r} became {label!r}")
        return label

    def _group(self, shape: Shape, label: str) -> object:
        """The group of a shape that gets this label: a new one where an object of another label already has both."""
        if self.labels is None or shape.group_id is None or label in SKIPPED_LABELS:
            return shape.group_id
        meant, taken = self.labels.meant(shape.label), self.groups[label, shape.group_id]
        if meant not in taken:
            taken[meant] = next(self.new_groups) if taken else shape.group_id
        return taken[meant]

    def _polygons(self, raw: Json, shape: Shape, parts: Sequence[Polygon]) -> Iterator[Json]:
        """One polygon, or several that a `group_id` holds together."""
        fields: Json = {"shape_type": "polygon"} | ({"mask": None} if shape.bitmap else {})
        if len(parts) > 1 and shape.group_id is None:
            fields["group_id"] = next(self.new_groups)
        for part in parts:
            yield raw | fields | {"points": _as_json(part)}

    def _note(self, code: str, shape: Shape | None, text: str) -> None:
        self.changes.append(Change(code, Where(str(self.path), shape.index if shape else None), text))


def _inside(corners: Points, size: tuple[int, int]) -> Polygon:
    return [(min(max(x, 0), size[1]), min(max(y, 0), size[0])) for x, y in corners]


def _as_json(points: Points) -> list[list[float]]:
    return [[x, y] for x, y in points]
