"""Published weights ─▶ a checked file in the cache; offline is found out in seconds, not minutes.

    URL ─▶ cached? ─▶ host reachable? ─▶ download beside ─▶ checksum of the file name ─▶ in place

The publishers put the checksum's first digits into the file name: torchvision the SHA-256 (`resnet50-0676ba61.pth`),
Detectron2's model zoo the MD5 (`model_final_f10217.pkl`). The URLs themselves come from those two libraries.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from maskserve.modeling.machine import cache_folder
from maskserve.protos.errors import ConfigError

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 20.0
CHUNK_BYTES = 1 << 20
HTTPS_PORT = 443
NAME_CHECKSUM = re.compile(r"[-_]([0-9a-f]{6,})\.\w+$")


def fetch(url: str, *, deadline_s: float, on_bytes: Callable[[int, int], None] = lambda _done, _total: None) -> Path:
    """The file behind `url`, from the cache when it is there.

    Args:
        deadline_s: for the whole download.
        on_bytes: called with (bytes so far, bytes in total or 0).

    Raises:
        ConfigError: no network, too slow, or the file is not what its name says.
    """
    name = "-".join(urlsplit(url).path.strip("/").split("/")[-2:])
    target = cache_folder() / name
    if target.is_file() and _matches(target):
        return target
    if not reachable(url):
        raise ConfigError(f"{urlsplit(url).hostname} cannot be reached, so {name} cannot be fetched")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{name}.{os.getpid()}")
    try:
        _download(url, partial, time.monotonic() + deadline_s, on_bytes)
        if not _matches(partial, name):
            raise ConfigError(f"{name}: what came does not have the checksum in its name; try again later")
        partial.replace(target)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ConfigError(f"{name} cannot be fetched: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def reachable(url: str) -> bool:
    """Whether the URL's host (or the proxy in front of it) accepts a connection within a few seconds.

    In a thread, because name resolution knows no timeout.
    """
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    answered = threading.Event()

    def connect() -> None:
        try:
            with socket.create_connection((parts.hostname or "", parts.port or HTTPS_PORT), CONNECT_TIMEOUT_S):
                answered.set()
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_TIMEOUT_S)
    return answered.is_set()


def _download(url: str, target: Path, deadline: float, on_bytes: Callable[[int, int], None]) -> None:
    with urllib.request.urlopen(url, timeout=READ_TIMEOUT_S) as reply, target.open("wb") as file:
        total = int(reply.headers.get("Content-Length") or 0)
        done = 0
        while chunk := reply.read(CHUNK_BYTES):
            if time.monotonic() > deadline:
                raise TimeoutError("the line is too slow")
            file.write(chunk)
            done += len(chunk)
            on_bytes(done, total)


def _matches(path: Path, name: str = "") -> bool:
    """Whether the file has the SHA-256 or MD5 whose first digits its name carries."""
    found = NAME_CHECKSUM.search(name or path.name)
    if found is None:
        return False
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return sha256.startswith(found[1]) or md5.startswith(found[1])
