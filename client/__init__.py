"""A typed Python client of a maskserve TorchServe: photo in, instances out, over gRPC.

from maskserve.client import Client, SegmentOptions

with Client("localhost:7070") as client:
    answer = client.predict(photo_bytes, model="mask_rcnn_r50_fpn", options=SegmentOptions(score_threshold=0.7))

client.py    one request: check ─▶ send ─▶ read the answer, or classify the fault and perhaps try once more
channel.py   how the connection is set up
token.py     where the access token comes from
poison.py    photos that stop workers
errors.py    what TorchServe's codes and texts really mean
"""

from maskserve.client.client import Client
from maskserve.client.errors import ServerError
from maskserve.client.messages import ModelStatus
from maskserve.protos.errors import ConfigError, MaskserveError, RequestError
from maskserve.protos.types import (
    Coverage,
    ErrorCode,
    Instance,
    MaskRle,
    ModelInfo,
    Segmentation,
    SegmentOptions,
    Timings,
)

__all__ = [
    "Client",
    "ConfigError",
    "Coverage",
    "ErrorCode",
    "Instance",
    "MaskRle",
    "MaskserveError",
    "ModelInfo",
    "ModelStatus",
    "RequestError",
    "SegmentOptions",
    "Segmentation",
    "ServerError",
    "Timings",
]
