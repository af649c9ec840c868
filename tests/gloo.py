"""Detectron2's `launch` for processes without a GPU: the same arguments, real processes, gloo instead of NCCL."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch import distributed, multiprocessing


def launch(
    main_func: Callable[..., None],
    num_gpus_per_machine: int,
    num_machines: int,
    machine_rank: int,
    dist_url: str,
    args: tuple[Any, ...],
    timeout: timedelta,
) -> None:
    url = f"tcp://127.0.0.1:{free_port()}" if dist_url == "auto" else dist_url
    shape = (num_gpus_per_machine, num_machines, machine_rank)
    multiprocessing.spawn(_worker, nprocs=num_gpus_per_machine, args=(main_func, shape, url, args, timeout))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _worker(
    local_rank: int,
    main_func: Callable[..., None],
    shape: tuple[int, int, int],
    url: str,
    args: tuple[Any, ...],
    timeout: timedelta,
) -> None:
    from detectron2.utils import comm

    here, machines, machine = shape
    rank = machine * here + local_rank
    distributed.init_process_group("gloo", init_method=url, world_size=here * machines, rank=rank, timeout=timeout)
    groups = [distributed.new_group(list(range(at * here, (at + 1) * here))) for at in range(machines)]
    comm._LOCAL_PROCESS_GROUP = groups[machine]
    main_func(*args)
