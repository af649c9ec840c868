"""Reads the model zoo's `.pkl` checkpoints, pickles of numpy arrays, without letting a pickle run code.

Only the few callables that rebuild numpy arrays are admitted; anything else is refused by name.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from maskserve.protos.errors import ConfigError

ADMITTED = {
    *((module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *((module, "scalar") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler of dicts, lists, texts, numbers and numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which no weights need")
        return super().find_class(module, name)


def load_arrays(path: Path) -> dict[str, Any]:
    """The dict in a pickle of arrays; ConfigError when it is damaged or holds anything else."""
    try:
        with path.open("rb") as file:
            loaded = ArrayUnpickler(file, encoding="latin1").load()
    except OSError:
        raise
    except Exception as error:  # one that is damaged, or none, may raise anything
        kind = type(error).__name__
        raise ConfigError(f"{path}: not a pickle of arrays that can be read safely: {kind}: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: holds no weights but a {type(loaded).__name__}")
    return loaded
