"""Which photos are sent."""

from __future__ import annotations

import pytest

from maskserve.load import photos as module
from maskserve.load.photos import read_uploads
from maskserve.protos.errors import DataError


def test_each_photo_is_checked_and_a_broken_one_is_left_out_with_its_reason(photos):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xffno jpeg")
    (photos / "notes.txt").write_text("not a photo")
    uploads = read_uploads(photos)
    assert len(uploads.bodies) == 3
    assert [line.split(":")[0] for line in uploads.skipped] == ["broken.jpg"]


def test_a_folder_without_a_photo_is_an_error_that_says_so(tmp_path):
    with pytest.raises(DataError, match="no photo that can be sent"):
        read_uploads(tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        read_uploads(tmp_path / "nowhere")
    (tmp_path / "x.png").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"x\.png: .*GIF"):
        read_uploads(tmp_path)


def test_what_does_not_fit_into_memory_is_left_out_and_said(photos, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", (photos / "a.jpg").stat().st_size)
    uploads = read_uploads(photos)
    assert len(uploads.bodies) == 1
    assert uploads.skipped[0].startswith("b.png and the photos after it")
