"""Which network a config asks for: what else must be set for it, what cannot work, and its name.

    DEPTH 18 | OUTPUT_STRIDE 16 | LITE True | NORM GN ─▶ settle(cfg) ─▶ a config that Detectron2 builds as it stands
                                                        build_network ─▶ that, or what it stumbles over
                                                        backbone_name, network_name ─▶ run.json, answers

Detectron2 checks the same with bare assertions, deep inside of the building, or builds what nothing here can
train or serve: a cascade, keypoints, rotated boxes.
"""

from __future__ import annotations

from functools import reduce
from traceback import extract_tb

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, build_model

from maskserve.modeling import lite, mobilenetv2  # noqa: F401  (they register what they define)
from maskserve.protos.errors import ConfigError

ARCHITECTURE: dict[str, tuple[str | bool, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN", "LiteRCNN"),
    "MODEL.BACKBONE.NAME": (
        "build_resnet_fpn_backbone",
        "build_mobilenetv2_fpn_backbone",
        "build_retinanet_resnet_fpn_backbone",
    ),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.ROI_HEADS.NAME": ("StandardROIHeads",),
    "MODEL.MASK_ON": (True,),
    "MODEL.KEYPOINT_ON": (False,),
}
"""Mask R-CNN on an FPN, which trainings, predictors and archives are for: each key's values."""
RESNET_DEPTHS = (18, 34, 50, 101, 152)
BASIC_BLOCK_DEPTHS = (18, 34)
BASIC_BLOCK_CHANNELS = 64
DEFAULT_RES2_CHANNELS = 256
"""Detectron2's, of the deeper networks: nobody asked for it."""
NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN")
GN_GROUPS = 32
"""Groups of Detectron2's GN; channels must be a multiple."""


def settle(cfg: CfgNode) -> None:
    """Set what follows from the network that `cfg` asks for; a settled config stays as it is.

    MODEL.RESNETS.DEPTH 18, 34           RES2_OUT_CHANNELS 64: basic blocks do not widen
    MODEL.MOBILENETV2.OUTPUT_STRIDE 16   no res5 among the features: its blocks end in res4
    MODEL.LITE True                      META_ARCHITECTURE LiteRCNN

    Raises:
        ConfigError: the key and the values that it can have.
    """
    model = cfg.MODEL
    _check_architecture(cfg)
    if model.BACKBONE.NAME == "build_mobilenetv2_fpn_backbone":
        _settle_mobilenetv2(cfg)
    else:
        _settle_resnet(cfg)
    if model.LITE:
        model.META_ARCHITECTURE = "LiteRCNN"
    for node, width in (("FPN", "OUT_CHANNELS"), ("ROI_BOX_HEAD", "CONV_DIM"), ("ROI_MASK_HEAD", "CONV_DIM")):
        _check_norm(f"MODEL.{node}.NORM", model[node].NORM, f"MODEL.{node}.{width}", model[node][width])
        if model.LITE:
            _check_norm("MODEL.LITE_NORM", model.LITE_NORM, f"MODEL.{node}.{width}", model[node][width])


def build_network(cfg: CfgNode) -> GeneralizedRCNN:
    """The network of a settled config, on its `MODEL.DEVICE`, with random weights.

    Raises:
        ConfigError: keys that do not go together, in Detectron2's words, or by the line of code that they end in.
    """
    try:
        return build_model(cfg)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        said = " ".join(f"{type(error).__name__} {error}".split())
        line = extract_tb(error.__traceback__)[-1].line  # many of Detectron2's assertions say nothing else
        raise ConfigError(f"the config makes no network: {said}, at `{line}`; do its keys go together?") from error


def backbone_name(cfg: CfgNode) -> str:
    """The bottom-up network: "resnet18", "mobilenetv2", "mobilenetv2_0.5"."""
    if cfg.MODEL.BACKBONE.NAME != "build_mobilenetv2_fpn_backbone":
        return f"resnet{cfg.MODEL.RESNETS.DEPTH}"
    width = cfg.MODEL.MOBILENETV2.WIDTH_MULT
    return "mobilenetv2" if width == 1 else f"mobilenetv2_{width:g}"


def network_name(cfg: CfgNode) -> str:
    """All of it: "resnet18-fpn", "mobilenetv2_0.5-fpn-os16-lite"."""
    mobile = cfg.MODEL.BACKBONE.NAME == "build_mobilenetv2_fpn_backbone"
    dilated = mobile and cfg.MODEL.MOBILENETV2.OUTPUT_STRIDE == mobilenetv2.DILATED_STRIDE
    return f"{backbone_name(cfg)}-fpn" + "-os16" * dilated + "-lite" * cfg.MODEL.LITE


def _check_architecture(cfg: CfgNode) -> None:
    for key, choices in ARCHITECTURE.items():
        value = reduce(getattr, key.split("."), cfg)
        if value not in choices:
            raise ConfigError(
                f"{key} {value}: maskserve is for Mask R-CNN on an FPN, choose {' or '.join(map(str, choices))}"
            )


def _settle_mobilenetv2(cfg: CfgNode) -> None:
    mobile = cfg.MODEL.MOBILENETV2
    if mobile.OUTPUT_STRIDE == mobilenetv2.DILATED_STRIDE:
        mobile.OUT_FEATURES = [name for name in mobile.OUT_FEATURES if name != "res5"]
        cfg.MODEL.FPN.IN_FEATURES = [name for name in cfg.MODEL.FPN.IN_FEATURES if name != "res5"]


def _settle_resnet(cfg: CfgNode) -> None:
    resnet = cfg.MODEL.RESNETS
    if resnet.DEPTH not in RESNET_DEPTHS:
        depths = ", ".join(map(str, RESNET_DEPTHS))
        raise ConfigError(f"MODEL.RESNETS.DEPTH {resnet.DEPTH}: choose one of {depths}")
    if resnet.RES5_DILATION != 1:
        raise ConfigError(
            f"MODEL.RESNETS.RES5_DILATION {resnet.RES5_DILATION}: must be 1, an FPN needs strides that double"
        )
    if resnet.DEPTH in BASIC_BLOCK_DEPTHS:
        if resnet.RES2_OUT_CHANNELS == DEFAULT_RES2_CHANNELS:
            resnet.RES2_OUT_CHANNELS = BASIC_BLOCK_CHANNELS
        for key, must in (("RES2_OUT_CHANNELS", BASIC_BLOCK_CHANNELS), ("NUM_GROUPS", 1)):
            if resnet[key] != must:
                raise ConfigError(f"MODEL.RESNETS.{key} {resnet[key]}: must be {must} for DEPTH {resnet.DEPTH}")
    _check_norm("MODEL.RESNETS.NORM", resnet.NORM, "MODEL.RESNETS.STEM_OUT_CHANNELS", resnet.STEM_OUT_CHANNELS)


def _check_norm(key: str, norm: str, width_key: str, channels: int) -> None:
    if norm not in NORMS:
        raise ConfigError(f"{key} {norm!r}: choose {', '.join(NORMS[1:])} or '' for none")
    if norm == "GN" and channels % GN_GROUPS:
        raise ConfigError(f"{key} GN works on {GN_GROUPS} groups of channels: {width_key} {channels} is no multiple")
