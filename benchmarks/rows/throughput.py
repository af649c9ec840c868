"""Over HTTP at saturation: photos a second and latency, several clients at once.

Our archives run in the layout that `maskserve package --tune throughput` measures to be best for int8 (fp32 where there
is no int8), as docs/serving.md tells those who want throughput. The short run spares itself the minutes of tuning and
takes what that chose on two cores: a worker with one thread for each, two photos at a time, so that the clients fill
all workers. The stock TorchServe has a worker for each core, LitServe one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.bench import Bench
from benchmarks.clients import Load, Post, closed_loop
from benchmarks.ours import product
from benchmarks.ours.predictor import variant
from benchmarks.results import Claim, Row, failed, ratio_row
from benchmarks.rows import Group
from benchmarks.rows.served import (
    LITSERVE,
    OURS,
    STOCK_BITMASKS,
    STOCK_EXAMPLE,
    Arm,
    Running,
    arms_of,
    by_model,
    guarded,
    serving,
    split_possible,
)
from maskserve.modeling.machine import usable_cores
from maskserve.training.layouts import Layout

CONCURRENCY = 4
REQUESTS = 8
"""In one turn of a round."""
TUNE_S = 10
_PEERS = {"bitmasks": STOCK_BITMASKS, "litserve": LITSERVE, "example": STOCK_EXAMPLE}


def groups(*, full: bool) -> list[Group]:
    """The short run leaves out what takes minutes and says nothing new."""
    sizes, peers = ((320, 800), list(_PEERS)) if full else ((320,), ["bitmasks", "litserve"])
    claims = [claim for size in sizes for arm in arms_of("mnv2", size) for key in peers for claim in _claims(arm, key)]
    return [Group("throughput over HTTP", claims, _measure)]


def _claims(arm: Arm, key: str) -> list[Claim]:
    title, name = f"{arm.title}, {CONCURRENCY} at once", f"load.{arm.dotted}.{key}"
    peer, aimed = _PEERS[key], key != "example"
    return [
        Claim(name, f"throughput, {title}", peer, 3.0 if aimed else None),
        Claim(f"{name}.p99", f"p99 / its p99, {title}", peer, 50.0 if aimed else None, "%", at_least=False),
    ]


def _measure(bench: Bench, claims: Sequence[Claim]) -> Iterator[Row]:
    possible, others = split_possible(claims)
    yield from others
    for some in by_model(possible):
        yield from guarded(partial(_throughput, bench, some), some)


def _throughput(bench: Bench, claims: Sequence[Claim]) -> Iterator[Row]:
    backbone, size, _ = Arm.of(claims[0])
    arms = list(dict.fromkeys(map(Arm.of, claims)))
    layout = _tuned(bench, arms[-1]) if bench.full else Layout(usable_cores(), 1, 2)
    with ExitStack() as stack:
        address = stack.enter_context(serving(bench, f"load-{backbone}-{size}", dict.fromkeys(arms, layout)))
        running = Running(bench, address, stack)
        loops = {str(arm): _loops(product.json_post(address, str(arm), bench.photo)) for arm in arms}
        for name in dict.fromkeys(claim.against for claim in claims):
            try:
                loops[name] = _loops(running.peer(name, backbone, size))
            except Exception as error:  # noqa: BLE001  (told in the rows)
                yield from (failed(claim, error) for claim in claims if claim.against == name)
        turns = bench.turns(loops, title=f"load on {backbone} {size} px")
    for claim in claims:
        if claim.against in turns:
            yield _row(claim, turns, layout)


def _tuned(bench: Bench, arm: Arm) -> Layout:
    from maskserve.training.tuning import tune

    bench.say(f"tuning {arm}")
    run = bench.run(arm.backbone, arm.size)
    how = variant(arm.precision, bench.int8_trunk(arm.backbone) if arm.precision == "int8" else None)
    found = tune(run, [bench.photo], objective="throughput", variant=how, seconds=TUNE_S)
    return found.chosen.layout


def _row(claim: Claim, turns: Mapping[str, Sequence[Load]], layout: Layout) -> Row:
    peer, ours = turns[claim.against], turns[str(Arm.of(claim))]
    for name, loads in ((OURS, ours), (claim.against, peer)):
        if shed := sum(load.shed for load in loads):
            return failed(claim, f"{name} refused {shed} requests")
    batch = f" in batches of {layout.batch_size}" if layout.batch_size > 1 else ""
    note = f"{REQUESTS} requests a round; ours: workers × threads {layout.workers} × {layout.threads}{batch}"
    if not claim.name.endswith(".p99"):
        theirs, own = (tuple(1000 / load.rate for load in loads) for loads in (peer, ours))
        return ratio_row(claim, theirs, own, (claim.against, OURS), f"ms a request; {note}")
    theirs, own = (tuple(load.percentile_ms(99) for load in loads) for loads in (peer, ours))
    values = tuple(100 * mine / its for mine, its in zip(own, theirs, strict=True))
    return Row(claim, values, {claim.against: theirs, OURS: own}, note=note)


def _loops(post: Post) -> Callable[[], Load]:
    return lambda: closed_loop(post, concurrency=CONCURRENCY, requests=REQUESTS)
