"""JPEG bytes ─▶ how many scans they hold, by walking from marker to marker (ITU-T T.81, annex B)."""

from __future__ import annotations

import re

import numpy as np

MAX_SCANS = 40
"""Encoders write one to about fifteen. Each costs the decoder a walk over the whole image, and takes a few bytes."""

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""0xFF and a code; not a stuffed 0xFF, a fill byte or a restart."""
_END, _SCAN, _TEMPORARY = 0xD9, 0xDA, 0x01
_PIECE_BYTES = 256 * 1024


def has_too_many_scans(data: bytes) -> bool:
    """Whether decoding would go over the image more than MAX_SCANS times."""
    if _could_begin_scans(data) <= MAX_SCANS:
        return False
    scans, position = 0, 2
    while scans <= MAX_SCANS:
        match = _MARKER.search(data, position)
        if match is None or data[match.end() - 1] == _END:
            return False
        code, position = data[match.end() - 1], match.end()
        scans += code == _SCAN
        if code != _TEMPORARY:
            position += int.from_bytes(data[position : position + 2])
    return True


def _could_begin_scans(data: bytes) -> int:
    """How many of the marker's two bytes there are, anywhere: no fewer than scans, and told in a third of the time."""
    codes = np.frombuffer(data, np.uint8)
    found = 0
    for start in range(0, len(codes) - 1, _PIECE_BYTES):
        second = codes[start + 1 : start + 1 + _PIECE_BYTES]
        first = codes[start : start + len(second)]
        found += int(np.count_nonzero((first == 0xFF) & (second == _SCAN)))
    return found
