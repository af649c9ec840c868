"""What every pixel goes through: backbone, FPN and the RPN's convolutions, as one function of a batch.

    pixels ─▶ bottom-up ─▶ FPN ─▶ features (for the heads)
                            └──▶ RPN head ─▶ objectness logits, box deltas (for the proposals)

Nine tenths of a photo's arithmetic is here, and nothing in it depends on what was found: so it is the part that runs in
another precision or another runtime.

Shape shorthand: B images, C channels, A anchors a position, h, w px of a level.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn


class Affine(NamedTuple):
    """What stored numbers stand for: (stored - zero_point) · scale; as it is by default, themselves."""

    scale: float = 1.0
    zero_point: int = 0

    def values(self, stored: Tensor) -> Tensor:
        """float32"""
        values = stored.float()
        return values if self == Affine() else (values - self.zero_point) * self.scale


class TrunkOutput(NamedTuple):
    features: dict[str, Tensor]
    """(B, C, h, w) by name, p2 to p6; channels last in memory. float32, bfloat16, or uint8 (see `Trunk.scales`)."""
    logits: list[Tensor]
    """(B, A, h, w) for each level that the RPN looks at."""
    deltas: list[Tensor]
    """(B, 4 A, h, w) for the same levels."""


class Trunk(Protocol):
    """(B, 3, H, W), normalised and padded to the network's stride, channels last ─▶ TrunkOutput."""

    scales: Mapping[str, Affine]
    """Of the features that are uint8, by name."""
    on_openvino: bool
    """Whether it wants its pixels in float32, and of few sizes (`maskserve.modeling.pixels`)."""

    def __call__(self, pixels: Tensor, filled: tuple[int, int] | None = None) -> TrunkOutput:
        """Of the pixels that photos fill.

        Args:
            filled: their (height, width), multiples of the network's stride, if further ones were padded: what comes
                of those may be left out.
        """


class TorchTrunk(nn.Module):
    """The trunk of a Detectron2 model, in the precision of its weights."""

    scales: Mapping[str, Affine] = MappingProxyType({})
    on_openvino = False

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.rpn_head = model.proposal_generator.rpn_head
        self.rpn_features: tuple[str, ...] = tuple(model.proposal_generator.in_features)

    def forward(self, pixels: Tensor, filled: tuple[int, int] | None = None) -> TrunkOutput:  # noqa: ARG002
        features: Mapping[str, Tensor] = self.backbone(pixels.to(next(self.parameters()).dtype))
        logits, deltas = self.rpn_head([features[name] for name in self.rpn_features])
        return TrunkOutput(dict(features), logits, deltas)
