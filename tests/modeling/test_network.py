"""Networks by config: they train, every part of them; what follows is set, what cannot work is said by its key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, DepthwiseSeparableConv2d
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from maskserve.modeling.config import load_cfg
from maskserve.modeling.network import backbone_name, build_network, network_name, settle
from maskserve.protos.errors import ConfigError
from maskserve.training.presets import ARMS, resolve_cfg

LITE = ("MODEL.LITE", "True")
R18 = ("MODEL.RESNETS.DEPTH", "18")
P6P7 = ("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone")
OS16 = ("MODEL.MOBILENETV2.OUTPUT_STRIDE", "16")
HALF = ("MODEL.MOBILENETV2.WIDTH_MULT", "0.5")
GN = (
    *("MODEL.RESNETS.NORM", "GN", "MODEL.MOBILENETV2.NORM", "GN", "MODEL.FPN.NORM", "GN"),
    *("MODEL.ROI_MASK_HEAD.NORM", "GN", "MODEL.ROI_BOX_HEAD.NORM", "GN", "MODEL.ROI_BOX_HEAD.NUM_CONV", "1"),
)


def resolved(backbone: str, *overrides: str, preset: str = "quick", recipe: str = "none") -> CfgNode:
    return resolve_cfg(
        ARMS[backbone],
        preset=preset,
        recipe=recipe,
        class_count=2,
        seed=0,
        overrides=("MODEL.DEVICE", "cpu", *overrides),
    )


def photo(with_object: bool) -> dict:
    """64 × 80 px with one object, or with none."""
    found = Instances((64, 80))
    count = int(with_object)
    found.gt_boxes = Boxes(torch.tensor([[10.0, 10.0, 50.0, 40.0]])[:count])
    found.gt_classes = torch.ones(count, dtype=torch.int64)
    masks = torch.zeros(1, 64, 80, dtype=torch.bool)
    masks[:, 10:40, 10:50] = True
    found.gt_masks = BitMasks(masks[:count])
    return {"image": torch.randint(0, 256, (3, 64, 80)).float(), "instances": found}


NETWORKS = [
    ("resnet50", R18, "resnet18-fpn"),
    ("resnet50", (*R18, *LITE), "resnet18-fpn-lite"),
    ("resnet50", (*R18, *GN), "resnet18-fpn"),
    ("resnet50", GN, "resnet50-fpn"),
    ("mobilenetv2", HALF, "mobilenetv2_0.5-fpn"),
    ("mobilenetv2", OS16, "mobilenetv2-fpn-os16"),
    ("mobilenetv2", LITE, "mobilenetv2-fpn-lite"),
    ("mobilenetv2", (*LITE, "MODEL.LITE_NORM", "BN"), "mobilenetv2-fpn-lite"),
    ("mobilenetv2", GN, "mobilenetv2-fpn"),
    ("mobilenetv2", (*GN, *LITE, *OS16, *HALF), "mobilenetv2_0.5-fpn-os16-lite"),
]


@pytest.mark.parametrize(("backbone", "overrides", "name"), NETWORKS)
def test_a_step_reaches_every_parameter_of_every_network(backbone: str, overrides: tuple[str, ...], name: str):
    torch.manual_seed(0)
    every_anchor = ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "10000")  # else the few of a level may not be drawn
    cfg = resolved(backbone, *overrides, *every_anchor)
    assert network_name(cfg) == name
    model = build_model(cfg).train()
    with EventStorage():
        losses = model([photo(True), photo(True)])
        sum(losses.values()).backward()
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    assert all(loss.isfinite() for loss in losses.values())
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    dead = [key for key, parameter in model.named_parameters() if key.endswith("weight") and not parameter.grad.any()]
    assert not dead


@pytest.mark.parametrize("backbone", ARMS)
def test_group_norm_is_the_same_for_a_batch_of_one_and_of_two(backbone: str):
    torch.manual_seed(0)
    cfg = resolved(backbone, *GN, *(R18 if backbone == "resnet50" else ()))
    model = build_model(cfg).train()  # batch norm would take its statistics from the batch
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    photos = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        both, alone = model.backbone(photos), model.backbone(photos[:1])
    for level, feature in alone.items():
        torch.testing.assert_close(both[level][:1], feature, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", ARMS)
def test_lite_leaves_no_dense_3x3_convolution_outside_of_the_backbone(backbone: str):
    cfg = resolved(backbone, *LITE, "MODEL.ROI_BOX_HEAD.NUM_CONV", "2", preset="standard")
    model = build_model(cfg)
    kept = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Conv2d) and module.kernel_size == (3, 3) and module.groups == 1
    ]
    assert kept
    assert all(name.startswith("backbone.bottom_up.") for name in kept)
    blocks = [name for name, module in model.named_modules() if isinstance(module, DepthwiseSeparableConv2d)]
    assert len(blocks) == 4 + 1 + 2 + 4  # FPN, RPN, box head, mask head
    assert all(model.get_submodule(f"{name}.{conv}").norm for name in blocks for conv in ("depthwise", "pointwise"))


def test_the_lite_fpn_calculates_with_its_light_convolutions():
    model = build_model(resolved("mobilenetv2", *LITE)).eval()
    fpn = model.backbone
    assert fpn.output_convs == [fpn.fpn_output5, fpn.fpn_output4, fpn.fpn_output3, fpn.fpn_output2]
    photos = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = fpn(photos)["p2"]
        fpn.fpn_output2.pointwise.norm.bias += 1
        assert not torch.equal(fpn(photos)["p2"], before)


def test_a_lite_mask_head_with_group_norm_trains_on_photos_without_objects():
    torch.manual_seed(0)
    model = build_model(resolved("mobilenetv2", *LITE, *GN)).train()
    with EventStorage():
        losses = model([photo(False), photo(False)])
        sum(losses.values()).backward()
    assert losses["loss_mask"].item() == 0


@pytest.mark.parametrize(("backbone", "overrides", "name"), NETWORKS)
def test_a_settled_config_stays_as_it_is(tmp_path: Path, backbone: str, overrides: tuple[str, ...], name: str):
    cfg = resolved(backbone, *overrides)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = load_cfg(tmp_path / "config.yaml")
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert network_name(again) == name


def test_what_follows_is_set_and_nothing_else():
    assert resolved("resnet50", *R18).MODEL.RESNETS.RES2_OUT_CHANNELS == 64
    assert resolved("resnet50", "MODEL.RESNETS.DEPTH", "101").MODEL.RESNETS.RES2_OUT_CHANNELS == 256
    dilated = resolved("mobilenetv2", *OS16).MODEL
    assert dilated.FPN.IN_FEATURES == dilated.MOBILENETV2.OUT_FEATURES == ["res2", "res3", "res4"]
    assert dilated.RPN.IN_FEATURES == resolved("mobilenetv2").MODEL.RPN.IN_FEATURES
    assert resolved("resnet50").MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    assert backbone_name(resolved("resnet50", "MODEL.RESNETS.DEPTH", "34")) == "resnet34"


@pytest.mark.parametrize(
    ("backbone", "overrides", "said"),
    [
        ("resnet50", ("MODEL.META_ARCHITECTURE", "RetinaNet"), r"choose GeneralizedRCNN or LiteRCNN"),
        ("mobilenetv2", (*LITE, "MODEL.META_ARCHITECTURE", "PanopticFPN"), r"MODEL\.META_ARCHITECTURE PanopticFPN: "),
        ("resnet50", ("MODEL.BACKBONE.NAME", "build_resnet_backbone"), r"choose build_resnet_fpn_backbone or "),
        ("resnet50", ("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"), r"MODEL\.PROPOSAL_GENERATOR\.NAME RRPN: .*choose RPN$"),
        ("resnet50", ("MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"), r"choose DefaultAnchorGenerator$"),
        ("resnet50", ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"), r"CascadeROIHeads: .*choose StandardROIHeads$"),
        ("mobilenetv2", ("MODEL.MASK_ON", "False"), r"MODEL\.MASK_ON False: .*choose True$"),
        ("mobilenetv2", ("MODEL.KEYPOINT_ON", "True"), r"MODEL\.KEYPOINT_ON True: .*choose False$"),
        ("resnet50", (*R18, *P6P7, "MODEL.RESNETS.NUM_GROUPS", "2"), r"NUM_GROUPS 2: must be 1"),
        ("resnet50", ("MODEL.RESNETS.DEPTH", "20"), r"MODEL\.RESNETS\.DEPTH 20: choose one of 18, 34, 50, 101"),
        ("resnet50", (*R18, "MODEL.RESNETS.RES2_OUT_CHANNELS", "128"), r"RES2_OUT_CHANNELS 128: must be 64"),
        ("resnet50", (*R18, "MODEL.RESNETS.NUM_GROUPS", "2"), r"NUM_GROUPS 2: must be 1"),
        ("resnet50", ("MODEL.RESNETS.RES5_DILATION", "2"), r"RES5_DILATION 2"),
        ("resnet50", ("MODEL.RESNETS.NORM", "LN"), r"MODEL\.RESNETS\.NORM 'LN'"),
        ("mobilenetv2", ("MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", "48"), r"MODEL\.FPN\.OUT_CHANNELS 48"),
        ("mobilenetv2", (*LITE, "MODEL.LITE_NORM", "gn"), r"MODEL\.LITE_NORM 'gn': choose BN"),
        ("mobilenetv2", (*LITE, "MODEL.ROI_MASK_HEAD.CONV_DIM", "100"), r"MODEL\.ROI_MASK_HEAD\.CONV_DIM 100"),
    ],
)
def test_a_network_that_cannot_be_is_refused_by_the_key(backbone: str, overrides: tuple[str, ...], said: str):
    with pytest.raises(ConfigError, match=said):
        settle(resolved(backbone, *overrides))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128]]"), "sizes of length 3 in anchor generator, but .* is 4"),
        (("MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p7']"), "KeyError 'p7', at `"),
        (("MODEL.FPN.FUSE_TYPE", "max"), "AssertionError, at `assert fuse_type in "),
        (("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "RoIAlign"), "Unknown pooler type: RoIAlign"),
    ],
)
def test_keys_that_do_not_go_together_are_told_in_the_words_of_detectron2(overrides: tuple[str, ...], said: str):
    with pytest.raises(ConfigError, match=f"the config makes no network: .*{said}"):
        build_network(resolved("mobilenetv2", *overrides))
