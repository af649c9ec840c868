"""What happens between the steps of Detectron2's trainer: validation, checkpoints, progress.

after each step: LR ─▶ validation (every EVAL_PERIOD and at the end) ─▶ best weights ─▶ logs ─▶ last.pth
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from maskserve.training.run_folder import LAST, RunFolder

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
    """

    def __init__(self, run: RunFolder, period: int, score: Callable[[State], dict[str, float]] | None) -> None:
        self.run, self.period, self.score = run, period, score
        self.best_ap, self.best_step = -math.inf, 0
        self.progress: Progress = Quiet()
        self.average: nn.Module | None = None

    def after_step(self) -> None:
        step, last = self.trainer.iter + 1, self.trainer.iter + 1 == self.trainer.max_iter
        if last or (self.score is not None and self.period > 0 and step % self.period == 0):
            self.validate(step)

    def validate(self, step: int) -> None:
        state = plain_state(self.trainer.model if self.average is None else self.average)
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
        if better:
            self.best_ap = mask_ap
            self._keep(state, step)

    def _keep(self, state: State, step: int) -> None:
        self.best_step = step
        self.run.write_state(self.run.weights.name, state)

    def state_dict(self) -> dict[str, Any]:
        return {"best_ap": self.best_ap, "best_step": self.best_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_ap, self.best_step = state["best_ap"], state["best_step"]


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
        if self.done_step > self.saved_step:
            self.save()

    def save(self) -> None:
        trainer = self.trainer
        state = {"step": self.done_step, "elapsed_s": self.elapsed_s, "model": trainer.model.state_dict()}
        self.run.write_state(LAST, {**state, "trainer": trainer.state_dict()})
        self.saved_step = self.done_step


class Report(HookBase):
    """Tells a Progress about each step."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        losses = {name: latest[name][0] for name in LOSSES if name in latest}
        self.progress.step(self.trainer.iter + 1, self.trainer.max_iter, losses)


def plain_state(model: nn.Module) -> State:
    """The model's tensors as FP32 copies on the CPU in standard memory order, for a file that any reader can use."""
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor)
        .detach()
        .cpu()
        .clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
