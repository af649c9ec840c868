"""An exponential moving average of the weights, which a short training on few photos validates and keeps.

    after each step: averaged ◀─ d · averaged + (1 − d) · model,   d = min(SOLVER.EMA_DECAY, (1 + t) / (10 + t))

d grows with the steps t, so that the random or foreign weights of the start are soon forgotten.
"""

from __future__ import annotations

from typing import Any

from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage(HookBase):
    """Follows the trainer's model; `model` is its average, with the same names.

    The running statistics of norm layers are averaged with the weights: those of the latest step describe activations
    that the averaged weights do not have.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        def average(averages: Any, latest: Any, steps: Tensor | int) -> None:
            get_ema_multi_avg_fn(warm_decay(decay, int(steps)))(averages, latest, steps)

        self._averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        return self._averaged.module

    def after_step(self) -> None:
        self._averaged.update_parameters(self.trainer.model)

    def state_dict(self) -> dict[str, Any]:
        return self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._averaged.load_state_dict(state)


def warm_decay(decay: float, steps: int) -> float:
    """The share that the average keeps after `steps` steps, at most `decay`."""
    return min(decay, (1 + steps) / (10 + steps))
