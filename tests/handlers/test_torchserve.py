"""The handler inside the real TorchServe, over gRPC and over TorchServe's own REST."""

from __future__ import annotations

import json
import re
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from maskserve.client import Client, RequestError, SegmentOptions, ServerError
from maskserve.protos import wire
from maskserve.protos.types import ErrorCode, Segmentation
from tests.faults import MODEL as FAULTS
from tests.runs import CLASS_NAMES
from tests.serving import BATCH_SIZE

pytestmark = pytest.mark.torchserve
ARMS = (wire.MODEL_R50, wire.MODEL_MNV2)


@pytest.fixture(scope="module")
def client(real_torchserve: Any) -> Iterator[Client]:
    """A client of the session's TorchServe."""
    with Client(real_torchserve.address, management_address=real_torchserve.management_address) as connected:
        yield connected


def put(server: Any, model: str, body: bytes, kind: str = "") -> tuple[int, str, bytes]:
    """(status, content type, body) of what `curl -T file <rest>/predictions/<model>` sends."""
    connection = HTTPConnection(urlsplit(server.rest_address).netloc, timeout=30)
    try:
        connection.request("PUT", f"/predictions/{model}", body, {"content-type": kind} if kind else {})
        answer = connection.getresponse()
        return answer.status, answer.headers["content-type"], answer.read()
    finally:
        connection.close()


def form(photo: bytes, **fields: str) -> tuple[bytes, str]:
    """(body, content type) of what `curl -F data=@photo.jpg -F name=value` sends."""
    parts = [(f'form-data; name="{name}"', value.encode()) for name, value in fields.items()]
    parts.append(('form-data; name="data"; filename="photo.jpg"', photo))
    body = b"".join(b"--x\r\nContent-Disposition: %s\r\n\r\n%s\r\n" % (head.encode(), data) for head, data in parts)
    return body + b"--x--\r\n", "multipart/form-data; boundary=x"


@pytest.mark.parametrize("model", ARMS)
def test_an_image_is_answered_over_grpc(client: Client, model: str, photo: bytes) -> None:
    """Each arm answers with its signature, instances with masks, and times."""
    answer = client.predict(photo, model=model, request_id="r-1")
    assert answer.size == (90, 120)
    assert answer.instances
    assert all(one.mask_rle for one in answer.instances)
    assert set(answer.coverage.by_class) == set(CLASS_NAMES)
    assert (answer.model.name, answer.model.version) == (model, "1.0")
    assert re.fullmatch(r"[0-9a-f]{64}", answer.model.archive_digest)
    assert answer.timings.total_ms > 0


def test_options_travel_to_the_worker(client: Client, photo: bytes) -> None:
    """Threshold, maximum, mask format and class of one request."""
    everything = client.predict(photo, model=wire.MODEL_R50)
    name = everything.instances[-1].class_name
    options = SegmentOptions(score_threshold=0.0, max_instances=2, mask_format="none", class_names=(name,))
    answer = client.predict(photo, model=wire.MODEL_R50, options=options)
    assert 0 < len(answer.instances) <= 2
    assert all(one.mask_rle is None and one.class_name == name for one in answer.instances)


@pytest.mark.parametrize(
    ("image", "options", "code"),
    [
        (b"not an image", SegmentOptions(), ErrorCode.IMAGE_UNSUPPORTED),
        (b"\xff\xd8\xff\xe0 cut off", SegmentOptions(), ErrorCode.IMAGE_UNREADABLE),
        (None, SegmentOptions(class_names=("polar bear",)), ErrorCode.OPTIONS_INVALID),
    ],
)
def test_a_senders_error_arrives_with_its_code(
    client: Client, photo: bytes, image: bytes | None, options: SegmentOptions, code: ErrorCode
) -> None:
    """TorchServe carries no status per image on gRPC; ours is inside the reply."""
    with pytest.raises(RequestError) as raised:
        client.predict(photo if image is None else image, model=wire.MODEL_R50, options=options)
    assert raised.value.code == code


def test_a_bomb_is_refused_by_its_header(client: Client) -> None:
    """100 megapixels in a few bytes are IMAGE_TOO_LARGE at once."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"
    start = time.perf_counter()
    with pytest.raises(RequestError) as raised:
        client.predict(bomb, model=wire.MODEL_R50)
    assert raised.value.code == ErrorCode.IMAGE_TOO_LARGE
    assert time.perf_counter() - start < 1.0


def test_in_a_batch_the_bad_image_fails_alone(client: Client, photo: bytes) -> None:
    """TorchServe joins four requests; three are answered as if they were alone, and the fourth gets its error."""
    (alone, *_) = (client.predict(photo, model=wire.MODEL_MNV2).instances,)

    def ask(place: int) -> Segmentation | RequestError:
        try:
            return client.predict(b"bad" if place == 2 else photo, model=wire.MODEL_MNV2)
        except RequestError as error:
            return error

    for _ in range(5):
        with ThreadPoolExecutor(BATCH_SIZE) as pool:
            outcomes = list(pool.map(ask, range(BATCH_SIZE)))
        good = [one for one in outcomes if isinstance(one, Segmentation)]
        assert [type(one) for one in outcomes].count(RequestError) == 1
        assert isinstance(outcomes[2], RequestError)
        masks = [one.mask_rle for one in alone]
        assert all([one.mask_rle for one in answer.instances] == masks for answer in good)
        if max(one.timings.batch_size for one in good) == BATCH_SIZE:
            return
    pytest.fail("TorchServe never joined four requests that came together")


@pytest.mark.parametrize("model", ARMS)
def test_curl_gets_json(real_torchserve: Any, model: str, photo: bytes) -> None:
    """`curl -T photo.jpg …/predictions/<model>` answers JSON."""
    status, kind, body = put(real_torchserve, model, photo)
    answer = json.loads(body)
    assert (status, kind) == (200, "application/json")
    assert answer["size"] == [90, 120]
    assert answer["model"]["name"] == model
    assert answer["instances"][0]["mask_rle"]["size"] == [90, 120]


def test_curls_form_takes_options(real_torchserve: Any, photo: bytes) -> None:
    """`curl -F data=@photo.jpg -F max_instances=1 -F mask_format=none`."""
    body, kind = form(photo, max_instances="1", mask_format="none")
    status, _, text = put(real_torchserve, wire.MODEL_R50, body, kind)
    answer = json.loads(text)
    assert status == 200
    assert [one["mask_rle"] for one in answer["instances"]] == [None]


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"", "", 400, "image_missing"),
        (b"text", "", 415, "image_unsupported"),
        (b'{"image": 1}', "application/json", 415, "image_unsupported"),
        (b"\xff\xd8\xff\xe0", "image/jpeg", 422, "image_unreadable"),
        (*form(b"", score_threshold="2"), 400, "options_invalid"),
    ],
)
def test_curl_gets_a_status_and_a_code_for_an_error(
    real_torchserve: Any, body: bytes, kind: str, status: int, code: str
) -> None:
    """Over REST an error has an HTTP status too."""
    answered, content_type, text = put(real_torchserve, wire.MODEL_R50, body, kind)
    assert (answered, content_type) == (status, "application/json")
    assert json.loads(text)["error"]["code"] == code


def test_metrics_show_what_the_workers_did(real_torchserve: Any, client: Client, photo: bytes) -> None:
    """Ours and TorchServe's own are on the metrics port."""
    client.predict(photo, model=wire.MODEL_R50)
    with pytest.raises(RequestError):
        client.predict(b"no", model=wire.MODEL_R50)
    wanted = [
        r'maskserve_images_total\{ModelName="mask_rcnn_r50_fpn",.*\} [1-9]',
        r'maskserve_instances_total\{ModelName="mask_rcnn_r50_fpn",.*\} [1-9]',
        r'maskserve_errors_total\{code="image_unsupported",ModelName="mask_rcnn_r50_fpn",.*\} [1-9]',
        r'maskserve_stage_seconds_bucket\{stage="inference",ModelName="mask_rcnn_r50_fpn",.*le="\+Inf",\} [1-9]',
        r'maskserve_batch_seconds_count\{ModelName="mask_rcnn_r50_fpn",.*\} [1-9]',
        r"ts_inference_requests_total\{",
    ]
    deadline = time.monotonic() + 10
    while True:  # TorchServe reads the worker's output a little later than its answer
        text = _get(real_torchserve.metrics_address)
        missing = [pattern for pattern in wanted if not re.search(pattern, text)]
        if not missing:
            return
        assert time.monotonic() < deadline, f"no {missing} in the metrics"
        time.sleep(0.1)


def _get(url: str) -> str:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_the_workers_run_the_archives_code(real_torchserve: Any) -> None:
    """Although maskserve is installed here, each worker imported its archive's copy."""
    lines = (real_torchserve.process.log_folder / "model_log.log").read_text().splitlines()
    loaded = [json.loads(line[line.index("{") :]) for line in lines if '"model_loaded"' in line]
    assert {one["model"] for one in loaded} == set(ARMS)
    models = str(real_torchserve.folder / "models")
    assert all(one["source"].startswith(models) for one in loaded)


@pytest.mark.kit
def test_no_bad_image_of_the_kit_stops_a_worker(real_torchserve: Any, client: Client, kit: Path) -> None:
    """Each is answered, or refused with a code that blames the image; the worker is the same afterwards."""
    before = _workers(real_torchserve)
    files = sorted(path for path in (kit / "bad-images").glob("*/*") if path.name != "LICENSE")
    assert len(files) > 30
    refused: dict[str, str] = {}
    for path in files:
        try:
            client.predict(path.read_bytes(), model=wire.MODEL_R50)
        except RequestError as error:
            refused[path.name] = str(error.code)
    assert {code.split("_")[0] for code in refused.values()} == {"image"}, refused
    assert _workers(real_torchserve) == before


def _workers(server: Any) -> set[int]:
    return {worker.pid for worker in psutil.Process(server.process.pid).children()}


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (b"raise", "handler_failed"),
        (b"memory", "out_of_memory"),
        (b"cuda", "out_of_memory"),
        (b"none", "contract_drifted"),
        (b"too few", "contract_drifted"),
        (b"text", "contract_drifted"),
    ],
)
def test_a_handlers_fault_is_classified(client: Client, wish: bytes, code: str) -> None:
    """What TorchServe 0.12 makes of a fault, and what the client makes of that; nothing of the server's text leaks."""
    with pytest.raises(ServerError) as raised:
        client.predict(wish, model=FAULTS)
    assert raised.value.code == code
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("wish", [b"long", b"die"])
def test_a_dying_worker_takes_one_photo_twice_and_no_more(real_torchserve: Any, wish: bytes) -> None:
    """A reply above max_response_size kills the worker, like a crash: two tries, then it is refused at once."""
    with Client(real_torchserve.address, management_address=real_torchserve.management_address, timeout_s=60) as client:
        with pytest.raises(ServerError) as raised:
            client.predict(wish, model=FAULTS)
        assert raised.value.code == "worker_died"
        start = time.perf_counter()
        with pytest.raises(ServerError) as again:
            client.predict(wish, model=FAULTS)
        assert again.value.code == "worker_died"
        assert time.perf_counter() - start < 0.05
