"""The gateway alone: requests a second and memory in front of a model that answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

import psutil

from benchmarks.bench import Bench
from benchmarks.clients import Load, Post, closed_loop
from benchmarks.results import Claim, Row
from benchmarks.rows import Group
from benchmarks.servers import Server, free_port
from benchmarks.subject import clean_environment

CONCURRENCY = 8
REQUESTS = 160
PEER, OURS = "the same upload, read and echoed by Flask on waitress", "maskserve gateway"
RAW = "waitress echoing a body unread"
_THREADS = 40
"""The gateway's own number with two arms of sixteen requests."""

_RATE = Claim("gateway.rate", "gateway alone, instant model: requests/s", PEER, 60.0, "%")
_RAW_RATE = Claim("gateway.raw", "gateway alone, instant model: requests/s", RAW, None, "%")
_MEMORY = Claim("gateway.memory", "gateway alone: memory, last round / first", "itself", 105.0, "%", at_least=False)


def groups() -> list[Group]:
    return [Group("gateway alone", [_RATE, _RAW_RATE, _MEMORY], _measure)]


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
        Server(serves, ready=f"http://127.0.0.1:{gateway}/healthz", folder=folder) as server,
        Server([*python, "benchmarks.peers.echo", str(echo), str(_THREADS)], ready=f"http://127.0.0.1:{echo}/"),
    ):
        posts = {
            PEER: Post.form(f"http://127.0.0.1:{echo}/upload", bench.photo),
            RAW: Post.form(f"http://127.0.0.1:{echo}/echo", bench.photo),
            OURS: Post.form(f"http://127.0.0.1:{gateway}/v1/predictions", bench.photo),
        }
        resident: list[float] = []

        def remembered(load: Callable[[], Load]) -> Callable[[], Load]:
            def step() -> Load:
                done = load()
                resident.append(psutil.Process(server.pid).memory_info().rss / 2**20)
                return done

            return step

        steps = {PEER: _loops(posts[PEER]), RAW: _loops(posts[RAW]), OURS: remembered(_loops(posts[OURS]))}
        turns = bench.turns(steps, title="gateway alone", warm_ups=2)
    yield from _rows(claims, turns, resident[2:])


def _rows(claims: Sequence[Claim], turns: dict[str, tuple[Load, ...]], resident_mb: Sequence[float]) -> Iterator[Row]:
    rates = {name: tuple(load.rate for load in loads) for name, loads in turns.items()}
    for claim in claims:
        if claim.against in (PEER, RAW):
            values = tuple(100 * own / its for own, its in zip(rates[OURS], rates[claim.against], strict=True))
            shown = {name: rates[name] for name in (claim.against, OURS)}
            yield Row(claim, values, shown, sample_unit="requests/s")
    if _MEMORY in claims:
        yield Row(_MEMORY, (100 * resident_mb[-1] / resident_mb[0],), {OURS: tuple(resident_mb)}, sample_unit="MB")


def _loops(post: Post) -> Callable[[], Load]:
    return lambda: closed_loop(post, concurrency=CONCURRENCY, requests=REQUESTS)


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
