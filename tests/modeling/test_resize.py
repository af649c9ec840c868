"""Resizing: Pillow's pixels whatever the sizes, and the photo's own frame when it was decoded smaller."""

import numpy as np
import pytest
import torch
from PIL import Image

from maskserve.modeling.resize import _resample, resize, resize_on_gpu


def noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("here", [(1, 1), (1, 900), (900, 2), (90, 120), (333, 500)])
@pytest.mark.parametrize("wanted", [(1, 1), (1, 256), (128, 171), (400, 301)])
def test_pixels_are_pillows_to_one_grey_level(here: tuple[int, int], wanted: tuple[int, int]):
    image = noise(here)
    theirs = np.asarray(Image.fromarray(image).resize(wanted[::-1], Image.Resampling.BILINEAR))
    ours = resize(image, wanted)
    difference = np.abs(ours.astype(int) - theirs)
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    assert difference.max() <= 1


def test_the_last_pixel_of_a_smaller_decode_may_lie_partly_outside():
    # a ramp of 1001 columns at a quarter: 251 pixels, the last of which has one column of the photo
    ramp = np.arange(1001, dtype=np.float64) / 5
    photo = np.broadcast_to(ramp[None, :, None], (40, 1001, 3)).round().astype(np.uint8)
    quarter = np.append(ramp[:1000].reshape(250, 4).mean(1), ramp[1000] + 0.3)
    small = np.broadcast_to(quarter[None, :, None], (10, 251, 3)).round().astype(np.uint8)
    expected = np.asarray(Image.fromarray(photo).resize((100, 4), Image.Resampling.BILINEAR))
    assert np.abs(resize(small, (4, 100), (40, 1001)).astype(int) - expected).max() <= 1


def test_the_resized_pixels_come_as_they_lie_in_memory():
    """A batch that torch does not take for channels last is resized in a third of the speed, and copied."""
    batch = torch.from_numpy(noise((90, 120)))[None].permute(0, 3, 1, 2)
    assert _resample(batch, (40, 50), (90, 120)).permute(1, 2, 0).is_contiguous()


def test_an_image_of_the_wanted_size_is_left_as_it_is():
    image = noise((20, 30))
    assert resize(image, (20, 30)) is image


def test_views_and_images_that_may_not_be_written_to_are_resized_too():
    image = noise((20, 30))
    image.setflags(write=False)
    np.testing.assert_array_equal(resize(image[:, ::-1], (10, 15)), resize(image[:, ::-1].copy(), (10, 15)))


@pytest.mark.parametrize("original", [(300, 401), (1199, 1601)])
@pytest.mark.parametrize("wanted", [(96, 128), (400, 533), (9, 12), (1, 2), (300, 401)])
def test_what_a_gpu_does_is_the_same_to_one_grey_level(wanted: tuple[int, int], original: tuple[int, int]):
    """Here on the CPU: the same operators."""
    image = noise((300, 401))
    ours = resize_on_gpu(image, wanted, original, torch.device("cpu"))
    assert ours.dtype == torch.float32
    assert (ours == ours.round()).all()
    assert np.abs(ours.numpy() - resize(image, wanted, original)).max() <= 1
