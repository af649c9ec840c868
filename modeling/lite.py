"""Mask R-CNN with light FPN and heads: every 3×3 convolution there is depthwise-separable. For both arms.

    3×3, C ─▶ C', 9·C·C' weights     ─▶     3×3 depthwise, norm ─▶ 1×1, norm, 9·C + C·C' weights

Changed are the FPN's output convolutions, the RPN's, those of the box head (if it has any; its fully connected layers
stay) and of the mask head. The bottom-up network stays, so ImageNet's weights fit.

The block: Howard et al., "MobileNets", 2017, section 3.1. Its norm is GN unless asked otherwise: the RPN's head is one
for all levels of the pyramid, whose statistics differ, and batches are small.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, DepthwiseSeparableConv2d
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from torch import nn


@META_ARCH_REGISTRY.register()
class LiteRCNN(GeneralizedRCNN):
    """Detectron2's GeneralizedRCNN, whose FPN and heads are made light after they are built.

    Args:
        lite_norm: norm of the separable convolutions, by Detectron2's names; "" for none.
        parts: as GeneralizedRCNN's; the backbone is an FPN.
    """

    @configurable
    def __init__(self, *, lite_norm: str, **parts: Any) -> None:
        super().__init__(**parts)
        for part in (self.backbone, self.proposal_generator, self.roi_heads):
            _separate(part, lite_norm)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), "lite_norm": cfg.MODEL.LITE_NORM}


def _separate(module: nn.Module, norm: str) -> None:
    """Put separable convolutions in the place of the dense 3×3 ones of `module`, its bottom-up network excepted."""
    light: dict[nn.Module, nn.Module] = {}
    for name, child in module.named_children():
        if isinstance(child, Conv2d) and child.kernel_size == (3, 3):
            light[child] = _separable(child, norm)
            setattr(module, name, light[child])
        elif name != "bottom_up":
            _separate(child, norm)
    # Detectron2's FPN and heads also hold them in plain lists
    for listed in ("output_convs", "conv_norm_relus"):
        if hasattr(module, listed):
            setattr(module, listed, [light.get(conv, conv) for conv in getattr(module, listed)])


def _separable(dense: Conv2d, norm: str) -> DepthwiseSeparableConv2d:
    """With the dense one's shape and activation, which follows both of its convolutions."""
    return DepthwiseSeparableConv2d(
        dense.in_channels,
        dense.out_channels,
        norm1=norm,
        activation1=dense.activation,
        norm2=norm,
        activation2=dense.activation,
    )
