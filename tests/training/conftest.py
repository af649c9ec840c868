"""Eight drawn pandas as a dataset folder, made once."""

from pathlib import Path

import pytest

from maskserve.training.datasets.pandas import make_pandas


@pytest.fixture(scope="session")
def pandas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder with 6 photos in train.json and 2 in test.json."""
    from click.testing import CliRunner

    from maskserve.cli.main import main

    folder = tmp_path_factory.mktemp("pandas")
    make_pandas(folder / "photos", train=6, test=2, seed=3, size=(120, 160))
    done = CliRunner().invoke(main, ["data", "import", str(folder / "photos"), "-o", str(folder / "dataset")])
    assert done.exit_code == 0, done.output
    return folder / "dataset"
