"""The trunk on OpenVINO: convolutions in int8; what is left in float, in bfloat16 where the CPU has it.

    trunk.xml + trunk.bin ─▶ compiled for this CPU and a size ─▶ pixels ─▶ TrunkOutput, of the same form as torch's

The model's input and outputs are NHWC and named by `feature_name`, `logits_name` and `deltas_name`
(`maskserve.training.quantize` writes them so), and NHWC is channels last in memory: no tensor of a single image is
copied on its way in or out. The graph is data, read without running code of it.

Its height, width and batch are free, but it is compiled for one size at a time: compiled once for all of them, int8 on
a CPU with AMX ends the process at some sizes (OpenVINO's issue 37577), and takes longer at the others. That costs about
a second for each size, so photos are padded to few of them (`maskserve.modeling.pixels.LONG_STRIDE`), but for networks
with group norm.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskserve.modeling.device import has_fast_bfloat16
from maskserve.modeling.trunk import Affine, TrunkOutput
from maskserve.protos.errors import ConfigError

TRUNK_FILE = "trunk.xml"
TRUNK_FILES = ("trunk.bin", TRUNK_FILE)
SIZES_KEPT = 10
"""Compiled ones, each with its own activations in memory: 80 MB of MobileNetV2, 170 MB of ResNet-50 at 608 px."""
FEATURE, LEVEL, _LOGITS, _DELTAS = "feature/", "level/", "logits/", "deltas/"
"""What names of outputs begin with. Levels are what the last convolutions of the FPN read, in uint8."""


class OpenVinoGraph:
    """The part of trunk.xml that calculates some of its outputs, on the CPU, with as many threads as torch has now.

    Args:
        path: trunk.xml; trunk.bin lies beside it.
        kinds: what the names of the outputs begin with that are wanted.

    Raises:
        ConfigError: OpenVINO is not installed, or the files are missing, damaged or of something else.
    """

    def __init__(self, path: Path, kinds: tuple[str, ...]) -> None:
        openvino = load_openvino()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # Pinned threads of two workers would share the first cores and leave the others idle
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "bf16" if has_fast_bfloat16("cpu") else "f32",
            # its compiler ends the process at some networks with group norm, and was not seen to make any faster
            "SNIPPETS_MODE": "DISABLE",
        }
        core = _core()
        whole = _read(core, path)
        results = [one for one in whole.get_results() if one.input_value(0).get_any_name().startswith(kinds)]
        self.names = [str(one.input_value(0).get_any_name()) for one in results]
        self.scales = read_scales(whole, self.names)
        model = openvino.Model(results, whole.get_parameters())
        # of no method: in a circle of references the garbage collector decides what is taken down first, and when
        self._request = lru_cache(SIZES_KEPT)(partial(_request, core, model, settings))

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Outputs by name, (B, C, h, w), of (B, 3, H, W). They may lie in OpenVINO's memory and hold until the next
        call."""
        nhwc = pixels.permute(0, 2, 3, 1).contiguous()
        if len(nhwc) == 1:
            places = self._infer(nhwc, shared=True)
        else:  # one at a time: batches would be further sizes, and are no faster on a CPU
            found = [self._infer(image, shared=False) for image in nhwc.split(1)]
            places = [torch.cat(parts) for parts in zip(*found, strict=True)]
        return {name: place.permute(0, 3, 1, 2) for name, place in zip(self.names, places, strict=True)}

    def _infer(self, nhwc: Tensor, *, shared: bool) -> list[Tensor]:
        """All outputs of one image, NHWC; shared: in the memory of its size's request."""
        request = self._request(tuple(nhwc.shape))
        found = request.infer({0: nhwc.numpy()}, share_inputs=True, share_outputs=shared)
        return [torch.from_numpy(found[place]) for place in range(len(self.names))]


class OpenVinoTrunk:
    """A `maskserve.modeling.trunk.Trunk`, all of it on OpenVINO. Args, Raises: see `OpenVinoGraph`."""

    on_openvino = True

    def __init__(self, path: Path) -> None:
        self.graph = OpenVinoGraph(path, (FEATURE, _LOGITS, _DELTAS))
        self.scales: Mapping[str, Affine] = {
            name.removeprefix(FEATURE): scale for name, scale in self.graph.scales.items()
        }

    def __call__(self, pixels: Tensor, filled: tuple[int, int] | None = None) -> TrunkOutput:  # noqa: ARG002
        """See `maskserve.modeling.trunk.Trunk`. As long as `OpenVinoGraph`'s, it holds until the next call."""
        outputs = self.graph(pixels)
        return TrunkOutput(
            {name.removeprefix(FEATURE): value for name, value in outputs.items() if name.startswith(FEATURE)},
            [value for name, value in outputs.items() if name.startswith(_LOGITS)],
            [value for name, value in outputs.items() if name.startswith(_DELTAS)],
        )


@cache
def _core() -> Any:
    """One for the life of the process. Each gives its thread a stack for signals, and the one before it back when it is
    taken down: of two, taken down in that order, one that is gone. Then the next signal ends the process."""
    return load_openvino().Core()


def _read(core: Any, path: Path) -> Any:
    """openvino.Model. Raises ConfigError: see `OpenVinoGraph`."""
    for file in (path, path.with_suffix(".bin")):
        if not file.is_file():
            raise ConfigError(f"{file}: no such file; make it anew: `maskserve package --precision int8`")
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        last = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"{path}: OpenVINO cannot load it: {last}") from error
    names = [str(output.any_name) for output in model.outputs]
    if {name.partition("/")[0] + "/" for name in names} - {LEVEL} != {FEATURE, _LOGITS, _DELTAS}:
        raise ConfigError(f"{path}: no trunk of `maskserve package`: its outputs are {', '.join(names)}")
    return model


def _request(core: Any, model: Any, settings: dict[str, Any], shape: tuple[int, ...]) -> Any:
    """An inference request of the model, compiled for inputs of that shape."""
    model = model.clone()
    model.reshape(list(shape))
    return core.compile_model(model, "CPU", settings).create_infer_request()


SCALES = "feature_scales"
"""Under which a model says what its outputs of uint8 stand for: "scale zero_point", by `scale_key`."""


def read_scales(model: Any, names: Sequence[str]) -> dict[str, Affine]:
    """Of those outputs that are uint8."""
    found = {}
    for name in names:
        if model.has_rt_info([SCALES, scale_key(name)]):
            scale, zero_point = model.get_rt_info([SCALES, scale_key(name)]).astype(str).split()
            found[name] = Affine(float(scale), int(zero_point))
    return found


def scale_key(name: str) -> str:
    """Of an output; XML knows no "/" in a name."""
    return name.removeprefix(FEATURE).replace("/", "_")


def output_names(features: list[str], levels: int) -> list[str]:
    """The names of a trunk's outputs in their order: features, logits and deltas of each RPN level."""
    rpn = [f"{kind}{level}" for kind in (_LOGITS, _DELTAS) for level in range(levels)]
    return [*(f"{FEATURE}{name}" for name in features), *rpn]


def load_openvino() -> Any:
    """OpenVINO's module. Raises ConfigError when it is not installed.

    As it comes, `import openvino` reports itself to Google Analytics; without `openvino_telemetry` it does not.
    """
    if find_spec("openvino") is None:
        raise ConfigError(
            "precision int8 runs on OpenVINO, which is not installed here: pip install openvino, "
            "or package the run with --precision fp32"
        )
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # an import of it fails from now on
    import openvino

    return openvino
