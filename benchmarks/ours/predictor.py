"""maskserve's predictor: an RGB photo in, the answer of the contract out (masks pasted and encoded as RLE)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast


def load_predictor(run: Path | str, photo: Path | str, precision: str = "fp32", device: str = "cpu") -> Any:
    """The predictor of a run folder, in a process set up like a worker's; int8 is calibrated with the photo."""
    import torch

    from maskserve.modeling.device import Precision
    from maskserve.modeling.predictor import Predictor
    from maskserve.modeling.process import prepare_process
    from maskserve.training.run_folder import RunFolder

    prepare_process(torch.get_num_threads())
    folder = RunFolder(Path(run))
    chosen = cast(Precision, precision)
    trunk = _int8_trunk(folder, Path(photo)) if chosen == "int8" else None
    cfg, classes, weights = folder.load_cfg(), folder.load_classes(), folder.weights
    return Predictor(cfg, classes, weights=weights, device=device, precision=chosen, trunk=trunk)


def _int8_trunk(folder: Any, photo: Path) -> Path:
    """Made once a run folder. Ranges from one photo do for speed; nothing else is measured of random weights."""
    from maskserve.imaging.header import inspect_image
    from maskserve.modeling.predictor import Predictor
    from maskserve.training.quantize import write_int8_trunk

    made: Path = folder.path / "trunk.xml"
    if not made.is_file():
        height, width = inspect_image(photo.read_bytes()).size
        exact = Predictor(folder.load_cfg(), folder.load_classes(), weights=folder.weights, device="cpu")
        write_int8_trunk(exact, [{"file_name": str(photo), "height": height, "width": width}], folder.path)
    return made


def segment(
    run: str, photo: str, precision: str = "fp32", device: str = "cpu", batch: int = 1
) -> Callable[[], dict[str, Any]]:
    """A step that answers a decoded photo, `batch` times at once."""
    from maskserve.imaging.decode import decode_rgb
    from maskserve.modeling.answer import to_segmentation
    from maskserve.protos.types import ModelInfo, SegmentOptions

    predictor, image = load_predictor(run, photo, precision, device), decode_rgb(Path(photo).read_bytes())
    options, model = SegmentOptions(score_threshold=0.0), ModelInfo("", "", "")

    def step() -> dict[str, Any]:
        predictions, _ = predictor([image] * batch)
        answers = [to_segmentation(one, options, predictor.class_names, model) for one in predictions]
        return {"instances": len(answers[0].instances)}

    return step
