"""Where the time of one photo goes, before and after: torch's operators and our own kernels by kind, and the rest.

    step under torch.profiler ─▶ own time of each operator and kernel ─▶ kinds; wall time − their sum = "the rest"

Kinds instead of modules, because the two sides are built differently. What the first thread does counts; in the rest
are OpenVINO's work, Python, numpy and waiting for other threads.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.subject import load_step

KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("convolution", ("conv",)),
    ("fully connected", ("addmm", "mm", "linear", "matmul", "bmm")),
    ("norm", ("batch_norm", "native_batch_norm", "group_norm")),
    ("ROIAlign", ("roi_align",)),
    ("proposals and NMS", ("nms", "topk", "sort", "index", "gather", "nonzero", "masked")),
    ("pool, upsample, paste", ("pool", "upsample", "interpolate", "grid_sampler")),
    ("copies, elementwise", ("",)),
)
"""Kind, and what its operators' names contain; the first that fits."""
REST = "the rest"
_OWN = {
    "residual_kernels": {"residual": "convolution"},
    "winograd_kernels": dict.fromkeys(("take_apart", "take_apart_rounded", "put_together", "put_tiles"), "convolution"),
    "int8_kernels": {"round_rows": "fully connected"},
    "kernels": {"pool": "ROIAlign", "boxes_at": "proposals and NMS", "first_apart": "proposals and NMS"},
}
"""Modules of `maskserve.modeling.compiled`, the kernels in them that Python calls, and their kinds."""
_MARK = "maskserve::"
_TIMES = 2


def step(profiled: str, **arguments: Any) -> Callable[[], dict[str, Any]]:
    """A step that profiles another (named as for `benchmarks.subject`) and says {"kinds": {kind: ms}}."""
    work = load_step(profiled, arguments)
    work()
    _mark_own_kernels()
    return lambda: {"kinds": min((_profile(work) for _ in range(_TIMES)), key=lambda kinds: sum(kinds.values()))}


def kind_of(operator: str) -> str:
    """The kind of "aten::mkldnn_convolution", or of what `_mark_own_kernels` marks."""
    if operator.startswith(_MARK):
        return operator.removeprefix(_MARK)
    bare = operator.rpartition("::")[2]
    return next(kind for kind, parts in KINDS if any(part in bare for part in parts))


def _mark_own_kernels() -> None:
    """From here on the profiler sees each of them under its kind; nothing where this process has none."""
    compiled = sys.modules.get("maskserve.modeling.compiled")
    for name, kinds in _OWN.items() if compiled else ():
        module = getattr(compiled, name)()
        for kernel, kind in kinds.items():
            setattr(module, kernel, _marked(getattr(module, kernel), _MARK + kind))


def _marked(kernel: Callable[..., Any], mark: str) -> Callable[..., Any]:
    from torch.profiler import record_function

    def call(*arguments: Any) -> Any:
        with record_function(mark):
            return kernel(*arguments)

    return call


def _profile(work: Callable[[], Any]) -> Mapping[str, float]:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        begin = time.perf_counter()
        work()
        wall_ms = (time.perf_counter() - begin) * 1000
    kinds: dict[str, float] = defaultdict(float)
    for event in recorded.key_averages():
        if "::" in event.key:
            kinds[kind_of(event.key)] += event.self_cpu_time_total / 1000
    kinds[REST] = max(0.0, wall_ms - sum(kinds.values()))
    return {kind: kinds[kind] for kind in [*(name for name, _ in KINDS), REST] if kinds[kind] > 0}
