"""Fixtures that tests of several packages share.

The repository's root is put on the path, so that tests write `from tests.fakes.torchserve import FakeTorchServe`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The repository's folder."""
    return ROOT


@pytest.fixture(scope="session")
def kit() -> Path:
    """The folder of real photos and labels, which is not part of the repository."""
    folder = ROOT.parent / "shared" / "kit"
    if not folder.is_dir():
        pytest.skip(f"needs the kit of real photos at {folder}")
    return folder


@pytest.fixture(scope="session")
def pandas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of drawn pandas with 6 photos in train.json and 2 in test.json."""
    from click.testing import CliRunner

    from maskserve.cli.main import main
    from maskserve.training.datasets.pandas import make_pandas

    folder = tmp_path_factory.mktemp("pandas")
    make_pandas(folder / "photos", train=6, test=2, seed=3, size=(120, 160))
    done = CliRunner().invoke(main, ["data", "import", str(folder / "photos"), "-o", str(folder / "dataset")])
    assert done.exit_code == 0, done.output
    return folder / "dataset"


@pytest.fixture
def fake_torchserve() -> Iterator[Any]:
    """A TorchServe without models, workers or Java, on loopback; both arms are ready."""
    from tests.fakes.torchserve import FakeTorchServe

    with FakeTorchServe() as server:
        yield server


@pytest.fixture(scope="session")
def real_torchserve() -> Iterator[Any]:
    """The real TorchServe with a small model for each arm: `.address .management_address .models`."""
    from tests.serving import RealTorchServe

    with RealTorchServe() as server:
        yield server
