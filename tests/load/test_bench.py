"""`maskserve bench` against the real gateway, with the fake TorchServe behind it."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress

import pytest
from click.testing import CliRunner

from maskserve.cli.main import main
from maskserve.load.photos import read_uploads
from maskserve.load.sending import Sender, Target
from maskserve.protos import wire
from maskserve.protos.errors import ConfigError
from tests.gateway.conftest import running, settings_for


def bench(url, photos, *more):
    return CliRunner().invoke(main, ["bench", url, "--photos", str(photos), "--warm-up", "0", *map(str, more)])


@pytest.fixture
def live(fake_torchserve):
    with running(settings_for(fake_torchserve, server={"port": 0})) as address:
        yield address


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def saying(*answers):
    """A server that says these bytes to its first requests, and the last of them to the others; gives what was asked.

    An answer that is a tuple comes piece by piece, one each 0.1 s.
    """
    asked = []

    class Saying(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            answer = answers[min(len(asked), len(answers)) - 1]
            with suppress(OSError):
                for piece in answer if isinstance(answer, tuple) else (answer,):
                    self.wfile.write(piece)
                    time.sleep(0.1 if isinstance(answer, tuple) else 0)
            self.close_connection = answer != OK

        def log_message(self, *_args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Saying) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_both_arms_are_reported_as_they_were_dealt(live, photos, fake_torchserve):
    done = bench(live, photos, "--rate", "20,40", "--duration", "1.5", "--json")
    assert done.exit_code == 0, done.output
    steps = json.loads(done.stdout)["steps"]
    assert [step["load"] for step in steps] == [20, 40]
    served = {call.model for call in fake_torchserve.calls}
    assert served == {wire.MODEL_R50, wire.MODEL_MNV2}
    for step in steps:
        everybody, *arms = step["rows"]
        assert [row["arm"] for row in arms] == ["a", "b"]
        assert sum(row["answered"] for row in arms) == everybody["answered"] == everybody["requests"]
        assert everybody["p50_ms"] <= everybody["p95_ms"] <= everybody["p99_ms"] <= everybody["max_ms"]
    counted = sum(step["rows"][0]["requests"] for step in steps)
    assert len(fake_torchserve.calls) == counted + 1  # the one before the load
    assert f"{counted} of {counted} requests answered, 0 shed, 0 failed" in done.stderr


def test_one_arm_can_be_asked_for(live, photos, fake_torchserve):
    done = bench(live, photos, "--rate", "20", "--duration", "1", "--arm", "b", "--json")
    assert [row["arm"] for row in json.loads(done.stdout)["steps"][0]["rows"]] == ["all", "b"]
    assert {call.model for call in fake_torchserve.calls} == {wire.MODEL_MNV2}


def test_comparisons_and_pictures_are_asked_for_as_such(live, photos):
    done = bench(live, photos, "--concurrency", "1", "--duration", "0.5", "--compare", "--format", "jpeg", "--json")
    assert [row["arm"] for row in json.loads(done.stdout)["steps"][0]["rows"]] == ["all", "a, b"]
    assert done.exit_code == 0


def test_every_shed_that_is_counted_was_one(photos, fake_torchserve):
    """What the generator counts is what the gateway's own metric has, and the worker never saw it."""
    fake_torchserve.delay_s = 0.4
    settings = settings_for(fake_torchserve, server={"port": 0}, limits={"in_flight_per_arm": 2})
    with running(settings) as url:
        done = bench(url, photos, "--rate", "30", "--duration", "1.5", "--arm", "a", "--json")
        row = json.loads(done.stdout)["steps"][0]["rows"][1]
        metrics = _get(url + "/metrics")
    assert row["shed"] > 0
    assert row["answered"] + row["shed"] == row["requests"]
    assert f'maskserve_shed_total{{arm="a"}} {float(row["shed"])}' in metrics
    assert len(fake_torchserve.calls) == row["answered"] + 1
    assert row["p50_ms"] >= 400  # sheds are quick, and are not in here
    assert done.exit_code == 0


def _get(url):
    import urllib.request

    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def test_errors_are_counted_by_their_code_and_fail_the_command(live, photos, fake_torchserve):
    def fail_later():
        time.sleep(0.6)
        fake_torchserve.play(wire.MODEL_R50, "handler_failed", "handler_failed")

    failing = threading.Thread(target=fail_later)
    failing.start()
    done = bench(live, photos, "--rate", "20", "--duration", "1.5", "--arm", "a")
    failing.join()
    assert done.exit_code == 1
    assert "handler_failed 2" in done.stderr
    assert "2 failed" in done.stderr
    assert "20/s" in done.stdout


def test_a_server_that_says_nothing_is_a_timeout(photos):
    class Silent(http.server.BaseHTTPRequestHandler):
        answers = 1

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            if Silent.answers:
                Silent.answers -= 1
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                time.sleep(1)

        def log_message(self, *_args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            done = bench(url, photos, "--rate", "10", "--duration", "0.5", "--timeout", "0.3", "--json")
        finally:
            server.shutdown()
            thread.join()
    row = json.loads(done.stdout)["steps"][0]["rows"][0]
    assert row["timeouts"] == row["requests"] > 0
    assert row["p50_ms"] is None
    assert done.exit_code == 1


LENGTHS = {
    "huge": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nok",
    "short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok",
    "negative": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n",
}


@pytest.mark.parametrize("answer", LENGTHS.values(), ids=LENGTHS)
def test_an_answer_that_is_not_as_long_as_it_says_is_an_error(photos, answer):
    with saying(OK, answer) as (url, _):
        done = bench(url, photos, "--rate", "20", "--duration", "0.5", "--json")
    row = json.loads(done.stdout)["steps"][0]["rows"][0]
    assert row["errors"] == {"connection_failed": row["requests"]}
    assert row["requests"] > 1
    assert done.exit_code == 1


@pytest.mark.parametrize("answer", [*LENGTHS.values(), b"no HTTP at all\r\n\r\n"], ids=[*LENGTHS, "none"])
def test_a_wrong_answer_over_a_kept_connection_is_an_error_and_is_not_asked_for_again(photos, answer):
    with saying(OK, answer, OK) as (url, asked), closing(Sender(Target.at(url), 5.0)) as sender:
        body = read_uploads(photos).bodies[0]
        assert [sender.send(body).kind for _ in range(3)] == ["answered", "error", "answered"]
    assert len(asked) == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"o", b"k"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000,
        OK,
    ],
)
def test_an_answer_may_come_in_any_form_of_http(photos, answer):
    with saying(answer) as (url, _), closing(Sender(Target.at(url), 5.0)) as sender:
        assert [sender.send(read_uploads(photos).bodies[0]).kind for _ in range(2)] == ["answered"] * 2


def test_an_error_that_is_no_problem_is_counted_by_its_status(photos):
    deep = b"HTTP/1.1 500 Oops\r\nContent-Length: 200000\r\n\r\n" + b"[" * 200_000
    with saying(OK, deep) as (url, _):
        done = bench(url, photos, "--concurrency", "1", "--duration", "0.3", "--json")
    row = json.loads(done.stdout)["steps"][0]["rows"][0]
    assert set(row["errors"]) == {"http_500"}


def test_an_arms_name_is_shown_as_it_is(photos):
    with saying(b"HTTP/1.1 200 OK\r\nX-Maskserve-Arm: a[/b]\r\nContent-Length: 2\r\n\r\nok") as (url, _):
        done = bench(url, photos, "--concurrency", "1", "--duration", "0.2")
    assert done.exit_code == 0, done.output
    assert "a[/b]" in done.stdout


def test_an_answer_that_trickles_in_is_a_timeout_all_the_same(photos):
    drip = (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", *[b"x"] * 100)
    with saying(drip) as (url, _), closing(Sender(Target.at(url), 0.4)) as sender:
        start = time.monotonic()
        assert sender.send(read_uploads(photos).bodies[0]).kind == "timeout"
        assert time.monotonic() - start < 2


def test_a_connection_that_the_server_closed_is_opened_anew(photos):
    class Closing(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            self.close_connection = True  # without saying so

        def log_message(self, *_args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Closing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        sender = Sender(Target.at(f"http://127.0.0.1:{server.server_port}"), 5.0)
        try:
            body = read_uploads(photos).bodies[0]
            assert [sender.send(body).kind for _ in range(3)] == ["answered"] * 3
        finally:
            sender.close()
            server.shutdown()
            thread.join()


def test_a_gateway_that_is_not_there_or_refuses_is_said_before_the_load(live, photos):
    gone = bench("http://127.0.0.1:9", photos, "--rate", "1")
    assert gone.exit_code == 1
    assert "nothing answers there" in gone.stderr
    no_arm = bench(live, photos, "--rate", "1", "--arm", "z")
    assert no_arm.exit_code == 1
    assert "arm_unknown" in no_arm.stderr


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://x", "http://", "http://[::1", "http://x:99999", "http://x..y", "http://x y"]
)
def test_what_is_no_address_is_said(url):
    with pytest.raises(ConfigError, match="no address of a gateway"):
        Target.at(url)


def test_an_address_with_a_path_keeps_it():
    assert Target.at("http://x:1/predict?a=1", kind="png").path == "/predict?a=1&format=png"
    assert Target.at("https://x/", compare=True) == Target(True, "x", None, "/v1/compare")
    for as_it_is in ("/predict", "/y?a=&b=%2F&flag", "/v1/predictions?format=png"):
        assert Target.at(f"http://x{as_it_is}").path == as_it_is
    assert Target.at("http://x/ü b?ä=1").path == "/%C3%BC%20b?%C3%A4=1"


@pytest.mark.parametrize(("url", "port"), [("http://[::a]", 80), ("https://[::a]/x", 443), ("http://[::a]:1", 1)])
def test_an_ipv6_address_may_have_a_port_or_none(url, port):
    connection = Target.at(url).connect(1.0)
    assert (connection.host, connection.port) == ("::a", port)


@pytest.mark.parametrize("asked", [{"arm": "b"}, {"kind": "jpeg"}, {"compare": True}])
def test_what_the_address_says_is_not_said_again(asked):
    with pytest.raises(ConfigError, match=r"the address has (`arm`|`format`|a path) already; leave out --"):
        Target.at("http://x/v1/predictions?format=png&arm=", **asked)


def test_other_servers_are_asked_as_the_address_says(photos):
    with saying(OK) as (url, asked):
        done = bench(f"{url}/predict?x=", photos, "--concurrency", "1", "--duration", "0.2")
    assert done.exit_code == 0, done.output
    assert set(asked) == {"/predict?x="}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "--rate (open loop) or --concurrency"),
        (("--rate", "1", "--concurrency", "1"), "--rate (open loop) or --concurrency"),
        (("--rate", "2,x"), "numbers above 0"),
        (("--rate", "nan"), "numbers above 0"),
        (("--concurrency", "1.5"), "whole numbers above 0"),
        (("--rate", "1", "--arm", "a", "--compare"), "leave out --arm"),
        (("--rate", "1", "-o", "plot.gif"), ".svg, .png or .pdf"),
    ],
)
def test_a_wrong_command_line_is_said(photos, arguments, text):
    done = bench("http://127.0.0.1:9", photos, *arguments)
    assert done.exit_code == 2
    assert text in " ".join(done.stderr.split())


def test_the_plot_and_the_table_are_made(live, photos, tmp_path):
    plot = tmp_path / "load.svg"
    done = bench(live, photos, "--concurrency", "1,2", "--duration", "0.3", "-o", plot)
    assert done.exit_code == 0, done.output
    assert "2 users" in done.stdout
    assert "answered/s" in done.stdout
    assert "<svg" in plot.read_text()


def test_a_generator_that_cannot_keep_up_says_so(live, photos, fake_torchserve):
    fake_torchserve.delay_s = 0.3
    done = bench(live, photos, "--rate", "20", "--duration", "1", "--connections", "1")
    assert "all 1 connections were busy" in done.stderr


def test_ctrl_c_reports_what_was_measured(live, photos):
    command = [sys.executable, "-m", "maskserve.cli.main", "bench", live, "--photos", str(photos), "--rate", "20"]
    process = subprocess.Popen(
        [*command, "--warm-up", "0", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    # as soon as load arrives
    deadline = time.monotonic() + 30
    while "maskserve_exposures_total" not in (text := _get(live + "/metrics")) or text.count('reason="weighted"') < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    row = json.loads(out)["steps"][0]["rows"][0]
    assert 0 < row["answered"] < 600
    assert "requests answered" in err
