"""MobileNetV2 as a bottom-up network for Detectron2's FPN.

    image ─▶ stem ─▶ res1 ─▶ res2 ─▶ res3 ─▶ res4 ─▶ res5      strides 2, 2, 4, 8, 16, 32 | 16

With output stride 16 the blocks of `res5` are dilated instead of strided (atrous; Chen et al., "Rethinking Atrous
Convolution", 2017, section 3.1): the same weights on four times as many positions. An FPN needs one feature a stride,
so the feature at stride 16, `res4`, is then what comes out of `res5`'s blocks.

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
from torch import Tensor, nn
from torch.nn import functional

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
FULL_STRIDE, DILATED_STRIDE = 32, 16
CHANNEL_STEP = 8
GN_CHANNELS = 8
"""Channels of one group for `NORM: GN`: the 32 groups of Detectron2's GN do not divide 16 or 24 channels."""


class InvertedResidual(CNNBlockBase):
    """1×1 expansion, 3×3 depthwise, linear 1×1 projection; added to its input when the shapes agree."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, expansion: int, norm: str, dilation: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        hidden = in_channels * expansion
        self.expand = conv_norm(in_channels, hidden, 1, norm=norm) if expansion > 1 else nn.Identity()
        self.depthwise = conv_norm(hidden, hidden, 3, stride=stride, dilation=dilation, groups=hidden, norm=norm)
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
        output_stride: 32, or 16 with dilated blocks; names and shapes of the tensors are the same.

    Raises:
        ConfigError: an unknown stage, norm or output stride, or a width that leaves no channels.
    """

    def __init__(
        self,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        *,
        norm: str = "FrozenBN",
        width_mult: float = 1.0,
        freeze_at: int = 0,
        output_stride: int = FULL_STRIDE,
    ) -> None:
        super().__init__()
        if width_mult <= 0:
            raise ConfigError(f"MODEL.MOBILENETV2.WIDTH_MULT {width_mult}: must be above 0")
        if output_stride not in (FULL_STRIDE, DILATED_STRIDE):
            raise ConfigError(
                f"MODEL.MOBILENETV2.OUTPUT_STRIDE {output_stride}: choose {FULL_STRIDE} or {DILATED_STRIDE}"
            )
        channels = scaled(STEM_CHANNELS, width_mult)
        self.stem = conv_norm(3, channels, 3, stride=STEM_STRIDE, norm=norm)
        self._feature_of: dict[str, str] = {}  # stage ─▶ the feature that it ends in
        self._shapes: dict[str, ShapeSpec] = {}
        stride = STEM_STRIDE
        for name, rows in rows_by_stride():
            wanted = stride * math.prod(row.stride for row in rows)
            stride = min(wanted, output_stride)
            self.add_module(name, _stage(channels, rows, norm=norm, width_mult=width_mult, dilation=wanted // stride))
            channels = scaled(rows[-1].channels, width_mult)
            self._feature_of[name] = f"res{int(math.log2(stride))}"
            self._shapes[self._feature_of[name]] = ShapeSpec(channels=channels, stride=stride)
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
        names = [] if freeze_at < 1 else ["stem", *list(self._feature_of)[:freeze_at]]
        for name in names:
            module = getattr(self, name)
            module.requires_grad_(False)
            setattr(self, name, FrozenBatchNorm2d.convert_frozen_batchnorm(module))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) normalised pixels ─▶ {stage: (B, C, H / stride, W / stride)}, sizes rounded up."""
        outputs: dict[str, Tensor] = {}
        x = self.stem(x)
        for stage, feature in self._feature_of.items():
            x = getattr(self, stage)(x)
            if feature in self._out_features:
                outputs[feature] = x
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: self._shapes[name] for name in self._out_features}


class Subsample(nn.Module):
    """Levels above the last one of an FPN: every second pixel of the level below, up to p6 (FPN paper, section 4.1)."""

    TOP_LEVEL = 6

    def __init__(self, last_level: int) -> None:
        super().__init__()
        self.in_feature = f"p{last_level}"
        self.num_levels = self.TOP_LEVEL - last_level

    def forward(self, x: Tensor) -> list[Tensor]:
        levels: list[Tensor] = []
        for _ in range(self.num_levels):
            x = functional.max_pool2d(x, kernel_size=1, stride=2)
            levels.append(x)
        return levels


@BACKBONE_REGISTRY.register()
def build_mobilenetv2_fpn_backbone(cfg: object, input_shape: ShapeSpec) -> FPN:
    """MobileNetV2 under an FPN, from `MODEL.MOBILENETV2`, `MODEL.FPN` and `MODEL.BACKBONE.FREEZE_AT`.

    The levels are p2…p6 for both output strides: with 16, p5 and p6 are p4 subsampled, so that anchors, RPN and
    poolers stay as they are.
    """
    model = cfg.MODEL  # type: ignore[attr-defined]
    if input_shape.channels != 3:
        raise ConfigError(f"MobileNetV2 takes 3 colour channels, MODEL.PIXEL_MEAN has {input_shape.channels}")
    bottom_up = MobileNetV2(
        model.MOBILENETV2.OUT_FEATURES,
        norm=model.MOBILENETV2.NORM,
        width_mult=model.MOBILENETV2.WIDTH_MULT,
        freeze_at=model.BACKBONE.FREEZE_AT,
        output_stride=model.MOBILENETV2.OUTPUT_STRIDE,
    )
    last_stride = bottom_up.output_shape()[model.FPN.IN_FEATURES[-1]].stride
    return FPN(
        bottom_up=bottom_up,
        in_features=model.FPN.IN_FEATURES,
        out_channels=model.FPN.OUT_CHANNELS,
        norm=model.FPN.NORM,
        top_block=Subsample(int(math.log2(last_stride))),
        fuse_type=model.FPN.FUSE_TYPE,
    )


def _stage(channels: int, rows: Sequence[Row], *, norm: str, width_mult: float, dilation: int) -> nn.Sequential:
    """The blocks of `rows` over `channels` inputs; a dilation above 1 takes the place of the stride."""
    blocks: list[nn.Module] = []
    for row in rows:
        out = scaled(row.channels, width_mult)
        for stride in (row.stride, *[1] * (row.repeats - 1)):
            block = InvertedResidual(
                channels,
                out,
                stride=stride if dilation == 1 else 1,
                expansion=row.expansion,
                norm=norm,
                dilation=1 if stride > 1 else dilation,  # its input is not spread out yet
            )
            blocks.append(block)
            channels = out
    return nn.Sequential(*blocks)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    norm: str,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU6,
) -> Conv2d:
    """Convolution without bias, norm, ReLU6; padded symmetrically."""
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        stride=stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
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
