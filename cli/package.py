"""`maskserve package`: run folders ─▶ model archives for TorchServe."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from maskserve.modeling.waiting import wait_briefly
from maskserve.training.own_command import own_command

if TYPE_CHECKING:
    from maskserve.training.layouts import Objective
    from maskserve.training.package import Package
    from maskserve.training.precision import Choice, Measurement
    from maskserve.training.precision import Request as PrecisionRequest
    from maskserve.training.tuning import Tuning

OBJECTIVES = ("balanced", "latency", "throughput")


def _threads(_ctx: click.Context, _param: click.Parameter, value: str) -> int | str:
    if value == "auto":
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither a positive number nor 'auto'")
    return int(value)


_AT_LEAST_1 = click.IntRange(min=1)


@click.command(short_help="Make TorchServe archives of trained runs.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    default="model_store",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the archives.",
)
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
    "--accuracy-budget",
    metavar="POINTS",
    type=click.FloatRange(min=0),
    help="Mask AP that auto may give up, 0..100. [default: 0.3 for bf16, 1 for int8]",
)
@click.option(
    "--tune",
    "objective",
    is_flag=False,
    flag_value=OBJECTIVES[0],
    type=click.Choice(OBJECTIVES),
    metavar=f"[{'|'.join(OBJECTIVES)}]",
    help="Measure on this machine which workers, threads and batch size are best; about two minutes. After RUN.",
)
@click.option("--cores", type=_AT_LEAST_1, help="Cores that --tune may give to this model; all by default.")
@click.option("--tune-seconds", default=60.0, show_default=True, type=click.FloatRange(1), help="Of measuring.")
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    help="Photos to measure on: the dataset that RUN was trained on; for --tune alone, a COCO file or labelme folder "
    "too. [default: where run.json says]",
)
@click.option("--verify", "check", is_flag=True, help="Load the archive as TorchServe does and run one photo.")
@click.option("--photo", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="For --verify and --tune.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
def package(
    runs: tuple[Path, ...],
    out: Path,
    name: str | None,
    version: str,
    precision: Any,
    accuracy_budget: float | None,
    objective: Objective | None,
    cores: int | None,
    tune_seconds: float,
    data: Path | None,
    check: bool,
    photo: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Make model archives of run folders: <out>/<model>.mar, one per RUN.

    An archive holds weights, config, classes, a model card and the code that runs them. The same run gives the same
    bytes.

    --tune takes the most images/s whose latency is at most 1.5 times the shortest (balanced), the shortest latency,
    or the most images/s whatever the latency (throughput); see docs/serving.md.

    \b
    Examples:
      maskserve package runs/mask_rcnn_r50_fpn runs/mask_rcnn_mnv2_fpn --verify
      maskserve package runs/mask_rcnn_r50_fpn --precision auto --accuracy-budget 0.5
      maskserve package runs/mask_rcnn_r50_fpn --tune
      maskserve package runs/mask_rcnn_r50_fpn --tune throughput --cores 4 --data photos/
    """
    if name and len(runs) > 1:
        raise click.UsageError("--name is for one RUN")
    if accuracy_budget is not None and precision != "auto":
        raise click.UsageError("--accuracy-budget is for --precision auto")
    if objective:
        _refuse_beside_tune(click.get_current_context())
    wait_briefly()  # before torch is loaded

    from maskserve.training.package import ServingSettings, model_name, package_run, read_run
    from maskserve.training.precision import Request

    serving, asked = ServingSettings(**settings), Request(precision, data, accuracy_budget)
    for run in runs:  # all of them before minutes of measuring; its errors say more than those of a part's reader
        model_name(run, read_run(run), name)
    made = []
    for run in runs:
        with tempfile.TemporaryDirectory(prefix="maskserve-package-") as scratch:
            choice = _choice(run, asked, Path(scratch), serving.threads)
            if choice.measurement:
                click.echo(_precision_table(choice.measurement), err=as_json)
            tuning = None
            if objective:
                tuning = _tune(
                    run, choice, objective, serving.batch_delay_ms, cores, tune_seconds, data, photo, Path(scratch)
                )
                click.echo(_tuning_table(tuning), err=as_json)
            one = package_run(run, out, name=name, version=version, settings=serving, choice=choice, tuning=tuning)
        made.append(_as_json(one, choice, tuning))
        click.echo(f"{one.path}  {one.size_bytes / 2**20:.1f} MiB  digest {one.archive_digest[:12]}", err=as_json)
        if check:
            made[-1]["verified"] = _verify(one.path, photo, quiet=as_json)
    if as_json:
        click.echo(json.dumps(made, indent=2))
    else:
        command = own_command("up", "--model-store", out)
        click.echo(f"Packaged {len(made)}. Next: `{command}` serves the archives there that config.properties names.")


def _refuse_beside_tune(context: click.Context) -> None:
    chosen = ("workers", "threads", "batch_size")
    given = [name for name in chosen if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if given:
        raise click.UsageError(f"--tune chooses --{given[0].replace('_', '-')}; leave one of the two out")


def _choice(run: Path, asked: PrecisionRequest, scratch: Path, threads: int | str) -> Choice:
    """The precision of `run`'s archive, measured where that is asked for; int8's files lie in `scratch`."""
    from maskserve.cli.progress import progress
    from maskserve.training.precision import settle_precision

    with progress(f"{run.name}: {asked.precision}") as on_step:
        return settle_precision(
            run, asked, scratch, threads=threads if isinstance(threads, int) else None, on_step=on_step
        )


def _tune(
    run: Path,
    choice: Choice,
    objective: Objective,
    batch_delay_ms: int,
    cores: int | None,
    seconds: float,
    data: Path | None,
    photo: Path | None,
    scratch: Path,
) -> Tuning:
    """What is measured for `run` in the precision of `choice`. Ctrl-C ends the measured processes, too."""
    from maskserve.cli.progress import progress
    from maskserve.training.tuning import tune
    from maskserve.training.tuning_photos import tuning_photos

    with progress(f"measuring {run.name}") as bar:
        return tune(
            run,
            tuning_photos(run, scratch, data=data, photo=photo),
            objective=objective,
            batch_delay_ms=batch_delay_ms,
            variant=choice.variant,
            cores=cores,
            seconds=seconds,
            on_window=bar,
        )


def _tuning_table(tuning: Tuning) -> str:
    """What was measured, a line a layout, the chosen one marked."""
    lines = [f"{tuning.machine}; {tuning.photos} photos, {tuning.worker_memory_bytes / 2**20:.0f} MiB a worker"]
    lines.append(f"{'workers × threads':>17} {'batch':>5} {'images/s':>9} {'alone ms':>9} {'p95':>6} {'busy ms':>8}")
    for row in tuning.rows:
        layout = row.layout
        figures = f"{row.images_per_s:9.2f} {row.latency_ms:9.0f} {row.latency_p95_ms:6.0f} {row.busy_ms:8.0f}"
        mark = f"  ◀ {tuning.objective}" if row == tuning.chosen else ""
        lines.append(f"{f'{layout.workers} × {layout.threads}':>17} {layout.batch_size:5} {figures}{mark}")
    return "\n".join(lines)


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


def _precision_table(measured: Measurement) -> str:
    """Rows: precision, proposals, mask AP, its difference to the first row, ms of a photo, speed-up; what was left out,
    and why.
    """
    lines = [f"{'precision':10}{'proposals':>10}{'mask AP':>9}{'difference':>12}{'ms':>9}{'speed-up':>10}"]
    exact = measured.rows[0]
    for row in measured.rows:
        numbers = f"{row.mask_ap:9.1f}{row.mask_ap - exact.mask_ap:+12.1f}{row.ms:9.1f}{row.speed_up:9.2f}×"
        lines.append(f"{row.precision:10}{row.proposals:10}{numbers}" + "  chosen" * (row == measured.chosen))
    lines += [f"{name:10}  not measured: {reason}" for name, reason in measured.left_out.items()]
    few = "; these are few, differences of AP may be chance" if measured.few_photos else ""
    return "\n".join([*lines, f"Judged by {measured.photo_count} photos: {measured.photos}{few}."])


def _as_json(made: Package, choice: Choice, tuning: Tuning | None) -> dict[str, Any]:
    return {
        "path": str(made.path),
        "model": made.model,
        "version": made.version,
        "archive_digest": made.archive_digest,
        "size_bytes": made.size_bytes,
        "precision": choice.variant.precision,
        "proposals": made.proposals,
        "precision_measured": choice.measurement.to_json() if choice.measurement else None,
        "tuning": tuning.to_json() if tuning else None,
    }
