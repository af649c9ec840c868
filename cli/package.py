"""`maskserve package`: run folders ─▶ model archives for TorchServe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from maskserve.training.package import Package


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
@click.option("--verify", "check", is_flag=True, help="Load the archive as TorchServe does and run one photo.")
@click.option("--photo", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The photo of --verify.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
def package(
    runs: tuple[Path, ...],
    out: Path,
    name: str | None,
    version: str,
    check: bool,
    photo: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Make model archives of run folders: <out>/<model>.mar, one per RUN.

    An archive holds weights, config, classes, a model card and the code that runs them. The same run gives the same
    bytes.

    \b
    Example:
      maskserve package runs/mask_rcnn_r50_fpn runs/mask_rcnn_mnv2_fpn --verify
    """
    if name and len(runs) > 1:
        raise click.UsageError("--name is for one RUN")
    from maskserve.training.package import ServingSettings, package_run

    serving = ServingSettings(**settings)
    made = []
    for run in runs:
        one = package_run(run, out, name=name, version=version, settings=serving)
        made.append(_as_json(one))
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


def _as_json(made: Package) -> dict[str, Any]:
    return {
        "path": str(made.path),
        "model": made.model,
        "version": made.version,
        "archive_digest": made.archive_digest,
        "size_bytes": made.size_bytes,
    }
