"""Strided depthwise convolutions in mixed precision: the same answer, and gradients no further from float32's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from maskserve.training import depthwise

LAYOUT = ((2, 2), (1, 1), (1, 1), 8)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 8, 13, 10, generator=generator).to(dtype, memory_format=torch.channels_last)
    weight, bias = torch.randn(8, 1, 3, 3, generator=generator), torch.randn(8, generator=generator)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def gradients(convolve: object, *, mixed: bool, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The answer and the gradients of input, weight and bias."""
    x, weight, bias = inputs(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        found = convolve(x, weight, bias, *LAYOUT)  # type: ignore[operator]
    found.float().square().sum().backward()
    return [found.detach(), *(tensor.grad for tensor in (x, weight, bias))]  # type: ignore[list-item]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_precision_answers_as_torch_does(dtype: torch.dtype) -> None:
    theirs = gradients(functional.conv2d, mixed=True, dtype=dtype)
    ours = gradients(depthwise.convolve, mixed=True, dtype=dtype)
    exact = gradients(functional.conv2d, mixed=False)
    assert torch.equal(ours[0], theirs[0])
    for one, other, reference in zip(ours, theirs, exact, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert float((one - reference).norm()) <= 1.05 * float((other - reference).norm())


def test_float32_is_torch_s_own() -> None:
    for one, other in zip(
        gradients(depthwise.convolve, mixed=False), gradients(functional.conv2d, mixed=False), strict=True
    ):
        assert torch.equal(one, other)


def test_an_input_without_a_gradient_gets_none() -> None:
    x, weight, _ = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        depthwise.convolve(x.detach(), weight, None, *LAYOUT).float().sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_it_is_for_strided_depthwise_convolutions() -> None:
    assert depthwise.fits(nn.Conv2d(8, 8, 3, stride=2, groups=8))
    assert not depthwise.fits(nn.Conv2d(8, 8, 3, groups=8))
    assert not depthwise.fits(nn.Conv2d(8, 8, 3, stride=2))
    assert not depthwise.fits(nn.Conv2d(8, 16, 3, stride=2, groups=8))
