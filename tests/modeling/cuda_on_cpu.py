"""The kernels of `gpu_kernels.cu` compiled for the CPU, launched as torch launches those on a GPU. CI has no GPU."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from maskserve.modeling import fused, fused_gpu, gpu_kernels

SHIM = Path(__file__).with_name("cuda_on_cpu.hpp")


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the CPU passes for an NVIDIA GPU."""
    if not shutil.which("g++"):
        pytest.skip("needs g++, to run the GPU's kernels on a CPU")
    monkeypatch.setattr(gpu_kernels, "can_run_on", lambda _: True)
    monkeypatch.setattr(gpu_kernels, "_kernel", lambda name, stored, _: Kernel(name, stored))
    for module, name in ((fused, "_active_conv"), (fused_gpu, "active_conv")):
        monkeypatch.setattr(module, name, lambda conv, x: _conv(conv, x).relu())
    monkeypatch.setattr(fused, "_add_relu_conv", lambda conv, x, shortcut: (_conv(conv, x) + shortcut).relu())


class Kernel:
    def __init__(self, name: str, stored: str) -> None:
        self._name, self._library = name, _compiled(stored)

    def __call__(self, grid: tuple[int, int, int], block: tuple[int, int, int], args: list[Any]) -> None:
        """As torch.cuda's: pointers of tensors, int, and double."""
        values = [_as_c(one) for one in args]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(one) for one in values))
        self._library.launch(self._name.encode(), (ctypes.c_int * 3)(*grid), (ctypes.c_int * 3)(*block), pointers)


def _as_c(one: torch.Tensor | int | float) -> Any:
    if isinstance(one, torch.Tensor):
        return ctypes.c_void_p(one.data_ptr())
    return ctypes.c_int(one) if isinstance(one, int) else ctypes.c_double(one)


@cache
def _compiled(stored: str) -> ctypes.CDLL:
    source = gpu_kernels.source(stored)
    name = hashlib.sha256(SHIM.read_bytes() + source.encode()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"cuda-on-cpu-{name}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory() as folder:
            kernels, made = Path(folder) / "kernels.cu", Path(folder) / library.name
            kernels.write_text(source, encoding="utf-8")
            flags = ["-std=c++20", "-O2", "-ffp-contract=off", "-fpermissive", "-w", "-shared", "-fPIC", "-pthread"]
            command = ["g++", *flags, f'-DKERNELS="{kernels}"', "-x", "c++", str(SHIM), "-o", str(made)]
            subprocess.run(command, check=True)
            shutil.move(made, library)
    return ctypes.CDLL(str(library))


def _conv(conv: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
