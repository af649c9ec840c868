"""Writes small labelled photos for tests: noise JPEGs with labelme JSON beside them."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION_TAG = 0x0112


def photo_bytes(size: tuple[int, int] = (60, 80), *, seed: int = 0, orientation: int = 1, kind: str = "JPEG") -> bytes:
    """A photo whose pixels before EXIF orientation are (height, width) = size."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def square(label: str, x: float = 10, y: float = 10, side: float = 20, **fields: Any) -> dict[str, Any]:
    """A labelme polygon."""
    points = [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]
    return {"label": label, "points": points, "shape_type": "polygon", "group_id": None, "flags": {}, **fields}


def write_labelme(
    stem: Path,
    shapes: list[dict[str, Any]],
    *,
    size: tuple[int, int] | None = (60, 80),
    photo: bytes | None = None,
    extension: str = ".jpg",
    embedded: bool = False,
    **fields: Any,
) -> Path:
    """`stem`.json and its photo, on disk or embedded; `size` is what the JSON states."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    photo = photo_bytes(size or (60, 80), seed=zlib.crc32(bytes(stem))) if photo is None else photo
    if not embedded:
        stem.with_suffix(extension).write_bytes(photo)
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": stem.with_suffix(extension).name,
        "imageData": base64.b64encode(photo).decode() if embedded else None,
        "imageHeight": size[0] if size else None,
        "imageWidth": size[1] if size else None,
        **fields,
    }
    path = stem.with_suffix(".json")
    path.write_text(json.dumps(content))
    return path
