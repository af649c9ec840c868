"""The trunk on OpenVINO: convolutions in int8, or in float32 for what was left in it.

    trunk.xml + trunk.bin ─▶ compiled for this CPU ─▶ pixels ─▶ TrunkOutput, of the same form as torch's

The model's input and outputs are NHWC and named by `feature_name`, `logits_name` and `deltas_name`
(`maskserve.training.quantize` writes them so), and NHWC is channels last in memory: no tensor is copied on its way in
or out. The graph is data, read without running code of it. Height, width and batch are free.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskserve.modeling.trunk import TrunkOutput
from maskserve.protos.errors import ConfigError

TRUNK_FILES = ("trunk.bin", "trunk.xml")
_FEATURE, _LOGITS, _DELTAS = "feature/", "logits/", "deltas/"


class OpenVinoTrunk:
    """A `maskserve.modeling.trunk.Trunk` on the CPU, with as many threads as torch has when it is made.

    What a call returns lies in OpenVINO's memory and holds until the next call.

    Args:
        path: trunk.xml; trunk.bin lies beside it.

    Raises:
        ConfigError: OpenVINO is not installed, or the files are missing, damaged or of something else.
    """

    def __init__(self, path: Path) -> None:
        openvino = load_openvino()
        for file in (path, path.with_suffix(".bin")):
            if not file.is_file():
                raise ConfigError(f"{file}: no such file; make it anew: `maskserve package --precision int8`")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # Pinned threads of two workers would share the first cores and leave the others idle
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(path), "CPU", settings)
        except RuntimeError as error:
            last = (str(error).strip().splitlines() or ["no reason given"])[-1]
            raise ConfigError(f"{path}: OpenVINO cannot load it: {last}") from error
        names = [str(output.any_name) for output in compiled.outputs]
        if {name.partition("/")[0] + "/" for name in names} != {_FEATURE, _LOGITS, _DELTAS}:
            raise ConfigError(f"{path}: no trunk of `maskserve package`: its outputs are {', '.join(names)}")
        self._names = names
        self._request = compiled.create_infer_request()

    def __call__(self, pixels: Tensor) -> TrunkOutput:
        """See `maskserve.modeling.trunk.Trunk`."""
        nhwc = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        found = self._request.infer({0: nhwc}, share_inputs=True, share_outputs=True)
        outputs = {name: torch.from_numpy(found[place]).permute(0, 3, 1, 2) for place, name in enumerate(self._names)}
        return TrunkOutput(
            {name.removeprefix(_FEATURE): value for name, value in outputs.items() if name.startswith(_FEATURE)},
            [value for name, value in outputs.items() if name.startswith(_LOGITS)],
            [value for name, value in outputs.items() if name.startswith(_DELTAS)],
        )


def output_names(features: list[str], levels: int) -> list[str]:
    """The names of a trunk's outputs in their order: features, logits and deltas of each RPN level."""
    rpn = [f"{kind}{level}" for kind in (_LOGITS, _DELTAS) for level in range(levels)]
    return [*(f"{_FEATURE}{name}" for name in features), *rpn]


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
