"""Detectron2's trainer, put together: model, loader, optimizer, schedule, hooks.

    cfg + records + initial weights ─▶ build_trainer ─▶ trainer.train(first_step, MAX_ITER)

Mixed precision is bfloat16 (`SOLVER.AMP.ENABLED`), which needs no loss scaling and doubles the speed of CPUs that
know it; others, and GPUs that do not, train in FP32.

Where there are several processes (Detectron2's `launch`), each has its share of a batch on its own GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.solver import build_lr_scheduler
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from maskserve.modeling.device import has_fast_bfloat16
from maskserve.training.ema import WeightAverage
from maskserve.training.hooks import Checkpoint, EarlyStop, Progress, Report, State, Validation
from maskserve.training.loader import Record, train_loader
from maskserve.training.naming import PREFIX
from maskserve.training.quick_parts import quicken
from maskserve.training.run_folder import RunFolder
from maskserve.training.step import StepTrainer

LOG_PERIOD = 10
GPU_STRIDE = 128
"""px. 512 to 736 × up to 1226 px are some 30 sizes, seen in the first hundred steps."""


def build_trainer(
    cfg: CfgNode,
    model: nn.Module,
    records: list[Record],
    run: RunFolder,
    *,
    score: Callable[[State], dict[str, float]] | None,
    progress: Progress,
    first_step: int = 0,
) -> StepTrainer:
    """A trainer with all hooks, ready for `train(first_step, cfg.SOLVER.MAX_ITER)`.

    Args:
        score: evaluates a state dict on the validation photos; None when there are none.
    """
    model.to(memory_format=torch.channels_last)  # convolutions are 1.3 to 4 times faster
    cast(Any, model).roi_heads.mask_head.loss_weight = cfg.MODEL.ROI_MASK_HEAD.LOSS_WEIGHT
    if _device_type(cfg) == "cpu":
        quicken(model)
    else:
        pad_to_few_sizes(model)
    optimizer = build_optimizer(cfg, model)
    loader = train_loader(cfg, records, first_step=first_step)
    average = WeightAverage(model, cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY else None
    # as an attribute, so that the model's own state and names stay as they are
    model.forward = torch.autocast(_device_type(cfg), torch.bfloat16, enabled=precision(cfg) is torch.bfloat16)(
        model.forward
    )
    trainer = StepTrainer(_shared(model), loader, optimizer, parts=cfg.SOLVER.ACCUMULATE)
    validation = Validation(run, cfg.TEST.EVAL_PERIOD, score, cfg.SOLVER.PATIENCE)
    validation.progress = progress
    validation.average = average.model if average else None
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            Schedule(optimizer, build_lr_scheduler(cfg, optimizer)),
            *([average] if average else []),
            validation,
            *(_records_of(cfg, run, progress) if comm.is_main_process() else []),
            EarlyStop(validation),
        ]
    )
    return trainer


class Schedule(hooks.LRScheduler):
    """Detectron2's, but `lr` in the log is that of `BASE_LR`: the heads', not of the group with the most tensors.

    That is the bottom-up network's as a rule, and `BACKBONE_LR_FACTOR` of it.
    """

    def before_train(self) -> None:
        super().before_train()
        groups = self._optimizer.param_groups
        self._best_param_group_id = max(range(len(groups)), key=lambda index: groups[index]["initial_lr"])


def pad_to_few_sizes(model: nn.Module) -> None:
    """From now on batches have one of a few sizes, whatever the photos': their sides are multiples of GPU_STRIDE.

    For a size that it has not seen before cuDNN chooses its kernels anew, which takes longer than three steps; with
    varied scales and Detectron2's multiples of 32 nearly every step has one.
    """
    backbone = cast(Any, model).backbone
    backbone._size_divisibility = math.lcm(GPU_STRIDE, max(1, backbone.size_divisibility))


def _records_of(cfg: CfgNode, run: RunFolder, progress: Progress) -> list[hooks.HookBase]:
    """What only the first process does."""
    writers = [JSONWriter(str(run.log)), TensorboardXWriter(str(run.path))]
    return [
        Report(progress),
        hooks.PeriodicWriter(writers, period=LOG_PERIOD),
        Checkpoint(run, cfg.SOLVER.CHECKPOINT_PERIOD),
    ]


def _shared(model: nn.Module) -> nn.Module:
    """The model, its gradients averaged with those of the other processes, if there are any."""
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    # each process keeps its own statistics of batch norm, as Detectron2 does
    return DistributedDataParallel(
        model, device_ids=[torch.cuda.current_device()] if on_gpu else None, broadcast_buffers=False
    )


def precision(cfg: CfgNode) -> torch.dtype:
    """What the convolutions are calculated in; the weights are float32 either way."""
    fast = cfg.SOLVER.AMP.ENABLED and has_fast_bfloat16(_device_type(cfg))
    return torch.bfloat16 if fast else torch.float32


def _device_type(cfg: CfgNode) -> str:
    device: str = cfg.MODEL.DEVICE.partition(":")[0]
    return device


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW as `SOLVER` says; the bottom-up network's rate is scaled by `BACKBONE_LR_FACTOR`."""
    solver = cfg.SOLVER
    groups: list[dict[str, Any]] = get_default_optimizer_params(
        model, base_lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, weight_decay_norm=solver.WEIGHT_DECAY_NORM
    )
    groups = _split_backbone(groups, model, solver.BACKBONE_LR_FACTOR)
    kind: type[torch.optim.Optimizer] = torch.optim.SGD if solver.OPTIMIZER == "SGD" else torch.optim.AdamW
    options: dict[str, Any] = {"momentum": solver.MOMENTUM} if solver.OPTIMIZER == "SGD" else {"fused": True}
    optimizer: torch.optim.Optimizer = maybe_add_gradient_clipping(cfg, kind)(
        groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, **options
    )
    return optimizer


def _split_backbone(groups: list[dict[str, Any]], model: nn.Module, factor: float) -> list[dict[str, Any]]:
    if factor == 1.0:
        return groups
    trunk = {id(parameter) for name, parameter in model.named_parameters() if name.startswith(PREFIX)}
    split: list[dict[str, Any]] = []
    for group in groups:
        inside = [parameter for parameter in group["params"] if id(parameter) in trunk]
        outside = [parameter for parameter in group["params"] if id(parameter) not in trunk]
        split += [{**group, "params": outside}] if outside else []
        split += [{**group, "params": inside, "lr": group["lr"] * factor}] if inside else []
    return split
