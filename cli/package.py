"""`maskserve package`: run folders ─▶ model archives for TorchServe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from maskserve.training.package import Package
    from maskserve.training.precision import Measurement


def _threads(_ctx: click.Context, _param: click.Parameter, value: str) -> int | str:
    if value == "auto":
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither a positive number nor 'auto'")
    return int(value)


_AT_LEAST_1 = click.IntRange(min=1)


@click.command(short_help="Make TorchServe archives of trained runs.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", default="model_store", type=click.Path(path_type=Path), help="Folder of the archives.")
@click.option("--name", help="TorchServe's name of the model; the run's own by default.")
@click.option("--version", default="1.0", show_default=True, help="TorchServe's version of the model.")
@click.option("--workers", default=1, show_default=True, type=_AT_LEAST_1, help="Processes that serve the model.")
@click.option("--batch-size", default=1, show_default=True, type=_AT_LEAST_1, help="Images in one forward pass.")
@click.option("--batch-delay-ms", default=10, show_default=True, type=_AT_LEAST_1, help="Wait for a batch to fill.")
@click.option("--response-timeout-s", default=60, show_default=True, type=_AT_LEAST_1, help="Then a worker is killed.")
@click.option("--startup-timeout-s", default=180, show_default=True, type=_AT_LEAST_1, help="Longest time to load.")
@click.option(
    "--threads", default="auto", show_default=True, metavar="N|auto", callback=_threads, help="CPU threads of a worker."
)
@click.option(
    "--score-threshold",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="For requests that choose none.",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "bf16", "int8", "auto"]),
    help="What to calculate in; auto measures here and takes the fastest within the accuracy budget.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Dataset that int8 and auto need: the one that RUN was trained on. [default: where run.json says]",
)
@click.option(
    "--accuracy-budget",
    metavar="POINTS",
    type=click.FloatRange(min=0),
    help="Mask AP that auto may give up, 0..100. [default: 0.3 for bf16, 1 for int8]",
)
@click.option("--verify", "check", is_flag=True, help="Load the archive as TorchServe does and run one photo.")
@click.option("--photo", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The photo of --verify.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
def package(
    runs: tuple[Path, ...],
    out: Path,
    name: str | None,
    version: str,
    precision: Any,
    data: Path | None,
    accuracy_budget: float | None,
    check: bool,
    photo: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Make model archives of run folders: <out>/<model>.mar, one per RUN.

    An archive holds weights, config, classes, a model card and the code that runs them. The same run gives the same
    bytes.

    \b
    Examples:
      maskserve package runs/mask_rcnn_r50_fpn runs/mask_rcnn_mnv2_fpn --verify
      maskserve package runs/mask_rcnn_r50_fpn --precision auto
      maskserve package runs/mask_rcnn_r50_fpn --precision auto --data dataset --accuracy-budget 0.5
    """
    if name and len(runs) > 1:
        raise click.UsageError("--name is for one RUN")
    if accuracy_budget is not None and precision != "auto":
        raise click.UsageError("--accuracy-budget is for --precision auto")
    import os

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded; see cli/train.py

    from maskserve.cli.progress import progress
    from maskserve.training.package import ServingSettings, package_run
    from maskserve.training.precision import Request

    serving, asked = ServingSettings(**settings), Request(precision, data, accuracy_budget)
    made = []
    for run in runs:
        with progress(f"{run.name}: {precision}") as on_step:
            one = package_run(run, out, name=name, version=version, settings=serving, precision=asked, on_step=on_step)
        made.append(_as_json(one))
        if one.choice.measurement:
            click.echo(_table(one.choice.precision, one.choice.measurement), err=as_json)
        click.echo(f"{one.path}  {one.size_bytes / 2**20:.1f} MiB  digest {one.archive_digest[:12]}", err=as_json)
        if check:
            made[-1]["verified"] = _verify(one.path, photo, quiet=as_json)
    if as_json:
        click.echo(json.dumps(made, indent=2))
    else:
        click.echo(f"Packaged {len(made)}. Next: `make up` serves the archives of {out}/ that config.properties names.")


def _verify(archive: Path, photo: Path | None, *, quiet: bool) -> dict[str, Any]:
    from maskserve.training.verify import verify

    answer = verify(archive, photo.read_bytes() if photo else None).answer
    found = [f"{one['class_name']} {one['score']:.2f}" for one in answer["instances"]]
    click.echo(
        f"  verified: {len(found)} instances in {answer['timings']['total_ms']:.0f} ms"
        + (f" ({', '.join(found[:5])}{', …' if len(found) > 5 else ''})" if found else ""),
        err=quiet,
    )
    return {"instances": len(found), "total_ms": answer["timings"]["total_ms"]}


def _table(chosen: str, measured: Measurement) -> str:
    """Rows: precision, mask AP, its difference to fp32, ms of a photo, speed-up; what was left out, and why."""
    lines = [f"{'precision':10}{'mask AP':>9}{'difference':>12}{'ms':>9}{'speed-up':>10}"]
    exact = measured.rows[0]
    for row in measured.rows:
        numbers = f"{row.mask_ap:9.1f}{row.mask_ap - exact.mask_ap:+12.1f}{row.ms:9.1f}{row.speed_up:9.2f}×"
        lines.append(f"{row.precision:10}{numbers}" + "  chosen" * (row.precision == chosen))
    lines += [f"{name:10}  not measured: {reason}" for name, reason in measured.left_out.items()]
    few = "; these are few, differences of AP may be chance" if measured.few_photos else ""
    return "\n".join([*lines, f"Judged by {measured.photo_count} photos: {measured.photos}{few}."])


def _as_json(made: Package) -> dict[str, Any]:
    return {
        "path": str(made.path),
        "model": made.model,
        "version": made.version,
        "archive_digest": made.archive_digest,
        "size_bytes": made.size_bytes,
        "precision": made.choice.precision,
        "precision_measured": made.choice.measurement.to_json() if made.choice.measurement else None,
    }
