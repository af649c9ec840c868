"""What a code and a text mean."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskserve.client.errors import ServerError, classify

CODE = grpc.StatusCode
JAVA = "\norg.pytorch.serve.http.InternalServerException"


@pytest.mark.parametrize(
    ("code", "details", "expected", "retryable"),
    [
        (CODE.INTERNAL, "Worker died." + JAVA, "worker_died", True),
        (CODE.RESOURCE_EXHAUSTED, "Worker died." + JAVA, "worker_died", True),
        (CODE.UNAVAILABLE, "Prediction failed" + JAVA, "handler_failed", False),
        (CODE.INTERNAL, "Out of resources" + JAVA, "out_of_memory", True),
        (CODE.UNAVAILABLE, "number of batch response mismatched" + JAVA, "contract_drifted", False),
        (CODE.UNAVAILABLE, "Invalid model predict output" + JAVA, "contract_drifted", False),
        (CODE.UNAVAILABLE, "Unsupported model output data type." + JAVA, "contract_drifted", False),
        (CODE.INTERNAL, 'Model "m" has no worker to serve inference request. Please use …', "overloaded", True),
        (CODE.INTERNAL, 'Model "m" Version 1.0" has no worker to serve inference request.', "overloaded", True),
        (CODE.INTERNAL, "Model not found: nope\nModelNotFoundException", "model_not_found", False),
        (CODE.INTERNAL, "Model version: 9.9 does not exist for model: m", "model_not_found", False),
        (CODE.NOT_FOUND, "Requested model is not found", "model_not_found", False),
        (CODE.PERMISSION_DENIED, "Token Authorization failed. Token either incorrect, …", "unauthorized", False),
        (CODE.CANCELLED, "Stream removed (RST_STREAM (error code 8))", "request_too_large", False),
        (CODE.RESOURCE_EXHAUSTED, "gRPC message exceeds maximum size 1: 2", "request_too_large", False),
        (CODE.RESOURCE_EXHAUSTED, "CLIENT: Sent message larger than max (9 vs. 8)", "request_too_large", False),
        (CODE.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (9 vs. 8)", "reply_too_large", False),
        (CODE.DEADLINE_EXCEEDED, "Deadline Exceeded", "timeout", False),
        (CODE.UNAVAILABLE, "failed to connect to all addresses; … Connection refused", "unavailable", True),
        (CODE.UNAVAILABLE, "Stream removed (Socket closed)", "unavailable", True),
        (CODE.UNAVAILABLE, "GOAWAY received; too_many_pings", "unavailable", True),
        (CODE.UNKNOWN, "", "unavailable", True),
        (CODE.UNKNOWN, None, "unavailable", True),
        (CODE.UNKNOWN, "Received http2 header with status: 431", "contract_drifted", False),
        (CODE.UNIMPLEMENTED, "Method not found", "contract_drifted", False),
        (CODE.INVALID_ARGUMENT, "a PredictionException's text", "contract_drifted", False),
    ],
)
def test_faults_are_told_apart(code: grpc.StatusCode, details: str | None, expected: str, retryable: bool) -> None:
    """Each measured fault of TorchServe 0.12 has its code, whatever gRPC status it hides behind."""
    error = classify(code, details)
    assert (error.code, error.retryable) == (expected, retryable)


@given(st.sampled_from(list(CODE)), st.text())
def test_anything_else_is_classified_too(code: grpc.StatusCode, details: str) -> None:
    """No status and no text is left without a class and a sentence."""
    error = classify(code, details)
    assert isinstance(error, ServerError)
    assert str(error)


def test_every_fault_has_its_own_code() -> None:
    """Codes are stable and distinct: the gateway's answers depend on them."""
    assert {kind.code for kind in ServerError.__subclasses__()} == {
        "worker_died",
        "handler_failed",
        "out_of_memory",
        "overloaded",
        "model_not_found",
        "unauthorized",
        "request_too_large",
        "reply_too_large",
        "timeout",
        "unavailable",
        "contract_drifted",
    }
