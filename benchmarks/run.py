"""`python -m benchmarks.run`: all rows in one run ─▶ the target table, results.json, docs/benchmarks.md and its plots.

A row that fails says why and the others go on; then the exit status is 1. Ctrl-C and SIGTERM stop what was started.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.bench import Bench
from benchmarks.document import write_document
from benchmarks.floor import peaks
from benchmarks.machine import others_that_disturb
from benchmarks.results import Results, Row, failed
from benchmarks.rows import Group, cold_start, gateway, gpu, growth, model_path, pixels, serving, throughput, training
from benchmarks.table import summary, target_table

FILE = click.Path(path_type=Path, dir_okay=False)
ROUNDS, FULL_ROUNDS = 7, 11


def all_groups(*, full: bool) -> list[Group]:
    """In the order of running: what needs quiet first, what needs memory last."""
    return [
        *model_path.groups(),
        *pixels.groups(),
        *training.groups(),
        *gateway.groups(),
        *gpu.groups(),
        *cold_start.groups(full=full),
        *serving.groups(full=full),
        *throughput.groups(full=full),
        *growth.groups(full=full),
    ]


def chosen_groups(groups: Sequence[Group], only: Sequence[str]) -> list[Group]:
    """The groups with the claims whose names are, or begin with, one of `only`. Raises UsageError for one unknown."""
    names = [claim.name for group in groups for claim in group.claims]
    for word in only:
        if not any(_is_of(name, word) for name in names):
            areas = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
            raise click.UsageError(f"--only {word}: no such row; rows begin with {areas} (--list shows them all)")
    cut = [
        replace(group, claims=[c for c in group.claims if not only or any(_is_of(c.name, word) for word in only)])
        for group in groups
    ]
    return [group for group in cut if group.claims]


def measure(groups: Sequence[Group], bench: Bench, on_row: Callable[[Row], None] = lambda _row: None) -> list[Row]:
    """A row for every claim, in the claims' order; a claim whose measurement raises becomes a failed row."""
    rows: dict[str, Row] = {}
    for group in groups:
        try:
            for row in group.measure(bench, group.claims):
                rows[row.claim.name] = row
                on_row(row)
        except Exception as error:  # noqa: BLE001  (told in the rows)
            for claim in group.claims:
                if claim.name not in rows:
                    rows[claim.name] = failed(claim, error)
                    on_row(rows[claim.name])
    return [rows[claim.name] for group in groups for claim in group.claims]


@click.command()
@click.option("--full", is_flag=True, help=f"How the cost grows too, and {FULL_ROUNDS} rounds instead of {ROUNDS}.")
@click.option("--only", multiple=True, metavar="NAME", help="Only the rows whose names begin so; may be repeated.")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds in which everything has a turn.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the results there too."
)
@click.option("--docs/--no-docs", default=None, help="Write docs/benchmarks*; by default when every row was run.")
@click.option("--list", "list_only", is_flag=True, help="Say the rows' names and end.")
def main(
    full: bool, only: tuple[str, ...], rounds: int | None, json_path: Path | None, docs: bool | None, list_only: bool
) -> None:
    """Measure maskserve and its peers side by side.

    \b
    Examples:
      python -m benchmarks.run
      python -m benchmarks.run --only model.mnv2.320 --only pixels --rounds 3
      python -m benchmarks.run --full --json results.json --no-docs
    """
    groups = chosen_groups(all_groups(full=full), only)
    if list_only:
        click.echo("\n".join(claim.name for group in groups for claim in group.claims))
        return
    if json_path:
        _check_writable(json_path)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _as_ctrl_c)
    for other in others_that_disturb():
        click.echo(f"! beside the benchmark runs {other}: stop it, or the figures are not worth much", err=True)
    results = run(groups, full=full, rounds=rounds or (FULL_ROUNDS if full else ROUNDS))
    click.echo(target_table(results.rows))
    if json_path:
        json_path.write_text(results.to_json(), encoding="utf-8")
    written = docs if docs is not None else not only
    if written:
        write_document(results)
    where = "; docs/benchmarks.md and docs/benchmarks/ are written" if written else ""
    click.echo(f"\n{summary(results.rows)}, in {results.wall_s / 60:.1f} minutes{where}")
    sys.exit(any(row.failed for row in results.rows))


def _check_writable(path: Path) -> None:
    """Raises UsageError now and not after a quarter of an hour; the file is there then, as it was or empty."""
    try:
        path.touch()
    except OSError as error:
        raise click.UsageError(f"--json {path} cannot be written ({error.strerror}); name another file") from None


def run(groups: Sequence[Group], *, full: bool, rounds: int) -> Results:
    """One run in a scratch folder of its own, which is gone afterwards."""
    from maskserve.training.latency import machine
    from maskserve.training.run_folder import git_commit, versions

    start, started = time.monotonic(), time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    scratch = Path(tempfile.mkdtemp(prefix="maskserve-bench-", dir="/tmp"))
    try:
        with _voice() as say:
            bench = Bench(scratch, rounds, full, say)
            rows = measure(groups, bench, lambda row: _tell(row, start))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Results(
        machine=machine(),
        started=started,
        commit=git_commit() or "unknown",
        mode="bench-full" if full else "bench",
        rounds=rounds,
        wall_s=time.monotonic() - start,
        versions=versions(),
        peaks=peaks(bench.bursts),
        rows=tuple(rows),
        series=bench.series,
    )


@contextmanager
def _voice() -> Iterator[Callable[[str], None]]:
    """What happens now, on a terminal in one line that is written over."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("…") as status:
        yield lambda text: status.update(text)


def _tell(row: Row, start: float) -> None:
    measured = f"{row.median:.3g} {row.claim.unit}" if row.values else row.problem or row.note
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    click.echo(f"{minutes:3}:{seconds:02}  {row.claim.name:32} {measured}", err=True)


def _is_of(name: str, word: str) -> bool:
    return name == word or name.startswith(word.rstrip(".") + ".")


def _as_ctrl_c(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
