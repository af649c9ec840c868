"""Loads an archive the way a TorchServe worker does, and runs one photo through it.

    .mar ─▶ unpacked folder ─▶ another Python, the folder first on its path ─▶ entry by its base name, exactly one class
                                                                             ─▶ initialize ─▶ handle ─▶ the answer

The other Python runs this file as a script, so that the archive's copy of maskserve is imported and not ours.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from maskserve.protos.errors import ConfigError

_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Verified:
    """What the archive answered."""

    handler: str
    """The file that maskserve.handlers came from, relative to the archive."""
    answer: dict[str, Any]
    """The REST API's JSON of the photo: a segmentation, or an error."""


def verify(archive: Path, photo: bytes | None = None) -> Verified:
    """Runs one photo through `archive`; without one, a drawn picture.

    Raises ConfigError with the last line of the traceback when the archive does not load, loads code from elsewhere,
    or fails on the photo.
    """
    if find_spec("ts") is None:
        raise ConfigError("--verify needs TorchServe; `make setup`, or pip install 'maskserve[serve]'")
    with tempfile.TemporaryDirectory(prefix="maskserve-verify-") as scratch:
        folder = Path(scratch) / "archive"
        try:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)
        except zipfile.BadZipFile:
            raise ConfigError(f"{archive}: not a model archive; make it with `maskserve package`") from None
        picture = Path(scratch) / "photo"
        picture.write_bytes(photo or _drawn())
        said = _run_worker(archive, folder, picture)
    if "error" in said["answer"]:
        raise ConfigError(f"{archive}: loads, but cannot answer: {said['answer']['error']['message']}")
    return Verified(said["handler"], said["answer"])


def _run_worker(archive: Path, folder: Path, picture: Path) -> dict[str, Any]:
    try:
        result = subprocess.run(
            # -P: the script's own folder must not be on the path
            [sys.executable, "-P", __file__, str(folder), str(picture)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{archive}: has not answered a photo within {_TIMEOUT_S} s") from None
    if result.returncode:
        last = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        raise ConfigError(f"{archive}: does not load: {last}")
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


def _drawn() -> bytes:
    from io import BytesIO

    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (320, 240), "seagreen")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((90, 50, 230, 200), fill="white", outline="black", width=6)
    file = BytesIO()
    picture.save(file, "JPEG")
    return file.getvalue()


def _worker(folder: Path, picture: Path) -> None:
    """In the other Python: what ts/model_loader.py and ts/service.py do, without their socket."""
    from ts.context import Context, RequestProcessor
    from ts.utils.util import get_yaml_config, list_classes_from_module

    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())["model"]
    entry = import_module(manifest["handler"].removesuffix(".py"))
    classes = list_classes_from_module(entry)
    if len(classes) != 1:
        raise ConfigError(f"{manifest['handler']} must define exactly one class, not {len(classes)}")
    settings = get_yaml_config(str(folder / manifest["configFile"]))
    context = Context(manifest["modelName"], str(folder), manifest, 1, None, "0.12.0", model_yaml_config=settings)
    context.request_processor = [RequestProcessor({})]
    handler = classes[0]()
    handler.initialize(context)
    (reply,) = handler.handle([{"body": bytearray(picture.read_bytes())}], context)
    source = Path(import_module("maskserve.handlers").__file__ or "").resolve()
    if not source.is_relative_to(folder.resolve()):
        raise ConfigError(f"maskserve.handlers came from {source}, not from the archive")
    print(json.dumps({"handler": str(source.relative_to(folder.resolve())), "answer": json.loads(reply)}))  # noqa: T201


if __name__ == "__main__":
    _worker(Path(sys.argv[1]), Path(sys.argv[2]))
