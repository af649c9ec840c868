"""The network on a GPU, recorded once for each shape of its input and played back since then (CUDA graphs).

    pixels, sizes ─▶ copied to where the recording reads ─▶ its 500 kernels, started at once ─▶ Found

Started one by one from Python, the kernels of a few photos take longer to start than to run. Those of a large batch do
not, and there are many more shapes of batches, so those are run as they come.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maskserve.modeling.one_pass import Found, OnePass

SIZES_KEPT = 40
"""Recordings. Photos of 800 × 800…1333 px, padded to 32 px, have 18 sizes either way up."""
MOST_PHOTOS = 4
"""In a batch that is recorded."""


class Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    pixels: Tensor
    sizes: Tensor
    """Where it reads."""
    found: Found
    """Where it writes."""


class Recorded:
    """Answers as its network does; what a call returns holds until the next call.

    Args:
        network: on a GPU, which must be the current one of every call.
    """

    def __init__(self, network: OnePass) -> None:
        self._network = network
        pool = torch.cuda.graph_pool_handle()  # recordings never run at the same time: they share their memory
        self._recording = lru_cache(SIZES_KEPT)(partial(_record, network, pool))

    def __call__(self, pixels: Tensor, sizes: Tensor) -> Found:
        """See `OnePass`."""
        if len(pixels) > MOST_PHOTOS:
            found: Found = self._network(pixels, sizes)
            return found
        recording = self._recording(tuple(pixels.shape))
        recording.pixels.copy_(pixels)
        recording.sizes.copy_(sizes)
        recording.graph.replay()
        return recording.found


def _record(network: OnePass, pool: Any, shape: tuple[int, ...]) -> Recording:
    pixels = torch.zeros(shape, device="cuda").to(memory_format=torch.channels_last)
    sizes = torch.full((shape[0], 2), float(min(shape[2:])), device="cuda")
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        network(pixels, sizes)  # libraries choose their kernels and take their workspace, which cannot be recorded
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        found = network(pixels, sizes)
    return Recording(graph, pixels, sizes, found)
