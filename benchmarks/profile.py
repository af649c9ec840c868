"""Where the time of one photo goes, before and after: torch's operators by kind, and what lies outside of torch.

    step under torch.profiler ─▶ own time of each operator ─▶ kinds; wall time − their sum = "outside torch"

Kinds instead of modules, because the two sides are built differently. OpenVINO's and numba's work lies outside torch.
"""

from __future__ import annotations

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
OUTSIDE = "outside torch"
_TIMES = 2


def step(profiled: str, **arguments: Any) -> Callable[[], dict[str, Any]]:
    """A step that profiles another (named as for `benchmarks.subject`) and says {"kinds": {kind: ms}}."""
    work = load_step(profiled, arguments)
    work()
    return lambda: {"kinds": min((_profile(work) for _ in range(_TIMES)), key=lambda kinds: sum(kinds.values()))}


def kind_of(operator: str) -> str:
    """The kind of "aten::mkldnn_convolution"."""
    bare = operator.rpartition("::")[2]
    return next(kind for kind, parts in KINDS if any(part in bare for part in parts))


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
    kinds[OUTSIDE] = max(0.0, wall_ms - sum(kinds.values()))
    return {kind: kinds[kind] for kind in [*(name for name, _ in KINDS), OUTSIDE] if kinds[kind] > 0}
