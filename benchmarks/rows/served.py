"""What rows over HTTP share: arms of the product, peers that are started when a row first asks, the first answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks import models
from benchmarks.bench import Bench
from benchmarks.clients import Post, RefusedError, ask_once
from benchmarks.machine import why_not
from benchmarks.ours import product
from benchmarks.peers import torchserve_stock
from benchmarks.results import Claim, Row, failed, not_measured
from benchmarks.servers import Server, ServerError, free_port
from maskserve.training.layouts import Layout

PRECISIONS = ("fp32", "int8")
"""int8 is what `maskserve package --precision auto` chooses where it costs little AP; random networks have none."""
STOCK_BITMASKS = "TorchServe, DefaultPredictor handler, JSON bitmasks"
STOCK_EXAMPLE = "TorchServe's own example handler (answers without masks)"
LITSERVE = "LitServe with DefaultPredictor, JSON with RLE"
FLASK = "Flask API of 2020"
OURS = "maskserve"
_NOT_YET = 404
"""TorchServe's, of a model that it has not loaded yet."""


class Arm(NamedTuple):
    """A model of the gateway."""

    backbone: str
    size: int
    precision: str

    @classmethod
    def of(cls, claim: Claim) -> Arm:
        """`rest.json.r50.800.fp32`, `load.mnv2.320.int8.litserve.p99`."""
        backbone, size, precision = claim.name.removeprefix("rest.").split(".")[1:4]
        return cls(backbone, int(size), precision)

    def __str__(self) -> str:
        return "-".join(map(str, self))

    @property
    def dotted(self) -> str:
        return ".".join(map(str, self))

    @property
    def title(self) -> str:
        return f"{models.TITLES[self.backbone]} {self.size} px, {self.precision}"


def arms_of(backbone: str, size: int) -> list[Arm]:
    return [Arm(backbone, size, precision) for precision in PRECISIONS]


@dataclass(frozen=True)
class Running:
    """The product, and peers that are started when a row first asks for them and stay until the stack ends."""

    bench: Bench
    address: str
    stack: ExitStack

    def peer(self, name: str, backbone: str, size: int) -> Post:
        """Where a photo is posted to."""
        run, photo = self.bench.run(backbone, size), self.bench.photo
        self.bench.say(f"starting {name}")
        if name in (STOCK_BITMASKS, STOCK_EXAMPLE):
            folder = self.bench.scratch / f"stock-{backbone}-{size}-{name == STOCK_BITMASKS}"
            torchserve_stock.make_archive(folder, run, masks=name == STOCK_BITMASKS)
            server, post = torchserve_stock.server(folder)
            self.stack.enter_context(server)
            post = Post.raw(post.url, photo)
        else:
            module, path = ("litserve_app", "/predict") if name == LITSERVE else ("flask_2020", "/predict")
            port = free_port()
            command = [sys.executable, "-m", f"benchmarks.peers.{module}", str(run), str(port)]
            ready = f"http://127.0.0.1:{port}{'/health' if name == LITSERVE else '/'}"
            self.stack.enter_context(Server(command, ready=ready))
            post = Post.form(f"http://127.0.0.1:{port}{path}", photo)
        await_answer(post)
        return post


@contextmanager
def serving(bench: Bench, name: str, arms: Mapping[Arm, Layout | None]) -> Iterator[str]:
    """The address of the product with these arms, in a folder of this name.

    Args:
        arms: and how each runs; None: as the packager chooses.
    """
    folder = bench.scratch / name
    for arm, layout in arms.items():
        bench.say(f"packaging {arm}")
        trunk = bench.int8_trunk(arm.backbone) if arm.precision == "int8" else None
        run = bench.run(arm.backbone, arm.size)
        product.make_archive(folder / "model_store", str(arm), run, trunk=trunk, layout=layout)
    bench.say("starting maskserve up")
    server, address = product.server(folder, {str(arm): str(arm) for arm in arms})
    with server:
        yield address


def split_possible(claims: Sequence[Claim]) -> tuple[list[Claim], list[Row]]:
    """What this machine can measure, and rows that say why the rest is not."""
    reasons = {claim.name: why_not(Arm.of(claim).precision) for claim in claims}
    return (
        [claim for claim in claims if not reasons[claim.name]],
        [not_measured(claim, reasons[claim.name]) for claim in claims if reasons[claim.name]],
    )


def by_model(claims: Sequence[Claim]) -> list[list[Claim]]:
    """Those of one network and size together: their precisions have the same peers."""
    models_of = dict.fromkeys(Arm.of(claim)[:2] for claim in claims)
    return [[claim for claim in claims if Arm.of(claim)[:2] == model] for model in models_of]


def guarded(measure: Callable[[], Iterator[Row]], claims: Sequence[Claim]) -> Iterator[Row]:
    """What fails leaves the other claims their turn."""
    left = list(claims)
    try:
        for row in measure():
            left.remove(row.claim)
            yield row
    except Exception as error:  # noqa: BLE001  (told in the row)
        for claim in left:
            yield failed(claim, error)


def await_answer(post: Post) -> None:
    """Returns as soon as a photo has been answered; a server may be ready before its workers are."""
    deadline = time.monotonic() + 180
    while True:
        try:
            if ask_once(post).status == 200:
                return
            why = "it is busy"
        except OSError as error:
            why = str(error)
        except RefusedError as error:
            if error.status != _NOT_YET:
                raise
            why = str(error)
        if time.monotonic() > deadline:
            raise ServerError(f"{post.url} does not answer a photo: {why}")
        time.sleep(0.2)
