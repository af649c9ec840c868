"""`maskserve gateway`: the REST gateway by itself, in front of a TorchServe that runs already."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Serve the REST API and the page in front of TorchServe.")
@click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("maskserve.toml"),
    show_default=True,
    help="The settings: arms, weights, limits, TorchServe's address.",
)
@click.option("--host", help="Listen here instead of server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen here instead of server.port; 0 takes a free one.")
@click.option("--access-log", is_flag=True, help="Write one JSON line per request to stderr.")
def gateway(config: Path, host: str | None, port: int | None, access_log: bool) -> None:
    """Serve the REST API and the page in front of a TorchServe that runs already.

    It listens until Ctrl-C or SIGTERM, and then finishes the requests that it has. `maskserve up` starts TorchServe
    as well.

    \b
    Examples:
      maskserve gateway
      maskserve gateway --config maskserve.toml --port 8080 --access-log
      MASKSERVE_TORCHSERVE_ADDRESS=gpu-box:7070 maskserve gateway
    """
    from maskserve.gateway.serve import serve
    from maskserve.gateway.settings import load_settings

    settings = load_settings(config)
    given = {"host": host, "port": port, "access_log": access_log or None}
    changes = {key: value for key, value in given.items() if value is not None}
    server = settings.server.model_copy(update=changes)
    serve(settings.model_copy(update={"server": server}), ready_callback=_say_address)
    click.echo("gateway stopped", err=True)


def _say_address(address: str) -> None:
    click.echo(f"gateway on {address}   page: {address}/   API: {address}/openapi.json   stop: Ctrl-C")
