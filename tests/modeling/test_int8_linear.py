"""Fully connected layers in int8: how close they come, of what rows, and where they stand in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from maskserve.modeling.int8_linear import Int8Linear, layer_suits_int8

ROUNDED = 0.02


def layer(channels: int = 320, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(channels, 48, bias=bias).requires_grad_(False)


pytestmark = pytest.mark.skipif(not layer_suits_int8(layer()), reason="this CPU has no VNNI, or AMX as well")


def apart(found: Tensor, exact: Tensor) -> float:
    """The error, of what is right."""
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 7, 300])
@pytest.mark.parametrize("bias", [True, False])
def test_it_answers_nearly_what_the_layer_answers(rows: int, dtype: torch.dtype, bias: bool):
    exact, x = layer(bias=bias), torch.randn(rows, 320).to(dtype)
    found = Int8Linear(exact)(x)
    assert found.dtype == torch.float32
    assert 1e-4 < apart(found, exact(x.float())) < ROUNDED


def test_small_rows_keep_their_digits_and_rows_of_nothing_are_the_bias():
    exact, x = layer(bias=False), torch.randn(3, 320)
    x[1] /= 10_000
    x[2] = 0
    found, wanted = Int8Linear(exact)(x), exact(x)
    assert apart(found[1], wanted[1]) < ROUNDED
    assert not found[2].any()


def test_rows_that_do_not_lie_one_after_the_other():
    exact, x = layer(), torch.randn(320, 20).t()
    assert apart(Int8Linear(exact)(x), exact(x)) < ROUNDED


def test_without_rows_nothing_is_answered():
    assert Int8Linear(layer())(torch.empty(0, 320)).shape == (0, 48)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_answers_the_same(threads: int):
    fast, x, before = Int8Linear(layer()), torch.randn(50, 320), torch.get_num_threads()
    expected = fast(x)
    try:
        torch.set_num_threads(threads)
        torch.testing.assert_close(fast(x), expected)
    finally:
        torch.set_num_threads(before)


def test_what_does_not_suit(monkeypatch: pytest.MonkeyPatch):
    assert not layer_suits_int8(layer(channels=328))
    assert not layer_suits_int8(nn.ReLU())
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert not layer_suits_int8(layer())
