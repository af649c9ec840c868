"""One step: as many parts as `SOLVER.ACCUMULATE` says, on as many GPUs as there are, one change of the weights.

    photos of a part ─▶ losses ─▶ gradients, summed ─▶ … next part … ─▶ all losses finite, on every GPU? ─▶ optimizer
                                                                       └▶ DivergedError: the weights stay as they were

Gradients are the mean over parts and GPUs. Losses that are a mean over a photo's regions come out as in one big batch;
the mask loss is a mean over the instances of a part, so that instances on photos with few of them weigh a little more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Losses = dict[str, Tensor]


class DivergedError(FloatingPointError):
    """A loss or a weight is no longer finite.

    Args:
        step: 1 for the first.
        what: for a person, such as "loss_mask is nan".
    """

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"step {step}: {what}")
        self.step, self.what = step, what


class StoppedEarly(BaseException):
    """Ends the trainer's loop; no Exception, because Detectron2 logs those as failures."""


class StepTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with gradient accumulation and losses that every process agrees on.

    Args:
        model: on this process' device; a DistributedDataParallel where there are several processes.
        loader: endless batches, each the part of a step that one forward takes on this device.
        parts: batches in a step.
    """

    def __init__(
        self, model: nn.Module, loader: Iterable[Any], optimizer: torch.optim.Optimizer, parts: int = 1
    ) -> None:
        super().__init__(model, loader, optimizer)
        self.parts = parts
        self.stop_asked = False
        """Set from outside, in any process: all processes end before their next step."""
        self._stop_agreed = False

    def train(self, start_iter: int, max_iter: int) -> None:
        try:
            super().train(start_iter, max_iter)
        except StoppedEarly:
            return

    def run_step(self) -> None:
        if self._stop_agreed:
            raise KeyboardInterrupt
        self.optimizer.zero_grad()
        losses, data_s = self._accumulate()
        names = sorted(losses)
        values = torch.stack([losses[name] for name in names]).tolist()  # waits for the device once
        self._agree(dict(zip(names, values, strict=True)), data_s)
        self.optimizer.step()

    def _accumulate(self) -> tuple[Losses, float]:
        """Losses of the step, with their gradients left in the model, and the seconds spent waiting for photos."""
        losses: Losses = {}
        data_s = 0.0
        for part in range(self.parts):
            start = time.perf_counter()
            photos = next(self._data_loader_iter)
            data_s += time.perf_counter() - start
            with self._exchange_gradients(last=part + 1 == self.parts):
                found = self._forward(photos)
                total = torch.stack(list(found.values())).sum() / self.parts
                total.backward()
            for name, loss in found.items():
                losses[name] = losses.get(name, 0) + loss.detach().float() / self.parts
        return losses, data_s

    def _forward(self, photos: Any) -> Losses:
        try:
            return self.model(photos)
        except (FloatingPointError, AssertionError) as error:
            # Detectron2 looks at proposals and boxes on their way
            if isinstance(error, AssertionError) and "infinite or NaN" not in str(error):
                raise
            raise DivergedError(self.iter + 1, "the boxes that the network proposes are not finite") from error

    def _exchange_gradients(self, *, last: bool) -> AbstractContextManager[Any]:
        """Between GPUs gradients are averaged once a step."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _agree(self, losses: Mapping[str, float], data_s: float) -> None:
        """Log the mean losses of all processes; a loss that is not finite raises DivergedError in every one."""
        said = comm.all_gather((losses, data_s, self.stop_asked))
        every = [losses for losses, _, _ in said]
        broken = [(name, values[name]) for values in every for name in values if not math.isfinite(values[name])]
        if broken:
            name, value = broken[0]
            raise DivergedError(self.iter + 1, f"{name} is {'infinite' if math.isinf(value) else 'not a number (NaN)'}")
        self._stop_agreed = any(stop for _, _, stop in said)
        means = {name: float(np.mean([values[name] for values in every])) for name in losses}
        self.storage.put_scalar("data_time", max(seconds for _, seconds, _ in said))
        self.storage.put_scalar("total_loss", sum(means.values()))
        self.storage.put_scalars(**means)


def require_finite(state: Mapping[str, Tensor], step: int) -> None:
    """Raises DivergedError when a tensor of a state dict holds an infinite number or NaN."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DivergedError(step, f"the weights of {name} are not finite")
