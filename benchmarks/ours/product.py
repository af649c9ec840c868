"""The product as its users start it: archives by `maskserve package`'s code, then `maskserve up` in a scratch folder.

<folder>/model_store/*.mar, config.properties, handlers ─▶ the repository's, maskserve.toml ─▶ `maskserve up`
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.clients import Post
from benchmarks.ours.predictor import variant
from benchmarks.servers import Server, free_port
from benchmarks.subject import ROOT
from maskserve.training.layouts import Layout


def make_archive(store: Path, name: str, run: Path, *, trunk: Path | None = None, layout: Layout | None = None) -> Path:
    """<store>/<name>.mar.

    Args:
        trunk: trunk.xml makes it an int8 archive; fp32 without.
        layout: workers, threads, batch size; None: as the packager chooses them where none are given.
    """
    from maskserve.training.package import ServingSettings, package_run
    from maskserve.training.precision import Choice

    settings = ServingSettings(score_threshold=0.0)
    if layout:
        settings = settings.tuned(layout)
    choice = Choice(variant("int8" if trunk else "fp32", trunk))
    return package_run(run, store, name=name, settings=settings, choice=choice).path


def write_settings(folder: Path, arms: Mapping[str, str]) -> dict[str, int]:
    """config.properties and maskserve.toml for the archives in `folder`/model_store; the ports that were chosen.

    Args:
        arms: the arms' names in the gateway ─▶ their models.
    """
    from maskserve.cli.torchserve_config import Ports, with_properties

    ports = Ports.free()
    loaded = ",".join(f"{model}={model}.mar" for model in arms.values())
    text = (ROOT / "config.properties").read_text()
    changed = with_properties(text, {**ports.as_properties(), "load_models": loaded})
    (folder / "config.properties").write_text(changed)
    if not (folder / "handlers").exists():
        (folder / "handlers").symlink_to(ROOT / "handlers")
    sections = [f'[arms.{arm}]\nmodel = "{model}"\n' for arm, model in arms.items()]
    (folder / "maskserve.toml").write_text("\n".join(sections))
    return {"gateway": free_port(), "torchserve": ports.rest}


def server(folder: Path, arms: Mapping[str, str]) -> tuple[Server, str]:
    """`maskserve up` on the archives in `folder`, and the gateway's address."""
    port = write_settings(folder, arms)["gateway"]
    command = [sys.executable, "-m", "maskserve.cli.main", "up", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    return Server(command, ready=f"{address}/readyz", folder=folder), address


def json_post(address: str, arm: str, photo: Path) -> Post:
    return Post.form(f"{address}/v1/predictions?arm={arm}", photo)


def picture_post(address: str, arm: str, photo: Path) -> Post:
    return Post.form(f"{address}/v1/predictions?arm={arm}&format=png", photo)
