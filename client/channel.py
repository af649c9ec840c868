"""address ─▶ gRPC channel with the limits and the patience that TorchServe 0.12 needs."""

from __future__ import annotations

import re

import grpc

from maskserve.protos import wire
from maskserve.protos.errors import ConfigError

_SLACK_BYTES = 64 * 1024
"""So that the server's limit is met first, and its own words are heard."""
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", wire.MAX_MESSAGE_BYTES + _SLACK_BYTES),
    ("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES + _SLACK_BYTES),
    # gRPC's own retries repeat a handler's bugs and leave out large requests
    ("grpc.enable_retries", 0),
    # no keep-alive: TorchServe ends connections that ping more often than every five minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    # how long an attempt to connect may take at least: on busy cores Java needs more than the back-off's 100 ms
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # a machine's web proxy is not on the way to its own TorchServe
    ("grpc.enable_http_proxy", 0),
)
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._\-]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})")


def open_channel(address: str) -> grpc.Channel:
    """A plaintext channel; it connects when it is first used. Raises ConfigError when `address` is not host:port."""
    split_address(address)
    return grpc.insecure_channel(address, options=OPTIONS)


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of "localhost:7070" or "[::1]:7070". Raises ConfigError."""
    match = _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match["port"]) < 65536:
        raise ConfigError(f"{address!r} is no address of TorchServe's gRPC; write host:port, e.g. localhost:7070")
    return match["host"], int(match["port"])
