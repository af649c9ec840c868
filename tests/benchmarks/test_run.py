"""Which rows run, in turns, in processes of their own; what fails does not stop the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import psutil
import pytest
import yaml
from click.testing import CliRunner

from benchmarks import profile, training_step
from benchmarks.bench import Bench
from benchmarks.clients import Load, Post, RefusedError, closed_loop
from benchmarks.machine import others_that_disturb
from benchmarks.ours import product
from benchmarks.peers import torchserve_stock
from benchmarks.profile import kind_of
from benchmarks.results import Claim, Row
from benchmarks.rounds import take_turns
from benchmarks.rows import Group, gateway, model_path, served, serving, throughput
from benchmarks.run import all_groups, chosen_groups, main, measure
from benchmarks.subject import ROOT, TUNED_MALLOC, Subject, SubjectError, clean_environment
from maskserve.modeling import compiled
from maskserve.training.layouts import Layout
from tests.waiting import ended, until

A, B, C = (Claim(f"area.{name}", name, "peer", 1.0) for name in "abc")


def answering(*claims: Claim) -> Callable[[Bench, Sequence[Claim]], Iterator[Row]]:
    return lambda _bench, _claims: iter([Row(claim, (2.0,)) for claim in claims])


def breaking(_bench: Bench, claims: Sequence[Claim]) -> Iterator[Row]:
    yield Row(claims[0], (2.0,))
    raise RuntimeError("a peer is gone")


def bench(folder: Path) -> Bench:
    return Bench(folder, rounds=1, full=False)


def test_who_takes_time_from_a_run_is_named():
    """Whatever is busy, and a TorchServe though it sleeps; not another sleeper."""
    sleep = "import time; print(flush=True); time.sleep(60)"
    programs = (["while True: pass"], [sleep, "org.pytorch.serve.ModelServer"], [sleep, "another"])
    started = [subprocess.Popen([sys.executable, "-c", *one], stdout=subprocess.PIPE) for one in programs]
    try:
        for one in started[1:]:
            assert one.stdout
            one.stdout.readline()  # its start was work
        named = " ".join(others_that_disturb(0.3))
    finally:
        for one in started:
            one.kill()
            one.communicate()
    assert [f"(pid {one.pid}, " in named for one in started] == [True, True, False]
    assert f"(pid {os.getpid()}, " not in named


# ── subjects, as the children load them ─────────────────────────────────────────────────────────────────────────────


def counting(start: int) -> Callable[[], dict[str, Any]]:
    print("what a library prints is not an answer")
    counts = iter(range(start, 100))
    return lambda: {"count": next(counts), "pid": os.getpid(), "malloc": os.environ.get("MALLOC_TOP_PAD_")}


def with_a_child() -> Callable[[], dict[str, Any]]:
    child = subprocess.Popen(["sleep", "60"])
    return lambda: {"pids": [os.getpid(), child.pid]}


def dying() -> Callable[[], dict[str, Any]]:
    def step() -> dict[str, Any]:
        raise SystemExit("the last words")

    return step


# ── turns ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_everybody_has_one_turn_a_round_and_is_first_in_turn() -> None:
    """Warm-ups come before and do not count."""
    order: list[str] = []
    steps = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    taken = take_turns(steps, 3, warm_ups=1)
    assert [order[at : at + 3] for at in range(3, 12, 3)] == [list("abc"), list("bca"), list("cab")]
    assert sorted(order[:3]) == list("abc")
    assert {name: len(values) for name, values in taken.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_subject_is_a_process_of_its_own() -> None:
    """It keeps its state between turns, tells what its step returned, and ends with the block."""
    with Subject("tests.benchmarks.test_run:counting", start=5, environment=TUNED_MALLOC) as subject:
        first, second = subject.step(), subject.step()
    assert (first.told["count"], second.told["count"]) == (5, 6)
    assert first.told["malloc"] == TUNED_MALLOC["MALLOC_TOP_PAD_"]
    assert first.ms >= 0
    with pytest.raises(ProcessLookupError):
        os.kill(first.told["pid"], 0)


def test_a_paused_subject_works_in_its_turns_only() -> None:
    """Nor do its own children; afterwards none is left."""
    with Subject("tests.benchmarks.test_run:with_a_child", paused=True) as subject:
        for _ in range(2):
            family = [psutil.Process(pid) for pid in subject.step().told["pids"]]
            assert until(lambda family=family: {one.status() for one in family} == {psutil.STATUS_STOPPED})
    assert until(lambda: ended(family))


def test_a_paused_subject_does_not_outlive_its_parent() -> None:
    """Killed, the parent can let nobody go on; the kernel does."""
    code = (
        "from benchmarks.subject import Subject; import time\n"
        "with Subject('tests.benchmarks.test_run:with_a_child', paused=True) as subject:\n"
        "    print(*subject.step().told['pids'], flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True, cwd=ROOT)
    with parent:
        assert parent.stdout
        family = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        # stopped, not only told to stop: the kernel hangs up no group in which nothing is stopped yet
        assert until(lambda: all(one.status() == psutil.STATUS_STOPPED for one in family))
        parent.kill()
    assert until(lambda: ended(family))


def test_a_subject_that_dies_is_told_with_its_last_words() -> None:
    """Not as a broken pipe."""
    with (
        pytest.raises(SubjectError, match="the last words"),
        Subject("tests.benchmarks.test_run:dying") as subject,
    ):
        subject.step()


def test_a_peer_has_the_default_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the caller's shell has set."""
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    assert not {"MALLOC_TOP_PAD_", "GLIBC_TUNABLES"} & set(clean_environment())


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    """Rows that a group had measured before it broke stay."""
    groups = [Group("broken", [A, B], breaking), Group("fine", [C], answering(C))]
    a, b, c = measure(groups, bench(tmp_path))
    assert (a.values, c.values) == ((2.0,), (2.0,))
    assert b.problem == "failed: RuntimeError: a peer is gone"


def test_only_takes_rows_by_the_beginning_of_their_names() -> None:
    """At a dot: `area` and `area.a`, not `are`."""
    groups = [Group("x", [A, B], answering(A, B)), Group("y", [C], answering(C))]
    assert [group.claims for group in chosen_groups(groups, ["area.a", "area.c"])] == [[A], [C]]
    with pytest.raises(click.UsageError, match="rows begin with area"):
        chosen_groups(groups, ["are"])


def test_every_row_has_a_name_of_its_own() -> None:
    """Results are found by it."""
    names = [claim.name for group in all_groups(full=True) for claim in group.claims]
    assert len(names) == len(set(names))
    assert CliRunner().invoke(main, ["--list", "--only", "pixels.rle"]).output == "pixels.rle\n"


def test_every_ratio_is_how_many_times_faster_ours_is() -> None:
    """The page and the plot say so of all of them."""
    assert [c.name for group in all_groups(full=True) for c in group.claims if c.unit == "×" and not c.at_least] == []


@pytest.mark.parametrize("place", ["missing/x.json", "file/x.json"])
def test_results_that_cannot_be_written_are_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Not after a quarter of an hour."""
    monkeypatch.setattr("benchmarks.run.run", lambda *_about, **_more: pytest.fail("it measures"))
    (tmp_path / "file").touch()
    done = CliRunner().invoke(main, ["--only", "pixels", "--json", str(tmp_path / place)])
    assert done.exit_code == 2
    assert f"{place} cannot be written" in done.output


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("small"), rounds=1, full=False, tiny=True)


@pytest.mark.training
def test_a_real_row_is_measured(small: Bench) -> None:
    """Small networks: both sides find the same number of instances, what cannot run here says why."""
    rows = measure(chosen_groups(model_path.groups(), ["model.mnv2.320"]), small)
    by_name = {row.claim.name: row for row in rows}
    exact, floor = by_name["model.mnv2.320.fp32"], by_name["model.mnv2.320.fp32.floor"]
    assert not [row.problem for row in rows if row.failed]
    assert set(exact.samples) == {"DefaultPredictor", "maskserve fp32"}
    assert len(exact.values) == 1
    assert floor.median > 0


@pytest.mark.training
def test_the_products_archive_is_int8_where_the_row_says_so(small: Bench, tmp_path: Path) -> None:
    """With the trunk of the model rows, whatever its size, and the layout that was asked for."""
    trunk = small.int8_trunk("mnv2")
    made = product.make_archive(tmp_path, "m", small.run("mnv2", 160), trunk=trunk, layout=Layout(2, 1))
    with zipfile.ZipFile(made) as archive:
        settings = yaml.safe_load(archive.read("model-config.yaml"))
        assert archive.read("trunk.xml") == trunk.read_bytes()
    assert (settings["precision"], settings["minWorkers"], settings["threads"]) == ("int8", 2, 1)


@pytest.mark.training
def test_the_stock_archive_is_made_once_for_all_rows(small: Bench, tmp_path: Path) -> None:
    """Throughput and growth ask for the same one in a full run."""
    run = small.run("mnv2", 160)
    made = torchserve_stock.make_archive(tmp_path / "stock", run, masks=True)
    written = made.stat().st_mtime_ns
    assert torchserve_stock.make_archive(tmp_path / "stock", run, masks=True) == made
    assert made.stat().st_mtime_ns == written


@pytest.mark.training
def test_a_training_step_is_compared_by_the_documented_command(small: Bench) -> None:
    """Both trainers take a step, in turns."""
    words = ["mobilenetv2", "--data", str(small.dataset), "--turns", "1", "--steps", "1", "--json"]
    command = [sys.executable, "-m", "benchmarks.training_step", *words, "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert [len(row["samples"][side]) for side in (training_step.THEIRS, training_step.OURS)] == [1, 1]
    assert row["values"][0] > 0


def test_both_precisions_are_compared_with_the_same_turns_of_a_peer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A peer is not measured twice, and what it is compared with runs as it was tuned."""
    asked: list[str] = []

    def loop(post: Post, **_about: int) -> Load:
        asked.append(post.url)
        return Load(seconds=float(len(asked)), latencies_ms=(1.0,), shed=0)

    monkeypatch.setattr(throughput, "closed_loop", loop)
    monkeypatch.setattr(throughput, "serving", lambda *_about: nullcontext("http://us"))
    monkeypatch.setattr(throughput, "_tuned", lambda _bench, arm: Layout(2, 1, 2 if arm.precision == "int8" else 1))
    monkeypatch.setattr(served.Running, "peer", lambda _self, name, *_model: Post(name, b"", ""))
    (group,) = throughput.groups(full=False)
    made = Bench(tmp_path, rounds=2, full=True)
    made.__dict__["photo"] = Path(__file__)
    rows = {row.claim.name: row for row in measure([group], made)}
    assert len(asked) == 4 * 3  # two arms and two peers; a warm-up and two rounds
    exact, int8 = (rows[f"load.mnv2.320.{precision}.litserve"] for precision in ("fp32", "int8"))
    assert exact.samples[served.LITSERVE] == int8.samples[served.LITSERVE]
    assert exact.samples[served.OURS] != int8.samples[served.OURS]
    assert "2 × 1 in batches of 2" in exact.note
    assert exact.note == int8.note


def test_an_arm_that_this_machine_cannot_serve_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of its peers are measured."""
    monkeypatch.setattr(served, "why_not", lambda precision: "no OpenVINO" if precision == "int8" else "")
    claims = [*serving.groups(full=True)[0].claims[-4:], *throughput.groups(full=True)[0].claims]
    possible, others = served.split_possible(claims)
    assert {served.Arm.of(claim).precision for claim in possible} == {"fp32"}
    assert {row.problem for row in others} == {"not measured: no OpenVINO"}
    assert len(possible) == len(others)


# ── the client ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Answers(BaseHTTPRequestHandler):
    """200, then 503, in turns; 418 on another path."""

    protocol_version = "HTTP/1.1"
    count = 0
    lock = threading.Lock()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            type(self).count += 1
            status = 200 if self.count % 2 else 503
        self.send_response(status if self.path == "/photo" else 418)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_about: object) -> None:
        """Silent."""


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_closed_loop_counts_answers_and_refusals_apart(address: str) -> None:
    """A request that is told to come back is no answer."""
    load = closed_loop(Post(f"{address}/photo", b"x", "image/jpeg"), concurrency=3, requests=20)
    assert (len(load.latencies_ms), load.shed) == (10, 10)


def test_an_error_ends_the_closed_loop(address: str) -> None:
    """A peer that fails quickly must not look fast."""
    with pytest.raises(RefusedError, match="418"):
        closed_loop(Post(f"{address}/elsewhere", b"x", "image/jpeg"), concurrency=2, requests=20)


def test_busy_is_no_answer_where_single_requests_are_timed(address: str) -> None:
    """It comes at once, and would make a row look good."""
    ask = serving._answers(Post(f"{address}/photo", b"x", "image/jpeg"))
    with pytest.raises(RefusedError, match="503"):
        _ = ask(), ask()


def test_the_gateway_alone_has_no_row_when_it_sheds(address: str) -> None:
    ask = gateway._loops(Post(f"{address}/photo", b"x", "image/jpeg"), SimpleNamespace(pid=os.getpid()))
    with pytest.raises(RuntimeError, match="/photo told 160 of 320 requests to come back"):
        ask()


@pytest.mark.parametrize("who", [served.OURS, served.LITSERVE])
def test_throughput_has_no_row_when_either_side_sheds(who: str) -> None:
    arm = served.Arm("mnv2", 320, "fp32")
    (claim, *_) = throughput._claims(arm, "litserve")
    names = {served.OURS: str(arm), served.LITSERVE: served.LITSERVE}
    turns = {key: [Load(seconds=1.0, latencies_ms=(1.0,), shed=2 * (name == who))] for name, key in names.items()}
    assert throughput._row(claim, turns, Layout(2, 1)).problem == f"failed: {who} refused 2 requests"


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("torchvision::roi_align", "ROIAlign"),
        ("torchvision::nms", "proposals and NMS"),
        ("aten::native_batch_norm", "norm"),
        ("aten::max_pool2d_with_indices", "pool, upsample, paste"),
        ("aten::addmm", "fully connected"),
        ("aten::copy_", "copies, elementwise"),
    ],
)
def test_operators_are_sorted_into_kinds(operator: str, kind: str) -> None:
    """By their names."""
    assert kind_of(operator) == kind


def test_our_own_kernels_are_seen_under_their_kinds(monkeypatch: pytest.MonkeyPatch):
    if not compiled.is_there():
        pytest.skip("numba is not installed")
    for name, kinds in profile._OWN.items():
        kernels = getattr(compiled, name)()
        for kernel in kinds:
            monkeypatch.setattr(kernels, kernel, getattr(kernels, kernel))  # as it was, after the test
    profile._mark_own_kernels()
    numbers = np.ones((2, 16), np.float32)
    work = partial(
        compiled.int8_kernels().round_rows, numbers, np.empty((2, 16), np.uint8), np.empty(2, np.float32), 0, 2
    )
    work()
    assert profile._profile(work)["fully connected"] > 0
