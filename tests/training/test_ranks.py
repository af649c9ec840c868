"""Several processes train one model: real processes and gloo here, where there is no GPU for Detectron2's `launch`.

Each test is a training of two small steps in two processes.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from maskserve.protos.errors import ConfigError
from maskserve.training import ranks
from maskserve.training.job import Job, Machines
from maskserve.training.step import StepTrainer
from maskserve.training.train import assist, train
from tests import gloo
from tests.training.recorder import Recorder

pytestmark = [
    pytest.mark.training,
    pytest.mark.timeout(900),  # every process imports torch anew, on a busy machine that takes a minute
    pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning"),
]
TINY = ("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "4")
TINY += (
    "MODEL.DEVICE",
    "cpu",
    "MODEL.MOBILENETV2.NORM",
    "GN",
    "MODEL.FPN.NORM",
    "GN",
    "MODEL.ROI_MASK_HEAD.NORM",
    "GN",
)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes a machine, without GPUs."""
    monkeypatch.setattr(ranks, "launch", gloo.launch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def job(data: Path, output: Path, *more: str, machines: Machines = Machines(gpus=2), resume: bool = False) -> Job:  # noqa: B008
    overrides = () if resume else (*TINY, "SOLVER.MAX_ITER", "2", *more)
    return Job("mobilenetv2", data, "quick", "none", output, 5, resume, overrides, machines=machines)


def record_weights(trainer: StepTrainer, folder: Path) -> None:
    """Leaves each process' weights after each step in a file."""
    from detectron2.engine.hooks import CallbackHook
    from detectron2.utils import comm

    def save(trainer: StepTrainer) -> None:
        weights = {name: value.clone() for name, value in trainer.model.module.named_parameters()}
        torch.save(weights, folder / f"rank{comm.get_rank()}-step{trainer.iter + 1}.pth")

    trainer.register_hooks([CallbackHook(after_step=save)])


def recording_run_steps(job: Job, progress: object, on_trainer: object) -> None:
    """In the child processes."""
    from maskserve.training.steps import run_steps

    def both(trainer: StepTrainer) -> None:
        record_weights(trainer, job.output)
        on_trainer(trainer)

    run_steps(job, progress, both)


def recording_rank(job: Job, pipe: object) -> None:
    ranks.run_steps = recording_run_steps
    ranks._rank(job, pipe)


@pytest.mark.usefixtures("processes")
def test_both_processes_end_with_the_same_weights_and_one_run_folder(
    pandas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first one told, validated and wrote; the batch was shared."""

    def launch(_rank: object, *args: object, **options: object) -> None:
        gloo.launch(recording_rank, *args, **options)

    monkeypatch.setattr(ranks, "launch", launch)
    told = Recorder()
    done = train(job(pandas, tmp_path, "SOLVER.ACCUMULATE", "2", "SOLVER.EMA_DECAY", "0.0"), told)
    saved = {path.stem: torch.load(path, weights_only=True) for path in tmp_path.glob("rank*.pth")}
    assert sorted(saved) == ["rank0-step1", "rank0-step2", "rank1-step1", "rank1-step2"]
    for step in ("step1", "step2"):
        one, other = saved[f"rank0-{step}"], saved[f"rank1-{step}"]
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(saved["rank0-step1"][name], saved["rank0-step2"][name]) for name in one)
    kept = torch.load(done.run.weights, weights_only=True)
    assert all(torch.equal(kept[name], saved["rank0-step2"][name]) for name in one)
    assert told.steps == [1, 2]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["mask_rcnn_mnv2_fpn"]
    facts = done.run.read_json("run.json")
    assert (facts["processes"], facts["steps"]) == (2, 2)


@pytest.mark.usefixtures("processes")
def test_ctrl_c_stops_every_process_and_the_training_goes_on_later(pandas: Path, tmp_path: Path) -> None:
    """Told to the leading process alone, as `maskserve up` does; last.pth has the steps done."""

    class Impatient(Recorder):
        def step(self, done: int, total: int, losses: dict[str, float]) -> None:
            super().step(done, total, losses)
            if done == 1:
                os.kill(os.getpid(), signal.SIGINT)

    told, threads = Impatient(), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        train(job(pandas, tmp_path, "SOLVER.MAX_ITER", "60"), told)
    assert "--resume" in told.notes[-1]
    assert "--num-gpus 2" in told.notes[-1]
    stopped = torch.load(tmp_path / ".mask_rcnn_mnv2_fpn.training" / "last.pth", weights_only=True)["step"]
    assert 1 <= stopped < 60
    assert threading.active_count() == threads


@pytest.mark.usefixtures("processes")
def test_an_error_in_a_process_is_told_as_in_one(pandas: Path, tmp_path: Path) -> None:
    """Divergence of any process: one clear text, no traceback of the child."""
    wild = ("SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0", "SOLVER.OPTIMIZER", "SGD", "SOLVER.MAX_ITER", "4")
    with pytest.raises(ConfigError, match=r"diverged at step 2 of 4"):
        train(job(pandas, tmp_path, *wild))


@pytest.mark.usefixtures("processes")
def test_two_machines_train_one_model_and_the_second_writes_nothing(pandas: Path, tmp_path: Path) -> None:
    """Each with a process; the second machine has the photos, and gets config and weights from the first."""
    url = f"tcp://127.0.0.1:{gloo.free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks.signal, "signal", lambda *_: None)  # only for the main thread
        second = threading.Thread(target=assist, args=[job(pandas, tmp_path / "b", machines=Machines(1, 2, 1, url))])
        second.start()
        done = train(job(pandas, tmp_path / "a", machines=Machines(1, 2, 0, url)))
        second.join()
    assert done.run.read_json("run.json")["processes"] == 2
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("machines", "said"),
    [
        (Machines(gpus=3), "this machine has 2 GPUs that torch can use; ask for 2"),
        (Machines(count=2, rank=2, url="tcp://a:1"), "machine-rank 2: 2 machines have the ranks 0 to 1"),
        (Machines(count=2), "dist-url auto: .* tcp://HOST:PORT"),
    ],
)
@pytest.mark.usefixtures("processes")
def test_machines_that_are_not_there_are_told_before_anything_is_written(
    pandas: Path, tmp_path: Path, machines: Machines, said: str
) -> None:
    """The operator's error."""
    with pytest.raises(ConfigError, match=said):
        train(job(pandas, tmp_path / "runs", machines=machines))
    assert not (tmp_path / "runs").exists()


def test_gpus_on_a_machine_without_any(pandas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is there."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="num-gpus 2: this machine has no GPU"):
        train(job(pandas, tmp_path))


@pytest.mark.usefixtures("processes")
def test_a_batch_that_cannot_be_shared_is_refused(pandas: Path, tmp_path: Path) -> None:
    """Every process needs as many photos."""
    with pytest.raises(ConfigError, match=r"IMS_PER_BATCH 3 cannot be shared by 2 GPUs; choose a multiple of 2"):
        train(job(pandas, tmp_path, "SOLVER.IMS_PER_BATCH", "3"))
