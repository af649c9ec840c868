"""The gateway behind its real web server: big bodies, slow senders, a graceful end, memory and start time."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from io import BytesIO
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from PIL import Image

from maskserve.gateway.serve import check_port, serve
from maskserve.gateway.upload import MAX_BODY_BYTES
from maskserve.imaging.decode import decode_rgb
from maskserve.protos.errors import ConfigError
from tests.gateway.conftest import make_photo, running, settings_for
from tests.waiting import until

PREDICT = "/v1/predictions"


def ask(address, method, path, body=None, **headers):
    """(status, headers, body) of one request."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def talk(address, *pieces, timeout_s=10.0):
    """Sends raw bytes and returns all that comes back until the server closes or falls silent."""
    host, port = urlsplit(address).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout_s) as connection:
        for piece in pieces:
            connection.sendall(piece)
        connection.settimeout(1.0)
        received = b""
        try:
            while data := connection.recv(65536):
                received += data
        except TimeoutError:
            pass
        return received


def test_a_photo_is_answered_over_a_real_connection(live, photo):
    status, headers, body = ask(live, "POST", PREDICT, photo)
    assert status == 200
    assert json.loads(body)["request_id"] == headers["X-Request-Id"]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_beyond_the_limit_is_413_even_for_a_sender_who_sends_it_all(live, is_chunked):
    pieces = [bytes(100_000)] * (MAX_BODY_BYTES // 100_000 + 100)
    status, headers, body = ask(live, "POST", PREDICT, iter(pieces) if is_chunked else b"".join(pieces))
    assert (status, headers["Content-Type"]) == (413, "application/problem+json")
    assert json.loads(body)["code"] == "image_too_large"


def test_a_body_announced_as_too_long_is_refused_before_it_is_sent(live):
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n"
    answer = talk(live, head.encode())
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"image_too_large" in answer


def test_a_chunked_body_without_an_end_is_refused_when_enough_of_it_is_read(live):
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{5 * MAX_BODY_BYTES:x}\r\n"
    assert talk(live, head.encode(), bytes(4 * MAX_BODY_BYTES)).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("begin", [b"", b"0\r\n"], ids=["size", "trailer"])
def test_a_line_between_chunks_without_an_end_is_refused_at_once(live, begin):
    """Waitress would read all of it again with each piece, in the thread that serves everybody."""
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert talk(live, head + begin, b"1" * 20_000).startswith(b"HTTP/1.1 400")


def test_a_gigantic_body_is_refused_without_reading_it(live):
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**12}\r\n\r\n"
    assert talk(live, head.encode(), b"x" * 1000).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(5000)) + b"\r\n", b"431"),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\nhello", b"400"),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_http_is_refused_as_a_problem(live, head, status):
    answer = talk(live, head)
    assert answer.split(b" ")[1] == status, answer[:200]
    assert b"application/problem+json" in answer
    assert b"waitress" not in answer.lower()
    assert ask(live, "GET", "/healthz")[0] == 200


def test_letters_beyond_ascii_in_an_address_are_said_to_need_encoding(live):
    """curl sends them as they are typed."""
    answer = talk(live, f"POST {PREDICT}?class=大熊猫 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"percent-encoded" in answer


def test_a_chunked_upload_works(live, photo):
    pieces = [photo[start : start + 300] for start in range(0, len(photo), 300)]
    assert ask(live, "POST", PREDICT, iter(pieces))[0] == 200


def test_slow_senders_do_not_keep_others_waiting(live, photo):
    host, port = urlsplit(live).netloc.split(":")
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(150)]
        for number, connection in enumerate(slow):
            head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
            connection.sendall(head.encode() + (b"\r\n" if number % 2 else b""))
        for _ in range(5):
            for connection in slow:
                connection.sendall(b"x")
            started = time.monotonic()
            assert ask(live, "POST", PREDICT, photo)[0] == 200
            assert time.monotonic() - started < 1


def test_a_client_that_does_not_read_its_answer_is_given_up(fake_torchserve, monkeypatch):
    monkeypatch.setattr("maskserve.gateway.serve.IDLE_CONNECTION_S", 1)
    noise = BytesIO()
    Image.fromarray(np.random.default_rng(7).integers(0, 255, (2400, 2400, 3), np.uint8)).save(noise, "JPEG")
    head = f"POST {PREDICT}?format=png HTTP/1.1\r\nHost: x\r\nContent-Length: {noise.tell()}\r\n\r\n"
    with (
        running(settings_for(fake_torchserve, server={"port": 0})) as address,
        socket.create_connection(urlsplit(address).netloc.split(":"), 20) as connection,
    ):
        connection.sendall(head.encode() + noise.getvalue())
        assert until(lambda: connection.getsockname() not in [one.raddr for one in psutil.Process().net_connections()])


def test_health_is_answered_while_the_arms_are_full(live, photo, fake_torchserve):
    fake_torchserve.delay_s = 1.0
    threads = [threading.Thread(target=ask, args=(live, "POST", PREDICT, photo)) for _ in range(24)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    started = time.monotonic()
    assert ask(live, "GET", "/healthz")[0] == 200
    assert time.monotonic() - started < 0.5
    for thread in threads:
        thread.join()


def test_health_is_answered_while_pictures_are_drawn(live, monkeypatch, photo):
    drawn = threading.Event()
    monkeypatch.setattr("maskserve.gateway.drawing.decode_rgb", lambda data: drawn.wait(20) and decode_rgb(data))
    threads = [threading.Thread(target=ask, args=(live, "POST", "/predict", photo)) for _ in range(60)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    started = time.monotonic()
    try:
        assert ask(live, "GET", "/healthz")[0] == 200
        assert time.monotonic() - started < 0.5
    finally:
        drawn.set()
        for thread in threads:
            thread.join()


def test_a_port_in_use_is_one_clear_error(fake_torchserve):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127.0.0.1:{port} is in use by another program.*--port"):
            serve(settings_for(fake_torchserve, server={"port": port}))


def test_an_address_that_is_not_ours_is_one_clear_error(fake_torchserve):
    with pytest.raises(ConfigError, match="cannot listen there"):
        serve(settings_for(fake_torchserve, server={"host": "192.0.2.1", "port": 0}))


@pytest.mark.parametrize("host", ["no-host.invalid", "a..b"])
@pytest.mark.parametrize("start", [serve, check_port])
def test_a_host_that_nobody_knows_is_one_clear_error(fake_torchserve, start, host):
    with pytest.raises(ConfigError, match=rf"{host}.*server\.host"):
        start(settings_for(fake_torchserve, server={"host": host, "port": 0}))


@pytest.fixture
def process(fake_torchserve, tmp_path):
    """`maskserve gateway` as a process of its own: (process, address)."""
    path = tmp_path / "maskserve.toml"
    addresses = f'address = "{fake_torchserve.address}"\nmanagement_address = "{fake_torchserve.management_address}"\n'
    path.write_text(f"[server]\nport = 0\n[torchserve]\n{addresses}")
    command = [sys.executable, "-m", "maskserve.cli.main", "gateway", "--config", str(path), "--access-log"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as gateway:
        try:
            line = gateway.stdout.readline()
            assert line.startswith("gateway on http://"), gateway.stderr.read()
            yield gateway, line.split()[2]
        finally:
            if gateway.poll() is None:
                gateway.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_in_flight_finish_and_then_ends(process, photo, fake_torchserve, number):
    gateway, address = process
    fake_torchserve.delay_s = 1.0
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(address, "POST", "/predict", photo)[0])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    gateway.send_signal(number)
    time.sleep(0.3)
    with pytest.raises(ConnectionRefusedError):
        ask(address, "GET", "/readyz")
    for thread in threads:
        thread.join()
    assert answers == [200] * 4
    assert gateway.wait(5) == 0
    assert "gateway stopped" in gateway.stderr.read()


def connected(address):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.connect()
    return connection


def test_on_the_way_out_kept_connections_are_told_so_and_idle_ones_are_closed(fake_torchserve, photo):
    fake_torchserve.delay_s = 0.5
    with running(settings_for(fake_torchserve, server={"port": 0})) as address:
        idle, kept = connected(address), connected(address)
        idle.request("GET", "/healthz")
        assert idle.getresponse().read()
        kept.request("POST", PREDICT, photo)
        assert until(lambda: fake_torchserve.calls)
        leaving = time.monotonic()
    assert time.monotonic() - leaving < 5  # shutdown_s is 30
    answer = kept.getresponse()
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    assert idle.sock.recv(1) == b""
    for connection in (idle, kept):
        connection.close()


def test_the_next_request_of_a_client_that_was_not_told_yet_is_answered(fake_torchserve, photo):
    with running(settings_for(fake_torchserve, server={"port": 0})) as address:
        kept = connected(address)
        kept.request("GET", "/healthz")
        assert kept.getresponse().read()
        next_one = threading.Timer(0.3, kept.request, ("POST", PREDICT, photo))
        next_one.start()
    next_one.join()
    answer = kept.getresponse()
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    kept.close()


def test_a_request_that_is_arriving_on_the_way_out_is_answered(fake_torchserve, photo):
    answers = []

    def upload(connection, begun):
        connection.putrequest("POST", PREDICT)
        connection.putheader("Content-Length", str(len(photo)))
        connection.endheaders(photo[:100])
        begun.set()
        time.sleep(1)
        connection.send(photo[100:])
        answers.append(connection.getresponse())

    with running(settings_for(fake_torchserve, server={"port": 0})) as address:
        connection, begun = connected(address), threading.Event()
        thread = threading.Thread(target=upload, args=(connection, begun))
        thread.start()
        assert begun.wait(5)
        time.sleep(0.3)
    thread.join()
    assert [(answer.status, answer.headers["Connection"]) for answer in answers] == [(200, "close")]
    connection.close()


def test_the_access_log_is_one_json_line_per_request_without_the_senders_text(process, photo):
    gateway, address = process
    path = "/none%0A%22forged%22?arm=secret"
    ask(address, "POST", PREDICT, photo, **{"X-User-Id": "alice"})
    ask(address, "GET", path)
    gateway.terminate()
    lines = [line for line in gateway.stderr.read().splitlines() if line.startswith("{")]
    first, second = (json.loads(line) for line in lines)
    assert (first["status"], first["reason"], first["path"]) == (200, "sticky", PREDICT)
    assert (second["status"], second["path"]) == (404, '/none\n"forged"')
    assert "alice" not in str(lines)


def test_what_the_web_server_refuses_is_logged_and_counted_and_keeps_its_id(process):
    gateway, address = process
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\nContent-Length: {10**12}\r\n\r\n"
    answer = talk(address, head.encode())
    assert b"X-Request-Id: mine\r\n" in answer
    assert b"nosniff" in answer
    talk(address, b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n")
    talk(address, b"\x16\x03\x01\x02\x00\r\n\r\n")
    talk(address, b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n")
    counts = ask(address, "GET", "/metrics")[2].decode()
    for route, status in ((PREDICT, 413), ("none", 431), ("none", 400), ("/predict", 501)):
        assert f'maskserve_requests_total{{route="{route}",status="{status}"}} 1.0' in counts
    gateway.terminate()
    lines = [json.loads(line) for line in gateway.stderr.read().splitlines() if line.startswith("{")]
    assert [line["status"] for line in lines] == [413, 431, 400, 501, 200]
    assert (lines[0]["request_id"], lines[0]["method"], lines[0]["path"]) == ("mine", "POST", PREDICT)


@pytest.mark.parametrize("line", ["POST http://[::1/x HTTP/1.1", f"POST / HTTP/1.1\r\nContent-Length: {'9' * 5000}"])
def test_what_the_web_server_stumbles_over_is_answered(live, caplog, line):
    answer = talk(live, f"{line}\r\nHost: x\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"bad_request" in answer
    assert not caplog.records


def test_memory_stays_below_250_mb_with_12_megapixel_photos(process):
    gateway, address = process
    big = make_photo((3000, 4000))
    peaks = []
    watching = threading.Event()

    def watch():
        memory = psutil.Process(gateway.pid)
        while not watching.wait(0.01):
            peaks.append(memory.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    for path in (PREDICT, "/predict", "/v1/compare", "/v1/compare?format=jpeg", f"{PREDICT}?format=jpeg"):
        assert ask(address, "POST", path, big)[0] == 200
    watching.set()
    thread.join()
    resting = psutil.Process(gateway.pid).memory_info().rss
    print(f"resident: {resting / 1e6:.0f} MB at rest, {max(peaks) / 1e6:.0f} MB at most")
    assert resting < 250e6
    assert max(peaks) < 250e6


def imported(module):
    """Names of all modules after importing `module` in a fresh Python."""
    command = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_naming_the_gateway_loads_no_library():
    assert not imported("maskserve.gateway") & {"flask", "grpc", "numpy", "pydantic"}


def test_the_gateway_runs_without_the_models_libraries():
    heavy = {"torch", "torchvision", "detectron2", "numba", "scipy", "matplotlib"}
    assert not imported("maskserve.gateway.serve") & (heavy | {"maskserve.modeling", "maskserve.handlers"})
