"""A TorchServe without Java, models or workers: a real gRPC server on loopback that answers as 0.12.0 does.

    with FakeTorchServe() as server:
        client = Client(server.address, management_address=server.management_address)
        server.play("mask_rcnn_r50_fpn", "worker_died")     # the next request of this model
        server.calls[-1].image                              # what arrived

Codes and texts are those that were measured on the released 0.12.0; the contract tests run on both.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
import numpy as np

from maskserve.imaging.decode import decode_rgb
from maskserve.imaging.masks import coverage
from maskserve.imaging.rle import encode_rle
from maskserve.protos import codec, inference_pb2, inference_pb2_grpc, management_pb2, management_pb2_grpc, wire
from maskserve.protos.errors import RequestError
from maskserve.protos.types import (
    Coverage,
    ErrorCode,
    Instance,
    ModelInfo,
    Segmentation,
    SegmentOptions,
    Timings,
)

MODELS: Mapping[str, tuple[str, ...]] = {
    wire.MODEL_R50: ("giant panda", "red panda"),
    wire.MODEL_MNV2: ("giant panda", "red panda"),
}
VERSION = "1.0"

_INTERNAL = "\norg.pytorch.serve.http.InternalServerException"
_NO_WORKER = (
    'Model "{model}" has no worker to serve inference request. Please use scale workers API to add workers. '
    "If this is a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
    "\nInternalServerException.()"
)
FAULTS: Mapping[str, tuple[grpc.StatusCode, str]] = {
    "worker_died": (grpc.StatusCode.INTERNAL, "Worker died." + _INTERNAL),
    "worker_killed": (grpc.StatusCode.RESOURCE_EXHAUSTED, "Worker died." + _INTERNAL),
    "handler_failed": (grpc.StatusCode.UNAVAILABLE, "Prediction failed" + _INTERNAL),
    "out_of_memory": (grpc.StatusCode.INTERNAL, "Out of resources" + _INTERNAL),
    "batch_mismatch": (grpc.StatusCode.UNAVAILABLE, "number of batch response mismatched" + _INTERNAL),
    "invalid_output": (grpc.StatusCode.UNAVAILABLE, "Invalid model predict output" + _INTERNAL),
    "overloaded": (grpc.StatusCode.INTERNAL, _NO_WORKER),
    "request_cut_off": (grpc.StatusCode.CANCELLED, "Stream removed (RST_STREAM (error code 8))"),
    "unavailable": (grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)"),
    "frontend_failed": (grpc.StatusCode.UNKNOWN, ""),
    "drifted": (grpc.StatusCode.DATA_LOSS, "something that TorchServe 0.12 never says"),
}
"""Faults that end a call with a status. `play` also knows "hang", "slow", "reply_too_large", "garbage",
"empty_reply" and "wrong_id", which answer late or wrongly, and those that the handler itself replies."""
_HANDLERS_OWN = {"no_memory": ErrorCode.OUT_OF_MEMORY, "inference_failed": ErrorCode.INFERENCE_FAILED}
_ODD_ANSWERS = {"hang", "slow", "reply_too_large", "garbage", "empty_reply", "wrong_id", *_HANDLERS_OWN}
_TOKEN_REFUSED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"


@dataclass(frozen=True)
class Call:
    """One request as it arrived."""

    model: str
    version: str
    image: bytes
    options: SegmentOptions
    request_id: str
    keys: frozenset[str]


@dataclass
class _Model:
    class_names: Sequence[str]
    workers: list[str] = field(default_factory=lambda: ["READY"])
    faults: deque[str] = field(default_factory=deque)


class FakeTorchServe:
    """A context manager; thread-safe.

    Args:
        models: class names by model.
        token: what the inference API asks for; None: nothing.
        management_token: the same for the management API.
        port, management_port: 0 takes any free one.
    """

    def __init__(
        self,
        models: Mapping[str, Sequence[str]] = MODELS,
        *,
        token: str | None = None,
        management_token: str | None = None,
        port: int = 0,
        management_port: int = 0,
        threads: int = 16,
    ) -> None:
        self.models = {name: _Model(class_names) for name, class_names in models.items()}
        self.token = token
        self.management_token = management_token
        self.delay_s = 0.0
        """How long every answer takes."""
        self.says_total_ms: float | None = None
        """What the worker says that it took; None: the truth."""
        self.calls: list[Call] = []
        self.attempts: dict[str, int] = defaultdict(int)
        """Requests by model, refused and failed ones included."""
        self._stopping = threading.Event()
        self._inference = _server(threads, port)
        self._management = _server(4, management_port)
        inference_pb2_grpc.add_InferenceAPIsServiceServicer_to_server(_Inference(self), self._inference[0])
        management_pb2_grpc.add_ManagementAPIsServiceServicer_to_server(_Management(self), self._management[0])
        self.address = f"127.0.0.1:{self._inference[1]}"
        self.management_address = f"127.0.0.1:{self._management[1]}"

    def __enter__(self) -> Self:
        self._inference[0].start()
        self._management[0].start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server at once, as SIGKILL does."""
        ends = [server.stop(grace=0) for server, _ in (self._inference, self._management)]
        self._stopping.set()
        for end in ends:
            end.wait()

    def play(self, model: str, *faults: str) -> None:
        """The model's next requests end so, one after the other; later ones are answered again."""
        unknown = set(faults) - FAULTS.keys() - _ODD_ANSWERS
        if unknown:
            raise ValueError(f"the fake knows no fault {', '.join(unknown)}")
        self.models[model].faults.extend(faults)

    def set_ready(self, model: str, ready: bool) -> None:
        """Whether the model's worker is READY; when not, requests find no worker."""
        self.models[model].workers = ["READY" if ready else "UNLOADING"]

    def wait(self, seconds: float) -> None:
        """Sleeps, but not beyond the server's end."""
        self._stopping.wait(seconds)


class _Inference(inference_pb2_grpc.InferenceAPIsServiceServicer):
    def __init__(self, server: FakeTorchServe) -> None:
        self._server = server

    def Ping(self, _request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        _check_token(context, self._server.token)
        return inference_pb2.TorchServeHealthResponse(health=json.dumps({"status": "Healthy"}))

    def Predictions(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        server = self._server
        server.attempts[request.model_name] += 1
        _check_token(context, server.token)
        model = _find(server, request, context)
        call = _call(request)
        server.calls.append(call)
        if "READY" not in model.workers:
            _abort(context, "overloaded", call.model)
        fault = model.faults.popleft() if model.faults else ""
        if fault in FAULTS:
            _abort(context, fault, call.model)
        server.wait(60 if fault == "hang" else server.delay_s + 0.5 * (fault == "slow"))
        return inference_pb2.PredictionResponse(prediction=_reply(call, model, fault, server.says_total_ms))


class _Management(management_pb2_grpc.ManagementAPIsServiceServicer):
    def __init__(self, server: FakeTorchServe) -> None:
        self._server = server

    def DescribeModel(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        _check_token(context, self._server.management_token)
        model = self._server.models.get(request.model_name)
        if model is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Model not found: {request.model_name}")
        if request.model_version not in ("", VERSION):
            context.abort(grpc.StatusCode.NOT_FOUND, _no_version(request))
        described = {
            "modelName": request.model_name,
            "modelVersion": VERSION,
            "modelUrl": f"{request.model_name}.mar",
            "minWorkers": 1,
            "maxWorkers": 1,
            "batchSize": 1,
            "workers": [{"id": str(9000 + index), "status": status} for index, status in enumerate(model.workers)],
        }
        return management_pb2.ManagementResponse(msg=json.dumps([described], indent=2))

    def ListModels(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        _check_token(context, self._server.management_token)
        names = sorted(self._server.models)[: request.limit]  # an unset limit is 0 and lists nothing
        models = [{"modelName": name, "modelUrl": f"{name}.mar"} for name in names]
        return management_pb2.ManagementResponse(msg=json.dumps({"models": models}))


def _server(threads: int, port: int) -> tuple[grpc.Server, int]:
    options = [("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(threads), options=[*options, ("grpc.max_send_message_length", -1)])
    return server, server.add_insecure_port(f"127.0.0.1:{port}")


def _check_token(context: grpc.ServicerContext, token: str | None) -> None:
    if token is None:
        return
    sent = [value for key, value in context.invocation_metadata() if key == "authorization"]
    if not sent or sent[-1] != f"Bearer {token}":
        context.abort(grpc.StatusCode.PERMISSION_DENIED, _TOKEN_REFUSED)


def _find(server: FakeTorchServe, request: Any, context: grpc.ServicerContext) -> _Model:
    name, version = request.model_name, request.model_version
    if not name:
        context.abort(grpc.StatusCode.INTERNAL, "Parameter model_name is required.\nBadRequestException.()")
    if name not in server.models:
        text = f"Model not found: {name}\norg.pytorch.serve.archive.model.ModelNotFoundException"
        context.abort(grpc.StatusCode.INTERNAL, text)
    if version not in ("", VERSION):
        text = f"{_no_version(request)}\norg.pytorch.serve.archive.model.ModelVersionNotFoundException"
        context.abort(grpc.StatusCode.INTERNAL, text)
    return server.models[name]


def _no_version(request: Any) -> str:
    return f"Model version: {request.model_version} does not exist for model: {request.model_name}"


def _call(request: Any) -> Call:
    try:
        options = codec.decode_options(request.input.get(wire.KEY_OPTIONS, b""))
    except RequestError:
        options = SegmentOptions()
    return Call(
        request.model_name,
        request.model_version,
        request.input.get(wire.KEY_IMAGE, b""),
        options,
        request.input.get(wire.KEY_REQUEST_ID, b"").decode()[: wire.MAX_REQUEST_ID_CHARS],
        frozenset(request.input),
    )


def _abort(context: grpc.ServicerContext, fault: str, model: str) -> NoReturn:
    code, text = FAULTS[fault]
    context.abort(code, text.format(model=model))
    raise AssertionError("abort always raises")


def _reply(call: Call, model: _Model, fault: str, says_total_ms: float | None) -> bytes:
    odd = {"garbage": b"\xff\xff no protobuf", "empty_reply": b""}
    if fault in odd:
        return odd[fault]
    if fault == "reply_too_large":
        return bytes(wire.MAX_MESSAGE_BYTES + 256 * 1024)
    request_id = "someone else's" if fault == "wrong_id" else call.request_id
    try:
        if fault in _HANDLERS_OWN:
            raise RequestError(_HANDLERS_OWN[fault], "It did not work.")
        answer = segment(call, model.class_names)
        if says_total_ms is not None:
            answer = replace(answer, timings=replace(answer.timings, total_ms=says_total_ms))
        return codec.encode_reply(answer, request_id)
    except RequestError as error:
        return codec.encode_reply(error, request_id)


def segment(call: Call, class_names: Sequence[str]) -> Segmentation:
    """Two instances, always at the same places of the image: a disc of the first class and one of the last."""
    started = time.perf_counter()
    options = call.options
    unknown = [name for name in options.class_names if name not in class_names]
    if unknown:
        text = f"class_names has no class {unknown[0]!r}; the model knows {', '.join(class_names)}"
        raise RequestError(ErrorCode.OPTIONS_INVALID, text, "class_names")
    size = decode_rgb(call.image).shape[:2]
    height, width = int(size[0]), int(size[1])
    discs = [_disc(0, class_names, 0.95, (height, width), 0.35), _disc(-1, class_names, 0.75, (height, width), 0.65)]
    threshold = 0.5 if options.score_threshold is None else options.score_threshold
    wanted = [
        disc
        for disc in discs
        if disc.score >= threshold and (not options.class_names or disc.class_name in options.class_names)
    ][: options.max_instances]
    cover: Coverage = coverage(wanted, (height, width), class_names)
    if options.mask_format == "none":
        wanted = [_without_mask(disc) for disc in wanted]
    total_ms = (time.perf_counter() - started) * 1000
    backbone = "mobilenetv2" if "mnv2" in call.model else "resnet50"
    return Segmentation(
        (height, width),
        tuple(wanted),
        cover,
        ModelInfo(call.model, VERSION, backbone, "fp32", "f" * 64),
        Timings(1.0, 2.0, 30.0, 4.0, total_ms, 1),
    )


def _disc(index: int, class_names: Sequence[str], score: float, size: tuple[int, int], at: float) -> Instance:
    height, width = size
    y, x = np.ogrid[:height, :width]
    radius = max(1.0, 0.22 * min(height, width))
    centre_y, centre_x = at * height, at * width
    mask = (y + 0.5 - centre_y) ** 2 + (x + 0.5 - centre_x) ** 2 <= radius**2
    box = (
        max(0.0, centre_x - radius),
        max(0.0, centre_y - radius),
        min(float(width), centre_x + radius),
        min(float(height), centre_y + radius),
    )
    class_id = index % len(class_names)
    return Instance(class_id, class_names[class_id], score, box, int(mask.sum()), encode_rle(mask))


def _without_mask(instance: Instance) -> Instance:
    return Instance(instance.class_id, instance.class_name, instance.score, instance.box_xyxy, instance.area_px)
