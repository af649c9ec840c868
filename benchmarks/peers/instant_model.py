"""A model server that answers at once: `python -m benchmarks.peers.instant_model PORT`.

Speaks as much of TorchServe's gRPC as the gateway asks for, and always gives the same ten instances: what is left of a
request's time is the gateway's own. It shares the gateway's cores, so it reads no message and writes none: the answer
was serialised before, and only the request's id is put into it.
"""

from __future__ import annotations

import sys
from concurrent import futures
from typing import Any

import grpc

from maskserve.protos import codec, inference_pb2, wire
from maskserve.protos.types import Coverage, Instance, MaskRle, ModelInfo, Segmentation

_SIZE = (512, 768)
_COUNTS = "Ta\\1" + "0O2N3M4L5K" * 20
"""About as long as a real mask's; the gateway passes it on unread."""
_ID_CHARS = 32
"""Of the ids that the gateway makes itself."""
_ID = "i" * _ID_CHARS
"""Stands for the request's."""


def answer() -> Segmentation:
    instance = Instance(0, "giant panda", 0.9, (10.0, 20.0, 200.0, 300.0), 40_000, MaskRle(_SIZE, _COUNTS))
    cover = Coverage(0.3, {"giant panda": 0.3, "red panda": 0.0})
    return Segmentation(_SIZE, (instance,) * 10, cover, ModelInfo("instant", "1.0", "none"))


class Replies(grpc.GenericRpcHandler):
    """Bytes in, bytes out."""

    def __init__(self) -> None:
        reply = inference_pb2.PredictionResponse(prediction=codec.encode_reply(answer(), _ID)).SerializeToString()
        self._before, self._after = reply.split(_ID.encode())
        # the map's entry of this key, up to its value
        entry = inference_pb2.PredictionsRequest(input={wire.KEY_REQUEST_ID: _ID.encode()}).SerializeToString()
        self._entry = entry[entry.index(wire.KEY_REQUEST_ID.encode()) : -_ID_CHARS]
        self._predictions = grpc.unary_unary_rpc_method_handler(self.reply)

    def service(self, details: Any) -> Any:
        return self._predictions if details.method.endswith("/Predictions") else None

    def reply(self, request: bytes, _context: Any) -> bytes:
        start = request.rindex(self._entry) + len(self._entry)
        return b"".join((self._before, request[start : start + _ID_CHARS], self._after))


if __name__ == "__main__":
    server = grpc.server(
        futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES)]
    )
    server.add_generic_rpc_handlers((Replies(),))
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()
