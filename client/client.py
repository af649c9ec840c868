"""photo ─▶ limits ─▶ PredictionsRequest ─▶ TorchServe ─▶ SegmentReply ─▶ Segmentation | RequestError | ServerError.

A fault of the infrastructure (worker died, memory, connection) is tried once more, inside the same deadline: inference
has no side effects. A photo that was in two dying workers is not sent a third time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.empty_pb2 import Empty

from maskserve.client.channel import open_channel, split_address
from maskserve.client.errors import (
    DeadlineExceeded,
    OutOfMemory,
    ServerError,
    Unauthorized,
    Unavailable,
    WorkerDied,
    classify,
)
from maskserve.client.messages import ModelStatus, prediction_request, read_reply, read_status
from maskserve.client.poison import Poison
from maskserve.client.token import Metadata, Token
from maskserve.protos import inference_pb2_grpc, management_pb2, management_pb2_grpc
from maskserve.protos.types import Segmentation, SegmentOptions

MANAGEMENT_PORT = 7071
_RECONNECT_S = 1.0
"""How long a retry waits for a server that is just coming back."""
_STATUS_TIMEOUT_S = 5.0


class Client:
    """A connection to one TorchServe; thread-safe, made once per process (after a fork), closed by `with`.

    Args:
        address: host:port of the inference API.
        management_address: host:port of the management API; None: port 7071 on the same host.
        token: the inference token as text, or a Path to TorchServe's key_file.json or to a text file; a file is read
            again when the token is refused. None while token authorisation is off.
        management_token: the same for the management API.
        timeout_s: the deadline of a call, retry included, where the call itself gives none.

    Raises ConfigError for an address, a token or a token file that cannot be used.
    """

    def __init__(
        self,
        address: str = "localhost:7070",
        *,
        management_address: str | None = None,
        token: str | Path | None = None,
        management_token: str | Path | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self._token = Token(token, "inference")
        self._management_token = Token(management_token, "management")
        self._timeout_s = timeout_s
        self._poison = Poison()
        management_address = management_address or f"{split_address(address)[0]}:{MANAGEMENT_PORT}"
        self._channel = open_channel(address)
        self._management_channel = open_channel(management_address)
        inference, management = (
            inference_pb2_grpc.InferenceAPIsServiceStub,
            management_pb2_grpc.ManagementAPIsServiceStub,
        )
        self._inference = inference(self._channel)  # type: ignore[no-untyped-call]
        self._management = management(self._management_channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; calls in flight fail."""
        self._channel.close()
        self._management_channel.close()

    def predict(
        self,
        image: bytes,
        *,
        model: str,
        version: str = "",
        options: SegmentOptions = SegmentOptions(),  # noqa: B008 — frozen
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Segmentation:
        """The instances in a photo.

        Args:
            image: a JPEG, PNG or WebP file's bytes.
            model: its name in TorchServe.
            version: "" is the model's default version.
            options: what to answer.
            request_id: written to the worker's log; of a long one the first 200 characters.
            timeout_s: the deadline of this call, retry included.

        Raises RequestError when this photo or these options cannot be answered, ServerError (see client/errors.py)
        when the server did not answer.
        """
        request = prediction_request(image, model, version, options, request_id)
        deadline = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        return self._attempt_twice(image, request, request_id, deadline)

    def model_status(self, model: str, version: str = "") -> ModelStatus:
        """A version of the model ("" is its default version) and the workers of that. Raises ServerError."""
        request = management_pb2.DescribeModelRequest(model_name=model, model_version=version)
        deadline = time.monotonic() + min(self._timeout_s, _STATUS_TIMEOUT_S)
        token = self._management_token.metadata
        try:
            answer = _call(self._management.DescribeModel, request, self._management_token, deadline)
        except Unauthorized:
            if not self._management_token.renew(token):
                raise
            answer = _call(self._management.DescribeModel, request, self._management_token, deadline)
        return read_status(model, answer.msg)

    def is_ready(self, models: Iterable[str]) -> bool:
        """Whether each of the models has a worker that is READY; False too when the server cannot be asked."""
        try:
            return all(self.model_status(model).workers_ready > 0 for model in models)
        except ServerError:
            return False

    def _attempt_twice(self, image: bytes, request: Any, request_id: str, deadline: float) -> Segmentation:
        model = request.model_name
        if self._poison.is_poison(model, image):
            raise WorkerDied("this photo has stopped the model's worker twice; it is not sent again for ten minutes")
        token = self._token.metadata
        try:
            return self._attempt(image, request, request_id, deadline)
        except ServerError as error:
            if not self._may_retry(error, model, image, deadline, token):
                raise
        return self._attempt(image, request, request_id, deadline)

    def _attempt(self, image: bytes, request: Any, request_id: str, deadline: float) -> Segmentation:
        sent_at = time.monotonic()
        try:
            reply: bytes = _call(self._inference.Predictions, request, self._token, deadline).prediction
        except WorkerDied:
            self._poison.died(request.model_name, image, sent_at)
            raise
        self._poison.answered(request.model_name, image)
        return read_reply(reply, request_id)

    def _may_retry(self, error: ServerError, model: str, image: bytes, deadline: float, token: Metadata) -> bool:
        """Whether a second attempt makes sense, once it does; the first was sent with `token`."""
        if isinstance(error, Unauthorized):
            return self._token.renew(token)
        if isinstance(error, WorkerDied) and self._poison.is_poison(model, image):
            return False
        if not isinstance(error, (WorkerDied, OutOfMemory, Unavailable)):
            return False
        pause_s = random.uniform(0.05, 0.25)  # so that a batch's requests do not come back as one
        if time.monotonic() + pause_s >= deadline:
            return False
        time.sleep(pause_s)
        return not isinstance(error, Unavailable) or self._is_connected(deadline)

    def _is_connected(self, deadline: float) -> bool:
        """Waits a little for a server that is just coming back."""
        timeout_s = min(_RECONNECT_S, max(0.0, deadline - time.monotonic()))
        try:
            self._inference.Ping(Empty(), timeout=timeout_s, metadata=self._token.metadata, wait_for_ready=True)
        except grpc.RpcError as error:
            return error.code() not in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
        except ValueError:  # closed
            return False
        return True


def _call(method: Callable[..., Any], request: Any, token: Token, deadline: float) -> Any:
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise DeadlineExceeded("no time was left for the call")
    try:
        return method(request, timeout=remaining_s, metadata=token.metadata)
    except grpc.RpcError as error:
        raise classify(error.code(), error.details()) from error
    except ValueError as error:  # grpc's way to say that the channel was closed
        raise Unavailable("the client is closed") from error
