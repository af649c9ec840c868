"""The fake TorchServe says what the real one says: same status, same first line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from maskserve.client.channel import open_channel
from maskserve.protos import inference_pb2, inference_pb2_grpc
from tests.fakes.torchserve import FAULTS, FakeTorchServe


def said(server: Any, model: str, image: bytes = b"", version: str = "") -> tuple[grpc.StatusCode, str]:
    """Status and first line of a call that fails."""
    request = inference_pb2.PredictionsRequest(model_name=model, model_version=version, input={"image": image})
    with open_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        inference_pb2_grpc.InferenceAPIsServiceStub(channel).Predictions(request, timeout=30)
    return caught.value.code(), caught.value.details().split("\n")[0]


WISHES: Mapping[bytes, str] = {
    b"raise": "handler_failed",
    b"memory": "out_of_memory",
    b"cuda": "out_of_memory",
    b"none": "invalid_output",
    b"too few": "batch_mismatch",
    b"die": "worker_died",
}
"""What tests/faults.py is asked to do ─▶ the fake's name of what comes of it."""


@pytest.mark.torchserve
@pytest.mark.parametrize("wish", list(WISHES))
def test_a_workers_faults(real_torchserve: Any, fake_torchserve: FakeTorchServe, wish: bytes) -> None:
    """A worker that raises, runs out of memory, answers wrongly or dies."""
    model = next(iter(fake_torchserve.models))
    fake_torchserve.play(model, WISHES[wish])
    assert said(fake_torchserve, model) == said(real_torchserve, "faults", wish)


@pytest.mark.torchserve
@pytest.mark.parametrize(("name", "version"), [("nope", ""), ("", ""), (None, "9.9")])
def test_wrong_names(real_torchserve: Any, fake_torchserve: FakeTorchServe, name: str | None, version: str) -> None:
    """An unknown model, none at all, and an unknown version."""
    model = next(iter(fake_torchserve.models)) if name is None else name
    assert said(fake_torchserve, model, version=version) == said(real_torchserve, model, version=version)


@pytest.mark.parametrize("fault", list(FAULTS))
def test_every_fault_can_be_played(fake_torchserve: FakeTorchServe, fault: str) -> None:
    """A fault ends one call, with its status and text; the next call is answered again."""
    model = next(iter(fake_torchserve.models))
    fake_torchserve.play(model, fault)
    code, text = said(fake_torchserve, model)
    assert code is FAULTS[fault][0]
    assert text == FAULTS[fault][1].format(model=model).split("\n")[0]


def test_unknown_faults_are_refused(fake_torchserve: FakeTorchServe) -> None:
    """A typing error in a test does not pass silently."""
    with pytest.raises(ValueError, match="earthquake"):
        fake_torchserve.play(next(iter(fake_torchserve.models)), "earthquake")
