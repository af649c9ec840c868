"""`maskserve up`: archives if there are none, TorchServe, the gateway; Ctrl-C ends it all.

can it start? ─▶ first_run.ensure_archives ─▶ TorchServe until READY ─▶ gateway until Ctrl-C ─▶ TorchServe stopped
                                                                               or TorchServe's end
"""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from maskserve.cli.train import PRESETS

if TYPE_CHECKING:
    from maskserve.cli.torchserve_process import TorchServe
    from maskserve.gateway.settings import Settings

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
_LOOKS_EVERY_S = 0.5
"""How often `up` looks whether TorchServe still runs."""


@click.command(short_help="Train what is missing, then serve both arms and the gateway.")
@click.option("--data", type=FOLDER, help="Your photos: a labelme folder, or a dataset folder. Default: drawn pandas.")
@click.option(
    "--preset",
    default="quick",
    show_default=True,
    type=click.Choice(PRESETS),
    help="How long to train, where there is no archive yet.",
)
@click.option("--force", is_flag=True, help="Train although `data check` finds errors.")
@click.option("--retrain", is_flag=True, help="Train anew although there are archives.")
@click.option("--config", default="maskserve.toml", show_default=True, type=FILE, help="The gateway's settings.")
@click.option("--ts-config", default="config.properties", show_default=True, type=FILE, help="TorchServe's settings.")
@click.option("--model-store", default="model_store", show_default=True, type=FOLDER, help="Where the archives are.")
@click.option("--port", type=click.IntRange(0, 65535), help="The gateway's port instead of server.port.")
def up(
    data: Path | None,
    preset: str,
    force: bool,
    retrain: bool,
    config: Path,
    ts_config: Path,
    model_store: Path,
    port: int | None,
) -> None:
    """Serve both arms behind the gateway; train them first where there is no archive.

    Without --data, and without archives, it draws giant and red pandas and trains on them. Archives are kept: the
    next start takes seconds. With --data, an archive that was trained on other photos is replaced.

    \b
    Examples:
      maskserve up
      maskserve up --data photos/            # labelme JSON files beside their photos
      maskserve up --data photos/ --preset standard --retrain
    """
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    # a shell script's `maskserve up &` ignores SIGINT, and so would the steps, which are stopped by it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from maskserve.cli.first_run import ensure_archives
    from maskserve.cli.torchserve_process import TorchServe
    from maskserve.gateway.serve import check_port
    from maskserve.gateway.settings import load_settings

    settings = load_settings(config)
    if port is not None:
        settings = settings.model_copy(update={"server": settings.server.model_copy(update={"port": port})})
    server = TorchServe(ts_config, model_store, log_folder=Path("logs"))
    # before minutes of training, not after
    check_port(settings)
    server.check()
    ensure_archives(server.models, model_store, data, preset=preset, retrain=retrain, force=force)
    with server:
        _wait(server)
        _serve(settings, server, model_store, data)
    click.echo("stopped; archives are kept in " + str(model_store), err=True)


def _as_ctrl_c(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _wait(server: TorchServe) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting TorchServe (Java, then one worker with its model per arm)"):
        server.wait_ready(report=lambda model: console.print(f"[green]✓[/] {model} is ready"))


def _serve(settings: Settings, server: TorchServe, model_store: Path, data: Path | None) -> None:
    from maskserve.gateway.serve import serve

    update: dict[str, object] = {"address": server.address, "management_address": server.management_address}
    if server.key_file:
        update |= {"token_file": server.key_file, "management_token_file": server.key_file}
    torchserve = settings.torchserve.model_copy(update=update)
    settings = settings.model_copy(update={"torchserve": torchserve})
    archives = {model: model_store / archive for model, archive in server.models.items()}
    stopping, ended = threading.Event(), threading.Event()
    threading.Thread(target=_stop_with, args=(server, stopping, ended), daemon=True).start()
    serve(settings, ready_callback=lambda address: _say(address, settings, archives, data), stopping=stopping)
    if ended.is_set():  # and not stopped together with us, as by systemd
        server.raise_if_ended()


def _stop_with(server: TorchServe, stopping: threading.Event, ended: threading.Event) -> None:
    """Sets both when TorchServe has ended; returns when `stopping` is set."""
    while not stopping.wait(_LOOKS_EVERY_S):
        if server.poll() is not None:
            ended.set()
            stopping.set()


def _say(address: str, settings: Settings, archives: dict[str, Path], data: Path | None) -> None:
    """What is being served, and a line to paste."""
    from maskserve.cli.first_run import archive_card, sample_photo

    for name, arm in settings.arms.items():
        card = archive_card(archives[arm.model]) if arm.model in archives else {}
        classes = ", ".join(card.get("class_names", [])) or "unknown classes"
        click.echo(f"  arm {name}  {arm.model}  ({classes}; {_ap_text(card)})")
    click.echo(f"\n  open   {address}/")
    photo = shlex.quote(str(sample_photo(data, archives.values())))
    click.echo(f"  try    curl -F image=@{photo} '{address}/v1/compare?format=png' -o both.png")
    click.echo(f"  API    {address}/openapi.json     ready?  {address}/readyz     logs/ has TorchServe's log")
    click.echo("  stop   Ctrl-C\n")
    sys.stdout.flush()


def _ap_text(card: dict[str, dict[str, dict[str, float | None]]]) -> str:
    mask = card.get("evaluation", {}).get("mask", {})
    ap, ap50 = mask.get("ap"), mask.get("ap50")
    return "not evaluated" if ap is None or ap50 is None else f"mask AP50 {ap50:.0f}, AP {ap:.0f}"
