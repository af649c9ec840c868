"""Parameters and FLOPs: checked against torchvision's networks and by hand, part by part, the same every time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import mobilenet_v2, resnet50

from maskserve.modeling.complexity import describe, measure_complexity, typical_size
from maskserve.training.presets import ARMS, resolve_cfg

SIZE = (224, 224)


def network(backbone: str, *overrides: str, recipe: str | None = None) -> tuple[CfgNode, Any]:
    cfg = resolve_cfg(
        ARMS[backbone],
        preset="standard",
        recipe=recipe or f"{backbone}-torchvision",
        class_count=2,
        seed=0,
        overrides=("MODEL.DEVICE", "cpu", *overrides),
    )
    return cfg, build_model(cfg)


def convolution_macs(model: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of a torchvision network's convolutions, by the sizes that a real forward shows."""
    total = 0

    def count(module: nn.Conv2d, _inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, *size))
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize(("backbone", "theirs"), [("resnet50", resnet50), ("mobilenetv2", mobilenet_v2)])
def test_the_backbone_costs_what_torchvision_s_convolutions_do(backbone: str, theirs: Any):
    model = theirs(weights=None)
    if backbone == "mobilenetv2":
        model = model.features[:18]  # without the last 1×1 convolution, which we do not have
    part = measure_complexity(network(backbone)[1], SIZE).by_part["backbone"]
    assert part.flops == 2 * convolution_macs(model, SIZE)
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Conv2d))
    assert part.parameters == weights  # frozen batch norm has constants, no parameters
    assert part.trainable_parameters < part.parameters


def test_the_parts_add_up_to_the_whole_model():
    cfg, model = network("mobilenetv2")
    found = measure_complexity(model, SIZE)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.flops == sum(part.flops for part in found.by_part.values())
    assert found.proposals == cfg.MODEL.RPN.POST_NMS_TOPK_TEST
    assert found.to_json()["all"]["flops"] == found.flops


def test_heads_cost_what_their_layers_say():
    _, model = network("mobilenetv2", "MODEL.RPN.POST_NMS_TOPK_TEST", "300")
    parts = measure_complexity(model, SIZE).by_part
    box = 128 * 7 * 7 * 512 + 512 * 512 + 512 * (3 + 4 * 2)
    assert parts["box_head"].flops == 2 * 300 * box
    mask = 4 * 14 * 14 * 9 * 128 * 128 + 14 * 14 * 4 * 128 * 128 + 28 * 28 * 128 * 2
    assert parts["mask_head"].flops == 2 * 10 * mask
    positions = 56**2 + 28**2 + 14**2 + 7**2 + 4**2
    assert parts["rpn"].flops == 2 * positions * (9 * 128 * 128 + 128 * 15)


def test_a_real_forward_counts_the_same_for_trunk_and_rpn():
    _, model = network("mobilenetv2", "MODEL.LITE", "True")
    parts = measure_complexity(model, SIZE).by_part
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = model.eval().backbone(torch.rand(1, 3, *SIZE))
        model.proposal_generator.rpn_head([features[name] for name in model.proposal_generator.in_features])
    assert counter.get_total_flops() == sum(parts[name].flops for name in ("backbone", "fpn", "rpn"))


def test_measuring_leaves_a_training_model_as_it_was():
    _, model = network("mobilenetv2", recipe="none")
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    first, second = measure_complexity(model, (64, 96)), measure_complexity(model, (64, 96))
    assert first == second
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_an_image_is_padded_to_the_network_s_stride():
    model = network("mobilenetv2")[1]
    found = measure_complexity(model, (65, 90))
    assert found.flops == measure_complexity(model, (96, 96)).flops
    assert "at 65 × 90" in describe(found)


def test_light_and_narrow_networks_cost_less_and_dilation_more():
    cost = {
        name: measure_complexity(network("mobilenetv2", *overrides)[1], SIZE)
        for name, overrides in {
            "full": (),
            "lite": ("MODEL.LITE", "True"),
            "half": ("MODEL.MOBILENETV2.WIDTH_MULT", "0.5"),
            "dilated": ("MODEL.MOBILENETV2.OUTPUT_STRIDE", "16"),
        }.items()
    }
    full = cost["full"]
    for name, part in (("lite", "fpn"), ("lite", "rpn"), ("lite", "mask_head"), ("half", "backbone")):
        assert cost[name].by_part[part].flops < full.by_part[part].flops / 2, (name, part)
    assert cost["lite"].by_part["backbone"] == full.by_part["backbone"]
    assert cost["dilated"].by_part["backbone"].flops > full.by_part["backbone"].flops
    assert cost["dilated"].by_part["backbone"].parameters == full.by_part["backbone"].parameters


def test_the_typical_size_is_that_of_a_4_by_3_photo():
    assert typical_size(network("mobilenetv2")[0]) == (608, 811)
