"""Validation without a network: which weights are kept, and when there is nothing to go on for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from maskserve.training.hooks import Validation
from maskserve.training.run_folder import RunFolder
from maskserve.training.step import DivergedError


def validated(folder: Path, aps: list[float], patience: int, weight: float = 1.0) -> list[bool]:
    """Whether a Validation is exhausted after each of these mask APs."""
    script = iter(aps)
    hook = Validation(
        RunFolder(folder), 1, lambda _state: dict.fromkeys(("segm/AP", "segm/AP50"), next(script)), patience
    )
    model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, weight)
    storage = SimpleNamespace(put_scalars=lambda **_: None)
    hook.trainer = SimpleNamespace(iter=0, max_iter=100, model=model, storage=storage)
    answers = []
    for step in range(len(aps)):
        hook.trainer.iter = step
        hook.after_step()
        answers.append(hook.exhausted)
    return answers


@pytest.mark.parametrize(
    ("aps", "patience", "exhausted_after"),
    [
        ([10, 20, 20, 20], 2, 4),
        ([10, 9, 11, 10, 10], 2, 5),
        ([0, 0, 0, 0, 5, 4], 2, None),  # what has not learnt anything yet is not given up
        ([5, 0, 0], 2, 3),
        ([10, 9, 8, 7], 0, None),
    ],
)
def test_patience_counts_validations_in_a_row_without_a_better_ap(
    tmp_path: Path, aps: list[float], patience: int, exhausted_after: int | None
) -> None:
    """From the first AP above 0 on."""
    answers = validated(tmp_path, aps, patience)
    assert (answers.index(True) + 1 if True in answers else None) == exhausted_after


def test_patience_survives_a_resume(tmp_path: Path) -> None:
    """The count goes on where it was."""
    one, other = (Validation(RunFolder(tmp_path), 1, None, 3) for _ in range(2))
    one.best_ap, one.best_step, one.in_vain = 30.0, 20, 2
    other.load_state_dict(one.state_dict())
    assert (other.best_ap, other.best_step, other.in_vain) == (30.0, 20, 2)


def test_weights_that_are_not_finite_are_neither_scored_nor_kept(tmp_path: Path) -> None:
    """They would answer nothing, at AP 0, which may be as good as before."""
    with pytest.raises(DivergedError, match="weight"):
        validated(tmp_path, [0.0], 0, weight=float("nan"))
    assert list(tmp_path.iterdir()) == []
