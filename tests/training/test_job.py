"""The commands that a message tells to paste say the job again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
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


def test_a_resume_names_the_place_the_training_and_the_machines() -> None:
    """Given twice it finds the training complete; the config is in the working folder."""
    job = Job("mobilenetv2", Path("d"), "quick", machines=Machines(4, 2, 0, "tcp://leader:5000"))
    assert job.resume_command() == (
        "maskserve train mobilenetv2 --data d --output runs --preset quick --num-gpus 4 --num-machines 2 "
        "--machine-rank 0 --dist-url tcp://leader:5000 --resume"
    )
    assert job.resume_command(0.001).endswith("--resume SOLVER.BASE_LR 0.001")
    job = Job("mobilenetv2", Path("d"), "best", "my weights.pth", seed=0)
    assert job.resume_command().endswith("--output runs --preset best --init 'my weights.pth' --seed 0 --resume")


@pytest.mark.parametrize(
    ("asked", "difference"),
    [
        ({}, None),
        ({"seed": 5, "init": "auto"}, None),
        ({"preset": "standard"}, "--preset quick"),
        ({"seed": 1}, "--seed 5"),
        ({"init": "none"}, "--init auto"),
        ({"overrides": ("SOLVER.MAX_ITER", "9", "SOLVER.BASE_LR", "1")}, None),
        ({"overrides": ("SOLVER.BASE_LR", "1")}, None),
        ({"overrides": ("SOLVER.MAX_ITER", "8")}, "SOLVER.MAX_ITER 9"),
    ],
)
def test_a_job_is_another_one_where_it_says_so(asked: dict[str, Any], difference: str | None) -> None:
    """Seed, initial weights and pairs that it leaves open are those of the training; its rate may be another one."""
    facts = {"preset": "quick", "seed": 5, "init": {"asked": "auto"}, "overrides": ["SOLVER.MAX_ITER", "9"]}
    job = Job("mobilenetv2", Path("d"), **{"preset": "quick", **asked})
    assert job.difference(facts) == difference
    assert job.difference({}) is None


def test_several_machines_train_one_arm_at_a_time() -> None:
    """The second machine could not know when the first arm is done."""
    from maskserve.cli.main import main

    words = ["train", "all", "--data", "d", "--num-machines", "2", "--dist-url", "tcp://leader:5000"]
    answer = CliRunner().invoke(main, words)
    assert answer.exit_code == 2
    assert "one arm at a time" in answer.stderr
