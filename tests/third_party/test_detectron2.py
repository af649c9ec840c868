"""The in-tree build of Detectron2: what it makes works, and a changed archive is refused."""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "third_party" / "detectron2"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch):
    """The PEP 517 backend, imported as pip does: by name, from its own folder."""
    monkeypatch.syspath_prepend(str(BUILD))
    import build_detectron2

    yield build_detectron2
    for name in ("build_detectron2", "edits"):
        sys.modules.pop(name, None)


def test_the_installed_detectron2_is_found_by_its_own_name() -> None:
    """`detectron2>=0.6` is met, by our wheel or by the user's own build."""
    assert version("detectron2") >= "0.6"


def test_model_zoo_configs_are_there() -> None:
    """The YAML files that our configs start from come with the package."""
    from detectron2 import model_zoo

    assert Path(model_zoo.get_config_file("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")).is_file()


def test_a_compiled_operator_says_that_it_is_missing() -> None:
    """Importing works everywhere; only using what was not compiled fails, and says why."""
    from detectron2 import _C

    if getattr(_C, "__file__", "").endswith(".py"):
        with pytest.raises(ImportError, match="pure-Python build"):
            _C.nms_rotated  # noqa: B018


def test_another_archive_is_refused(backend, tmp_path: Path) -> None:
    """The sha256 is checked before anything is unpacked for use."""
    archive = tmp_path / "pb1-detectron2-0.6.tar.gz"
    archive.write_bytes(b"something else")
    with pytest.raises(backend.BuildError, match="sha256"):
        backend.check(archive)


def test_an_edit_that_does_not_match_stops_the_build(backend, tmp_path: Path) -> None:
    """A file that changed upstream is never patched by guess."""
    (tmp_path / "structures").mkdir()
    (tmp_path / "structures" / "masks.py").write_text("nothing to edit here")
    with pytest.raises(backend.BuildError, match="matched 0 times"):
        backend.apply_edits(tmp_path)
