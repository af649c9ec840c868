"""A few real steps of both arms: complete run folders, resume, Ctrl-C, divergence, the same from the same seed."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from maskserve.cli.main import main
from maskserve.modeling.predictor import Predictor
from maskserve.protos.errors import ConfigError, DataError
from maskserve.training import preflight, steps
from maskserve.training.hooks import Quiet
from maskserve.training.presets import ARMS, resolve_cfg
from maskserve.training.run_folder import RunFolder
from maskserve.training.train import Job, is_complete, train
from maskserve.training.trainer import build_trainer
from tests.training.recorder import TINY, Recorder

# pycocotools on numpy 2.4
pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")]

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
    arms = [str(tmp_path / name) for name in ("mask_rcnn_r50_fpn", "mask_rcnn_mnv2_fpn")]
    assert shlex.split(done.stdout.splitlines()[-1]) == ["Next:", "maskserve", "package", *arms]
    hashes = set()
    for name, backbone in (("mask_rcnn_r50_fpn", "resnet50"), ("mask_rcnn_mnv2_fpn", "mobilenetv2")):
        run = RunFolder(tmp_path / name)
        found = {path.name for path in run.path.iterdir()}
        assert found - CONTENTS == {path for path in found if path.startswith("events.out")}
        assert found >= CONTENTS
        record = run.read_json("run.json")
        assert (record["backbone"], record["preset"], record["seed"], record["steps"]) == (backbone, "quick", 1, 2)
        assert (record["stopped_early"], record["data_errors"], record["deterministic"]) == (False, 0, False)
        assert record["precision"] in ("float32", "bfloat16")
        assert 200e6 < record["peak_memory_bytes"] < 20e9
        assert record["peak_gpu_memory_bytes"] is None
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
    with pytest.raises(ConfigError, match=r"began with .*SOLVER.MAX_ITER 4.*, which --resume keeps"):
        train(Job("mobilenetv2", pandas, "quick", "none", tmp_path, resume=True, overrides=("SEED", "3")))
    for option, value, began in (("preset", "standard", "--preset quick"), ("seed", 1, "--seed 5")):
        with pytest.raises(ConfigError, match=f"began with {began}, which --resume keeps"):
            train(replace(job(pandas, tmp_path, resume=True), **{option: value}))
    assert not is_complete(job(pandas, tmp_path, resume=True))
    done = train(replace(job(pandas, tmp_path, steps=4), resume=True))  # the whole command, and --resume
    assert done.run.read_json("run.json")["overrides"] == list(job(pandas, tmp_path, steps=4).overrides)
    assert is_complete(job(pandas, tmp_path, resume=True))
    assert not is_complete(replace(job(pandas, tmp_path, resume=True), init="auto"))
    assert done.run.read_json("run.json")["steps"] == 4
    assert done.run.weights.read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["mask_rcnn_mnv2_fpn"]


def test_no_arm_is_trained_where_another_one_cannot_go_on_as_asked(
    pandas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first one may take hours, and it may be complete, of the preset that was forgotten now."""
    with pytest.raises(KeyboardInterrupt):
        train(job(pandas, tmp_path), StopAfter(1))
    monkeypatch.setattr("maskserve.training.train.train", lambda *_: pytest.fail("trains"))
    words = ["train", "all", "--output", str(tmp_path), "--resume", "--data"]
    done = CliRunner().invoke(main, [*words, str(pandas)])
    assert done.exit_code == 1
    assert "training of mobilenetv2 began with --preset quick, which --resume keeps" in done.stderr
    changed = json.loads((pandas / "train.json").read_text()) | {"info": {}}
    (tmp_path / "train.json").write_text(json.dumps(changed))
    done = CliRunner().invoke(main, [*words, str(tmp_path), "--preset", "quick"])
    assert done.exit_code == 1
    assert "training of mobilenetv2 used other photos, labels or splits" in done.stderr


def test_a_training_that_cannot_be_published_is_completed_by_resume(
    pandas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def busy(*_: object) -> None:
        raise ConfigError("busy")

    with monkeypatch.context() as patch:
        patch.setattr("maskserve.training.train.publish", busy)
        with pytest.raises(ConfigError, match="busy"):
            train(job(pandas, tmp_path))
    told = Recorder()
    done = train(job(pandas, tmp_path, resume=True), told)
    assert told.steps == []
    assert done.run.read_json("run.json")["steps"] == 2
    assert {path.name for path in done.run.path.iterdir() if not path.name.startswith("events")} == CONTENTS


def test_the_same_seed_gives_the_same_weights(pandas: Path, tmp_path: Path):
    one, other = (train(job(pandas, tmp_path / name)).run.weights for name in ("one", "other"))
    first, second = (torch.load(path, weights_only=True) for path in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_deterministic_training_gives_the_same_bytes_with_workers_too(pandas: Path, tmp_path: Path):
    read = ("DATALOADER.NUM_WORKERS", "2", "INPUT.CACHE_IMAGES", "False", "INPUT.COLOR_JITTER", "0.3")
    jobs = [replace(job(pandas, tmp_path / name, more=read), deterministic=True) for name in ("one", "other")]
    one, other = (train(each).run for each in jobs)
    assert one.weights.read_bytes() == other.weights.read_bytes()
    assert one.read_json("run.json")["deterministic"]
    assert not torch.are_deterministic_algorithms_enabled()


def last_of(output: Path) -> dict:
    return torch.load(output / ".mask_rcnn_mnv2_fpn.training" / "last.pth", weights_only=True)


def test_a_diverging_training_says_so_and_what_to_try(pandas: Path, tmp_path: Path):
    wild = ("SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0", "SOLVER.OPTIMIZER", "SGD")
    with pytest.raises(ConfigError, match=r"(?s)diverged at step 2 of 6: .*--preset quick .* SOLVER\.BASE_LR 2.5e\+29"):
        train(job(pandas, tmp_path, steps=6, more=wild))
    assert not (tmp_path / "mask_rcnn_mnv2_fpn").exists()
    assert last_of(tmp_path)["step"] == 0
    assert all(tensor.isfinite().all() for tensor in last_of(tmp_path)["model"].values())


def test_weights_that_burst_in_the_last_step_are_not_kept(pandas: Path, tmp_path: Path):
    wild = ("SOLVER.BASE_LR", "1e38", "SOLVER.WARMUP_ITERS", "0", "SOLVER.OPTIMIZER", "SGD")
    with pytest.raises(ConfigError, match=r"step 1 of 1: the weights of .* are not finite"):
        train(job(pandas, tmp_path, steps=1, more=(*wild, "SOLVER.WEIGHT_DECAY", "1e6")))
    assert not (tmp_path / ".mask_rcnn_mnv2_fpn.training" / "model_best.pth").exists()
    assert all(tensor.isfinite().all() for tensor in last_of(tmp_path)["model"].values())


def test_a_loss_that_becomes_nan_keeps_the_checkpoint_before_and_goes_on_with_a_lower_rate(
    pandas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def poisoned(*args, **options):
        trainer = build_trainer(*args, **options)
        forward = trainer.model.forward

        def model(photos):
            losses = forward(photos)
            return losses if trainer.iter < 4 else {**losses, "loss_mask": losses["loss_mask"] * float("nan")}

        trainer.model.forward = model
        return trainer

    more = ("SOLVER.CHECKPOINT_PERIOD", "3", "SOLVER.BASE_LR", "0.004")
    with monkeypatch.context() as patch:
        patch.setattr(steps, "build_trainer", poisoned)
        with pytest.raises(ConfigError) as raised:
            train(job(pandas, tmp_path, steps=6, more=more))
    said = str(raised.value)
    assert "diverged at step 5 of 6: loss_mask is not a number (NaN)" in said
    assert "or go on from step 3" in said
    assert f"--output {tmp_path} --preset quick --init none --seed 5 --resume SOLVER.BASE_LR 0.001" in said
    assert "maskserve data check" in said
    assert last_of(tmp_path)["step"] == 3
    assert all(tensor.isfinite().all() for tensor in last_of(tmp_path)["model"].values())

    rates = []

    class Rates(Quiet):
        def step(self, done: int, total: int, losses: dict[str, float]) -> None:
            rates.append((done, trainers[0].optimizer.param_groups[0]["lr"]))

    trainers = []
    monkeypatch.setattr(
        steps, "build_trainer", lambda *args, **options: trainers.append(build_trainer(*args, **options)) or trainers[0]
    )
    lower = replace(job(pandas, tmp_path, resume=True), overrides=("SOLVER.BASE_LR", "0.001"))
    done = train(lower, Rates())
    assert [step for step, _ in rates] == [4, 5, 6]
    assert all(rate <= 0.001 for _, rate in rates), rates
    assert rates[0][1] > 0
    assert done.run.load_cfg().SOLVER.BASE_LR == 0.001
    assert done.run.read_json("run.json")["overrides"][-2:] == ["SOLVER.BASE_LR", "0.001"]


def test_patience_ends_a_training_with_the_best_weights(pandas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    aps = iter([10.0, 30.0, 20.0, 30.0, 40.0])
    states = []

    def score(state):
        states.append(state)
        ap = next(aps)
        return {"bbox/AP": ap, "bbox/AP50": ap, "segm/AP": ap, "segm/AP50": ap}

    monkeypatch.setattr(steps, "scorer", lambda *_: score)
    told = Recorder()
    more = ("SOLVER.PATIENCE", "2", "TEST.EVAL_PERIOD", "1")
    run = train(job(pandas, tmp_path, steps=9, more=more), told).run
    record = run.read_json("run.json")
    assert (record["steps"], record["stopped_early"], record["best_step"]) == (4, True, 4)
    assert any("stopped early at step 4" in note for note in told.notes)
    kept = torch.load(run.weights, weights_only=True)
    assert all(torch.equal(kept[name], states[3][name]) for name in kept)  # as good as step 2, and trained for longer


def break_labels(pandas: Path, folder: Path) -> Path:
    """A copy of the data in which the first polygon of each training photo has two points."""
    for split in ("train", "test"):
        coco = json.loads((pandas / f"{split}.json").read_text())
        for image in coco["images"]:
            image["file_name"] = str((pandas / image["file_name"]).resolve())
        if split == "train":
            firsts = {annotation["image_id"]: annotation for annotation in reversed(coco["annotations"])}
            for annotation in firsts.values():
                annotation["segmentation"] = [annotation["segmentation"][0][:4]]
        folder.mkdir(exist_ok=True)
        (folder / f"{split}.json").write_text(json.dumps(coco))
    return folder


def test_data_with_errors_is_refused_unless_forced(pandas: Path, tmp_path: Path):
    data = break_labels(pandas, tmp_path / "broken")
    with pytest.raises(DataError) as raised:
        train(job(data, tmp_path / "runs"))
    lines = str(raised.value).splitlines()
    assert "has 6 errors, so no training starts" in lines[0]
    assert "annotation" in lines[1]
    assert lines[4] == "  … and 3 more"
    assert lines[5] == f"fix with `maskserve data check {data} --fix -o FOLDER` or go on with --force"
    assert not (tmp_path / "runs").exists()
    told = Recorder()
    done = train(replace(job(data, tmp_path / "runs"), force=True), told)
    assert any("finds 6 errors; trains all the same" in note for note in told.notes)
    assert done.run.read_json("run.json")["data_errors"] == 6


def test_a_resumed_training_does_not_check_again(pandas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(KeyboardInterrupt):
        train(job(pandas, tmp_path, steps=2), StopAfter(1))
    monkeypatch.setattr("maskserve.training.train.check_data", lambda *_, **__: pytest.fail("checked again"))
    train(job(pandas, tmp_path, resume=True))


def test_both_arms_are_checked_once(pandas: Path, monkeypatch: pytest.MonkeyPatch):
    told = Recorder()
    for _ in range(2):
        assert preflight.check_data(pandas, "hash", force=False, progress=told) == 0
    assert [note for note in told.notes if "checking" in note] == [f"{pandas}: checking labels and photos"]


def test_json_tells_each_arm_on_stdout(pandas: Path, tmp_path: Path):
    words = ["train", "mobilenetv2", "--data", str(pandas), "--preset", "quick", "--init", "none", "--json"]
    words += ["--output", str(tmp_path)]
    done = CliRunner().invoke(main, [*words, *TINY, "SOLVER.MAX_ITER", "2"], catch_exceptions=False)
    (one,) = json.loads(done.stdout)
    assert (one["run"], one["steps"], one["stopped_early"]) == (str(tmp_path / "mask_rcnn_mnv2_fpn"), 2, False)
    assert one["peak_memory_bytes"] > 0
    assert one["train_s"] > 0
    assert set(one["mask"]) == {"ap", "ap50"}
    assert "Next: maskserve package" in done.stderr
    again = CliRunner().invoke(main, [*words, "--resume"], catch_exceptions=False)
    assert json.loads(again.stdout) == [one]
    assert "complete already" in again.stderr


def test_a_gpu_without_bfloat16_trains_in_float32_and_says_so(
    pandas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("maskserve.training.trainer.has_fast_bfloat16", lambda _device: False)
    told = Recorder()
    done = train(job(pandas, tmp_path), told)
    assert any("does not calculate in bfloat16; trains in float32" in note for note in told.notes)
    assert done.run.read_json("run.json")["precision"] == "float32"


@pytest.mark.parametrize(("count", "said"), [(20, True), (21, False)])
def test_a_training_that_ends_in_its_warm_up_is_said_to_learn_nothing(count: int, said: bool):
    overrides = ("SOLVER.MAX_ITER", str(count), "SOLVER.WARMUP_ITERS", "20", "MODEL.DEVICE", "cpu")
    cfg = resolve_cfg(ARMS["mobilenetv2"], preset="quick", recipe="none", class_count=2, seed=3, overrides=overrides)
    notes = list(steps._expectations(cfg, torch.nn.Identity(), validated=True))
    assert any("all 20 steps are warm-up" in note for note in notes) == said


def test_wrong_data_and_overrides_are_said_before_anything_is_written(pandas: Path, tmp_path: Path):
    with pytest.raises(DataError):
        train(job(tmp_path / "nowhere", tmp_path / "runs"))
    with pytest.raises(ConfigError, match=r"SOLVER\.MAXITER"):
        train(job(pandas, tmp_path / "runs", more=("SOLVER.MAXITER", "3")))
    assert not (tmp_path / "runs").exists()
