"""MobileNetV2 as a bottom-up network for Detectron2's FPN.

    image ─▶ stem ─▶ res1 ─▶ res2 ─▶ res3 ─▶ res4 ─▶ res5      strides 2, 2, 4, 8, 16, 32

Architecture: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, table 2. The table below
is all there is to it: a stage `res<k>` is every row at stride 2**k, so strides and channels follow from the table.

Shape shorthand: B images, C channels, H, W px of the network's input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from detectron2.layers import CNNBlockBase, Conv2d, FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from maskserve.protos.errors import ConfigError


class Row(NamedTuple):
    """One row of the paper's table: `repeats` blocks, the first with `stride`."""

    expansion: int
    channels: int
    repeats: int
    stride: int


STEM_CHANNELS = 32
STEM_STRIDE = 2
TABLE = (
    Row(1, 16, 1, 1),
    Row(6, 24, 2, 2),
    Row(6, 32, 3, 2),
    Row(6, 64, 4, 2),
    Row(6, 96, 3, 1),
    Row(6, 160, 3, 2),
    Row(6, 320, 1, 1),
)
CHANNEL_STEP = 8
GN_CHANNELS = 8
"""Channels of one group for `NORM: GN`: the 32 groups of Detectron2's GN do not divide 16 or 24 channels."""


class InvertedResidual(CNNBlockBase):
    """1×1 expansion, 3×3 depthwise, linear 1×1 projection; added to its input when the shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int, norm: str) -> None:
        super().__init__(in_channels, out_channels, stride)
        hidden = in_channels * expansion
        self.expand = conv_norm(in_channels, hidden, 1, norm=norm) if expansion > 1 else nn.Identity()
        self.depthwise = conv_norm(hidden, hidden, 3, stride=stride, groups=hidden, norm=norm)
        self.project = conv_norm(hidden, out_channels, 1, norm=norm, activation=None)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.has_shortcut else out


class MobileNetV2(Backbone):
    """The convolutional part up to stride 32, without the last 1×1 convolution and the classifier.

    Args:
        out_features: stages to return, among `res1`…`res5`.
        norm: "FrozenBN", "BN", "GN" or "SyncBN".
        width_mult: scales all channels; rounded to multiples of 8 as in the paper's code.
        freeze_at: 0 trains everything; 1 freezes the stem and res1; k freezes up to res<k> too.

    Raises:
        ConfigError: an unknown stage or norm, or a width that leaves no channels.
    """

    def __init__(
        self,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        *,
        norm: str = "FrozenBN",
        width_mult: float = 1.0,
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        if width_mult <= 0:
            raise ConfigError(f"MODEL.MOBILENETV2.WIDTH_MULT {width_mult}: must be above 0")
        channels = scaled(STEM_CHANNELS, width_mult)
        self.stem = conv_norm(3, channels, 3, stride=STEM_STRIDE, norm=norm)
        self._shapes: dict[str, ShapeSpec] = {}
        stride = STEM_STRIDE
        for name, rows in rows_by_stride():
            blocks: list[nn.Module] = []
            for row in rows:
                for index in range(row.repeats):
                    out = scaled(row.channels, width_mult)
                    step = row.stride if index == 0 else 1
                    blocks.append(InvertedResidual(channels, out, stride=step, expansion=row.expansion, norm=norm))
                    channels = out
            stride *= math.prod(row.stride for row in rows)
            self.add_module(name, nn.Sequential(*blocks))
            self._shapes[name] = ShapeSpec(channels=channels, stride=stride)
        self._out_features = self._checked(out_features)
        self._initialise()
        self.freeze(freeze_at)

    def _checked(self, out_features: Sequence[str]) -> list[str]:
        unknown = sorted(set(out_features) - set(self._shapes))
        if unknown or not out_features:
            names = ", ".join(self._shapes)
            raise ConfigError(f"MODEL.MOBILENETV2.OUT_FEATURES {list(out_features)}: choose among {names}")
        return [name for name in self._shapes if name in out_features]

    def _initialise(self) -> None:
        """He initialisation by fan-out, as torchvision's MobileNetV2."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def freeze(self, freeze_at: int) -> None:
        """Stop training of the stem and the stages up to `res<freeze_at>`; their batch norm becomes constant."""
        names = [] if freeze_at < 1 else ["stem", *list(self._shapes)[:freeze_at]]
        for name in names:
            module = getattr(self, name)
            module.requires_grad_(False)
            setattr(self, name, FrozenBatchNorm2d.convert_frozen_batchnorm(module))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) normalised pixels ─▶ {stage: (B, C, H / stride, W / stride)}, sizes rounded up."""
        outputs: dict[str, Tensor] = {}
        x = self.stem(x)
        for name in self._shapes:
            x = getattr(self, name)(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: self._shapes[name] for name in self._out_features}


@BACKBONE_REGISTRY.register()
def build_mobilenetv2_fpn_backbone(cfg: object, input_shape: ShapeSpec) -> FPN:
    """MobileNetV2 under an FPN, from `MODEL.MOBILENETV2`, `MODEL.FPN` and `MODEL.BACKBONE.FREEZE_AT`."""
    model = cfg.MODEL  # type: ignore[attr-defined]
    if input_shape.channels != 3:
        raise ConfigError(f"MobileNetV2 takes 3 colour channels, MODEL.PIXEL_MEAN has {input_shape.channels}")
    bottom_up = MobileNetV2(
        model.MOBILENETV2.OUT_FEATURES,
        norm=model.MOBILENETV2.NORM,
        width_mult=model.MOBILENETV2.WIDTH_MULT,
        freeze_at=model.BACKBONE.FREEZE_AT,
    )
    return FPN(
        bottom_up=bottom_up,
        in_features=model.FPN.IN_FEATURES,
        out_channels=model.FPN.OUT_CHANNELS,
        norm=model.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=model.FPN.FUSE_TYPE,
    )


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    norm: str,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU6,
) -> Conv2d:
    """Convolution without bias, norm, ReLU6; padded symmetrically."""
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        bias=False,
        norm=_norm(norm, out_channels),
        activation=activation() if activation else None,
    )


def scaled(channels: int, width_mult: float) -> int:
    """`channels * width_mult` to the nearest multiple of 8, but never more than 10 % below it."""
    wanted = channels * width_mult
    rounded = max(CHANNEL_STEP, int(wanted + CHANNEL_STEP / 2) // CHANNEL_STEP * CHANNEL_STEP)
    return rounded if rounded >= 0.9 * wanted else rounded + CHANNEL_STEP


def _norm(name: str, channels: int) -> nn.Module:
    if name == "GN":
        return nn.GroupNorm(channels // GN_CHANNELS, channels)
    if name not in ("BN", "SyncBN", "FrozenBN"):
        raise ConfigError(f"MODEL.MOBILENETV2.NORM {name!r}: choose BN, SyncBN, FrozenBN or GN")
    norm: nn.Module = get_norm(name, channels)
    return norm


def rows_by_stride() -> list[tuple[str, list[Row]]]:
    """("res1", its rows), ("res2", …), …: the table's rows grouped by the stride of their output."""
    strides: list[int] = []
    for row in TABLE:
        strides.append((strides[-1] if strides else STEM_STRIDE) * row.stride)
    pairs = zip(strides, TABLE, strict=True)
    groups = groupby(pairs, key=lambda pair: pair[0])
    return [(f"res{int(math.log2(stride))}", [row for _, row in group]) for stride, group in groups]
