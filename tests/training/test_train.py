"""A few real steps of both arms: complete run folders, resume, Ctrl-C, divergence, the same from the same seed."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from maskserve.cli.main import main
from maskserve.modeling.predictor import Predictor
from maskserve.protos.errors import ConfigError, DataError
from maskserve.training.hooks import Quiet
from maskserve.training.run_folder import RunFolder
from maskserve.training.train import Job, train

# pycocotools on numpy 2.4
pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")]

TINY = (
    "INPUT.MIN_SIZE_TRAIN",
    "(64,)",
    "INPUT.MIN_SIZE_TEST",
    "64",
    "SOLVER.IMS_PER_BATCH",
    "2",
    "MODEL.DEVICE",
    "cpu",
)
CONTENTS = {
    "config.yaml",
    "classes.json",
    "model_best.pth",
    "metrics.json",
    "evaluation.json",
    "run.json",
    "curves.png",
    "samples.png",
    "train.log",
}


def job(
    data: Path, output: Path, backbone: str = "mobilenetv2", steps: int = 2, more: tuple = (), resume: bool = False
):
    overrides = () if resume else (*TINY, "SOLVER.MAX_ITER", str(steps), *more)
    return Job(backbone, data, "quick", "none", output, seed=5, resume=resume, overrides=overrides)


class StopAfter(Quiet):
    """Presses Ctrl-C after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps, self.notes = steps, []

    def step(self, done: int, total: int, losses: dict[str, float]) -> None:
        if done == self.steps:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_one_command_trains_both_arms_into_complete_run_folders(pandas: Path, tmp_path: Path):
    words = ["train", "all", "--data", str(pandas), "--preset", "quick", "--init", "none", "--output", str(tmp_path)]
    done = CliRunner().invoke(main, [*words, *TINY, "SOLVER.MAX_ITER", "2"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "Next: maskserve package" in done.stdout
    hashes = set()
    for name, backbone in (("mask_rcnn_r50_fpn", "resnet50"), ("mask_rcnn_mnv2_fpn", "mobilenetv2")):
        run = RunFolder(tmp_path / name)
        found = {path.name for path in run.path.iterdir()}
        assert found - CONTENTS == {path for path in found if path.startswith("events.out")}
        assert found >= CONTENTS
        record = run.read_json("run.json")
        assert (record["backbone"], record["preset"], record["seed"], record["steps"]) == (backbone, "quick", 1, 2)
        assert record["init"]["kind"] == "none"
        assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
        hashes.add(record["data_hash"])
        assert len(run.read_json("metrics.json")) >= 1
        state = torch.load(run.weights, weights_only=True)
        assert {tensor.dtype for tensor in state.values()} <= {torch.float32, torch.int64}
        Predictor(run.load_cfg(), run.load_classes(), weights=run.weights)
    assert len(hashes) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"mask_rcnn_r50_fpn", "mask_rcnn_mnv2_fpn"}

    again = CliRunner().invoke(
        main, ["evaluate", str(tmp_path / "mask_rcnn_mnv2_fpn"), "--data", str(pandas), "--json"]
    )
    assert again.exit_code == 0, again.output
    assert set(json.loads(again.stdout)["mask"]["per_class"]) == {"giant panda", "red panda"}

    table = CliRunner().invoke(main, ["evaluate", str(tmp_path / "mask_rcnn_r50_fpn"), "--data", str(pandas)])
    assert "mask AP    AP50" in table.stdout
    assert "giant panda" in table.stdout


def test_a_stopped_training_is_resumed_and_an_earlier_run_stays_until_it_is_complete(pandas: Path, tmp_path: Path):
    first = train(job(pandas, tmp_path, steps=1))
    before = first.run.weights.read_bytes()
    stop = StopAfter(3)
    with pytest.raises(KeyboardInterrupt):
        train(job(pandas, tmp_path, steps=4), stop)
    assert "--resume" in stop.notes[-1]
    assert first.run.weights.read_bytes() == before
    with pytest.raises(ConfigError, match="keeps its config"):
        train(Job("mobilenetv2", pandas, "quick", "none", tmp_path, resume=True, overrides=("SEED", "3")))
    done = train(job(pandas, tmp_path, resume=True))
    assert done.run.read_json("run.json")["steps"] == 4
    assert done.run.weights.read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["mask_rcnn_mnv2_fpn"]


def test_the_same_seed_gives_the_same_weights(pandas: Path, tmp_path: Path):
    one, other = (train(job(pandas, tmp_path / name)).run.weights for name in ("one", "other"))
    first, second = (torch.load(path, weights_only=True) for path in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_diverging_training_says_so_and_what_to_try(pandas: Path, tmp_path: Path):
    wild = ("SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0", "SOLVER.OPTIMIZER", "SGD")
    with pytest.raises(ConfigError, match=r"diverged at step .*SOLVER\.BASE_LR"):
        train(job(pandas, tmp_path, steps=6, more=wild))
    assert not (tmp_path / "mask_rcnn_mnv2_fpn").exists()


def test_wrong_data_and_overrides_are_said_before_anything_is_written(pandas: Path, tmp_path: Path):
    with pytest.raises(DataError):
        train(job(tmp_path / "nowhere", tmp_path / "runs"))
    with pytest.raises(ConfigError, match=r"SOLVER\.MAXITER"):
        train(job(pandas, tmp_path / "runs", more=("SOLVER.MAXITER", "3")))
    assert not (tmp_path / "runs").exists()
