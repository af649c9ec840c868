"""A model archive without a model: its handler does to TorchServe what the request's `image` says.

It pins what TorchServe 0.12 makes of a handler's faults (../shared/design/torchserve.md, table 2.1).
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

MODEL = "faults"
SETTINGS = "minWorkers: 1\nmaxWorkers: 1\nbatchSize: 1\nmaxBatchDelay: 1\nresponseTimeout: 30\nstartupTimeout: 120\n"


class FaultHandler:
    """TorchServe's entry; this very file is put into the archive."""

    def initialize(self, context: object) -> None:
        """Nothing to load."""

    def handle(self, rows: list[dict[str, bytearray]], context: object) -> object:
        """What the only row asks for."""
        wish = bytes(rows[0]["image"]).decode()
        if wish == "raise":
            raise ValueError("a secret of the server")
        if wish == "memory":
            raise MemoryError
        if wish == "cuda":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if wish == "die":
            os._exit(1)
        return {"none": None, "too few": [], "text": ["no reply"], "long": [b"x" * (21 << 20)]}[wish]


def make_fault_archive(store: Path) -> None:
    """Writes faults.mar by hand: an archive is files and a manifest."""
    manifest = {"modelName": MODEL, "modelVersion": "1.0", "handler": "faults.py", "configFile": "model-config.yaml"}
    with zipfile.ZipFile(store / f"{MODEL}.mar", "w") as archive:
        archive.write(__file__, "faults.py")
        archive.writestr("model-config.yaml", SETTINGS)
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": manifest}))
