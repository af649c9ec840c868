"""How fast this machine multiplies (large products and convolutions on all cores), and what a network needs.

    a burst in each round ─▶ GFLOP/s by precision ─▶ floor of a photo in that round = its FLOPs / peak, each
    part's in the precision that it calculates in

FLOPs are those of `maskserve.modeling.complexity`: a multiply-add is two; norms, ROIAlign, suppression, resizing and
memory traffic count as nothing. Convolutions are counted as they are defined: who needs fewer multiplications for them
(`maskserve.modeling.winograd`) may be below the floor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.machine import PRECISIONS, has_int8

_SIDE = 2048
_MAP = (100, 152)
_CHANNELS = 256
_BURST_S = 0.2
_NO_PEAK = {
    "bf16": "this CPU does not calculate in bfloat16",
    "int8": "this CPU has no integer products that are faster (neither VNNI nor AMX)",
}


def bursts() -> Callable[[], dict[str, float]]:
    """A step that says {"fp32 product": GFLOP/s, "fp32 convolution": …, …}."""
    import torch

    from maskserve.modeling.device import has_fast_bfloat16

    torch.manual_seed(0)
    works: dict[str, tuple[Callable[[], Any], float]] = {}
    for name, dtype in {
        "fp32": torch.float32,
        **({"bf16": torch.bfloat16} if has_fast_bfloat16("cpu") else {}),
    }.items():
        a, b = torch.randn(2, _SIDE, _SIDE, dtype=dtype)
        conv = torch.nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1, bias=False, dtype=dtype)
        conv = conv.to(memory_format=torch.channels_last)
        image = torch.randn(1, _CHANNELS, *_MAP, dtype=dtype).contiguous(memory_format=torch.channels_last)
        works[f"{name} product"] = (_bound(torch.mm, a, b), 2 * _SIDE**3)
        works[f"{name} convolution"] = (_bound(conv, image), 2 * 9 * _CHANNELS**2 * _MAP[0] * _MAP[1])
    if has_int8():
        i, j = torch.randint(-127, 127, (2, _SIDE, _SIDE), dtype=torch.int8)
        works["int8 product"] = (_bound(torch._int_mm, i, j), 2 * _SIDE**3)

    def step() -> dict[str, float]:
        with torch.inference_mode():
            return {name: _gflops(work, flop) for name, (work, flop) in works.items()}

    return step


def peak(burst: Mapping[str, float], precision: str) -> float:
    """GFLOP/s of the best in one burst; 0 for a precision that it lacks."""
    return max((gflops for name, gflops in burst.items() if name.split()[0] == precision), default=0.0)


def peaks(bursts: Sequence[Mapping[str, float]]) -> dict[str, float | str]:
    """The median over bursts by precision, or why there is none; nothing when there were no bursts."""
    if not bursts:
        return {}
    found = {precision: median(peak(burst, precision) for burst in bursts) for precision in PRECISIONS}
    return {precision: gflops or _NO_PEAK[precision] for precision, gflops in found.items()}


def floor_ms(flops: float, peak_gflops: float) -> float:
    """The least time for so many operations, ms."""
    return flops / (peak_gflops * 1e9) * 1e3


def _bound(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)


def _gflops(work: Callable[[], Any], flop: float) -> float:
    """Of the fastest repetition within the burst."""
    work()
    fastest, end = float("inf"), time.perf_counter() + _BURST_S
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - start)
    return flop / fastest / 1e9
