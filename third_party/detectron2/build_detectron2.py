"""PEP 517 backend: archive from the registry ─▶ sha256 ─▶ edits ─▶ flit_core ─▶ pure-Python wheel.

The archive's Python files are those of Detectron2's official tag v0.6. `edits.py` lists what
today's numpy, Pillow, setuptools and torch ask for; an edit that does not match exactly as often
as it says stops the build, so a changed archive is never patched by guess.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from edits import ADDED, EDITS

HERE = Path(__file__).resolve().parent
REQUIREMENT = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"


class BuildError(Exception):
    """The archive is not there, or is not the one that the edits were written for."""


def download(into: Path) -> Path:
    """The source archive, from `PIP_INDEX_URL`/`UV_INDEX_URL` where set, else the public registry."""
    from unearth import PackageFinder

    index = os.environ.get("UV_INDEX_URL") or os.environ.get("PIP_INDEX_URL")
    finder = PackageFinder(index_urls=[index] if index else [], no_binary=["pb1-detectron2"])
    match = finder.find_best_match(REQUIREMENT).best
    if match is None or match.link is None:
        raise BuildError(f"{REQUIREMENT}: no source archive in the package registry; is it reachable?")
    finder.download_and_unpack(match.link, into / "unpacked", download_dir=into)
    return into / match.link.filename


def check(archive: Path) -> None:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise BuildError(f"{archive.name}: sha256 is {found}, expected {SHA256}; not using it")


def apply_edits(package: Path) -> None:
    """Edit `package` (the folder detectron2/) in place; every pattern must match its stated count."""
    for edit in EDITS:
        found = 0
        for path in sorted(package.glob(edit.files)):
            text, count = re.subn(edit.pattern, edit.replacement, path.read_text(encoding="utf-8"))
            if count:
                path.write_text(text, encoding="utf-8")
            found += count
        if found != edit.count:
            raise BuildError(f"{edit.files}: {edit.pattern!r} matched {found} times, expected {edit.count}")
    for name, text in ADDED.items():
        (package / name).write_text(text, encoding="utf-8")


@contextmanager
def patched_tree() -> Iterator[Path]:
    """A temporary folder with the patched package, our pyproject.toml and the upstream licence."""
    with tempfile.TemporaryDirectory(prefix="detectron2-build-") as folder:
        root = Path(folder)
        check(download(root))
        tree = root / "unpacked"
        apply_edits(tree / "detectron2")
        for leftover in ("setup.py", "setup.cfg"):
            (tree / leftover).unlink(missing_ok=True)
        shutil.copy(HERE / "pyproject.toml", tree)
        with chdir(tree):
            yield tree


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    """PEP 517."""
    from flit_core import buildapi

    target = Path(wheel_directory).resolve()
    with patched_tree():
        return buildapi.build_wheel(str(target))


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """PEP 517."""
    return []


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    """PEP 517; refused: the source archive is the registry's own."""
    raise BuildError(f"no sdist is made here: the source archive is {REQUIREMENT} in the registry")
