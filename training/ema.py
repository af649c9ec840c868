"""An exponential moving average of the weights, which a short training on few photos validates and keeps.

    after each step: averaged ◀─ d · averaged + (1 − d) · model,   d = min(SOLVER.EMA_DECAY, (1 + t) / (10 + t))

d grows with the steps t, so that the random or foreign weights of the start are soon forgotten.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage(HookBase):
    """Follows the trainer's model; `model` is its average, with the same names.

    The running statistics of norm layers are averaged with the weights: those of the latest step describe activations
    that the averaged weights do not have.

    Args:
        model: the trainer's; its tensors change in place from now on, none is exchanged for another.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._averaged = AveragedModel(model, use_buffers=True)
        self._decay = decay
        # AveragedModel.update_parameters looks for all tensors anew each time: a twentieth of a small step
        self._groups = _by_dtype(self._averaged.module, model)

    @property
    def model(self) -> nn.Module:
        return self._averaged.module

    @torch.no_grad()
    def after_step(self) -> None:
        steps = int(self._averaged.n_averaged)
        for averages, latest in self._groups:
            if steps == 0:
                torch._foreach_copy_(averages, latest)
            else:
                get_ema_multi_avg_fn(warm_decay(self._decay, steps))(averages, latest, steps)
        self._averaged.n_averaged += 1

    def state_dict(self) -> dict[str, Any]:
        return self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._averaged.load_state_dict(state)


def _by_dtype(averaged: nn.Module, model: nn.Module) -> list[tuple[list[Tensor], list[Tensor]]]:
    """(tensors of the average, those that they follow), a pair of lists for each kind of number."""
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    following = [*averaged.parameters(), *averaged.buffers()]
    for average, latest in zip(following, [*model.parameters(), *model.buffers()], strict=True):
        averages, followed = groups.setdefault(average.dtype, ([], []))
        averages.append(average.detach())
        followed.append(latest.detach())
    return list(groups.values())


def warm_decay(decay: float, steps: int) -> float:
    """The share that the average keeps after `steps` steps, at most `decay`."""
    return min(decay, (1 + steps) / (10 + steps))
