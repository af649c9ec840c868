"""The gateway alone: requests a second, CPU a request and memory in front of a model that answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import psutil

from benchmarks.bench import Bench
from benchmarks.clients import Post, closed_loop
from benchmarks.results import Claim, Row
from benchmarks.rows import Group
from benchmarks.servers import Server, free_port
from benchmarks.subject import clean_environment

CONCURRENCY = 8
REQUESTS = 320
PEER, OURS = "the same upload, read and echoed by Flask on waitress", "maskserve gateway"
RAW = "waitress echoing a body unread"
_THREADS = 40
"""The gateway's own number with two arms of sixteen requests."""

_RATE = Claim("gateway.rate", "gateway alone, instant model: requests/s", PEER, 60.0, "%")
_RAW_RATE = Claim("gateway.raw", "gateway alone, instant model: requests/s", RAW, None, "%")
_CPU = Claim("gateway.cpu", "gateway alone: CPU of the server's process a request", PEER, None, "%", at_least=False)
_MEMORY = Claim("gateway.memory", "gateway alone: memory, last round / first", "itself", 105.0, "%", at_least=False)


class Turn(NamedTuple):
    """What a closed loop saw, and what it cost its server's process."""

    rate: float
    """Requests a second."""
    cpu_ms: float
    """A request, of all threads, user and system; the model server's and the client's are not in it."""
    resident_mb: float
    """Afterwards."""


def groups() -> list[Group]:
    return [Group("gateway alone", [_RATE, _RAW_RATE, _CPU, _MEMORY], _measure)]


def _measure(bench: Bench, claims: Sequence[Claim]) -> Iterator[Row]:
    model, gateway, echo = (free_port() for _ in range(3))
    folder = bench.scratch / "gateway"
    folder.mkdir()
    (folder / "maskserve.toml").write_text(f'[torchserve]\naddress = "127.0.0.1:{model}"\n')
    python = [sys.executable, "-m"]
    serves = [*python, "maskserve.cli.main", "gateway", "--port", str(gateway)]
    bench.say("starting the gateway, a model that answers at once, and waitress")
    with (
        Process([*python, "benchmarks.peers.instant_model", str(model)]),
        Server(serves, ready=f"http://127.0.0.1:{gateway}/healthz", folder=folder) as ours,
        Server([*python, "benchmarks.peers.echo", str(echo), str(_THREADS)], ready=f"http://127.0.0.1:{echo}/") as peer,
    ):
        steps = {
            PEER: _loops(Post.form(f"http://127.0.0.1:{echo}/upload", bench.photo), peer),
            RAW: _loops(Post.form(f"http://127.0.0.1:{echo}/echo", bench.photo), peer),
            OURS: _loops(Post.form(f"http://127.0.0.1:{gateway}/v1/predictions", bench.photo), ours),
        }
        turns: dict[str, tuple[Turn, ...]] = bench.turns(steps, title="gateway alone", warm_ups=2)
    yield from _rows(claims, turns)


def _rows(claims: Sequence[Claim], turns: Mapping[str, tuple[Turn, ...]]) -> Iterator[Row]:
    rates = {name: tuple(turn.rate for turn in taken) for name, taken in turns.items()}
    costs_ms = {name: tuple(turn.cpu_ms for turn in turns[name]) for name in (PEER, OURS)}
    resident_mb = tuple(turn.resident_mb for turn in turns[OURS])
    for claim in claims:
        if claim in (_RATE, _RAW_RATE):
            values = tuple(100 * own / its for own, its in zip(rates[OURS], rates[claim.against], strict=True))
            shown = {name: rates[name] for name in (claim.against, OURS)}
            yield Row(claim, values, shown, sample_unit="requests/s")
    if _CPU in claims:
        values = tuple(100 * own / its for own, its in zip(costs_ms[OURS], costs_ms[PEER], strict=True))
        yield Row(_CPU, values, costs_ms)
    if _MEMORY in claims:
        yield Row(_MEMORY, (100 * resident_mb[-1] / resident_mb[0],), {OURS: resident_mb}, sample_unit="MB")


def _loops(post: Post, server: Server) -> Callable[[], Turn]:
    process = psutil.Process(server.pid)

    def step() -> Turn:
        before = process.cpu_times()
        load = closed_loop(post, concurrency=CONCURRENCY, requests=REQUESTS)
        after = process.cpu_times()
        if load.shed:
            raise RuntimeError(f"{post.url} told {load.shed} of {REQUESTS} requests to come back")
        cpu_s = after.user + after.system - before.user - before.system
        return Turn(load.rate, 1000 * cpu_s / REQUESTS, process.memory_info().rss / 2**20)

    return step


class Process:
    """A child that answers no HTTP; the gateway waits for it by itself."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command

    def __enter__(self) -> None:
        from benchmarks.subject import ROOT

        self._process = psutil.Popen(
            self._command, cwd=ROOT, env=clean_environment({"PYTHONPATH": str(ROOT)}), start_new_session=True
        )

    def __exit__(self, *_about: object) -> None:
        self._process.kill()
        self._process.wait()
