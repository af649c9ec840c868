"""maskserve's predictor: an RGB photo in, the answer of the contract out (masks pasted and encoded as RLE)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def load_predictor(run: Path | str, precision: str = "fp32", device: str = "cpu") -> Any:
    """The predictor of a run folder; fp32 is what it has by itself."""
    from maskserve.modeling.predictor import Predictor
    from maskserve.training.run_folder import RunFolder

    folder = RunFolder(Path(run))
    chosen = {} if precision == "fp32" else {"precision": precision}
    return Predictor(folder.load_cfg(), folder.load_classes(), weights=folder.weights, device=device, **chosen)


def segment(
    run: str, photo: str, precision: str = "fp32", device: str = "cpu", batch: int = 1
) -> Callable[[], dict[str, Any]]:
    """A step that answers a decoded photo, `batch` times at once."""
    from maskserve.imaging.decode import decode_rgb
    from maskserve.modeling.answer import to_segmentation
    from maskserve.protos.types import ModelInfo, SegmentOptions

    predictor, image = load_predictor(run, precision, device), decode_rgb(Path(photo).read_bytes())
    options, model = SegmentOptions(score_threshold=0.0), ModelInfo("", "", "")

    def step() -> dict[str, Any]:
        predictions, _ = predictor([image] * batch)
        answers = [to_segmentation(one, options, predictor.class_names, model) for one in predictions]
        return {"instances": len(answers[0].instances)}

    return step
