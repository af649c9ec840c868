"""`maskserve train`: what it says of a training while it goes on."""

from __future__ import annotations

import pytest

from maskserve.cli.train import PLAIN_PERIOD, training_progress


@pytest.mark.parametrize("total", [100, 0])
@pytest.mark.parametrize("came", [50, 100])
def test_steps_are_told_after_a_download_whatever_came_of_it(
    came: int, total: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server need not say how many bytes there are, and a line may break."""
    with training_progress() as progress:
        for name in ("resnet50", "mobilenetv2"):
            progress.begin(name)
            progress.fetched(came, total)
            progress.note("starts from some weights")
            for step in range(1, PLAIN_PERIOD + 1):
                progress.step(step, 2 * PLAIN_PERIOD, {"loss_cls": 1.5})
        shown = [(task.description, task.completed, task.total) for task in progress.bar.tasks]
    assert shown == [(name, PLAIN_PERIOD, 2 * PLAIN_PERIOD) for name in ("resnet50", "mobilenetv2")]
    assert f"mobilenetv2: step {PLAIN_PERIOD}/{2 * PLAIN_PERIOD}, loss 1.50, about" in capsys.readouterr().err
