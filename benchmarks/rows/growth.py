"""What no target is set for, but a reader asks: where the time goes, and how it grows. Fills `bench.series`.

stages        R50 and MNV2 at 800 px, DefaultPredictor and ours, ms by kind of operator; in the short run too
size          320 ─▶ 1600 px, MNV2: ms of DefaultPredictor + RLE, and ours
instances     0 ─▶ 100, MNV2 at 480 px: the same
concurrency   1 ─▶ 64 photos at once, MNV2 at 320 px: ours, TorchServe with bitmasks, LitServe
workers       1 ─▶ 8 of one arm, threads = cores shared between them
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import models
from benchmarks.bench import Bench
from benchmarks.clients import Load, Post, closed_loop
from benchmarks.machine import best_precision
from benchmarks.ours import product
from benchmarks.results import Claim, Row
from benchmarks.rows import Group
from benchmarks.rows.served import LITSERVE, OURS, STOCK_BITMASKS, Running
from benchmarks.subject import Subject
from maskserve.training.layouts import Layout

STOCK = "DefaultPredictor"
SIZES = (320, 480, 640, 800, 1120, 1600)
INSTANCES = (0, 1, 10, 30, 100)
CONCURRENCY = (1, 2, 4, 8, 16, 32, 64)
WORKERS = (1, 2, 4, 8)
ROUNDS = 3
BACKBONE, SERVED_SIZE, INSTANCES_SIZE = "mnv2", 320, 480
_AT_LEAST = 12
"""Requests at a concurrency; more where more connections are open."""

Stages = dict[str, dict[str, dict[str, float]]]


def groups(*, full: bool) -> list[Group]:
    found = [_group("growth.stages", "stage breakdown", _stages)]
    if full:
        found += [
            _group("growth.size", "cost by image size", partial(_by_model, "size", SIZES)),
            _group("growth.instances", "cost by instances", partial(_by_model, "instances", INSTANCES)),
            _group("growth.concurrency", "cost by concurrency", _concurrency),
            _group("growth.workers", "cost by workers", _workers),
        ]
    return found


def _group(name: str, title: str, fill: Callable[[Bench], Any]) -> Group:
    """A group whose only row says that its series is there."""

    def measure(bench: Bench, claims: Sequence[Claim]) -> Iterator[Row]:
        bench.series[name.removeprefix("growth.")] = fill(bench)
        yield Row(claims[0], note="see the plots")

    return Group(title, [Claim(name, title, "")], measure)


def _sides() -> dict[str, tuple[str, dict[str, Any]]]:
    """Both ways of a photo, and what they ask for beside the run and the photo."""
    return {
        STOCK: ("benchmarks.peers.predictor:segment_to_rle", {}),
        _ours(): ("benchmarks.ours.predictor:segment", {"precision": best_precision()}),
    }


def _ours() -> str:
    return f"{OURS} {best_precision()}"


def _stages(bench: Bench) -> Stages:
    def profiled(side: str, more: dict[str, Any]) -> Subject:
        runs = {title: bench.run(backbone, 800) for backbone, title in models.TITLES.items()}
        common = {"profiled": side, "photo": bench.photo, **more}
        steps = {title: ("benchmarks.profile:step", {"run": run, **common}) for title, run in runs.items()}
        return Subject("benchmarks.subject:several", steps=steps)

    wanted = {name: profiled(*side) for name, side in _sides().items()}
    with bench.subjects(wanted, title="stage breakdown") as steps:
        turns = bench.turns(steps, title="stage breakdown", rounds=1, warm_ups=0)
    return {
        title: {name: taken[0].told[title]["kinds"] for name, taken in turns.items()}
        for title in models.TITLES.values()
    }


def _by_model(what: str, values: Sequence[int], bench: Bench) -> dict[str, dict[str, float]]:
    """Median ms, {side: {value: ms}}."""
    found: dict[str, dict[str, float]] = {STOCK: {}, _ours(): {}}
    for value in values:
        size, instances = (value, models.INSTANCES) if what == "size" else (INSTANCES_SIZE, value)
        title = f"{what} {value}"
        common: dict[str, Any] = {"run": bench.run(BACKBONE, size, instances), "photo": bench.photo}
        wanted = {name: Subject(side, **more, **common) for name, (side, more) in _sides().items()}
        with bench.subjects(wanted, title=title) as steps:
            turns = bench.turns(steps, title=title, rounds=ROUNDS)
        for name, taken in turns.items():
            found[name][str(value)] = median(turn.ms for turn in taken)
    return found


def _concurrency(bench: Bench) -> dict[str, list[dict[str, float]]]:
    folder = bench.scratch / "growth-concurrency"
    with _serving(bench, folder) as running:
        posts = {OURS: product.json_post(running.address, "a", bench.photo)}
        posts |= {name: running.peer(name, BACKBONE, SERVED_SIZE) for name in (STOCK_BITMASKS, LITSERVE)}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in posts}
        for concurrency in CONCURRENCY:
            steps = {name: _loop(post, concurrency) for name, post in posts.items()}
            turns = bench.turns(steps, title=f"{concurrency} at once", rounds=1, warm_ups=0)
            for name, (load,) in turns.items():
                found[name].append({"concurrency": concurrency, **_summary(load)})
    return found


def _workers(bench: Bench) -> list[dict[str, float]]:
    cores, found = len(os.sched_getaffinity(0)), []
    for workers in WORKERS:
        layout = Layout(workers, max(1, cores // workers))
        folder = bench.scratch / f"growth-workers-{workers}"
        with _serving(bench, folder, layout) as running:
            post = product.json_post(running.address, "a", bench.photo)
            closed_loop(post, concurrency=workers, requests=2 * workers)
            bench.say(f"{workers} workers")
            load = closed_loop(post, concurrency=8, requests=4 * _AT_LEAST)
        found.append({"workers": layout.workers, "threads": layout.threads, **_summary(load)})
    return found


@contextmanager
def _serving(bench: Bench, folder: Path, layout: Layout | None = None) -> Iterator[Running]:
    """The product with one arm, "a"."""
    product.make_archive(folder / "model_store", "a", bench.run(BACKBONE, SERVED_SIZE), layout=layout)
    bench.say("starting maskserve up")
    server, address = product.server(folder, {"a": "a"})
    with server, ExitStack() as stack:
        yield Running(bench, address, stack)


def _loop(post: Post, concurrency: int) -> Callable[[], Load]:
    return lambda: closed_loop(post, concurrency=concurrency, requests=max(_AT_LEAST, 2 * concurrency))


def _summary(load: Load) -> dict[str, float]:
    percentiles = {f"p{share}_ms": load.percentile_ms(share) for share in (50, 95, 99)}
    return {"rate": load.rate, "shed": load.shed, **percentiles}
