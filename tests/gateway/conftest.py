"""A gateway in front of the fake TorchServe: without sockets (`http`), or behind waitress (`live`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

from maskserve.client.client import Client
from maskserve.gateway.app import create_app
from maskserve.gateway.routes import Gateway
from maskserve.gateway.serve import serve
from maskserve.gateway.settings import Settings

SIZE = (48, 64)


def make_photo(size: tuple[int, int] = SIZE, kind: str = "JPEG") -> bytes:
    """A photo's file; the same bytes for the same arguments."""
    pixels = np.random.default_rng(7).integers(0, 255, (size[0] // 8 + 1, size[1] // 8 + 1, 3), np.uint8)
    data = BytesIO()
    Image.fromarray(pixels).resize((size[1], size[0])).save(data, kind)
    return data.getvalue()


@pytest.fixture(scope="session")
def photo() -> bytes:
    return make_photo()


def settings_for(server: Any, /, **sections: Any) -> Settings:
    """The default settings, in front of `server`."""
    addresses = {"address": server.address, "management_address": server.management_address, "timeout_s": 5}
    sections["torchserve"] = addresses | sections.get("torchserve", {})
    return Settings.model_validate(sections)


@pytest.fixture
def make_app(fake_torchserve: Any) -> Iterator[Callable[..., Flask]]:
    """Makes apps with other settings than the default ones."""
    with ExitStack() as stack:

        def make(**sections: Any) -> Flask:
            settings = settings_for(fake_torchserve, **sections)
            client = stack.enter_context(
                Client(settings.torchserve.address, management_address=settings.torchserve.management_address)
            )
            app = create_app(settings, client)
            gateway: Gateway = app.extensions["maskserve"]
            stack.callback(gateway.dispatcher.close)
            return app

        yield make


@pytest.fixture
def http(make_app: Callable[..., Flask]) -> FlaskClient:
    """A browser without a cookie jar, on the default settings."""
    return make_app().test_client(use_cookies=False)


@contextmanager
def running(settings: Settings) -> Iterator[str]:
    """The gateway behind waitress, in a thread; gives its address."""
    stopping, started = threading.Event(), threading.Event()
    addresses: list[str] = []

    def on_ready(address: str) -> None:
        addresses.append(address)
        started.set()

    thread = threading.Thread(target=serve, args=(settings,), kwargs={"ready_callback": on_ready, "stopping": stopping})
    thread.start()
    try:
        assert started.wait(10), "the gateway did not start"
        yield addresses[0]
    finally:
        stopping.set()
        thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def live(fake_torchserve: Any) -> Iterator[str]:
    with running(settings_for(fake_torchserve, server={"port": 0})) as address:
        yield address
