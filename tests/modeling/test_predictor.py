"""The batch predictor: any size in, original pixels out, the same every time; what does not fit is said."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode

from maskserve.modeling.loading import load_state_dict
from maskserve.modeling.pixels import network_size, padded_size
from maskserve.modeling.predictor import Predictor
from maskserve.modeling.resize import resize
from maskserve.protos.errors import ConfigError

CLASSES = ("giant panda", "red panda")
State = dict[str, torch.Tensor]


def photo(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 2), (300, 200), (64, 64)])
def test_any_size_is_answered_in_its_own_pixels(predictor: Predictor, size: tuple[int, int]):
    (found,), times = predictor([photo(size)])
    count = len(found.scores)
    assert found.size == size
    assert found.boxes_xyxy.shape == (count, 4)
    assert found.mask_probs.shape == (count, 28, 28)
    assert (found.boxes_xyxy.dtype, found.scores.dtype, found.class_ids.dtype, found.mask_probs.dtype) == (
        np.float32,
        np.float32,
        np.int64,
        np.float32,
    )
    assert (found.boxes_xyxy >= 0).all()
    assert (found.boxes_xyxy <= [size[1], size[0], size[1], size[0]]).all()
    assert (np.diff(found.scores) <= 0).all()
    assert times.inference_ms > 0


def test_a_batch_answers_each_image_in_order(predictor: Predictor):
    sizes = [(80, 60), (30, 90), (64, 64)]
    found, _ = predictor([photo(size) for size in sizes])
    assert [one.size for one in found] == sizes


def test_an_image_that_was_decoded_smaller_is_answered_in_the_original_s_pixels(predictor: Predictor):
    half = photo((90, 121))
    (small,), _ = predictor([half], [(180, 241)])
    (large,), _ = predictor([half])
    assert small.size == (180, 241)
    assert len(small.scores)
    assert (small.boxes_xyxy <= [241, 180, 241, 180]).all()
    assert small.boxes_xyxy.max() > 130 > large.boxes_xyxy[:, 2:].max() - 10


def test_an_empty_batch_is_no_work(predictor: Predictor):
    assert predictor([])[0] == []


def test_the_same_photo_gives_the_same_answer(predictor: Predictor):
    (first,), _ = predictor([photo((90, 120))])
    (second,), _ = predictor([photo((90, 120))])
    np.testing.assert_array_equal(first.boxes_xyxy, second.boxes_xyxy)
    np.testing.assert_array_equal(first.mask_probs, second.mask_probs)


def test_weights_of_nan_find_nothing(small_cfg: CfgNode, random_state: State):
    state = {name: torch.full_like(t, torch.nan) if t.is_floating_point() else t for name, t in random_state.items()}
    (found,), _ = Predictor(small_cfg, CLASSES, weights=state, device="cpu")([photo((50, 70))])
    assert len(found.scores) == 0
    assert found.mask_probs.shape == (0, 28, 28)


def test_bgr_models_see_the_channels_swapped(small_cfg: CfgNode, random_state: State):
    cfg = small_cfg.clone()
    cfg.defrost()
    cfg.INPUT.FORMAT = "BGR"
    swapped = Predictor(cfg, CLASSES, weights=random_state, device="cpu")
    straight = Predictor(small_cfg, CLASSES, weights=random_state, device="cpu")
    image = photo((64, 64))
    (a,), _ = swapped([image[:, :, ::-1]])
    (b,), _ = straight([image])
    np.testing.assert_array_equal(a.scores, b.scores)


def test_the_network_s_size_follows_detectron2_but_never_falls_below_one_pixel():
    from detectron2.data.transforms import ResizeShortestEdge

    for size in [(480, 640), (640, 481), (100, 3000), (77, 78)]:
        image = photo(size)
        theirs = ResizeShortestEdge(128, 256).get_transform(image).apply_image(image)
        assert network_size(size, 128, 256) == theirs.shape[:2]
        assert np.abs(resize(image, theirs.shape[:2]).astype(int) - theirs).max() <= 1
    for size in [(120, 496), (496, 120)]:  # 1333 px over 496, times 120: half a pixel, to rounding
        assert network_size(size, 800, 1333) == ResizeShortestEdge.get_output_shape(*size, 800, 1333)
    assert network_size((1, 50_000), 128, 256) == (1, 256)


def test_the_longer_side_is_padded_to_few_sizes():
    """The shorter one as little as the network allows; a batch to what holds all of it."""
    assert padded_size([(608, 811)], 32, 128) == (608, 896)
    assert padded_size([(811, 608)], 32, 128) == (896, 608)
    assert padded_size([(600, 600)], 32, 128) == (608, 640)
    assert padded_size([(608, 811), (811, 608)], 32, 128) == (832, 896)
    assert padded_size([(608, 811)], 32, 32) == (608, 832)


def test_wrong_class_counts_are_refused(small_cfg: CfgNode, random_state: State):
    with pytest.raises(ConfigError, match="2 classes"):
        Predictor(small_cfg, ["panda"], weights=random_state)


def test_weights_of_another_model_are_refused(small_cfg: CfgNode, random_state: State):
    without = {name: tensor for name, tensor in random_state.items() if "mask_head" not in name}
    with pytest.raises(ConfigError, match="tensors missing"):
        Predictor(small_cfg, CLASSES, weights=without)
    name = "roi_heads.box_predictor.cls_score.weight"
    with pytest.raises(ConfigError, match="cls_score"):
        Predictor(small_cfg, CLASSES, weights={**random_state, name: torch.zeros(9, 9)})


def test_a_weights_file_is_read_without_running_code(tmp_path: Path):
    path = tmp_path / "model.pth"
    torch.save({"model": {"a": torch.ones(2)}}, path)
    assert load_state_dict(path)["a"].sum() == 2
    torch.save({"a": Path("x")}, path)
    with pytest.raises(ConfigError, match="safely"):
        load_state_dict(path)
    path.write_bytes(b"garbage")
    with pytest.raises(ConfigError, match="safely"):
        load_state_dict(path)
    with pytest.raises(ConfigError, match="no such weights"):
        load_state_dict(tmp_path / "gone.pth")
