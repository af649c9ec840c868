"""maskserve's predictor: an RGB photo in, the answer of the contract out (masks pasted and encoded as RLE)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.rounds import time_each

if TYPE_CHECKING:
    from maskserve.training.variant import Variant


def load_predictor(run: Path | str, precision: str = "fp32", device: str = "cpu", trunk: Path | str = "") -> Any:
    """The predictor of a run folder, in a process set up like a worker's.

    Args:
        trunk: trunk.xml of `int8_trunk`; for int8 only.
    """
    import torch

    from maskserve.modeling.process import prepare_process
    from maskserve.training.run_folder import RunFolder

    prepare_process(torch.get_num_threads())
    return variant(precision, Path(trunk) if trunk else None).predictor(RunFolder(Path(run)), device=device)


def variant(precision: str, trunk: Path | None = None) -> Variant:
    """How ours is run in a precision: int8 with fewer proposals, as `package --precision auto` tries it, too."""
    from maskserve.modeling.device import Precision
    from maskserve.training.precision import FEWER_PROPOSALS
    from maskserve.training.variant import Variant

    return Variant(cast(Precision, precision), trunk, FEWER_PROPOSALS if precision == "int8" else None)


def int8_trunk(run: str, photo: str) -> Callable[[], dict[str, Any]]:
    """A step that writes trunk.xml and trunk.bin into a run folder.

    Ranges from one photo do for speed; nothing else is measured of random weights.
    """
    from maskserve.imaging.header import inspect_image
    from maskserve.training.quantize import write_int8_trunk
    from maskserve.training.run_folder import RunFolder
    from maskserve.training.variant import AS_TRAINED

    folder = RunFolder(Path(run))
    height, width = inspect_image(Path(photo).read_bytes()).size

    def step() -> dict[str, Any]:
        exact = AS_TRAINED.predictor(folder, device="cpu")
        record = {"file_name": photo, "height": height, "width": width}
        return {"path": str(write_int8_trunk(exact, [record], folder.path))}

    return step


def segment(run: str, photo: str, precision: str = "fp32") -> Callable[[], dict[str, Any]]:
    """A step that answers a decoded photo."""
    answer = _answering(photo, load_predictor(run, precision))
    return lambda: {"instances": answer()}


def segment_each(
    cases: Mapping[str, tuple[str, int]], photo: str, precision: str, device: str = "cpu", trunk: str = ""
) -> Callable[[], dict[str, dict[str, float]]]:
    """A step that answers a decoded photo in each of the cases: (run folder, so many photos at once) by name."""
    predictors = {run: load_predictor(run, precision, device, trunk) for run, _ in cases.values()}
    answers = {name: _answering(photo, predictors[run], batch) for name, (run, batch) in cases.items()}
    return lambda: time_each(answers)


def _answering(photo: str, predictor: Any, batch: int = 1) -> Callable[[], int]:
    """Answers the photo, `batch` times at once, and says how many instances it has."""
    from maskserve.imaging.decode import decode_rgb
    from maskserve.modeling.answer import to_segmentation
    from maskserve.protos.types import ModelInfo, SegmentOptions

    image = decode_rgb(Path(photo).read_bytes())
    options, model = SegmentOptions(score_threshold=0.0), ModelInfo("", "", "")

    def answer() -> int:
        predictions, _ = predictor([image] * batch)
        answers = [to_segmentation(one, options, predictor.class_names, model) for one in predictions]
        return len(answers[0].instances)

    return answer
