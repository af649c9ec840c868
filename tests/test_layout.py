"""What is installed is what is in the tree, and each part loads no more than it needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("cli", "client", "comparison", "gateway", "handlers", "imaging", "load", "modeling", "protos", "training")


def loaded_by(statement: str, *suspects: str) -> str:
    """Which of the modules a fresh interpreter has loaded after the statement."""
    code = f"{statement}\nimport sys\nprint(sorted({set(suspects)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["gateway", "gateway.app", "gateway.serve", "client", "imaging.overlay"])
def test_the_web_side_loads_no_models_library(module: str) -> None:
    """The gateway and the client run without torch and Detectron2."""
    heavy = ("torch", "torchvision", "detectron2", "matplotlib", "maskserve.modeling", "maskserve.training")
    assert loaded_by(f"import maskserve.{module}", *heavy) == "[]"


def test_the_contract_loads_neither_numpy_nor_grpc() -> None:
    """`maskserve.protos` is protobuf and plain types."""
    assert loaded_by("import maskserve.protos.codec", "numpy", "torch", "grpc", "PIL", "cv2") == "[]"


def test_help_loads_nothing_heavy() -> None:
    """`maskserve --help` answers without numpy, torch or gRPC."""
    statement = "from maskserve.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert loaded_by(statement, "numpy", "torch", "grpc", "cv2", "flask", "rich").endswith("[]")


def test_the_wheel_has_the_trees_modules(repo_root: Path, tmp_path: Path) -> None:
    """Every module and data file of the tree is in the wheel, and no deleted one comes back from an old build."""
    source = tmp_path / "source"
    tracked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(tracked, cwd=repo_root, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    # a copy without build/, so that the tree stays clean and nothing old is packed
    for name in listing.stdout.split("\0"):
        if name and (repo_root / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repo_root / name, source / name)
    wheel = build_wheel(source, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("maskserve/")}
    kinds = re.compile(r"\.(py|pyi|proto|yaml|xml|html|j2|js|css|svg)$")
    expected = {
        f"maskserve/{path.relative_to(source)}"
        for package in PACKAGES
        for path in (source / package).rglob("*")
        if path.is_file() and kinds.search(path.name)
    }
    assert {name for name in packed if kinds.search(name)} == expected


def build_wheel(source: Path, out: Path) -> Path:
    """The project's wheel, built without network by the installed setuptools."""
    pytest.importorskip("setuptools")
    code = "from setuptools.build_meta import build_wheel; print(build_wheel(%r))" % str(out)  # noqa: UP031
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.strip().splitlines()[-1]
