"""Imports torchvision without torch's compiler, which torchvision loads for one rarely asked question.

    torchvision.ops.roi_align ─▶ torch._dynamo.utils ─▶ torch._dynamo, torch._inductor, sympy, triton

That takes longer than `import torch` (docs/benchmarks.md, "Cold start"), and the question (is_compile_supported) comes
up only where deterministic algorithms are wanted on a GPU. So a stand-in lies in the compiler's place while torchvision
is imported; it loads the compiler when the question comes up, or when a torchvision asks it for anything else.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo.utils"


class _StandIn(ModuleType):
    """torch._dynamo.utils until somebody needs it."""

    @staticmethod
    def is_compile_supported(device_type: Any) -> Any:
        return import_module(_COMPILER).is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system's questions
            raise AttributeError(name)
        sys.modules.pop(_COMPILER, None)
        return getattr(import_module(_COMPILER), name)


def import_torchvision() -> None:
    """Makes later imports of torchvision cheap; the compiler can be imported as ever afterwards."""
    if _COMPILER in sys.modules or "torchvision" in sys.modules:
        return
    sys.modules[_COMPILER] = stand_in = _StandIn(_COMPILER)
    try:
        import_module("torchvision")
    finally:
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]
