"""How a process is set up that does nothing but answer photos: a worker, and whoever measures what a worker does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from maskserve.modeling.allocator import keep_freed_memory

S = TypeVar("S")
T = TypeVar("T")


def prepare_process(threads: int) -> None:
    """For the whole process, before its predictor is made.

    Args:
        threads: that one photo is calculated with on the CPU.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()


def on_all_threads(step: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """`step` of each, in order, as many at once as there are threads: for steps that let go of Python's lock."""
    threads = min(len(items), torch.get_num_threads())
    if threads < 2:
        return [step(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(step, items))
