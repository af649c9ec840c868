"""`maskserve bench`: load on a running gateway ─▶ throughput, latency, sheds and errors per arm."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from maskserve.protos.errors import ConfigError

if TYPE_CHECKING:
    from maskserve.load.photos import Uploads
    from maskserve.load.run import Recording
    from maskserve.load.sending import Sender
    from maskserve.load.summary import Step

POSITIVE = click.FloatRange(0, min_open=True)


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """`2,4,8`: numbers above 0."""

    name = "N[,N...]"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self._kind(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if not numbers or not all(0 < number < float("inf") for number in numbers):
            what = "whole numbers" if self._kind is int else "numbers"
            self.fail(f"{value!r} are not {what} above 0 with commas between, e.g. 2,4,8", param, ctx)
        return numbers


@click.command(short_help="Put load on a running gateway and report latency, sheds and errors per arm.")
@click.argument("url")
@click.option("--photos", required=True, type=click.Path(path_type=Path), help="Folder of JPEG, PNG or WebP files.")
@click.option("--rate", "rates", type=Numbers(float), help="Requests a second (open loop); several: one after another.")
@click.option("--concurrency", "users", type=Numbers(int), help="Users who each wait for their answer (closed loop).")
@click.option("--duration", "duration_s", type=POSITIVE, default=30.0, show_default=True, help="Seconds measured each.")
@click.option(
    "--warm-up", "warm_up_s", type=click.FloatRange(0), default=3.0, show_default=True, help="Seconds before."
)
@click.option("--constant", is_flag=True, help="Evenly spaced requests instead of Poisson arrivals.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the arrivals.")
@click.option("--arm", default="", help="Ask this arm.  [default: the gateway deals by weight]")
@click.option("--compare", is_flag=True, help="Ask both arms with each photo (/v1/compare).")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["json", "png", "jpeg"]),
    help="Of the answers.  [default: what the address answers; JSON at the gateway's own]",
)
@click.option(
    "--connections", type=click.IntRange(1, 4096), default=256, show_default=True, help="At most, with --rate."
)
@click.option(
    "--timeout", "timeout_s", type=POSITIVE, default=60.0, show_default=True, help="Seconds to a whole answer."
)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Plot: FILE.svg, .png or .pdf.")
@click.pass_context
def bench(
    context: click.Context,
    url: str,
    photos: Path,
    rates: tuple[float, ...] | None,
    users: tuple[int, ...] | None,
    duration_s: float,
    warm_up_s: float,
    constant: bool,
    seed: int,
    arm: str,
    compare: bool,
    kind: str | None,
    connections: int,
    timeout_s: float,
    as_json: bool,
    output: Path | None,
) -> None:
    """Send photos to the gateway at URL and report what its users would see.

    With --rate, requests leave when they are due, however slow the answers are, and latency counts from then. With
    --concurrency, each user sends the next photo after the last answer. Requests that the gateway refuses (503
    too_many_requests), that fail or have no answer in time are counted apart. docs/bench.md says how to read it.

    \b
    Examples:
      maskserve bench http://127.0.0.1:8000 --photos photos/ --rate 4
      maskserve bench http://127.0.0.1:8000 --photos photos/ --rate 1,2,4,8 --arm b -o load.svg
      maskserve bench http://127.0.0.1:8000 --photos photos/ --concurrency 1,2,4,8,16 --json

    Exit code 1: requests failed, or none was answered. Ctrl-C reports what was measured until then (130).
    """
    from maskserve.load.photos import read_uploads
    from maskserve.load.sending import Sender, Target

    if bool(rates) == bool(users):
        raise click.UsageError("give --rate (open loop) or --concurrency (closed loop)")
    if compare and arm:
        raise click.UsageError("--compare asks both arms; leave out --arm")
    if output:
        _check_plot(output)
    uploads = read_uploads(photos)
    for line in uploads.skipped:
        click.secho(f"not sent: {line}", fg="yellow", err=True)
    mode: Literal["rate", "concurrency"] = "rate" if rates else "concurrency"
    target = Target.at(url, arm=arm, compare=compare, kind=kind or "")
    with closing(Sender(target, timeout_s)) as sender:
        _check_answers(url, sender, uploads)
        steps, stopped = _measure(
            mode,
            rates or users or (),
            warm_up_s,
            duration_s,
            lambda load, until_s, on_look: _record(
                sender, uploads, mode, load, until_s, on_look, seed=seed, constant=constant, connections=connections
            ),
        )
    _report(url, steps, as_json=as_json, connections=connections if rates else None)
    if output and steps:
        from maskserve.load.plot import draw

        draw(steps, output)
    click.echo(_last_line(steps, output), err=True)
    answered, failed = (sum(getattr(one.everybody, name) for one in steps) for name in ("answered", "failed"))
    if stopped:
        raise KeyboardInterrupt
    context.exit(1 if failed or not answered else 0)


def _check_plot(output: Path) -> None:
    """Before minutes of load, not after."""
    import maskserve.load.plot  # noqa: F401 — says what is not installed

    if output.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise click.UsageError(f"-o {output}: a plot is an .svg, .png or .pdf")
    if not output.parent.is_dir():
        raise ConfigError(f"{output.parent}: there is no such folder for the plot")


def _check_answers(url: str, sender: Sender, uploads: Uploads) -> None:
    """One request before the load. Raises ConfigError when all the others would fare no better."""
    outcome = sender.send(uploads.bodies[0])
    if outcome.code == "connection_failed":
        raise ConfigError(f"{url}: nothing answers there ({outcome.detail}); start it with `maskserve up`")
    if outcome.kind in ("error", "timeout"):
        raise ConfigError(f"{url}: the first photo was not answered ({outcome.code}): {outcome.detail}")


def _measure(
    mode: Literal["rate", "concurrency"],
    loads: tuple[float, ...],
    warm_up_s: float,
    duration_s: float,
    record: Callable[[float, float, Callable[[float, int], None]], Recording],
) -> tuple[list[Step], bool]:
    """A step for each load, and whether Ctrl-C ended them."""
    from rich.console import Console
    from rich.progress import Progress

    from maskserve.load.summary import summarise

    until_s = warm_up_s + duration_s
    console = Console(stderr=True)
    steps: list[Step] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("", total=until_s * len(loads))
        for number, load in enumerate(loads):

            def look(elapsed_s: float, in_flight: int, load: float = load, before_s: float = number * until_s) -> None:
                text = f"{_load_text(mode, load)}: {in_flight} under way"
                bars.update(bar, completed=before_s + min(elapsed_s, until_s), description=text)

            recording = record(load, until_s, look)
            steps.append(summarise(mode, load, recording, warm_up_s=warm_up_s, until_s=until_s))
            if recording.stopped_s is not None:
                return steps, True
    return steps, False


def _record(
    sender: Sender,
    uploads: Uploads,
    mode: Literal["rate", "concurrency"],
    load: float,
    until_s: float,
    on_look: Callable[[float, int], None],
    *,
    seed: int,
    constant: bool,
    connections: int,
) -> Recording:
    from maskserve.load.run import record
    from maskserve.load.schedule import closed_loop, open_loop

    is_open = mode == "rate"
    return record(
        sender.send,
        uploads.bodies,
        open_loop(load, until_s, seed=seed, constant=constant) if is_open else closed_loop(until_s),
        threads=connections if is_open else int(load),
        abort=sender.close,
        on_look=on_look,
        waits_after_shed=not is_open,
    )


def _report(url: str, steps: list[Step], *, as_json: bool, connections: int | None) -> None:
    if as_json:
        click.echo(json.dumps({"url": url, "steps": [asdict(step) for step in steps]}, indent=2))
    else:
        _print_table(steps)
    from maskserve.load.summary import LATE_MS

    for step in steps:
        if errors := ", ".join(f"{code} {count}" for code, count in sorted(step.everybody.errors.items())):
            click.secho(f"{_load_text(step.mode, step.load)}: errors: {errors}", fg="red", err=True)
        if connections and step.late_p99_ms > LATE_MS:
            busy = step.most_in_flight >= connections
            why = f"all {connections} connections were busy (--connections)" if busy else "this machine is too busy"
            text = f"1 % of the requests left more than {step.late_p99_ms:.0f} ms late, and latencies include it: {why}"
            click.secho(f"{_load_text(step.mode, step.load)}: {text}", fg="yellow", err=True)


def _print_table(steps: list[Step]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("load", "arm"):
        table.add_column(name, no_wrap=True)
    for name in ("requests", "answered/s", "p50 ms", "p95 ms", "p99 ms", "shed", "timeouts", "errors"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in steps:
        for row in step.rows:
            spent = [_ms(value) for value in (row.p50_ms, row.p95_ms, row.p99_ms)]
            counts = [str(count) for count in (row.shed, row.timeouts, sum(row.errors.values()))]
            load = _load_text(step.mode, step.load) if row is step.everybody else ""
            # the server's word, so no markup
            table.add_row(load, Text(row.arm), str(row.requests), f"{row.answered_per_s:.2f}", *spent, *counts)
    Console(width=None if Console().is_terminal else 120).print(table)


def _load_text(mode: str, load: float) -> str:
    return f"{load:g}/s" if mode == "rate" else f"{load:g} user{'s'[: load != 1]}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _last_line(steps: list[Step], output: Path | None) -> str:
    rows = [step.everybody for step in steps]
    total = {name: sum(getattr(row, name) for row in rows) for name in ("requests", "answered", "shed", "failed")}
    best = max((row.answered_per_s for row in rows), default=0.0)
    unanswered = sum(step.unanswered for step in steps)
    parts = [
        f"{total['answered']} of {total['requests']} requests answered",
        f"{total['shed']} shed",
        f"{total['failed']} failed",
        f"{unanswered} given up" if unanswered else "",
        f"at most {best:.2f} answers a second",
        f"plot in {output}" if output and steps else "",
    ]
    return ", ".join(part for part in parts if part)
