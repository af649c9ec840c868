"""How a process is set up that does nothing but answer photos: a worker, and whoever measures what a worker does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

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
    return list(_threads(threads).map(step, items))


def run_at_once(kernel: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> None:
    """A kernel that gives Python's lock free, called with each of `calls`, a thread for each, this one included."""
    waiting = [_threads(len(calls) - 1).submit(kernel, *call) for call in calls[1:]]
    kernel(*calls[0])
    for one in waiting:
        one.result()


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=max(1, count), thread_name_prefix="at_once")
