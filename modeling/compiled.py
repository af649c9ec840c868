"""The compiled kernels, from a path that outlives the archive.

    kernels.py, *_kernels.py ─▶ copies in the user's cache folder, named by their hash ─▶ numba keeps what it
                                compiled beside them (`kernel_cache.py`)

numba finds its compiled code by the path of the source, and TorchServe unpacks an archive to another path each time:
every worker would compile for seconds what the last one compiled already. Where nothing can be written, they do.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from threading import Lock
from types import ModuleType

from maskserve.modeling.machine import cache_folder

SHARED = ("lanes.py", "tiles.py")
"""What kernels import: their compiled code has it inside, so that another one makes it another code."""

NUMBERS_AT_ONCE = 16
"""`LANES` of lanes.py, which is not to be read without numba: channels of a kernel come in multiples of it."""


@cache
def is_there() -> bool:
    """Whether numba is installed: looked for once, for it is asked with every photo."""
    return importlib.util.find_spec("numba") is not None


def kernels() -> ModuleType:
    """The module `maskserve.modeling.kernels`; each kernel is compiled, or read, when it is first called."""
    return _once("kernels")


def mask_kernels() -> ModuleType:
    """The module `maskserve.modeling.mask_kernels`, likewise."""
    return _once("mask_kernels")


def winograd_kernels() -> ModuleType:
    """The module `maskserve.modeling.winograd_kernels`, likewise."""
    return _once("winograd_kernels")


def residual_kernels() -> ModuleType:
    """The module `maskserve.modeling.residual_kernels`, likewise."""
    return _once("residual_kernels")


def int8_kernels() -> ModuleType:
    """The module `maskserve.modeling.int8_kernels`, likewise."""
    return _once("int8_kernels")


_loading = Lock()


def _once(name: str) -> ModuleType:
    """For all threads the same: numba stores types of a second copy so that the next process does not know them."""
    with _loading:
        return _load(name)


@cache
def _load(name: str) -> ModuleType:
    source = _lasting_copy(Path(__file__).with_name(f"{name}.py"))
    spec = importlib.util.spec_from_file_location(f"maskserve_{name}", source)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # compiled code that is read from a file asks for it by name
    spec.loader.exec_module(module)
    if os.access(source.parent, os.W_OK):
        from maskserve.modeling.kernel_cache import keep  # numba may not be installed

        keep(module)
    return module


def _lasting_copy(module: Path) -> Path:
    """A file with the same source, or that one where the cache folder cannot be written."""
    source = module.read_bytes()
    digest = sha256(source + b"".join(module.with_name(name).read_bytes() for name in SHARED)).hexdigest()
    try:
        target = cache_folder() / f"kernels-{digest[:16]}" / module.name
        if not target.is_file() or target.read_bytes() != source:  # a full disk or a lost write cut it off
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{os.getpid()}")
            partial.write_bytes(source)
            partial.replace(target)  # several workers may start at the same time
    except (OSError, RuntimeError):  # RuntimeError: a user without a home, as containers have them
        return module
    return target
