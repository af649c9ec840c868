"""A config and weights ─▶ Detectron2's network with exactly these weights.

cfg ─▶ network, nothing initialised ─▶ every tensor copied from the weights, or an error that says which not
.pth ─▶ tensors mapped from the file, read without running any code from it
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from maskserve.modeling.network import build_network
from maskserve.protos.errors import ConfigError

LISTED_KEYS = 3
# torch.nn.init's are asked about whole, or by the method that they call
_RANDOM = (init.kaiming_uniform_, init.normal_, init.uniform_, Tensor.normal_, Tensor.uniform_)


def load_network(cfg: CfgNode, weights: Path | str | Mapping[str, Tensor]) -> GeneralizedRCNN:
    """The network of `cfg` on its `MODEL.DEVICE`, in evaluation mode.

    Args:
        cfg: a resolved config.
        weights: a state dict, which is copied from, or a file of one with Detectron2's names (tensors only).

    Raises:
        ConfigError: the config makes no network, or the weights are not its own, tensor by tensor.
    """
    with _NoRandomNumbers():
        model = build_network(cfg)
    _load_exactly(model, weights if isinstance(weights, Mapping) else load_state_dict(Path(weights)))
    return model.eval()


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a `.pth` file, read without running any code from it.

    They are mapped from the file: do not write into it while they are in use (to replace it is fine).

    Raises:
        ConfigError: the file is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such weights file")
    try:
        # files from before torch 1.6 are no zip and cannot be mapped
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # a pickle that is damaged, or none, may raise anything
        first_line = str(error).partition("\n")[0]
        kind = type(error).__name__
        raise ConfigError(f"{path}: not a file of tensors that can be read safely: {kind}: {first_line}") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ConfigError(f"{path}: holds no state dict (names with tensors)")
    return dict(state)


class _NoRandomNumbers(TorchFunctionMode):
    """Tensors that would be filled with random numbers keep what lies in their memory: weights come from a file.

    Constants are still filled in, so that what no state dict holds (anchors, frozen statistics) is as ever.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def _load_exactly(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    try:
        missing, unexpected = model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:  # shapes differ; the text names each tensor
        raise ConfigError(f"the weights do not fit the config: {error}") from error
    if missing or unexpected:
        some = ", ".join([*missing, *unexpected][:LISTED_KEYS])
        raise ConfigError(
            f"the weights do not fit the config: {len(missing)} tensors missing, {len(unexpected)} unexpected "
            f"({some}, …); config and weights must come from the same run folder"
        )
