"""How a process is set up that does nothing but answer photos: a worker, and whoever measures what a worker does."""

from __future__ import annotations

import torch


def prepare_process(threads: int) -> None:
    """For the whole process, before its predictor is made.

    Args:
        threads: that one photo is calculated with on the CPU.
    """
    torch.set_num_threads(threads)
