"""What an archive in the model store says about how TorchServe runs it, before it does."""

from __future__ import annotations

import zipfile
from pathlib import Path

import yaml

_DEFAULT_S = 120.0
"""TorchServe's own startupTimeout."""


def worker_starts_s(archive: Path) -> float:
    """The longest that a worker may take to load it."""
    try:
        with zipfile.ZipFile(archive) as content:
            settings = yaml.safe_load(content.read("model-config.yaml"))
        return float(settings["startupTimeout"])
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError, zipfile.BadZipFile):
        return _DEFAULT_S  # TorchServe says what is wrong with it
