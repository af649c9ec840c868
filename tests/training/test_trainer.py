"""What a config key changes in the trainer."""

from pathlib import Path

import pytest
import torch
from detectron2.engine.hooks import LRScheduler
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from maskserve.training.datasets.manifest import dataset_dicts, load_dataset
from maskserve.training.hooks import Quiet
from maskserve.training.presets import ARMS, resolve_cfg
from maskserve.training.run_folder import RunFolder
from maskserve.training.step import StepTrainer
from maskserve.training.trainer import build_trainer, pad_to_few_sizes

TINY = ("INPUT.MIN_SIZE_TRAIN", "(64,)", "SOLVER.IMS_PER_BATCH", "2", "MODEL.DEVICE", "cpu")


def make_trainer(data: Path, folder: Path, *overrides: str) -> StepTrainer:
    cfg = resolve_cfg(
        ARMS["mobilenetv2"], preset="quick", recipe="none", class_count=2, seed=3, overrides=(*TINY, *overrides)
    )
    seed_all_rng(3)
    records = dataset_dicts(load_dataset(data).train)
    return build_trainer(cfg, build_model(cfg), records, RunFolder(folder), score=None, progress=Quiet())


def first_losses(data: Path, folder: Path, *overrides: str) -> dict[str, torch.Tensor]:
    trainer = make_trainer(data, folder, *overrides)
    with EventStorage() as trainer.storage:
        losses = trainer.model(next(iter(trainer.data_loader)))
        trainer.after_train()  # closes the log
    return losses


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools on numpy 2.4
def test_the_weight_of_the_mask_loss_scales_that_loss_alone(pandas: Path, tmp_path: Path):
    plain = first_losses(pandas, tmp_path)
    heavy = first_losses(pandas, tmp_path, "MODEL.ROI_MASK_HEAD.LOSS_WEIGHT", "2.5")
    for name, loss in plain.items():
        factor = 2.5 if name == "loss_mask" else 1.0
        assert torch.allclose(heavy[name], loss * factor), name


def test_the_rate_that_is_logged_is_that_of_the_config(pandas: Path, tmp_path: Path):
    """Not the trunk's, which has the most tensors and a tenth of the rate."""
    trainer = make_trainer(pandas, tmp_path, "SOLVER.BACKBONE_LR_FACTOR", "0.1", "SOLVER.WARMUP_ITERS", "0")
    with EventStorage() as trainer.storage:
        trainer.before_train()
        (schedule,) = (hook for hook in trainer._hooks if isinstance(hook, LRScheduler))
        trainer.optimizer.step()
        schedule.after_step()
        trainer.after_train()  # closes the log
    assert trainer.storage.latest()["lr"][0] == pytest.approx(0.003)


def test_on_a_gpu_batches_have_few_sizes_and_the_weights_their_names():
    cfg = resolve_cfg(ARMS["mobilenetv2"], preset="quick", recipe="none", class_count=2, seed=3, overrides=TINY)
    model = build_model(cfg)
    names = list(model.state_dict())
    pad_to_few_sizes(model)
    sizes = ((100, 130), (90, 260), (128, 128))
    batches = [model.preprocess_image([{"image": torch.zeros(3, *size)}]).tensor.shape[2:] for size in sizes]
    assert batches == [(128, 256), (128, 384), (128, 128)]
    assert list(model.state_dict()) == names
