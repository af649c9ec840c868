"""How a process is set up that does nothing but answer photos: a worker, and whoever measures what a worker does."""

from __future__ import annotations

import torch

from maskserve.modeling.allocator import keep_freed_memory


def prepare_process(threads: int) -> None:
    """For the whole process, before its predictor is made.

    Args:
        threads: that one photo is calculated with on the CPU.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
