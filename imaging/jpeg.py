"""JPEG bytes ─▶ how many scans they hold, by walking from marker to marker (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate

import numpy as np

MAX_SCANS = 40
"""Encoders write one to about fifteen. Each costs the decoder a walk over the whole image, and takes a few bytes."""

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""0xFF and a code; not a stuffed 0xFF, a fill byte or a restart."""
_END, _SCAN, _TEMPORARY = 0xD9, 0xDA, 0x01
_SEQUENTIAL = (0xC0, 0xC1)
"""Frames whose scans have all of a component's numbers, Huffman-coded."""
_PIECE_BYTES = 256 * 1024


def has_too_many_scans(data: bytes) -> bool:
    """Whether decoding would go over the image more than MAX_SCANS times."""
    if _is_read_at_once(data) or _could_begin_scans(data) <= MAX_SCANS:
        return False
    scans = (code == _SCAN for code, _ in _segments(data))
    return any(count > MAX_SCANS for count in accumulate(scans))


def _is_read_at_once(data: bytes) -> bool:
    """Whether the first scan is all of the image, as in most files: libjpeg takes no second one then."""
    components = None
    for code, start in _segments(data):
        if code in _SEQUENTIAL:
            components = data[start + 7 : start + 8]
        if code == _SCAN:
            return data[start + 2 : start + 3] == components
    return False


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Up to the image's end each marker's code, and where its length and what it says begin."""
    position = 2
    while (match := _MARKER.search(data, position)) and (code := data[match.end() - 1]) != _END:
        position = match.end()
        yield code, position
        if code != _TEMPORARY:
            position += int.from_bytes(data[position : position + 2])


def _could_begin_scans(data: bytes) -> int:
    """How many of the marker's two bytes there are, anywhere: no fewer than scans, and told in a third of the time."""
    codes = np.frombuffer(data, np.uint8)
    found = 0
    for start in range(0, len(codes) - 1, _PIECE_BYTES):
        second = codes[start + 1 : start + 1 + _PIECE_BYTES]
        first = codes[start : start + len(second)]
        found += int(np.count_nonzero((first == 0xFF) & (second == _SCAN)))
    return found
