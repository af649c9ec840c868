"""The features of a quantised trunk leave it as they are stored, in uint8; the heads read them so.

    conv ─▶ FakeQuantize ─▶ RPN                      conv ─▶ levels 0..255 ─▶ uint8 ─▶ feature
      └───▶ feature, float32          becomes                                  └────▶ values ─▶ RPN

As NNCF leaves them, OpenVINO writes each in bfloat16, turns it into float32 for the heads (80 MB of a photo at 800 px)
and rounds another copy for the RPN: up to a seventh of the trunk's time (docs/precision.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maskserve.modeling.openvino_trunk import FEATURE, SCALES, load_openvino

LEVELS = 256
"""NNCF's, and uint8's."""


def store_features(model: Any) -> None:
    """Changes an openvino.Model of `maskserve.training.quantize` in place.

    Features that the RPN does not take rounded, or not with one range for all channels, stay as they are.
    """
    for result in model.get_results():
        feature = result.input_value(0)
        rounding = _rounding(feature)
        if rounding is None:
            continue
        name, low, high = feature.get_any_name(), _number(rounding, 3), _number(rounding, 4)
        scale = (high - low) / (LEVELS - 1)
        zero_point = round(-low / scale)  # exact: NNCF moves ranges so that 0 is a level
        levels, stored, values = _stored(feature, rounding, scale, zero_point)
        for target in (*feature.get_target_inputs(), *rounding.output(0).get_target_inputs()):
            if target.get_node() not in (rounding, levels):
                target.replace_source_output(values.output(0))
        result.input(0).replace_source_output(stored.output(0))
        feature.get_tensor().set_names(set())
        stored.output(0).get_tensor().set_names({name})
        model.set_rt_info(f"{scale!r} {zero_point}", [SCALES, name.removeprefix(FEATURE)])
    model.validate_nodes_and_infer_types()


def _rounding(feature: Any) -> Any | None:
    """The FakeQuantize that takes this output and has one range for all channels."""
    takers = [target.get_node() for target in feature.get_target_inputs()]
    return next((one for one in takers if one.get_type_name() == "FakeQuantize" and _data(one, 3).size == 1), None)


def _stored(feature: Any, rounding: Any, scale: float, zero_point: int) -> tuple[Any, Any, Any]:
    """Levels 0..255 in float32; the same in uint8; what they stand for."""
    make = load_openvino().opset13

    def constant(number: float) -> Any:
        return make.constant(np.full((1, 1, 1, 1), number, np.float32))

    limits = rounding.input_value(1), rounding.input_value(2)
    levels = make.fake_quantize(feature, *limits, constant(0), constant(LEVELS - 1), LEVELS)
    stored = make.convert(levels, "u8")
    values = make.multiply(make.subtract(make.convert(stored, "f32"), constant(zero_point)), constant(scale))
    return levels, stored, values


def _data(node: Any, place: int) -> np.ndarray:
    """The constant that a node has as its input there."""
    constant: np.ndarray = node.input_value(place).get_node().data
    return constant


def _number(node: Any, place: int) -> float:
    return float(_data(node, place).item())
