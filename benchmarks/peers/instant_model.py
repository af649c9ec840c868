"""A model server that answers at once: `python -m benchmarks.peers.instant_model PORT`.

Speaks as much of TorchServe's gRPC as the gateway asks for, and always gives the same ten instances: what is left of a
request's time is the gateway's own.
"""

from __future__ import annotations

import sys
from concurrent import futures
from typing import Any

import grpc

from maskserve.protos import codec, inference_pb2, inference_pb2_grpc, wire
from maskserve.protos.types import Coverage, Instance, MaskRle, ModelInfo, Segmentation

_SIZE = (512, 768)
_COUNTS = "Ta\\1" + "0O2N3M4L5K" * 20
"""About as long as a real mask's; the gateway passes it on unread."""


def answer() -> Segmentation:
    instance = Instance(0, "giant panda", 0.9, (10.0, 20.0, 200.0, 300.0), 40_000, MaskRle(_SIZE, _COUNTS))
    cover = Coverage(0.3, {"giant panda": 0.3, "red panda": 0.0})
    return Segmentation(_SIZE, (instance,) * 10, cover, ModelInfo("instant", "1.0", "none"))


class Servicer(inference_pb2_grpc.InferenceAPIsServiceServicer):
    def __init__(self) -> None:
        self._answer = answer()

    def Predictions(self, request: Any, _context: Any) -> Any:  # noqa: N802
        request_id = request.input.get(wire.KEY_REQUEST_ID, b"").decode()
        return inference_pb2.PredictionResponse(prediction=codec.encode_reply(self._answer, request_id))


if __name__ == "__main__":
    server = grpc.server(
        futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES)]
    )
    inference_pb2_grpc.add_InferenceAPIsServiceServicer_to_server(Servicer(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()
