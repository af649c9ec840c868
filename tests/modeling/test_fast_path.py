"""The predictor's shortcuts change no answer: each is compared with Detectron2's own code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from maskserve.modeling import compiled, fused
from maskserve.modeling.fold import prepare
from maskserve.modeling.heads import BoxPredictor, Float32Pooler
from maskserve.modeling.predictor import Predictor
from maskserve.modeling.proposals import propose
from maskserve.modeling.roi_align import ChannelsLastPooler, can_replace
from maskserve.modeling.trunk import Affine
from tests.networks import CLASSES, NETWORKS, as_detectron2, assert_same, network


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_answers_as_detectron2_does(name: str):
    cfg, model = network(*NETWORKS[name])
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((120, 170), (200, 140))]
    theirs = as_detectron2(model, cfg, images)
    ours, _ = Predictor(cfg, CLASSES, weights=model.state_dict(), device="cpu")(images)
    assert_same(ours, theirs, images)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("mobilenetv2", {"FusedResidual", "PackedConv"}), ("resnet50", {"FusedBottleneck", "FusedStem", "PackedConv"})],
)
def test_a_cpu_runs_each_layer_with_what_follows_it(name: str, blocks: set[str]):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    cfg, model = network(name, "quick")
    made = Predictor(cfg, CLASSES, weights=model.state_dict(), device="cpu")
    layers = [*made.trunk.modules(), *made._heads.modules()]
    used = {type(layer).__name__ for layer in layers if type(layer).__module__.startswith(fused.__name__)}
    assert used == blocks | {"ActiveConv", "FusedFPN", "FusedRpnHead", "OneDnnLinear"}


def test_bfloat16_gives_nearly_the_same_answer_and_decides_in_float32():
    cfg, model = network("mobilenetv2", "quick")
    image = np.random.default_rng(3).integers(0, 256, (120, 170, 3), dtype=np.uint8)
    (exact,), _ = Predictor(cfg, CLASSES, weights=model.state_dict(), device="cpu")([image])
    (rough,), _ = Predictor(cfg, CLASSES, weights=model.state_dict(), device="cpu", precision="bf16")([image])
    assert rough.scores.dtype == rough.boxes_xyxy.dtype == rough.mask_probs.dtype == np.float32
    assert abs(rough.scores[0] - exact.scores[0]) < 0.05
    assert (rough.scores[:5] != exact.scores[:5]).any()  # it was really calculated in another precision


@pytest.mark.parametrize(("regression_classes", "most"), [(3, 20), (1, 20), (3, -1), (3, 0)])
def test_detections_are_those_of_detectron2(regression_classes: int, most: int):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(300, 2, generator=generator) * 150
    boxes = torch.cat([corners, corners + 5 + torch.rand(300, 2, generator=generator) * 60], 1)
    proposals = [
        Instances((120, 160), proposal_boxes=Boxes(boxes[:200])),
        Instances((150, 90), proposal_boxes=Boxes(boxes[200:])),
    ]
    logits = torch.randn(300, 4, generator=generator)
    deltas = torch.randn(300, 4 * regression_classes, generator=generator) * 0.3
    logits[5, 2] = deltas[7, 1] = torch.nan
    predictor = FastRCNNOutputLayers(
        ShapeSpec(channels=8),
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        num_classes=3,
        cls_agnostic_bbox_reg=regression_classes == 1,
        test_score_thresh=0.2,
        test_topk_per_image=most,
    )
    expected, expected_origins = predictor.inference((logits, deltas), proposals)
    predictor.__class__ = BoxPredictor
    found, origins = predictor.inference((logits, deltas), proposals)
    for one, other in zip(found, expected, strict=True):
        assert one.image_size == other.image_size
        assert one.pred_classes.tolist() == other.pred_classes.tolist()
        torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, rtol=0, atol=0)
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=0)
    assert torch.equal(origins[1], expected_origins[1])  # of an image with NaN Detectron2 leaves those rows uncounted
    assert sum(map(len, found)) > 30 or most == 0


def test_answers_are_in_the_pixels_of_the_original_of_an_image_that_was_decoded_smaller(predictor: Predictor):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    (small,), _ = predictor([image])
    (large,), _ = predictor([image], [(240, 320)])
    assert large.size == (240, 320)
    np.testing.assert_allclose(large.boxes_xyxy, small.boxes_xyxy * 4, rtol=1e-5)


def pooler(side: int = 7, ratio: int = 0) -> ROIPooler:
    return ROIPooler(side, (1 / 4, 1 / 8, 1 / 16, 1 / 32), ratio, "ROIAlignV2")


def pyramid(count: int, channels: int, height: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(count, channels, height // s, width // s, generator=generator).to(memory_format=torch.channels_last)
        for s in (4, 8, 16, 32)
    ]


EDGE_BOXES = torch.tensor(
    [
        [0.0, 0.0, 320.0, 256.0],  # everything
        [-40.0, -60.0, 30.0, 20.0],  # reaches out of the image
        [300.0, 250.0, 400.0, 300.0],  # the same, at the other end
        [10.0, 10.0, 10.0, 10.0],  # without an inside
        [5.0, 5.0, 5.5, 250.0],  # half a pixel wide
        [319.9, 0.0, 320.0, 256.0],
        [0.0, 128.0, 320.0, 129.0],
    ]
)


@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("side", [7, 14])
def test_pooling_gives_what_detectron2_s_pooler_gives(side: int, ratio: int):
    generator = torch.Generator().manual_seed(4)
    corner = torch.rand(150, 2, generator=generator) * 300
    random = torch.cat([corner, corner + torch.rand(150, 2, generator=generator) ** 3 * 300], 1)
    boxes = [Boxes(torch.cat([EDGE_BOXES, random])), Boxes(random[:40])]
    features = pyramid(2, 5, 256, 320)
    theirs = pooler(side, ratio)(features, boxes)
    ours = ChannelsLastPooler(pooler(side, ratio), torch.float32)(features, boxes)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


def test_pooling_to_bfloat16_rounds_as_torch_does():
    features = pyramid(1, 5, 256, 320)
    features[0][0, 0, 3, 3] = torch.nan
    features[1][0, 1, 2, 2] = torch.inf
    boxes = [Boxes(EDGE_BOXES)]
    exact = ChannelsLastPooler(pooler(), torch.float32)(features, boxes)
    rounded = ChannelsLastPooler(pooler(), torch.bfloat16)(features, boxes)
    assert rounded.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(rounded, exact.bfloat16(), atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.uint8])
def test_features_of_fewer_bits_are_pooled_as_what_they_stand_for(kind: torch.dtype):
    """By the compiled pooler and by the one that stands in for it; each level has a scale of its own."""
    read_as = [Affine(0.25, 131), Affine(0.5, 0), Affine(0.125, 255), Affine(1.0, 128)]
    generator = torch.Generator().manual_seed(6)
    numbers = [torch.randint(0, 256, one.shape, generator=generator) for one in pyramid(1, 5, 256, 320)]
    features = [(one if kind == torch.uint8 else one / 7).to(kind) for one in numbers]
    values = [(one.float() - affine.zero_point) * affine.scale for one, affine in zip(features, read_as, strict=True)]
    boxes = [Boxes(EDGE_BOXES)]
    expected = pooler()(values, boxes)
    for ours in (ChannelsLastPooler, Float32Pooler):
        torch.testing.assert_close(
            ours(pooler(), torch.float32, read_as)(features, boxes), expected, atol=2e-4, rtol=1e-5
        )


def test_pooling_no_box_gives_nothing():
    empty = ChannelsLastPooler(pooler(), torch.float32)(pyramid(1, 3, 64, 64), [Boxes(torch.zeros(0, 4))])
    assert empty.shape == (0, 3, 7, 7)


def test_other_kinds_of_pooling_stay_detectron2_s():
    assert can_replace(pooler())
    assert not can_replace(ROIPooler(7, (1 / 4,), 0, "ROIAlign"))
    assert not can_replace(ROIPooler((7, 14), (1 / 4,), 0, "ROIAlignV2"))


def test_without_numba_the_answers_are_the_same(monkeypatch: pytest.MonkeyPatch):
    cfg, model = network("mobilenetv2", "quick")
    image = np.random.default_rng(3).integers(0, 256, (120, 170, 3), dtype=np.uint8)
    (fast,), _ = Predictor(cfg, CLASSES, weights=model.state_dict(), device="cpu")([image])
    monkeypatch.setattr("maskserve.modeling.heads.can_replace", lambda _pooler: False)
    without = Predictor(cfg, CLASSES, weights=model.state_dict(), device="cpu")
    assert isinstance(without._heads.box_pooler, Float32Pooler)
    (slow,), _ = without([image])
    np.testing.assert_allclose(slow.scores, fast.scores, atol=1e-5)
    np.testing.assert_allclose(slow.mask_probs, fast.mask_probs, atol=1e-3)


def rpn_answers(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and deltas of two images, NaN and boxes without an inside among them."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(32, 40), (16, 20), (8, 10), (4, 5), (2, 3)]
    logits = [torch.randn(2, 3, *shape, generator=generator) for shape in shapes]
    deltas = [torch.randn(2, 12, *shape, generator=generator) for shape in shapes]
    logits[1][1, 0, 2] = torch.nan
    deltas[0][0, :, 3] = torch.nan
    deltas[1][1, 2::4] = -100  # no width
    return logits, deltas


@pytest.mark.parametrize("with_numba", [True, False])
def test_proposals_are_detectron2_s_even_among_nan_and_boxes_without_an_inside(
    with_numba: bool, monkeypatch: pytest.MonkeyPatch
):
    if not with_numba:
        monkeypatch.setattr(compiled, "is_there", lambda: False)
    _, model = network("mobilenetv2", "standard")
    rpn = model.proposal_generator
    logits, deltas = rpn_answers(5)
    sizes = [(128, 160), (100, 150)]
    images = ImageList(torch.zeros(2, 3, 128, 160), sizes)
    features = {name: torch.zeros(2, 1, *one.shape[2:]) for name, one in zip(rpn.in_features, logits, strict=True)}
    monkeypatch.setattr(rpn.rpn_head, "forward", lambda _features: (logits, deltas))
    with torch.no_grad():
        theirs, _ = rpn(images, features)
        ours = propose(rpn, logits, deltas, sizes)
    for expected, got in zip(theirs, ours, strict=True):
        assert len(got) == len(expected) > 100
        torch.testing.assert_close(got.proposal_boxes.tensor, expected.proposal_boxes.tensor, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(got.objectness_logits, expected.objectness_logits)


@torch.inference_mode()
def test_proposals_of_half_a_map_in_bfloat16_are_the_same():
    """As the RPN's one convolution leaves them: deltas beside logits, channels last."""
    _, model = network("mobilenetv2", "standard")
    rpn, sizes = model.proposal_generator, [(128, 160), (100, 150)]
    logits, deltas = rpn_answers(6)
    both = [
        torch.cat(parts, 1).bfloat16().contiguous(memory_format=torch.channels_last)
        for parts in zip(deltas, logits, strict=True)
    ]
    beside = [one[:, :12] for one in both]
    assert not beside[0].is_contiguous(memory_format=torch.channels_last)
    found = propose(rpn, logits, beside, sizes)
    dense = propose(rpn, logits, [one.float().contiguous() for one in beside], sizes)
    for one, other in zip(found, dense, strict=True):
        assert len(one) > 100
        assert one.objectness_logits.isfinite().all()
        torch.testing.assert_close(one.proposal_boxes.tensor, other.proposal_boxes.tensor, rtol=0, atol=0)


def test_no_norm_is_left_where_a_convolution_can_hold_it():
    _, model = network("resnet50", "quick")
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    prepare(model)
    assert not [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert all(
        module.weight.is_contiguous(memory_format=torch.channels_last)
        for module in model.backbone.modules()
        if isinstance(module, nn.Conv2d)
    )
