"""What a network costs: its parameters, and the floating-point operations of one photo.

    model, (height, width) ─▶ trunk and RPN on one image ─▶ heads on fixed numbers of regions ─▶ Complexity

Counted are convolutions and matrix products, a multiply-add as 2 FLOPs (torch's FlopCounterMode); norms, activations,
ROIAlign and suppression are not. The box head sees as many regions as the config lets through in inference, the mask
head `MASK_INSTANCES`: what a random network happens to find must not decide. The tensors are fake, of shapes only, so
that nothing is calculated and the model keeps its state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from maskserve.modeling.pixels import network_size

MASK_INSTANCES = 10
PHOTO_ASPECT = (3, 4)


@dataclass(frozen=True)
class Part:
    """One part of a network."""

    parameters: int
    trainable_parameters: int
    """Those that are not frozen."""
    flops: int
    """Of one photo."""


@dataclass(frozen=True)
class Complexity:
    """What a Mask R-CNN costs."""

    input_size: tuple[int, int]
    """(height, width) of the network's input, px, before it is padded to the network's stride."""
    proposals: int
    """Regions that the box head was counted for."""
    by_part: Mapping[str, Part]
    """"backbone" (bottom-up), "fpn", "rpn", "box_head", "mask_head", the last two with their predictors."""

    @property
    def parameters(self) -> int:
        """Learned numbers; the constants of frozen batch norm are none."""
        return sum(part.parameters for part in self.by_part.values())

    @property
    def trainable_parameters(self) -> int:
        return sum(part.trainable_parameters for part in self.by_part.values())

    @property
    def flops(self) -> int:
        return sum(part.flops for part in self.by_part.values())

    def to_json(self) -> dict[str, Any]:
        """For run.json and `--json`; the totals stand under "all"."""
        rows = {"all": self, **self.by_part}
        return {
            "input_size": list(self.input_size),
            "proposals": self.proposals,
            "mask_instances": MASK_INSTANCES,
            **{
                name: {key: getattr(row, key) for key in ("parameters", "trainable_parameters", "flops")}
                for name, row in rows.items()
            },
        }


def measure_complexity(network: GeneralizedRCNN, size: tuple[int, int]) -> Complexity:
    """Parameters, and FLOPs of one photo, the same every time; takes about a second whatever the size.

    Args:
        network: a Mask R-CNN on an FPN, in training or not; it is left as it was.
        size: (height, width) of the network's input, px.
    """
    backbone, rpn, heads = network.backbone, network.proposal_generator, network.roi_heads
    proposals = rpn.post_nms_topk[False]
    was_training = network.training
    network.eval()  # batch norm that trains would count
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            image = torch.empty(1, 3, *_padded(size, backbone.size_divisibility), device=network.device)
            features, all_trunk = _counted(backbone, image)
            bottom_up = _counted(backbone.bottom_up, image)[1]
            rpn_flops = _counted(rpn.rpn_head, [features[name] for name in rpn.in_features])[1]
            channels = backbone.output_shape()[heads.box_in_features[0]].channels
            regions = image.new_empty(proposals, channels, *heads.box_pooler.output_size)
            box_flops = _counted(lambda x: heads.box_predictor(heads.box_head(x)), regions)[1]
            regions = image.new_empty(MASK_INSTANCES, channels, *heads.mask_pooler.output_size)
            mask_flops = _counted(heads.mask_head.layers, regions)[1]
    finally:
        network.train(was_training)
    fpn = [parameter for name, parameter in backbone.named_parameters() if not name.startswith("bottom_up.")]
    parts = {
        "backbone": _part(list(backbone.bottom_up.parameters()), bottom_up),
        "fpn": _part(fpn, all_trunk - bottom_up),
        "rpn": _part(list(rpn.parameters()), rpn_flops),
        "box_head": _part([*heads.box_head.parameters(), *heads.box_predictor.parameters()], box_flops),
        "mask_head": _part(list(heads.mask_head.parameters()), mask_flops),
    }
    return Complexity(size, proposals, parts)


def typical_size(cfg: Any) -> tuple[int, int]:
    """(height, width) at which a network of this config sees a 4 : 3 photo, px."""
    height, width = PHOTO_ASPECT
    scale = cfg.INPUT.MAX_SIZE_TEST  # a photo larger than what the network sees
    return network_size((height * scale, width * scale), cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)


def describe(complexity: Complexity) -> str:
    """In one line: "44.4 M parameters (44.2 M trained), 134 GFLOPs at 608 × 811"."""
    height, width = complexity.input_size
    return (
        f"{_millions(complexity.parameters)} parameters ({_millions(complexity.trainable_parameters)} trained), "
        f"{complexity.flops / 1e9:.3g} GFLOPs at {height} × {width}"
    )


def _counted(function: Callable[[Any], Any], value: Tensor | list[Tensor]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        result = function(value)
    return result, counter.get_total_flops()


def _part(parameters: list[nn.Parameter], flops: int) -> Part:
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return Part(sum(parameter.numel() for parameter in parameters), trained, flops)


def _padded(size: tuple[int, int], divisor: int) -> tuple[int, int]:
    height, width = (-(-side // divisor) * divisor for side in size)
    return height, width


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
