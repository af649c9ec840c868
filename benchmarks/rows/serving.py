"""Over HTTP: what the product adds to its model's time, overlays against the API of 2020, throughput at saturation."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import models
from benchmarks.bench import Bench
from benchmarks.clients import Answer, Load, Post, RefusedError, ask_once, closed_loop
from benchmarks.ours import product
from benchmarks.peers import torchserve_stock
from benchmarks.results import Claim, Row, failed, ratio_row
from benchmarks.rows import Group
from benchmarks.servers import Server, ServerError, free_port

ARMS = {f"{name}-{size}": f"{name}_{size}" for name in models.BACKBONES for size in (800, 320)}
CONCURRENCY = 4
REQUESTS = 8
"""In one turn of a throughput round."""
STOCK_BITMASKS = "TorchServe, DefaultPredictor handler, JSON bitmasks"
STOCK_EXAMPLE = "TorchServe's own example handler (answers without masks)"
LITSERVE = "LitServe with DefaultPredictor, JSON with RLE"
FLASK = "Flask API of 2020"
OURS = "maskserve"
_LONG = ("rest.overlay.r50", "load.mnv2.800", "load.mnv2.320.example")
_NOT_YET = 404
"""TorchServe's, of a model that it has not loaded yet."""
_MODEL_STAGES = ("preprocess", "inference")


@dataclass(frozen=True)
class Running:
    """The product, and peers that are started when a row first asks for them and stay until the group ends."""

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


def groups(*, full: bool) -> list[Group]:
    """The short run leaves out what takes minutes and says nothing new."""
    claims = [*_overhead_claims(), *_overlay_claims(), *_throughput_claims()]
    return [
        Group("served over HTTP", [claim for claim in claims if full or not claim.name.startswith(_LONG)], _measure)
    ]


def _overhead_claims() -> list[Claim]:
    return [
        Claim(
            f"rest.json.{arm.replace('-', '.')}",
            f"REST ─▶ JSON, {models.TITLES[arm.split('-')[0]]} {arm.split('-')[1]} px",
            "on top of the handler's own model time",
            8.0 if arm.endswith("800") else 15.0,
            "%" if arm.endswith("800") else "ms",
            at_least=False,
        )
        for arm in ARMS
    ]


def _overlay_claims() -> list[Claim]:
    return [
        Claim(f"rest.overlay.{name}.800", f"REST ─▶ PNG overlay, {models.TITLES[name]} 800 px", FLASK, 10.0)
        for name in models.BACKBONES
    ]


def _throughput_claims() -> list[Claim]:
    claims = []
    for backbone, size in (("mnv2", 320), ("mnv2", 800)):
        title = f"{models.TITLES[backbone]} {size} px, {CONCURRENCY} at once"
        for key, peer in (("bitmasks", STOCK_BITMASKS), ("litserve", LITSERVE), ("example", STOCK_EXAMPLE)):
            name, aimed = f"load.{backbone}.{size}.{key}", key != "example"
            claims.append(Claim(name, f"throughput, {title}", peer, 3.0 if aimed else None))
            claims.append(Claim(f"{name}.p99", f"p99 / its p99, {title}", peer, 50.0 if aimed else None, "%", False))
    return claims


def _measure(bench: Bench, claims: Sequence[Claim]) -> Iterator[Row]:
    folder = bench.scratch / "product"
    wanted = {arm: model for arm, model in ARMS.items() if any(_arm(claim) == arm for claim in claims)}
    for arm, model in wanted.items():
        backbone, size = arm.split("-")
        bench.say(f"packaging {arm}")
        product.make_archive(folder / "model_store", model, bench.run(backbone, int(size)))
    bench.say("starting maskserve up")
    server, address = product.server(folder, wanted)
    with server:
        for kind, measure in (("rest.json", _overhead), ("rest.overlay", _overlay), ("load", _throughput)):
            some = [claim for claim in claims if claim.name.startswith(kind)]
            for arm in dict.fromkeys(map(_arm, some)):
                chosen = [claim for claim in some if _arm(claim) == arm]
                with ExitStack() as stack:
                    yield from _guarded(measure, Running(bench, address, stack), arm, chosen)


def _guarded(
    measure: Callable[[Running, str, Sequence[Claim]], Iterator[Row]],
    running: Running,
    arm: str,
    claims: Sequence[Claim],
) -> Iterator[Row]:
    """One arm's failure leaves the others their turn."""
    left = list(claims)
    try:
        for row in measure(running, arm, claims):
            left.remove(row.claim)
            yield row
    except Exception as error:  # noqa: BLE001  (told in the row)
        for claim in left:
            yield failed(claim, error)


def _overhead(running: Running, arm: str, claims: Sequence[Claim]) -> Iterator[Row]:
    """All but the network itself: upload, gateway, gRPC, TorchServe, decoding, masks, JSON."""
    (claim,) = claims
    post = product.json_post(running.address, arm, running.bench.photo)
    answers: tuple[Answer, ...] = running.bench.turns({OURS: lambda: ask_once(post)}, title=claim.what, warm_ups=2)[
        OURS
    ]
    model = [sum(answer.timings_ms[stage] for stage in _MODEL_STAGES) for answer in answers]
    whole = [answer.ms for answer in answers]
    over = [all_ms - model_ms for all_ms, model_ms in zip(whole, model, strict=True)]
    values = [100 * ms / own for ms, own in zip(over, model, strict=True)] if claim.unit == "%" else over
    stages = {name: tuple(answer.timings_ms[name] for answer in answers) for name in answers[0].timings_ms}
    running.bench.series.setdefault("request", {})[arm] = {"client": whole, **stages}
    yield Row(claim, tuple(values), {"request": tuple(whole), "model": tuple(model)})


def _overlay(running: Running, arm: str, claims: Sequence[Claim]) -> Iterator[Row]:
    (claim,) = claims
    backbone, size = arm.split("-")
    posts = {
        FLASK: running.peer(FLASK, backbone, int(size)),
        OURS: product.picture_post(running.address, arm, running.bench.photo),
    }
    turns = running.bench.turns({name: _asks(post) for name, post in posts.items()}, title=claim.what)
    yield ratio_row(claim, turns[FLASK], turns[OURS], (FLASK, OURS))


def _throughput(running: Running, arm: str, claims: Sequence[Claim]) -> Iterator[Row]:
    backbone, size = arm.split("-")
    posts = {OURS: product.json_post(running.address, arm, running.bench.photo)}
    for name in dict.fromkeys(claim.against for claim in claims):
        try:
            posts[name] = running.peer(name, backbone, int(size))
        except Exception as error:  # noqa: BLE001  (told in the rows)
            yield from (failed(claim, error) for claim in claims if claim.against == name)
    loops = {name: _loops(post) for name, post in posts.items()}
    turns = running.bench.turns(loops, title=f"load on {arm}")
    for claim in claims:
        if claim.against in turns:
            yield _load_row(claim, turns[claim.against], turns[OURS])


def _load_row(claim: Claim, peer: Sequence[Load], ours: Sequence[Load]) -> Row:
    if any(load.shed for load in ours):
        return failed(claim, f"maskserve refused {sum(load.shed for load in ours)} requests")
    note = f"{REQUESTS} requests a round"
    if not claim.name.endswith(".p99"):
        theirs, own = (tuple(1000 / load.rate for load in loads) for loads in (peer, ours))
        return ratio_row(claim, theirs, own, (claim.against, OURS), f"ms a request; {note}")
    theirs, own = (tuple(load.percentile_ms(99) for load in loads) for loads in (peer, ours))
    values = tuple(100 * mine / its for mine, its in zip(own, theirs, strict=True))
    return Row(claim, values, {claim.against: theirs, OURS: own}, note=note)


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


def _asks(post: Post) -> Callable[[], float]:
    return lambda: ask_once(post).ms


def _loops(post: Post) -> Callable[[], Load]:
    return lambda: closed_loop(post, concurrency=CONCURRENCY, requests=REQUESTS)


def _arm(claim: Claim) -> str:
    """`rest.json.r50.800` ─▶ r50-800, `load.mnv2.320.litserve.p99` ─▶ mnv2-320."""
    words = claim.name.removeprefix("rest.").split(".")
    return f"{words[1]}-{words[2]}"
