"""A trained network's trunk in int8: what `--precision int8` adds to an archive.

    TorchTrunk ─▶ traced ─▶ OpenVINO's graph ─▶ NNCF: ranges of activations on training photos
        ─▶ features stored in uint8 ─▶ trunk.xml, trunk.bin

Post-training quantisation: weights per channel, activations per tensor, symmetric but for activations that have both
signs (NNCF's preset MIXED), then the means of each layer are corrected on the same photos. Nothing is trained. The same
weights and photos give the same bytes.

A backbone with depthwise convolutions stays in float, and so do its sums: in int8 the errors of its many thin layers
add up to a fifth of the features and cost four points of AP, and it is a seventh of the network's FLOPs
(docs/precision.md).
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskserve.modeling.openvino_trunk import TRUNK_FILE, load_openvino, output_names
from maskserve.modeling.predictor import Predictor
from maskserve.modeling.trunk import Trunk
from maskserve.protos.errors import ConfigError
from maskserve.training.loader import Record, read_as_served, spread
from maskserve.training.stored_features import store_features

CALIBRATION_PHOTOS = 64
INSTALL = "pip install 'maskserve[int8]'"
_TRACED_SIDE = 128
"""px, a multiple of every network's stride; the graph is free of it."""


def is_installed() -> bool:
    """Whether int8 can be made here."""
    return all(find_spec(name) is not None for name in ("openvino", "nncf"))


def check_installed() -> None:
    """Raises ConfigError where OpenVINO or NNCF is missing."""
    if not is_installed():
        raise ConfigError(f"making int8 needs OpenVINO and NNCF: {INSTALL}, or choose --precision fp32")


def write_int8_trunk(
    predictor: Predictor, records: Sequence[Record], folder: Path, on_photo: Callable[[], None] = lambda: None
) -> Path:
    """<folder>/trunk.xml and trunk.bin of an fp32 predictor on the CPU; returns the former.

    Args:
        records: of `dataset_dicts`: photos to calibrate with, CALIBRATION_PHOTOS of them spread evenly. Of the training
            set only: what judges the result must not have made it.
        on_photo: called after each.

    Raises:
        ConfigError: see `check_installed` and `write`.
        DataError: a photo is missing or unreadable.
    """
    check_installed()
    chosen = spread(records, CALIBRATION_PHOTOS)
    model = _quantised(
        to_openvino(predictor.trunk), [calibration_pixels(predictor, record) for record in chosen], on_photo
    )
    store_features(model)
    return write(model, folder)


def to_openvino(trunk: Trunk) -> Any:
    """openvino.Model of a torch trunk, in float32, NCHW; outputs as `output_names` has them."""
    openvino = load_openvino()
    example = torch.zeros(1, 3, _TRACED_SIDE, _TRACED_SIDE)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of Detectron2's checks of shapes
        found = trunk(example)
        model = openvino.convert_model(_Flat(trunk), example_input=example, input=[-1, 3, -1, -1])
    for output, name in zip(model.outputs, output_names(list(found.features), len(found.logits)), strict=True):
        output.get_tensor().set_names({name})
    return model


def write(model: Any, folder: Path) -> Path:
    """<folder>/trunk.xml and trunk.bin of an openvino.Model of `to_openvino`, its input and outputs made NHWC.

    Raises ConfigError where they cannot be written.
    """
    openvino = load_openvino()
    steps = openvino.preprocess.PrePostProcessor(model)
    places = [steps.input(), *(steps.output(place) for place in range(len(model.outputs)))]
    for place in places:
        place.tensor().set_layout(openvino.Layout("NHWC"))
        place.model().set_layout(openvino.Layout("NCHW"))
    model = steps.build()
    # as they come, names count what this process has made before
    model.set_friendly_name("trunk")
    for number, operation in enumerate(model.get_ordered_ops()):
        operation.set_friendly_name(f"{number}")
    path = folder / TRUNK_FILE
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:  # it does not pass on what the system said
        raise ConfigError(f"{path}: OpenVINO cannot write it ({error}); is the disk full?") from error
    return path


class _Flat(nn.Module):
    """A trunk whose outputs are one tuple."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features, logits, deltas = self.trunk(pixels)
        return (*features.values(), *logits, *deltas)


def calibration_pixels(predictor: Predictor, record: Record) -> Tensor:
    """The trunk's input of a record's photo, as the predictor makes it of a request's. Raises DataError."""
    photo, size = read_as_served(record, predictor.network_size)
    return predictor.pixels([photo], [size])[0]


def _quantised(model: Any, photos: Sequence[Tensor], on_photo: Callable[[], None]) -> Any:
    nncf = _load_nncf()

    def pixels(photo: Tensor) -> Any:
        on_photo()
        return photo.contiguous().numpy()

    # NNCF draws bars of its own on standard output, which may be somebody's JSON
    with contextlib.redirect_stdout(io.StringIO()):
        return nncf.quantize(
            model,
            nncf.Dataset(photos, pixels),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(photos),
            ignored_scope=nncf.IgnoredScope(names=_sensitive(model)),
        )


def _sensitive(model: Any) -> list[str]:
    """The operations that int8 is not for: those of a backbone that has depthwise convolutions."""
    kinds = {
        operation.get_friendly_name(): operation.get_type_name()
        for operation in model.get_ordered_ops()
        if "bottom_up" in operation.get_friendly_name()
    }
    if "GroupConvolution" not in kinds.values():
        return []
    return [name for name, kind in kinds.items() if kind in ("Convolution", "GroupConvolution", "Add")]


def _load_nncf() -> Any:
    """NNCF, quiet; it makes every later logger of the process one of its own class."""
    own = logging.getLoggerClass()
    # it says that there is no GPU, to whoever imports what builds torch extensions
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        import nncf
    finally:
        logging.setLoggerClass(own)
    nncf.set_log_level(logging.ERROR)
    return nncf
