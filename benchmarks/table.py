"""Results ─▶ Markdown: the target table, the floor, the stages, how cost grows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.results import Claim, Results, Row

HEAD = "| what | against | target | measured (median [min … max]) | | medians |\n|---|---|---|---|---|---|"
MARKS = {True: "✓", False: "✗", None: ""}


def document(results: Results) -> str:
    """All of the generated part of docs/benchmarks.md."""
    return "\n\n".join(part for part in _parts(results) if part)


def target_table(rows: Sequence[Row]) -> str:
    """One line for each row that is measured, has failed or could not be measured."""
    shown = [row for row in rows if row.values or row.problem]
    return "\n".join([HEAD, *map(_line, shown)]) if shown else ""


def summary(rows: Sequence[Row]) -> str:
    """`12 targets met, 3 missed, 8 not measured, 1 failed`."""
    met, missed = (sum(row.met is state for row in rows) for state in (True, False))
    unmeasured = sum(bool(row.problem) and not row.failed for row in rows)
    failures = sum(row.failed for row in rows)
    return f"{met} targets met, {missed} missed, {unmeasured} rows not measured, {failures} failed"


def number(value: float) -> str:
    """Three digits: 0.0123, 1.23, 12.3, 1,234."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _parts(results: Results) -> Iterator[str]:
    yield (
        f"{results.machine}. {results.started}, commit `{results.commit[:10]}`, {results.rounds} rounds, "
        f"{results.wall_s / 60:.0f} minutes: `make {results.mode}`. {summary(results.rows)}."
    )
    yield (
        "A ratio is taken in each round, in which all have their turn; the interval is the smallest and the largest "
        "(of 7 rounds: a 98 % interval of the median). No round is dropped. × is how many times faster than what it is "
        "compared with; % of the floor, of its requests/s, of its CPU, of its p99 as the row says."
    )
    yield target_table(results.rows)
    yield _floor(results)
    yield _stages(results.series.get("stages", {}))
    yield _request(results.series.get("request", {}))
    yield _growth(results.series)


def _line(row: Row) -> str:
    claim = row.claim
    if row.problem:
        cells = [claim.what, claim.against, _target(claim), row.problem, "", ""]
    else:
        low, high = min(row.values), max(row.values)
        measured = f"**{number(row.median)} {claim.unit}** [{number(low)} … {number(high)}], n = {len(row.values)}"
        medians = "; ".join(f"{label} {number(value)}" for label, value in row.sample_medians.items())
        note = f" ({row.note})" if row.note else ""
        cells = [
            claim.what,
            claim.against,
            _target(claim),
            measured,
            MARKS[row.met],
            f"{medians} {row.sample_unit}{note}",
        ]
    return "| " + " | ".join(text.replace("|", "/") for text in cells) + " |"


def _target(claim: Claim) -> str:
    if claim.target is None:
        return "(reported)"
    return f"{'≥' if claim.at_least else '≤'} {claim.target:g} {claim.unit}"


def _floor(results: Results) -> str:
    lines = [
        f"| {precision} | {f'{peak:,.0f} GFLOP/s' if not isinstance(peak, str) else f'not measured: {peak}'} |"
        for precision, peak in results.peaks.items()
    ]
    return "\n".join(
        [
            "### What this machine can calculate",
            "",
            "| precision | large products, all cores, median of the rounds |",
            "|---|---|",
            *lines,
        ]
    )


def _stages(stages: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    if not stages:
        return ""
    lines = ["### Where the time of a photo goes, 800 px, ms", ""]
    for title, sides in stages.items():
        kinds = list(dict.fromkeys(kind for side in sides.values() for kind in side))
        lines += [f"| {title} | {' | '.join(kinds)} | sum |", "|---" * (len(kinds) + 2) + "|"]
        for name, side in sides.items():
            cells = [number(side.get(kind, 0.0)) for kind in kinds]
            lines.append(f"| {name} | {' | '.join(cells)} | {number(sum(side.values()))} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _request(requests: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Medians of what the Server-Timing header said."""
    if not requests:
        return ""
    from statistics import median

    names = list(dict.fromkeys(name for stages in requests.values() for name in stages))
    lines = ["### One request through the product, medians, ms", ""]
    lines += [f"| arm | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for arm, stages in requests.items():
        lines.append(f"| {arm} | {' | '.join(number(median(stages[name])) for name in names)} |")
    lines.append("\n`call` is the gateway's call to TorchServe, `total` the gateway's own time, `client` the client's.")
    return "\n".join(lines)


def _growth(series: Mapping[str, Any]) -> str:
    parts = []
    for name, title in (("size", "short side, px"), ("instances", "instances")):
        if name in series:
            sides = series[name]
            values = list(next(iter(sides.values())))
            lines = [f"| ms by {title} | {' | '.join(values)} |", "|---" * (len(values) + 1) + "|"]
            lines += [f"| {side} | {' | '.join(number(of[value]) for value in values)} |" for side, of in sides.items()]
            parts.append("\n".join(lines))
    for name, points in series.get("concurrency", {}).items():
        parts.append(_loads(name, "at once", "concurrency", points))
    if "workers" in series:
        parts.append(_loads("maskserve, 8 at once", "workers", "workers", series["workers"]))
    return "\n\n".join(["### How the cost grows", *parts]) if parts else ""


def _loads(title: str, label: str, key: str, points: Sequence[Mapping[str, float]]) -> str:
    lines = [f"| {title}: {label} | answers/s | p50, ms | p99, ms | told to come back |", "|---|---|---|---|---|"]
    for point in points:
        cells = [
            f"{point[key]:g}",
            *(number(point[name]) for name in ("rate", "p50_ms", "p99_ms")),
            f"{point['shed']:g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
