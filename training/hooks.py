"""What happens between the steps of Detectron2's trainer: validation, checkpoints, progress.

after each step: LR ─▶ validation (every EVAL_PERIOD and at the end) ─▶ best weights ─▶ logs ─▶ last.pth ─▶ go on?

Where there are several processes only the first validates, tells and writes; the others wait for it.
Weights that are not finite are never written.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from maskserve.training.run_folder import LAST, RunFolder
from maskserve.training.step import DivergedError, StoppedEarly, require_finite

State = dict[str, Tensor]
LOSSES = ("loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc")


class Progress(Protocol):
    """Who is told how the training goes."""

    def step(self, done: int, total: int, losses: dict[str, float]) -> None:
        """After each step."""

    def note(self, text: str) -> None:
        """Now and then: an evaluation, a decision."""


class Quiet:
    """Tells nobody."""

    def step(self, done: int, total: int, losses: dict[str, float]) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Validation(HookBase):
    """Evaluates every `period` steps and at the end, and keeps the weights with the best mask AP.

    `average` is a model that is evaluated and kept in place of the trainer's (training/ema.py).

    Args:
        score: state dict ─▶ {metric: value}, of which "segm/AP" decides; without it (None) the last weights are kept.
        patience: after so many validations in a row without a better AP there is nothing to go on for; 0: never.
            As long as the AP is 0 none is counted.
    """

    def __init__(
        self,
        run: RunFolder,
        period: int,
        score: Callable[[State], dict[str, float]] | None,
        patience: int = 0,
    ) -> None:
        self.run, self.period, self.score, self.patience = run, period, score, patience
        self.best_ap, self.best_step = -math.inf, 0
        self.in_vain = 0
        """Validations in a row that found no better AP."""
        self.exhausted = False
        """There is nothing to go on for; known to every process."""
        self.progress: Progress = Quiet()
        self.average: nn.Module | None = None

    def after_step(self) -> None:
        step, last = self.trainer.iter + 1, self.trainer.iter + 1 == self.trainer.max_iter
        if last or (self.score is not None and self.period > 0 and step % self.period == 0):
            if comm.is_main_process():
                self.validate(step)
            self.exhausted = comm.all_gather(0 < self.patience <= self.in_vain and not last)[0]

    def validate(self, step: int) -> None:
        state = plain_state(self.trainer.model if self.average is None else self.average)
        require_finite(state, step)
        if self.score is None:
            self._keep(state, step)
            return
        metrics = self.score(state)
        self.trainer.storage.put_scalars(smoothing_hint=False, **metrics)
        mask_ap = metrics["segm/AP"]
        better = mask_ap >= self.best_ap
        self.progress.note(
            f"step {step}: validation mask AP {mask_ap:.1f}, AP50 {metrics['segm/AP50']:.1f}"
            + ("" if better else f" (best {self.best_ap:.1f} at step {self.best_step})")
        )
        self.in_vain = 0 if mask_ap > self.best_ap or self.best_ap <= 0 else self.in_vain + 1
        if better:
            self.best_ap = mask_ap
            self._keep(state, step)

    def _keep(self, state: State, step: int) -> None:
        self.best_step = step
        self.run.write_state(self.run.weights.name, state)

    def state_dict(self) -> dict[str, Any]:
        return {"best_ap": self.best_ap, "best_step": self.best_step, "in_vain": self.in_vain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_ap, self.best_step = state["best_ap"], state["best_step"]
        self.in_vain = state.get("in_vain", 0)


class Checkpoint(HookBase):
    """Writes all that a resumed training needs to `last.pth`, every `period` steps and when training stops."""

    def __init__(self, run: RunFolder, period: int) -> None:
        self.run, self.period = run, period
        self.saved_step = self.done_step = 0
        self.elapsed_s = 0.0
        self._clock = time.monotonic()

    def before_train(self) -> None:
        self._clock = time.monotonic()
        self.saved_step = self.done_step = self.trainer.start_iter

    def after_step(self) -> None:
        now = time.monotonic()
        self.elapsed_s, self._clock = self.elapsed_s + now - self._clock, now
        self.done_step = self.trainer.iter + 1
        if self.period > 0 and self.done_step % self.period == 0:
            self.save()

    def after_train(self) -> None:
        # weights that lead to NaN may be finite still, but they are no good ones
        if self.done_step > self.saved_step and not isinstance(sys.exception(), DivergedError):
            self.save()

    def save(self) -> None:
        trainer = self.trainer
        model = unwrapped(trainer.model).state_dict()
        require_finite(model, self.done_step)
        write_last(self.run, self.done_step, self.elapsed_s, model, trainer.state_dict())
        self.saved_step = self.done_step


class EarlyStop(HookBase):
    """Ends the training when a Validation is exhausted; the last hook, so that the step is logged and saved."""

    def __init__(self, validation: Validation) -> None:
        self.validation = validation

    def after_step(self) -> None:
        if self.validation.exhausted:
            raise StoppedEarly


class Report(HookBase):
    """Tells a Progress about each step."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        losses = {name: latest[name][0] for name in LOSSES if name in latest}
        self.progress.step(self.trainer.iter + 1, self.trainer.max_iter, losses)


def write_last(run: RunFolder, step: int, elapsed_s: float, model: State, trainer: dict[str, Any] | None) -> None:
    """last.pth: all that a training goes on from; `trainer` is None before the first step."""
    run.write_state(LAST, {"step": step, "elapsed_s": elapsed_s, "model": model, "trainer": trainer})


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself where DistributedDataParallel is around it."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def plain_state(model: nn.Module) -> State:
    """The model's tensors as FP32 copies on the CPU in standard memory order, for a file that any reader can use."""
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor)
        .detach()
        .cpu()
        .clone(memory_format=torch.contiguous_format)
        for name, tensor in unwrapped(model).state_dict().items()
    }
