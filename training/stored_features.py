"""The features of a quantised trunk leave it as they are stored, in uint8; the heads read them so.

    conv ─▶ FakeQuantize ─▶ RPN                      conv ─▶ levels 0..255 ─▶ uint8 ─▶ feature
      └───▶ feature, float32          becomes                                  └────▶ values ─▶ RPN

As NNCF leaves them, OpenVINO writes each in bfloat16, turns it into float32 for the heads (80 MB of a photo at 800 px)
and rounds another copy for the RPN: up to a seventh of the trunk's time (docs/precision.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maskserve.modeling.openvino_trunk import FEATURE, LEVEL, SCALES, load_openvino, scale_key

LEVELS = 256
"""NNCF's, and uint8's."""


def store_features(model: Any) -> None:
    """Changes an openvino.Model of `maskserve.training.quantize` in place.

    Features that the RPN does not take rounded, or not with one range for all channels, stay as they are. What the
    FPN's last convolutions read becomes further outputs, "level/p2" and so on, in uint8, too: for
    `maskserve.modeling.int8_pyramid`, which does not ask for the features.
    """
    levels = {}
    for result in model.get_results():
        feature = result.input_value(0)
        name, below = feature.get_any_name(), _level(feature)
        if below is not None:
            own_name = LEVEL + name.removeprefix(FEATURE)
            levels[own_name] = _store(model, own_name, below.input_value(0), below)
        rounding = _rounding(feature)
        if rounding is not None:
            feature.get_tensor().set_names(set())
            result.input(0).replace_source_output(_store(model, name, feature, rounding))
    make = load_openvino().opset13
    # behind a sum OpenVINO would turn the axes one number at a time, a fifth of the trunk's time; behind a pool not
    pools = [make.max_pool(level, [1, 1], [1, 1], [0, 0], [0, 0], [1, 1]) for level in levels.values()]
    model.add_results([make.result(pool) for pool in pools])
    model.validate_nodes_and_infer_types()
    for name, output in zip(levels, model.outputs[len(model.outputs) - len(levels) :], strict=True):
        output.get_tensor().set_names({name})


def _rounding(feature: Any) -> Any | None:
    """The FakeQuantize that takes this output and has one range for all channels."""
    takers = [target.get_node() for target in feature.get_target_inputs()]
    return next(filter(_has_one_range, takers), None)


def _level(feature: Any) -> Any | None:
    """The FakeQuantize, likewise, of what the convolution reads that makes this feature of the FPN's."""
    conv = feature.get_node()
    if conv.get_type_name() == "Add":  # its bias
        conv = conv.input_value(0).get_node()
    if conv.get_type_name() != "Convolution" or not feature.get_any_name().startswith(FEATURE):
        return None
    rounding = conv.input_value(0).get_node()
    return rounding if _has_one_range(rounding) else None


def _has_one_range(node: Any) -> bool:
    return node.get_type_name() == "FakeQuantize" and _data(node, 3).size == 1


def _store(model: Any, name: str, feature: Any, rounding: Any) -> Any:
    """The output of that name, in uint8; all that read the feature, rounded or not, read what is stored."""
    make, low, high = load_openvino().opset13, _number(rounding, 3), _number(rounding, 4)
    scale = (high - low) / (LEVELS - 1)
    zero_point = round(-low / scale)  # exact: NNCF moves ranges so that 0 is a level

    def constant(number: float) -> Any:
        return make.constant(np.full((1, 1, 1, 1), number, np.float32))

    limits = rounding.input_value(1), rounding.input_value(2)
    levels = make.fake_quantize(feature, *limits, constant(0), constant(LEVELS - 1), LEVELS)
    stored = make.convert(levels, "u8")
    values = make.multiply(make.subtract(make.convert(stored, "f32"), constant(zero_point)), constant(scale))
    for target in (*feature.get_target_inputs(), *rounding.output(0).get_target_inputs()):
        if target.get_node() not in (rounding, levels):
            target.replace_source_output(values.output(0))
    stored.output(0).get_tensor().set_names({name})
    model.set_rt_info(f"{scale!r} {zero_point}", [SCALES, scale_key(name)])
    return stored.output(0)


def _data(node: Any, place: int) -> np.ndarray:
    """The constant that a node has as its input there."""
    constant: np.ndarray = node.input_value(place).get_node().data
    return constant


def _number(node: Any, place: int) -> float:
    return float(_data(node, place).item())
