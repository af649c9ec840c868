"""From an archive to the first answered photo: TorchServe with our archive, and with its example's handler.

One worker each. An answered photo is what both can be asked for: our worker is READY only when it is warm, the
example's is READY before its first, slow forward.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import models
from benchmarks.bench import Bench
from benchmarks.clients import Post
from benchmarks.ours import product
from benchmarks.peers import torchserve_stock
from benchmarks.results import Claim, Row, ratio_row
from benchmarks.rows import Group
from benchmarks.rows.served import await_answer

PEER, OURS = "TorchServe's own example handler", "maskserve's archive"
SIZE = 800
FEWER_ROUNDS = 2
"""In the short benchmark: a start takes a quarter of a minute."""


def groups(*, full: bool) -> list[Group]:
    """The short run starts the smaller network only."""
    claims = [
        Claim(f"start.{name}.{SIZE}", f"cold start, {title} {SIZE} px: archive ─▶ first answer", PEER, 1.0)
        for name, title in models.TITLES.items()
        if full or name == "mnv2"
    ]
    return [Group("cold start", claims, _measure)]


def _measure(bench: Bench, claims: Sequence[Claim]) -> Iterator[Row]:
    for claim in claims:
        run = bench.run(claim.name.split(".")[1], SIZE)
        folder = bench.scratch / claim.name
        torchserve_stock.make_archive(folder / "stock", run, masks=False)
        product.make_archive(folder / "ours" / "model_store", "started", run)
        steps = {
            PEER: lambda folder=folder: _stock_s(bench, folder / "stock"),
            OURS: lambda folder=folder: _ours_s(bench, folder / "ours"),
        }
        rounds = bench.rounds if bench.full else min(bench.rounds, FEWER_ROUNDS)
        turns = bench.turns(steps, title=claim.what, rounds=rounds, warm_ups=0)
        row = ratio_row(claim, turns[PEER], turns[OURS], (PEER, OURS))
        yield Row(claim, row.values, row.samples, sample_unit="s")


def _stock_s(bench: Bench, folder: Path) -> float:
    start = time.perf_counter()
    server, post = torchserve_stock.server(folder, workers=1)
    with server:
        await_answer(Post.raw(post.url, bench.photo))
        return time.perf_counter() - start


def _ours_s(bench: Bench, folder: Path) -> float:
    from maskserve.cli.torchserve_process import TorchServe

    start = time.perf_counter()
    product.write_settings(folder, {"a": "started"})
    with TorchServe(folder / "config.properties", folder / "model_store") as server:
        await_answer(Post.raw(f"{server.rest_address}/predictions/started", bench.photo))
        return time.perf_counter() - start
