"""What TorchServe 0.12's gRPC codes and texts really mean.

    ServerError               `code` is stable, `retryable` says whether the same request may succeed soon
    ├── WorkerDied            the worker stopped with this request in it: killed, crashed or hung
    ├── HandlerFailed         the handler raised: the same request fails again
    ├── OutOfMemory           the worker has too little memory for this batch
    ├── Overloaded            the queue is full, or no worker is there
    ├── ModelNotFound         the model or its version is not loaded
    ├── Unauthorized          the token is missing, wrong or expired
    ├── RequestTooLarge       the server takes no message of this size
    ├── ReplyTooLarge         the client takes no answer of this size
    ├── DeadlineExceeded      no answer in time; the server may still be working on it
    ├── Unavailable           the server cannot be reached, or went away
    └── ContractDrifted       an answer that TorchServe 0.12 with our handler never gives

The code alone cannot be trusted (a full queue and an unknown model are both INTERNAL, a bug in the handler is
UNAVAILABLE), so the text decides first. Texts are pinned by contract tests on the fake and on the real server.
"""

# ruff: noqa: N818 — the names say what happened
from __future__ import annotations

from typing import ClassVar

import grpc

from maskserve.protos.errors import MaskserveError


class ServerError(MaskserveError):
    """The server did not answer the request; the sender is not to blame."""

    code: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False


class WorkerDied(ServerError):
    code = "worker_died"
    retryable = True


class HandlerFailed(ServerError):
    code = "handler_failed"


class OutOfMemory(ServerError):
    code = "out_of_memory"
    retryable = True


class Overloaded(ServerError):
    code = "overloaded"
    retryable = True


class ModelNotFound(ServerError):
    code = "model_not_found"


class Unauthorized(ServerError):
    code = "unauthorized"


class RequestTooLarge(ServerError):
    code = "request_too_large"


class ReplyTooLarge(ServerError):
    code = "reply_too_large"


class DeadlineExceeded(ServerError):
    code = "timeout"


class Unavailable(ServerError):
    code = "unavailable"
    retryable = True


class ContractDrifted(ServerError):
    code = "contract_drifted"


_DRIFTED = "TorchServe gave an answer that is not in its contract"
_BY_START: tuple[tuple[str, type[ServerError], str], ...] = (
    ("Worker died.", WorkerDied, "the model's worker stopped while it had this request"),
    ("Prediction failed", HandlerFailed, "the handler failed; the worker's log (logs/model_log.log) says why"),
    ("Out of resources", OutOfMemory, "the model's worker is out of memory"),
    ("number of batch response", ContractDrifted, "the handler answered another number of images than it was given"),
    ("Invalid model predict output", ContractDrifted, "the handler did not answer with a list"),
    ("Unsupported model output", ContractDrifted, "the handler answered with something that is not bytes"),
    ("Model not found", ModelNotFound, "the model is not loaded"),
    ("Model version", ModelNotFound, "this version of the model is not loaded"),
    ("Parameter model_name is required", ModelNotFound, "the model has no name"),
    ("Token Authorization failed", Unauthorized, "the token was refused: it is missing, wrong or expired"),
)
_BY_PART: tuple[tuple[str, type[ServerError], str], ...] = (
    ('" has no worker to serve', Overloaded, "the model's queue is full, or no worker of it is ready"),
    ("gRPC message exceeds maximum size", RequestTooLarge, "the request is larger than max_request_size"),
    ("Sent message larger than max", RequestTooLarge, "the request is larger than the client may send"),
    ("Channel closed!", Unavailable, "the client is closed"),
    ("Received message larger than max", ReplyTooLarge, "the answer is larger than the client may receive"),
)
_BY_CODE: dict[grpc.StatusCode, tuple[type[ServerError], str]] = {
    grpc.StatusCode.NOT_FOUND: (ModelNotFound, "the model is not loaded"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (DeadlineExceeded, "no answer within the deadline"),
    grpc.StatusCode.UNAVAILABLE: (Unavailable, "TorchServe cannot be reached, or went away; is it running?"),
    grpc.StatusCode.UNIMPLEMENTED: (ContractDrifted, "this port does not serve TorchServe's API; is the port right?"),
}


def classify(code: grpc.StatusCode, details: str | None) -> ServerError:
    """The fault behind a failed call.

    Args:
        code: the call's status.
        details: the status text; TorchServe's own part is its first line.
    """
    text = (details or "").split("\n")[0]
    for start, kind, meaning in _BY_START:
        if text.startswith(start):
            return kind(meaning)
    for part, kind, meaning in _BY_PART:
        if part in text:
            return kind(meaning)
    if code is grpc.StatusCode.CANCELLED and "RST_STREAM" in text:
        return RequestTooLarge("TorchServe cut the request off; it is larger than max_request_size")
    if code is grpc.StatusCode.UNKNOWN and not text:
        return Unavailable("TorchServe's frontend failed; its log says why")
    kind, meaning = _BY_CODE.get(code, (ContractDrifted, f"{_DRIFTED} ({code.name}: {text[:120]})"))
    return kind(meaning)
