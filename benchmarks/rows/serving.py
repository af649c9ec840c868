"""One request over HTTP: what the product adds to its model's time, and overlays against the API of 2020."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks import models
from benchmarks.bench import Bench
from benchmarks.clients import Answer, Post, RefusedError, ask_once
from benchmarks.ours import product
from benchmarks.results import Claim, Row, ratio_row
from benchmarks.rows import Group
from benchmarks.rows.served import FLASK, OURS, Arm, Running, arms_of, by_model, guarded, serving, split_possible

_MODEL_STAGES = ("preprocess", "inference")
_WARM_UPS = 20
"""Of each arm: TorchServe's Java compiles what has run ten times. Its way is 3 ms longer for the first photos after a
start and 1 ms for the next ten; servers are measured as they are when they have been up for a minute."""


def groups(*, full: bool) -> list[Group]:
    """The short run leaves out the overlays of R50-FPN, where the API of 2020 takes longest."""
    overlays = [claim for claim in _overlay_claims() if full or Arm.of(claim).backbone != "r50"]
    return [Group("served over HTTP", [*_overhead_claims(), *overlays], _measure)]


def _overhead_claims() -> list[Claim]:
    """int8 at 800 px only, where overlays start its arms anyway: what is on top of the model differs little."""
    return [
        Claim(
            f"rest.json.{arm.dotted}",
            f"REST ─▶ JSON, {arm.title}",
            "on top of the handler's own model time",
            8.0 if size == 800 else 15.0,
            "%" if size == 800 else "ms",
            at_least=False,
        )
        for name in models.BACKBONES
        for size in (800, 320)
        for arm in arms_of(name, size)
        if size == 800 or arm.precision == "fp32"
    ]


def _overlay_claims() -> list[Claim]:
    """In fp32 without a target: there the network alone takes more than a tenth of what the peer takes."""
    return [
        Claim(
            f"rest.overlay.{arm.dotted}",
            f"REST ─▶ PNG overlay, {arm.title}",
            FLASK,
            10.0 if arm.precision == "int8" else None,
        )
        for name in models.BACKBONES
        for arm in arms_of(name, 800)
    ]


def _measure(bench: Bench, claims: Sequence[Claim]) -> Iterator[Row]:
    possible, others = split_possible(claims)
    yield from others
    for backbone in dict.fromkeys(Arm.of(claim).backbone for claim in possible):
        own = [claim for claim in possible if Arm.of(claim).backbone == backbone]
        yield from guarded(partial(_measure_backbone, bench, backbone, own), own)


def _measure_backbone(bench: Bench, backbone: str, claims: Sequence[Claim]) -> Iterator[Row]:
    with serving(bench, f"product-{backbone}", dict.fromkeys(map(Arm.of, claims))) as address:
        for kind, measure in (("rest.json", _overhead), ("rest.overlay", _overlay)):
            for some in by_model([claim for claim in claims if claim.name.startswith(kind)]):
                with ExitStack() as stack:
                    yield from guarded(partial(measure, Running(bench, address, stack), some), some)


def _overhead(running: Running, claims: Sequence[Claim]) -> Iterator[Row]:
    """All but the network itself: upload, gateway, gRPC, TorchServe, decoding, masks, JSON."""
    photo = running.bench.photo
    steps = {claim.name: _answers(product.json_post(running.address, str(Arm.of(claim)), photo)) for claim in claims}
    turns = running.bench.turns(steps, title=_title(claims), warm_ups=_WARM_UPS)
    for claim in claims:
        answers = turns[claim.name]
        model = [sum(answer.timings_ms[stage] for stage in _MODEL_STAGES) for answer in answers]
        whole = [answer.ms for answer in answers]
        over = [all_ms - model_ms for all_ms, model_ms in zip(whole, model, strict=True)]
        values = [100 * ms / own for ms, own in zip(over, model, strict=True)] if claim.unit == "%" else over
        stages = {name: tuple(answer.timings_ms[name] for answer in answers) for name in answers[0].timings_ms}
        running.bench.series.setdefault("request", {})[str(Arm.of(claim))] = {"client": whole, **stages}
        yield Row(claim, tuple(values), {"request": tuple(whole), "model": tuple(model)})


def _overlay(running: Running, claims: Sequence[Claim]) -> Iterator[Row]:
    backbone, size, _ = Arm.of(claims[0])
    steps = {FLASK: _answers(running.peer(FLASK, backbone, size))}
    for claim in claims:
        post = product.picture_post(running.address, str(Arm.of(claim)), running.bench.photo)
        steps[claim.name] = _answers(post)
    turns = running.bench.turns(steps, title=_title(claims))
    ms = {name: [answer.ms for answer in answers] for name, answers in turns.items()}
    for claim in claims:
        yield ratio_row(claim, ms[FLASK], ms[claim.name], (FLASK, OURS))


def _answers(post: Post) -> Callable[[], Answer]:
    """To be timed: "busy" comes at once, and must not look fast."""

    def step() -> Answer:
        answer = ask_once(post)
        if answer.status != 200:
            raise RefusedError(post.url, answer.status, answer.body)
        return answer

    return step


def _title(claims: Sequence[Claim]) -> str:
    """Without the precision: they take turns."""
    return claims[0].what.rpartition(",")[0]
