"""MobileNetV2 as a bottom-up network: honest shapes, norms, freezing; torchvision's features from its weights."""

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from maskserve.modeling.config import load_cfg
from maskserve.modeling.mobilenetv2 import MobileNetV2, build_mobilenetv2_fpn_backbone, scaled
from maskserve.modeling.network import settle
from maskserve.protos.errors import ConfigError
from maskserve.training.naming import PREFIX, from_torchvision
from maskserve.training.presets import ARMS, CONFIGS

STAGES = ("res1", "res2", "res3", "res4", "res5")


@pytest.mark.parametrize("output_stride", [32, 16])
@pytest.mark.parametrize("width_mult", [0.35, 1.0, 1.4])
@pytest.mark.parametrize("size", [(64, 96), (65, 33)])
def test_output_shape_says_what_forward_returns(width_mult: float, size: tuple[int, int], output_stride: int):
    stages = STAGES if output_stride == 32 else STAGES[:-1]
    network = MobileNetV2(stages, width_mult=width_mult, norm="BN", output_stride=output_stride).eval()
    features = network(torch.zeros(2, 3, *size))
    assert list(features) == list(network.output_shape()) == list(stages)
    for name, shape in network.output_shape().items():
        assert features[name].shape == (2, shape.channels, -(-size[0] // shape.stride), -(-size[1] // shape.stride))


def test_strides_and_channels_are_the_paper_s():
    shapes = MobileNetV2().output_shape()
    assert {name: (shape.channels, shape.stride) for name, shape in shapes.items()} == {
        "res2": (24, 4),
        "res3": (32, 8),
        "res4": (96, 16),
        "res5": (320, 32),
    }


@pytest.mark.parametrize("size", [(64, 96), (90, 70)])
def test_with_output_stride_16_every_second_pixel_is_what_output_stride_32_gives(size: tuple[int, int]):
    torch.manual_seed(0)
    strided = MobileNetV2(STAGES, norm="BN").eval()
    dilated = MobileNetV2(STAGES[:-1], norm="BN", output_stride=16).eval()
    dilated.load_state_dict(strided.state_dict())  # the same names and shapes
    photos = torch.randn(2, 3, *size)
    with torch.no_grad():
        coarse, dense = strided(photos)["res5"], dilated(photos)["res4"]
    torch.testing.assert_close(dense[:, :, ::2, ::2], coarse, rtol=1e-4, atol=1e-4)
    assert dense.shape[-2:] == tuple(-(-side // 16) for side in size)


@pytest.mark.parametrize("norm", ["BN", "GN", "FrozenBN"])
def test_the_norm_is_the_one_asked_for(norm: str):
    kinds = {"BN": nn.BatchNorm2d, "GN": nn.GroupNorm}
    convolutions = [module for module in MobileNetV2().modules() if isinstance(module, nn.Conv2d)]
    found = [module for module in MobileNetV2(norm=norm).modules() if type(module) in (nn.BatchNorm2d, nn.GroupNorm)]
    assert len(found) == (0 if norm == "FrozenBN" else len(convolutions))
    assert all(isinstance(module, kinds[norm]) for module in found)


@pytest.mark.parametrize("freeze_at", [0, 1, 3, 5])
def test_frozen_stages_do_not_train_and_the_others_do(freeze_at: int):
    network = MobileNetV2(STAGES, norm="BN", freeze_at=freeze_at).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    loss = sum(feature.mean() for feature in network(torch.rand(2, 3, 64, 64)).values())
    if freeze_at < len(STAGES):
        loss.backward()
    frozen = {"stem", *STAGES[:freeze_at]} if freeze_at else set()
    for name, parameter in network.named_parameters():
        assert (name.partition(".")[0] in frozen) == (not parameter.requires_grad), name
    for name, tensor in network.state_dict().items():
        if name.partition(".")[0] in frozen:
            assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    "wrong",
    [
        {"out_features": ("res6",)},
        {"out_features": ()},
        {"norm": "LayerNorm"},
        {"width_mult": 0.0},
        {"output_stride": 8},
        {"output_stride": 16},  # and res5 is asked for
    ],
)
def test_a_wrong_option_is_a_config_error(wrong: dict):
    with pytest.raises(ConfigError, match=r"MODEL\.MOBILENETV2"):
        MobileNetV2(**wrong)


@pytest.mark.parametrize("output_stride", [32, 16])
def test_the_registry_s_backbone_is_an_fpn_over_it_with_the_same_levels_for_both_output_strides(output_stride: int):
    cfg = load_cfg(CONFIGS / ARMS["mobilenetv2"].config)
    cfg.MODEL.MOBILENETV2.OUTPUT_STRIDE = output_stride
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    settle(cfg)
    backbone = build_mobilenetv2_fpn_backbone(cfg, type("Shape", (), {"channels": 3}))
    features = backbone.eval()(torch.zeros(1, 3, 64, 64))
    assert {name: feature.shape[-1] for name, feature in features.items()} == {
        "p2": 16,
        "p3": 8,
        "p4": 4,
        "p5": 2,
        "p6": 1,
    }
    assert {name: 64 // shape.stride for name, shape in backbone.output_shape().items()} == {
        name: feature.shape[-1] for name, feature in features.items()
    }


def test_torchvision_s_weights_give_torchvision_s_features():
    torch.manual_seed(0)
    theirs = mobilenet_v2(weights=None)
    photos = torch.randn(8, 3, 96, 96)
    with torch.no_grad():
        theirs.train()(photos)  # batch statistics that are not the initial ones
    ours = MobileNetV2(STAGES, norm="FrozenBN").eval()
    state = {k.removeprefix(PREFIX): v for k, v in from_torchvision(theirs.state_dict(), "mobilenetv2").items()}
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not missing
    assert all(name.endswith("num_batches_tracked") for name in unexpected)
    with torch.no_grad():
        features = ours(photos)
        x, expected = photos, {}
        for index, layer in enumerate(theirs.eval().features[:18]):
            x = layer(x)
            expected[{1: "res1", 3: "res2", 6: "res3", 13: "res4", 17: "res5"}.get(index, "")] = x
    for name in STAGES:
        torch.testing.assert_close(features[name], expected[name], rtol=1e-4, atol=1e-4)


def test_widths_are_multiples_of_eight_and_never_far_below():
    assert [scaled(channels, 0.35) for channels in (16, 24, 32, 64, 96, 160, 320)] == [8, 8, 16, 24, 32, 56, 112]
