"""The `maskserve` command: finds each subcommand only when it is asked for, and says errors in one line.

exit 0    done
exit 1    it did not work, or a check found errors; the last line says what to do
exit 2    the command line is wrong
exit 130  stopped with Ctrl-C
"""

from __future__ import annotations

import errno
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Any, NoReturn

import click

from maskserve.protos.errors import MaskserveError

COMMANDS = {
    "up": "maskserve.cli.up:up",
    "data": "maskserve.cli.data:data",
    "train": "maskserve.cli.train:train",
    "model": "maskserve.cli.model:model",
    "evaluate": "maskserve.cli.evaluate:evaluate",
    "compare": "maskserve.cli.compare:compare",
    "package": "maskserve.cli.package:package",
    "predict": "maskserve.cli.predict:predict",
    "gateway": "maskserve.cli.gateway:gateway",
    "bench": "maskserve.cli.bench:bench",
}


class LazyGroup(click.Group):
    """A group whose commands are imported on use, so that `maskserve --help` stays quick."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MaskserveError as error:
            _fail(ctx, str(error))
        except BrokenPipeError:
            raise  # `… | head` has read enough: click ends it quietly
        except OSError as error:
            _fail(ctx, _os_error_text(error))
        except ModuleNotFoundError as error:
            _fail(ctx, _missing_package_text(error))
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(130)


def _fail(ctx: click.Context, text: str) -> NoReturn:
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(text, err=True)
    ctx.exit(1)


def _os_error_text(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{where}the disk is full; free some space and run the command again"
    if error.errno == errno.EACCES:
        return f"{where}no permission; choose a folder that you may write to"
    return f"{where}{error.strerror or error}"


def _missing_package_text(error: ModuleNotFoundError) -> str:
    if (error.name or "").startswith("maskserve"):
        raise error
    return f"the Python package {error.name!r} is not installed; `make setup` installs everything this command needs"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="maskserve", prog_name="maskserve")
def main() -> None:
    """Fine-tune, serve and compare Detectron2 instance-segmentation models.

    \b
    Labelled photos to two served models:
      maskserve data import photos/ -o data/photos
      maskserve train all --data data/photos
      maskserve package runs/mask_rcnn_r50_fpn
      maskserve package runs/mask_rcnn_mnv2_fpn
      maskserve up
    or all of it in one: maskserve up --data photos/
    """
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: file names may hold what has no encoding


if __name__ == "__main__":
    main()
