"""What the client relies on, asked of the fake and of the real TorchServe alike."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskserve.client import Client, ErrorCode, RequestError, SegmentOptions, ServerError
from maskserve.imaging.rle import decode_rle
from maskserve.protos import wire


def photo(width: int = 160, height: int = 120, kind: str = "JPEG", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.torchserve)])
def server(request: pytest.FixtureRequest) -> Any:
    """`.address`, `.management_address` and `.models`."""
    return request.getfixturevalue(f"{request.param}_torchserve")


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    with Client(server.address, management_address=server.management_address, timeout_s=60) as client:
        yield client


@pytest.fixture
def model(server: Any) -> str:
    return str(next(iter(server.models)))


def test_every_model_has_a_ready_worker(client: Client, server: Any) -> None:
    """DescribeModel counts the workers that are READY."""
    assert client.is_ready(server.models)
    for model in server.models:
        status = client.model_status(model)
        assert (status.name, status.workers_ready, status.workers_total) == (model, 1, 1)
        assert status.version


def test_a_long_request_id_is_cut_not_refused(client: Client, model: str) -> None:
    """The photo is answered all the same."""
    assert client.predict(photo(), model=model, request_id="x" * (wire.MAX_REQUEST_ID_CHARS + 1)).size == (120, 160)


def test_a_photo_is_answered(client: Client, server: Any) -> None:
    """An answer has the photo's size, who answered, and instances whose masks and areas agree."""
    for model in server.models:
        answer = client.predict(photo(), model=model, options=SegmentOptions(score_threshold=0), request_id="r-1")
        assert answer.size == (120, 160)
        assert answer.model.name == model
        assert answer.model.version
        assert answer.timings.total_ms > 0
        assert answer.timings.batch_size >= 1
        scores = [instance.score for instance in answer.instances]
        assert scores == sorted(scores, reverse=True)
        for instance in answer.instances:
            assert instance.mask_rle is not None
            assert decode_rle(instance.mask_rle).sum() == instance.area_px
            assert instance.class_name in answer.coverage.by_class
        assert 0 <= answer.coverage.total <= 1


def test_the_frame_is_upright(client: Client, model: str) -> None:
    """The size is that of the photo after its EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert client.predict(photo(exif=exif.tobytes()), model=model).size == (160, 120)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_formats_are_answered(client: Client, model: str, kind: str) -> None:
    """PNG and WebP are photos too."""
    assert client.predict(photo(kind=kind), model=model).size == (120, 160)


def test_options_are_obeyed(client: Client, model: str) -> None:
    """Thresholds, counts and mask formats have their effect."""
    high = client.predict(photo(), model=model, options=SegmentOptions(score_threshold=1.0))
    assert high.instances == ()
    one = client.predict(photo(), model=model, options=SegmentOptions(score_threshold=0.0, max_instances=1))
    assert len(one.instances) <= 1
    boxes = client.predict(photo(), model=model, options=SegmentOptions(score_threshold=0.0, mask_format="none"))
    assert all(instance.mask_rle is None for instance in boxes.instances)


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (b"no photo at all", ErrorCode.IMAGE_UNSUPPORTED),
        (photo()[:2000], ErrorCode.IMAGE_UNREADABLE),
        (b"\xff\xd8\xff\xe0", ErrorCode.IMAGE_UNREADABLE),
    ],
)
def test_bad_photos_are_the_senders_fault(client: Client, model: str, image: bytes, code: ErrorCode) -> None:
    """A worker answers a bad photo with its code and a text, and goes on."""
    with pytest.raises(RequestError) as caught:
        client.predict(image, model=model)
    assert caught.value.code is code
    assert caught.value.message
    assert client.predict(photo(), model=model).size == (120, 160)


def test_an_unknown_class_is_named(client: Client, model: str) -> None:
    """A class that the model does not know is an error of the field class_names."""
    with pytest.raises(RequestError) as caught:
        client.predict(photo(), model=model, options=SegmentOptions(class_names=("unicorn",)))
    assert (caught.value.code, caught.value.field) == (ErrorCode.OPTIONS_INVALID, "class_names")
    assert "unicorn" in caught.value.message


@pytest.mark.parametrize(("name", "version"), [("no_such_model", ""), (None, "9.9")])
def test_unknown_models_and_versions(client: Client, model: str, name: str | None, version: str) -> None:
    """Neither is mistaken for a broken server."""
    with pytest.raises(ServerError) as caught:
        client.predict(photo(), model=name or model, version=version)
    assert caught.value.code == "model_not_found"


def test_the_status_of_a_version(client: Client, model: str) -> None:
    """The version that is asked for is the one described."""
    status = client.model_status(model)
    assert client.model_status(model, status.version) == status


@pytest.mark.parametrize(("name", "version"), [("no_such_model", ""), (None, "9.9")])
def test_the_status_of_an_unknown_model(client: Client, model: str, name: str | None, version: str) -> None:
    """The management API says that it does not know it."""
    with pytest.raises(ServerError) as caught:
        client.model_status(name or model, version)
    assert caught.value.code == "model_not_found"
    assert not client.is_ready(["no_such_model"])


def test_the_deadline_holds(client: Client, model: str) -> None:
    """A call that may take a millisecond ends with `timeout`."""
    with pytest.raises(ServerError) as caught:
        client.predict(photo(2000, 1500), model=model, timeout_s=0.001)
    assert caught.value.code == "timeout"
    client.predict(photo(), model=model)  # let the server finish what it still works on


def test_a_large_photo_passes(client: Client, model: str) -> None:
    """An upload of ten megabytes, above every default of gRPC, is answered."""
    image = photo(1900, 1800, "PNG", compress_level=0)
    assert 10_000_000 < len(image) < wire.MAX_IMAGE_BYTES
    assert client.predict(image, model=model).size == (1800, 1900)


def test_the_inference_port_is_not_the_management_port(server: Any, model: str) -> None:
    """Swapped addresses end with a clear error, not with a hang."""
    with (
        Client(server.management_address, management_address=server.address) as swapped,
        pytest.raises(ServerError) as caught,
    ):
        swapped.predict(photo(), model=model)
    assert caught.value.code == "contract_drifted"
    assert "port" in str(caught.value)
