"""The client's own decisions: limits before sending, deadlines, one retry, tokens, poison."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from maskserve.client import Client, ConfigError, ErrorCode, RequestError, SegmentOptions, ServerError
from maskserve.client.channel import split_address
from maskserve.client.poison import FORGET_S, Poison
from maskserve.client.token import Token
from maskserve.protos import wire
from tests.fakes.torchserve import FAULTS, FakeTorchServe
from tests.waiting import until

R50 = wire.MODEL_R50


def photo(colour: str = "green") -> bytes:
    file = BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def client(fake_torchserve: FakeTorchServe) -> Iterator[Client]:
    with Client(fake_torchserve.address, management_address=fake_torchserve.management_address) as client:
        yield client


def failure(client: Client, image: bytes | None = None, **options: float) -> ServerError:
    with pytest.raises(ServerError) as caught:
        client.predict(image or photo(), model=R50, timeout_s=options.get("timeout_s", 10))
    return caught.value


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_what_is_sent(client: Client, fake_torchserve: FakeTorchServe) -> None:
    """The photo's bytes arrive untouched, beside the options and the request id."""
    options = SegmentOptions(score_threshold=0.25, max_instances=7, mask_format="none", class_names=("red panda",))
    client.predict(photo(), model=R50, version="1.0", options=options, request_id="abc")
    call = fake_torchserve.calls[-1]
    assert (call.model, call.version, call.image, call.options, call.request_id) == (
        R50,
        "1.0",
        photo(),
        options,
        "abc",
    )
    assert call.keys == {"image", "options", "request_id"}


@pytest.mark.parametrize(
    ("image", "code"), [(b"", ErrorCode.IMAGE_MISSING), (bytes(wire.MAX_IMAGE_BYTES + 1), ErrorCode.IMAGE_TOO_LARGE)]
)
def test_impossible_uploads_are_not_sent(
    client: Client, fake_torchserve: FakeTorchServe, image: bytes, code: ErrorCode
) -> None:
    """No bytes, or more than a message can carry, never reach the server."""
    with pytest.raises(RequestError) as caught:
        client.predict(image, model=R50)
    assert caught.value.code is code
    assert not fake_torchserve.attempts


def test_options_out_of_range_are_not_sent(client: Client, fake_torchserve: FakeTorchServe) -> None:
    """The field at fault is named by the client already."""
    with pytest.raises(RequestError) as caught:
        client.predict(photo(), model=R50, options=SegmentOptions(score_threshold=2))
    assert caught.value.field == "score_threshold"
    assert not fake_torchserve.attempts


@pytest.mark.parametrize(
    "fault", ["worker_died", "worker_killed", "out_of_memory", "no_memory", "unavailable", "frontend_failed"]
)
def test_infrastructure_faults_are_tried_once_more(client: Client, fake_torchserve: FakeTorchServe, fault: str) -> None:
    """One such fault is not seen by the caller; two in a row are."""
    fake_torchserve.play(R50, fault)
    assert client.predict(photo(), model=R50).instances
    assert fake_torchserve.attempts[R50] == 2
    fake_torchserve.play(R50, fault, fault)
    failure(client, photo("red"))
    assert fake_torchserve.attempts[R50] == 4


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("handler_failed", "handler_failed"),
        ("batch_mismatch", "contract_drifted"),
        ("invalid_output", "contract_drifted"),
        ("overloaded", "overloaded"),
        ("request_cut_off", "request_too_large"),
        ("reply_too_large", "reply_too_large"),
        ("garbage", "contract_drifted"),
        ("empty_reply", "contract_drifted"),
        ("wrong_id", "contract_drifted"),
        ("drifted", "contract_drifted"),
    ],
)
def test_other_faults_are_not_repeated(client: Client, fake_torchserve: FakeTorchServe, fault: str, code: str) -> None:
    """A bug, a full queue or a strange answer is said at once."""
    fake_torchserve.play(R50, fault)
    assert failure(client).code == code
    assert fake_torchserve.attempts[R50] == 1


def test_no_text_of_torchserve_is_passed_on(client: Client, fake_torchserve: FakeTorchServe) -> None:
    """Errors are in our words: no Java class, no stack."""
    for fault in FAULTS:
        fake_torchserve.play(R50, fault, fault)
        with pytest.raises(ServerError) as caught:
            client.predict(photo(fault and "blue"), model=R50)
        assert "org.pytorch" not in str(caught.value)
        fake_torchserve.models[R50].faults.clear()
        client._poison.answered(R50, photo("blue"))


def test_the_deadline_includes_the_retry(client: Client, fake_torchserve: FakeTorchServe) -> None:
    """Two attempts take no longer than the call may."""
    fake_torchserve.play(R50, "worker_died", "hang")
    start = time.monotonic()
    assert failure(client, timeout_s=1.0).code == "timeout"
    assert time.monotonic() - start < 2


def test_a_hanging_worker_ends_with_the_deadline(client: Client, fake_torchserve: FakeTorchServe) -> None:
    """A timeout is not tried again: the server still works on the first one."""
    fake_torchserve.play(R50, "hang")
    assert failure(client, timeout_s=0.3).code == "timeout"
    assert fake_torchserve.attempts[R50] == 1


def test_no_time_left_means_no_call(client: Client, fake_torchserve: FakeTorchServe) -> None:
    """A deadline that has passed already is a timeout without a request."""
    assert failure(client, timeout_s=0).code == "timeout"
    assert not fake_torchserve.attempts


def test_a_photo_that_killed_two_workers_is_not_sent_again(client: Client, fake_torchserve: FakeTorchServe) -> None:
    """The third time it is refused by the client; other photos and other models are not."""
    fake_torchserve.play(R50, "worker_died", "worker_died")
    assert failure(client).code == "worker_died"
    assert failure(client).code == "worker_died"
    assert fake_torchserve.attempts[R50] == 2
    assert client.predict(photo("red"), model=R50).instances
    assert client.predict(photo(), model=wire.MODEL_MNV2).instances


def test_a_photo_that_was_answered_is_innocent(client: Client, fake_torchserve: FakeTorchServe) -> None:
    """A death before a good answer is forgotten: the photo may have been a killer's neighbour."""
    for _ in range(3):
        fake_torchserve.play(R50, "worker_died")
        assert client.predict(photo(), model=R50).instances


def test_poison_wears_off() -> None:
    """After ten minutes a photo may be sent again, and old photos leave the list."""
    now = [1000.0]
    poison = Poison(lambda: now[0])
    for _ in range(2):
        poison.died("m", b"photo", now[0])
        now[0] += 1
    assert poison.is_poison("m", b"photo")
    assert not poison.is_poison("m", b"other")
    now[0] += FORGET_S
    assert not poison.is_poison("m", b"photo")
    for index in range(2000):
        poison.died("m", str(index).encode(), now[0])
    assert len(poison._deaths) == 1000


@pytest.mark.parametrize(
    ("sent_at", "died_at", "is_poison"),
    [(9.9, 10.1, False), (10.05, 10.1, True), (9.9, 14.0, True)],
    ids=["the same batch", "sent after the first death", "the next worker's turn"],
)
def test_copies_in_one_batch_are_one_death(sent_at: float, died_at: float, is_poison: bool) -> None:
    """A load test with one photo, or a user who clicked twice: one worker that is killed makes no poison of it."""
    now = [10.0]
    poison = Poison(lambda: now[0])
    poison.died("m", b"photo", 9.8)
    now[0] = died_at
    poison.died("m", b"photo", sent_at)
    assert poison.is_poison("m", b"photo") is is_poison


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """Nobody listening is `unavailable` within seconds, not after the whole deadline."""
    with Client(f"127.0.0.1:{free_port()}", management_address=f"127.0.0.1:{free_port()}") as client:
        start = time.monotonic()
        assert failure(client, timeout_s=30).code == "unavailable"
        assert time.monotonic() - start < 5
        assert not client.is_ready([R50])


def test_a_server_that_comes_back_is_found_again() -> None:
    """A restart between two requests, or during one, is not seen by the caller."""
    port, management_port = free_port(), free_port()
    with Client(f"127.0.0.1:{port}", management_address=f"127.0.0.1:{management_port}") as client:
        with FakeTorchServe(port=port, management_port=management_port):
            assert client.predict(photo(), model=R50).instances
        later = FakeTorchServe.__new__(FakeTorchServe)
        timer = threading.Timer(
            0.3, lambda: later.__init__(port=port, management_port=management_port) or later.__enter__()
        )  # type: ignore[misc,func-returns-value]
        timer.start()
        try:
            assert client.predict(photo(), model=R50).instances
        finally:
            timer.join()
            later.stop()


def test_a_server_that_dies_in_flight(fake_torchserve: FakeTorchServe, client: Client) -> None:
    """A connection that breaks under a request is `unavailable`."""
    fake_torchserve.play(R50, "hang")
    threading.Timer(0.3, fake_torchserve.stop).start()
    assert failure(client, timeout_s=20).code == "unavailable"


def test_readiness_counts_workers(client: Client, fake_torchserve: FakeTorchServe) -> None:
    """A model whose worker is still loading is not ready; requests then find no worker."""
    assert client.is_ready(fake_torchserve.models)
    fake_torchserve.set_ready(R50, False)
    assert (client.model_status(R50).workers_ready, client.model_status(R50).workers_total) == (0, 1)
    assert not client.is_ready(fake_torchserve.models)
    assert client.is_ready([wire.MODEL_MNV2])
    assert failure(client).code == "overloaded"


def test_many_threads_share_a_client(client: Client, fake_torchserve: FakeTorchServe) -> None:
    """Answers do not get mixed up between threads."""
    sizes = [(20 + 3 * index, 30 + index) for index in range(24)]

    def ask(size: tuple[int, int]) -> tuple[int, int]:
        file = BytesIO()
        Image.new("RGB", (size[1], size[0])).save(file, "PNG")
        return client.predict(file.getvalue(), model=R50, request_id=str(size)).size

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, sizes)) == sizes


def test_a_server_that_is_slow_to_take_a_connection_is_waited_for() -> None:
    """It listens, but says nothing for a while, as Java on busy cores."""
    server = FakeTorchServe()
    with (
        Client(server.address, management_address=server.management_address) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        status = pool.submit(client.model_status, R50)
        time.sleep(0.5)
        with server:
            assert status.result().workers_ready == 1


def test_a_closed_client_says_so(fake_torchserve: FakeTorchServe) -> None:
    """After `close` a call is `unavailable`."""
    client = Client(fake_torchserve.address)
    client.close()
    assert "closed" in str(failure(client))


def test_a_call_that_is_under_way_when_the_client_closes_says_so(
    client: Client, fake_torchserve: FakeTorchServe
) -> None:
    """A gateway that ends, and not TorchServe, is to blame."""
    fake_torchserve.play(R50, "hang")
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(failure, client)
        assert until(lambda: fake_torchserve.attempts[R50])
        client.close()
        assert (under_way.result().code, str(under_way.result())) == ("unavailable", "the client is closed")


def test_a_token_is_sent_on_both_ports() -> None:
    """The right token opens, a missing or wrong one is `unauthorized`."""
    with FakeTorchServe(token="secret1", management_token="secret2") as server:
        addresses = {"address": server.address, "management_address": server.management_address}
        with Client(**addresses, token="secret1", management_token="secret2") as client:
            assert client.predict(photo(), model=R50).instances
            assert client.is_ready([R50])
        with Client(**addresses, token="wrong") as client:
            assert failure(client).code == "unauthorized"
            assert server.attempts[R50] == 2
            with pytest.raises(ServerError) as caught:
                client.model_status(R50)
            assert caught.value.code == "unauthorized"


def test_a_renewed_key_file_is_read_again(tmp_path: Path) -> None:
    """A token that expired is replaced by the file's new one, once, without the caller's help."""

    def write(key: str) -> Path:
        (tmp_path / "key_file.json").write_text(
            json.dumps({"management": {"key": key + "m"}, "inference": {"key": key + "i"}, "API": {"key": "x"}})
        )
        return tmp_path / "key_file.json"

    path = write("first")
    with (
        FakeTorchServe(token="firsti", management_token="firstm") as server,
        Client(
            server.address, management_address=server.management_address, token=path, management_token=path
        ) as client,
    ):
        assert client.predict(photo(), model=R50).instances
        server.token, server.management_token = "secondi", "secondm"
        assert failure(client).code == "unauthorized"
        write("second")
        assert client.predict(photo(), model=R50).instances
        assert client.is_ready([R50])


def test_threads_that_are_refused_together_all_find_the_new_token(tmp_path: Path) -> None:
    """The first one reads it; the others' token is another one than they were refused with, too."""
    path, refused = tmp_path / "token", 8
    path.write_text("old")
    with FakeTorchServe(token="old") as server, Client(server.address, token=path) as client:
        client.predict(photo(), model=R50)
        server.token = "new"
        path.write_text("new")
        together = threading.Barrier(refused)

        def ask(_number: int) -> int:
            together.wait()
            return len(client.predict(photo(), model=R50).instances)

        with ThreadPoolExecutor(refused) as pool:
            assert all(pool.map(ask, range(refused)))


def test_a_plain_token_file(tmp_path: Path) -> None:
    """A text file's only line is the token."""
    (tmp_path / "token").write_text("abc123\n")
    assert Token(tmp_path / "token", "inference").metadata == (("authorization", "Bearer abc123"),)
    assert Token(None, "inference").metadata == ()


@pytest.mark.parametrize("text", ["", "{}", '{"inference": {}}', '{"inference": 3}', "two words", "{broken", "naïve"])
def test_token_files_without_a_token(tmp_path: Path, text: str) -> None:
    """A file without a usable token is the operator's error, and names the file."""
    path = tmp_path / "key_file.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"key_file\.json"):
        Token(path, "inference")


def test_a_token_that_is_given_as_text() -> None:
    """A secret often comes with its line's end; what cannot be sent is said at the start, and never shown."""
    assert Token("abc123\n", "inference").metadata == (("authorization", "Bearer abc123"),)
    for text in ("sécret", "two words", "two\nlines"):
        with pytest.raises(ConfigError, match="has no management token in it") as caught:
            Token(text, "management")
        assert text not in str(caught.value)


def test_a_missing_token_file(tmp_path: Path) -> None:
    """So is a file that is not there."""
    with pytest.raises(ConfigError, match="nothing"):
        Client(token=tmp_path / "nothing")


@pytest.mark.parametrize(
    "address", ["localhost", "http://localhost:7070", "localhost:0", "localhost:99999", ":7070", ""]
)
def test_senseless_addresses(address: str) -> None:
    """An address is host:port, and the error says so."""
    with pytest.raises(ConfigError, match="host:port"):
        Client(address)


@pytest.mark.parametrize("address", ["localhost:7070", "127.0.0.1:1", "[::1]:7070", "torch-serve_1.example:65535"])
def test_addresses(address: str) -> None:
    """Names, IPv4 and bracketed IPv6 are understood."""
    host, port = split_address(address)
    assert f"{host}:{port}" == address
