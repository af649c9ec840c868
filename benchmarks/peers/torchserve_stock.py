"""TorchServe by its own documentation: archiver, a config.properties with addresses, tokens off, the rest default.

Not set, so TorchServe's own: workers for each core, threads, heap, logging. The one limit that is raised is that of an
answer's size, without which no answer with bitmasks would arrive.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.clients import Post
from benchmarks.servers import Server, free_port

NAME = "stock"
_ANSWER_BYTES = 500_000_000


def make_archive(folder: Path, run: Path, *, masks: bool) -> Path:
    """<folder>/stock.mar of a run folder's model and the handler; the one that is there, if other rows asked for it."""
    made = folder / f"{NAME}.mar"
    if made.is_file():
        return made
    stage = folder / "stage"
    stage.mkdir(parents=True)
    shutil.copyfile(run / "model_best.pth", stage / "model.pth")
    shutil.copyfile(run / "config.yaml", stage / "config.yaml")
    (stage / "model-config.yaml").write_text(f"masks: {str(masks).lower()}\n")
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", NAME, "--version", "1.0"]
    command += ["--handler", str(Path(__file__).with_name("torchserve_handler.py")), "--serialized-file", "model.pth"]
    command += ["--extra-files", "config.yaml", "--config-file", "model-config.yaml", "--export-path", str(folder)]
    temp = folder / "archiver"
    temp.mkdir()
    subprocess.run(command, cwd=stage, env=os.environ | {"TMPDIR": str(temp)}, capture_output=True, check=True)
    return made


def server(folder: Path, *, workers: int | None = None, threads: int | None = None) -> tuple[Server, Post]:
    """The server on the archive in `folder`, and where photos are posted (without one).

    Args:
        workers: processes; None: as many as cores, TorchServe's default.
        threads: of each worker; None: torch's default.
    """
    from maskserve.cli.java import java_home

    ports = [free_port() for _ in range(5)]
    inference, management, metrics, grpc, grpc_management = ports
    settings = {
        "inference_address": f"http://127.0.0.1:{inference}",
        "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{metrics}",
        "grpc_inference_port": grpc,
        "grpc_management_port": grpc_management,
        "model_store": folder,
        "load_models": f"{NAME}.mar",
        "disable_token_authorization": "true",
        "max_response_size": _ANSWER_BYTES,
        **({"default_workers_per_model": workers} if workers else {}),
    }
    config = folder / f"config-{inference}.properties"
    config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    logs = folder / f"logs-{inference}"
    environment = {"JAVA_HOME": str(java_home(os.environ)), "LOG_LOCATION": str(logs), "METRICS_LOCATION": str(logs)}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs"]
    command += ["--model-store", str(folder), "--ts-config", str(config)]
    ready = f"http://127.0.0.1:{inference}/ping"
    return (
        Server(command, ready=ready, environment=environment, folder=folder),
        Post(f"http://127.0.0.1:{inference}/predictions/{NAME}", b"", "image/jpeg"),
    )
