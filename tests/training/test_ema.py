"""The average of the weights: what it is after some steps, what is kept, and that --resume continues it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from maskserve.training import steps as training_steps
from maskserve.training.ema import WeightAverage, warm_decay
from maskserve.training.hooks import Quiet
from maskserve.training.run_folder import working_folder
from maskserve.training.train import Job, train

TINY = {
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": "64",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.WARMUP_ITERS": "0",
    "SOLVER.EMA_DECAY": "0.9",
    "MODEL.DEVICE": "cpu",
}


def follow(model: nn.Module, decay: float, values: list[float]) -> WeightAverage:
    average = WeightAverage(model, decay)
    average.trainer = SimpleNamespace(model=model)
    for value in values:
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            tensor.data.fill_(value)
        average.after_step()
    return average


def test_weights_and_running_statistics_are_averaged_with_a_decay_that_warms_up():
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    average = follow(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), 0.25, values)
    expected = values[0]
    for steps, value in enumerate(values[1:], 1):
        decay = min(0.25, (1 + steps) / (10 + steps))
        expected = decay * expected + (1 - decay) * value
    for name in ("0.weight", "1.bias", "1.running_mean", "1.running_var"):
        tensor = average.model.state_dict()[name]
        assert torch.allclose(tensor, torch.full_like(tensor, expected)), name


def test_the_decay_never_exceeds_what_was_asked_for():
    assert warm_decay(0.999, 0) == pytest.approx(0.1)
    assert warm_decay(0.999, 10**6) == 0.999


def test_a_loaded_average_goes_on_as_if_it_had_not_stopped():
    model = nn.Linear(2, 2)
    whole = follow(model, 0.9, [1.0, 2.0, 3.0, 4.0])
    half = follow(model, 0.9, [1.0, 2.0])
    resumed = WeightAverage(model, 0.9)
    resumed.load_state_dict({name: tensor.clone() for name, tensor in half.state_dict().items()})
    resumed.trainer = SimpleNamespace(model=model)
    for value in (3.0, 4.0):
        for tensor in model.parameters():
            tensor.data.fill_(value)
        resumed.after_step()
    assert torch.equal(resumed.model.weight, whole.model.weight)


@pytest.mark.training
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools on numpy 2.4
def test_a_training_keeps_the_average_and_a_stopped_one_resumes_it(pandas: Path, tmp_path: Path, monkeypatch):
    class StopAfterTwo(Quiet):
        def step(self, done: int, total: int, losses: dict[str, float]) -> None:
            if done == 2:
                raise KeyboardInterrupt

    overrides = tuple(word for pair in {**TINY, "SOLVER.MAX_ITER": "2"}.items() for word in pair)
    job = Job("mobilenetv2", pandas, "quick", "none", tmp_path, seed=5, overrides=overrides)
    with pytest.raises(KeyboardInterrupt):
        train(job, StopAfterTwo())
    last = torch.load(working_folder(tmp_path, "mask_rcnn_mnv2_fpn").last, weights_only=True)
    stopped = last["trainer"]["hooks"]["WeightAverage"]
    assert (stopped["n_averaged"], last["step"]) == (2, 1)  # stopped in the hooks of step 2, which is done again

    trainers = []
    build = training_steps.build_trainer
    monkeypatch.setattr(
        training_steps, "build_trainer", lambda *a, **k: trainers.append(build(*a, **k)) or trainers[-1]
    )
    done = train(Job("mobilenetv2", pandas, "quick", "none", tmp_path, resume=True))
    kept, latest = torch.load(done.run.weights, weights_only=True), trainers[0].model.state_dict()
    name = "roi_heads.box_head.fc1.weight"
    assert kept.keys() == latest.keys()
    decay = warm_decay(0.9, 2)
    expected = decay * stopped[f"module.{name}"] + (1 - decay) * latest[name].float()
    assert torch.allclose(kept[name], expected, atol=1e-6)
    assert not torch.allclose(kept[name], latest[name].float(), atol=1e-6)
