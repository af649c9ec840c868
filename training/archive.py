"""A folder with a model's files ─▶ a TorchServe archive, byte for byte the same every time.

stage/ ─▶ + the entry and the source it runs on ─▶ torch-model-archiver ─▶ the same zip without times
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

from maskserve.modeling.openvino_trunk import TRUNK_FILES
from maskserve.protos.errors import ConfigError

_PACKAGES = ("handlers", "modeling", "imaging", "protos")
_SOURCE_FILES = ("*.py", "*.cu")
_ENTRY = "mask_rcnn.py"
_EXTRA_FILES = ("config.yaml", "classes.json", "model_card.json", "MODEL_CARD.md", *TRUNK_FILES, "source")
# of every entry and of the manifest, so that the bytes do not depend on the day
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_CREATED_ON = "01/01/1980 00:00:00"


def add_source(folder: Path) -> None:
    """The entry, and beside it under source/ a maskserve/ of the packages that it runs on."""
    for package in _PACKAGES:
        spec = find_spec(f"maskserve.{package}")
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"maskserve.{package} is not installed; `make setup` installs it")
        root = Path(next(iter(spec.submodule_search_locations)))
        for file in (file for kind in _SOURCE_FILES for file in root.rglob(kind)):
            target = folder / "source" / "maskserve" / package / file.relative_to(root)
            if package == "handlers" and file.name == _ENTRY:
                target = folder / _ENTRY
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def archive(work: Path, name: str, version: str) -> Path:
    """<work>/<name>.mar of the folder <work>/stage. Raises ConfigError when the archiver fails.

    TorchServe's archiver gets a private temp folder: it deletes <tmp>/<model name> first.
    """
    stage, scratch = work / "stage", work / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", name, "--version", version]
    command += ["--handler", _ENTRY, "--serialized-file", "model.pth", "--config-file", "model-config.yaml"]
    # relative names: the archiver splits at commas and expands * ? [ ]
    command += ["--extra-files", ",".join(name for name in _EXTRA_FILES if (stage / name).exists())]
    command += ["--archive-format", "zip-store", "--export-path", str(work.resolve())]
    result = subprocess.run(
        command, cwd=stage, env=os.environ | {"TMPDIR": str(scratch)}, capture_output=True, text=True, check=False
    )
    if result.returncode or not (work / f"{name}.mar").is_file():
        if os.strerror(errno.ENOSPC) in result.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(work.parent))
        last = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ConfigError(f"torch-model-archiver failed: {last}")
    return work / f"{name}.mar"


def without_times(source: Path, target: Path) -> None:
    """The same zip, entries sorted, stored, and free of times."""
    with zipfile.ZipFile(source) as made, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as final:
        for name in sorted(made.namelist()):
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.external_attr = 0o644 << 16
            if name == "MAR-INF/MANIFEST.json":
                manifest = json.loads(made.read(name)) | {"createdOn": _CREATED_ON}
                final.writestr(entry, json.dumps(manifest, indent=2))
                continue
            entry.file_size = made.getinfo(name).file_size
            with made.open(name) as read, final.open(entry, "w") as write:
                shutil.copyfileobj(read, write, 1 << 20)
