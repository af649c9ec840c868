"""Peak memory of an arm: a Python of its own loads the run folder, answers some photos and says how much it took.

This file is both sides: `peak_memory` starts it as a script.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from maskserve.protos.errors import ConfigError
from maskserve.training.process import peak_memory_bytes

_TIMEOUT_S = 600


def peak_memory(run: Path, photos: Sequence[Path]) -> int:
    """Bytes of resident memory at most, in a fresh process. Raises ConfigError when that fails."""
    command = [sys.executable, "-m", "maskserve.comparison.memory", str(run.resolve())]
    command += [str(photo.resolve()) for photo in photos]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ConfigError(f"{run}: cannot be loaded in a process of its own: {last}")
    return int(done.stdout.split()[-1])


def _answer(run: Path, photos: Sequence[Path]) -> None:
    from maskserve.modeling.answer import to_segmentation
    from maskserve.modeling.predictor import Predictor
    from maskserve.protos.types import ModelInfo, SegmentOptions
    from maskserve.training.datasets.photos import decode_as_served
    from maskserve.training.run_folder import RunFolder

    folder = RunFolder(run)
    predictor = Predictor(folder.load_cfg(), folder.load_classes(), weights=folder.weights)
    for photo in photos:
        pixels, size = decode_as_served(photo.read_bytes(), predictor.network_size)
        (prediction,), _ = predictor([pixels], [size])
        to_segmentation(prediction, SegmentOptions(), predictor.class_names, ModelInfo("", "", ""))


if __name__ == "__main__":
    _answer(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
    print(peak_memory_bytes())  # noqa: T201
