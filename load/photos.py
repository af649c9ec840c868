"""A folder of photos ─▶ request bodies, made once: while requests are sent nothing is read or encoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maskserve.imaging.header import inspect_image
from maskserve.protos.errors import DataError, RequestError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_BYTES = 512 * 1024 * 1024
"""Photos beyond this sum are left out: all of them are kept in memory."""
_BOUNDARY = "maskserve-bench-7MA4YWxkTrZu0gW"
CONTENT_TYPE = f"multipart/form-data; boundary={_BOUNDARY}"


@dataclass(frozen=True)
class Uploads:
    """Multipart bodies with the file `image`, as a browser sends them, in the order of the files' names."""

    bodies: tuple[bytes, ...]
    skipped: tuple[str, ...]
    """A line for each file that is not sent, with the reason."""


def read_uploads(folder: Path) -> Uploads:
    """The photos in `folder`, each checked by its header. Raises DataError when there is none that can be sent."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; --photos wants a folder of JPEG, PNG or WebP files")
    bodies, skipped, size = [], [], 0
    for path in sorted(one for one in folder.iterdir() if one.suffix.lower() in SUFFIXES and one.is_file()):
        photo = path.read_bytes()
        if size + len(photo) > MAX_BYTES:
            skipped.append(f"{path.name} and the photos after it: more than {MAX_BYTES >> 20} MiB together")
            break
        try:
            inspect_image(photo)
        except RequestError as error:
            skipped.append(f"{path.name}: {error.message}")
            continue
        size += len(photo)
        bodies.append(_multipart(path, photo))
    if not bodies:
        why = f": {skipped[0]}" if skipped else f" ({', '.join(SUFFIXES)})"
        raise DataError(f"{folder}: no photo that can be sent{why}")
    return Uploads(tuple(bodies), tuple(skipped))


def _multipart(path: Path, photo: bytes) -> bytes:
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="photo{path.suffix.lower()}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + photo + f"\r\n--{_BOUNDARY}--\r\n".encode()
