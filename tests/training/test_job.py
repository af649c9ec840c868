"""The commands that a message tells to paste say the job again."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from maskserve.training.job import Job, Machines


def test_a_restart_says_all_that_was_asked_and_a_lower_rate_instead() -> None:
    """Blanks are quoted; the old rate is gone."""
    overrides = ("SOLVER.BASE_LR", "0.02", "INPUT.MIN_SIZE_TRAIN", "(64, 96)")
    job = Job("resnet50", Path("my data"), "quick", "none", Path("out"), 7, overrides=overrides, deterministic=True)
    assert job.restart_command(0.005) == (
        "maskserve train resnet50 --data 'my data' --output out --preset quick --init none --seed 7 --deterministic "
        "INPUT.MIN_SIZE_TRAIN '(64, 96)' SOLVER.BASE_LR 0.005"
    )


def test_a_resume_names_the_place_and_the_machines() -> None:
    """Config, preset and seed are in the working folder."""
    job = Job("mobilenetv2", Path("d"), "quick", machines=Machines(4, 2, 0, "tcp://leader:5000"))
    assert job.resume_command() == (
        "maskserve train mobilenetv2 --data d --output runs --num-gpus 4 --num-machines 2 --machine-rank 0 "
        "--dist-url tcp://leader:5000 --resume"
    )
    assert job.resume_command(0.001).endswith("--resume SOLVER.BASE_LR 0.001")


def test_several_machines_train_one_arm_at_a_time() -> None:
    """The second machine could not know when the first arm is done."""
    from maskserve.cli.main import main

    words = ["train", "all", "--data", "d", "--num-machines", "2", "--dist-url", "tcp://leader:5000"]
    answer = CliRunner().invoke(main, words)
    assert answer.exit_code == 2
    assert "one arm at a time" in answer.stderr
