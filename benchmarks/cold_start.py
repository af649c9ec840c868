"""From the start of TorchServe to an arm that is READY and warmed up: how long, and with what. Archives take turns.

    python benchmarks/cold_start.py model_store/mask_rcnn_r50_fpn.mar [OTHER.mar ...] --rounds 7

An archive brings its own code, so two archives of one run, made by two versions of maskserve, compare the versions.
CPU seconds depend less on what else the machine does than seconds do.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil

from maskserve.cli.torchserve_config import Ports
from maskserve.cli.torchserve_process import TorchServe

ROOT = Path(__file__).resolve().parents[1]
MODEL = "subject"
COLUMNS = {
    "READY s": "from the start of TorchServe to READY, as its management API says",
    "Java s": "of these, until the worker's process started",
    "import s": "of the worker: libraries; torch itself is loaded by TorchServe, before",
    "load s": "of the worker: network and weights",
    "warm-up s": "of the worker: a photo through everything",
    "worker CPU s": "that the worker took until READY",
}


@click.command(help=__doc__)
@click.argument("archives", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True)
def main(archives: tuple[Path, ...], rounds: int, as_json: bool) -> None:
    measured: dict[Path, list[dict[str, float]]] = {archive: [] for archive in archives}
    for number in range(rounds):
        shift = number % len(archives)
        for archive in (*archives[shift:], *archives[:shift]):
            measured[archive].append(start(archive))
            click.echo(f"round {number + 1}: {archive}  {measured[archive][-1]}", err=True)
    medians = {str(archive): _medians(rows) for archive, rows in measured.items()}
    if as_json:
        click.echo(json.dumps(medians, indent=2))
        return
    for name_of, row in medians.items():
        click.echo(f"{name_of}\n" + "".join(f"  {row[name]:7.2f} {name:13} {COLUMNS[name]}\n" for name in row))
    first = archives[0]
    for other in archives[1:]:
        for name in ("READY s", "worker CPU s"):
            ratios = [a[name] / b[name] for a, b in zip(measured[first], measured[other], strict=True)]
            click.echo(f"{first} / {other}, {name}: {np.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")


def start(archive: Path) -> dict[str, float]:
    """One start of TorchServe with the archive as its only model."""
    with tempfile.TemporaryDirectory(prefix="cold-start-") as store:
        shutil.copyfile(archive, Path(store) / f"{MODEL}.mar")
        changes = {"load_models": f"{MODEL}={MODEL}.mar"}
        begun = time.time()
        with TorchServe(ROOT / "config.properties", Path(store), ports=Ports.free(), changes=changes) as server:
            server.wait_ready()
            ready_s = time.time() - begun
            (worker,) = (one for one in psutil.Process(server.pid).children() if "python" in one.name())
            cpu = worker.cpu_times()
            said = _model_loaded(server.log_folder / "model_log.log")
            return {
                "READY s": round(ready_s, 2),
                "Java s": round(worker.create_time() - begun, 2),
                **{f"{part.replace('_', '-')} s": float(said[f"{part}_s"]) for part in _PARTS if f"{part}_s" in said},
                "worker CPU s": round(cpu.user + cpu.system, 2),
            }


_PARTS = ("import", "load", "warm_up")


def _model_loaded(log: Path) -> dict[str, Any]:
    """What the handler logged; older ones do not say how long their parts took."""
    found = re.search(r'\{"event": "model_loaded".*\}', log.read_text())
    said: dict[str, Any] = json.loads(found[0]) if found else {}
    return said


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.median([row[name] for row in rows])) for name in rows[0]}


if __name__ == "__main__":
    main()
