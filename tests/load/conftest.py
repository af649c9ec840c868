"""A folder of photos, and the gateway behind waitress in front of the fake TorchServe."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.conftest import make_photo


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, kind in (("a.jpg", "JPEG"), ("b.png", "PNG"), ("c.webp", "WEBP")):
        (folder / name).write_bytes(make_photo(kind=kind))
    return folder
