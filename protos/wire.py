"""Keys and limits that the client, the gateway, the worker and config.properties must agree on."""

from typing import Final

KEY_IMAGE: Final = "image"
KEY_OPTIONS: Final = "options"
KEY_REQUEST_ID: Final = "request_id"
KEY_TRACEPARENT: Final = "traceparent"
REST_KEYS: Final = ("body", "data")
"""Where TorchServe's own REST API puts an upload (`curl -T` and `-F data=@…`); such a request is answered in JSON."""

MAX_MESSAGE_BYTES: Final = 20 * 1024 * 1024
"""`max_request_size` and `max_response_size` of config.properties; a test compares them."""
MAX_IMAGE_BYTES: Final = MAX_MESSAGE_BYTES - 64 * 1024
"""An upload's bytes: what fits a message beside the options."""
MAX_REPLY_BYTES: Final = MAX_MESSAGE_BYTES // 2
"""A reply above TorchServe's limit kills the worker, so the handler stops well below it."""
MAX_IMAGE_PX: Final = 50_000_000
"""Pixels of an image: a phone's 48-megapixel photo passes, a 100-megapixel one is refused by its header."""

MAX_REQUEST_ID_CHARS: Final = 200
"""An id is echoed and logged; the worker cuts what is longer."""

MODEL_R50: Final = "mask_rcnn_r50_fpn"
MODEL_MNV2: Final = "mask_rcnn_mnv2_fpn"
