"""What `maskserve up` does before it serves: an archive for every arm, trained where there is none.

photos ─▶ data import ─▶ train ─▶ package        every step is the user's own command, in a child process, so that
                                                 its memory is gone when the server starts
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from maskserve.protos.errors import ConfigError, DataError
from maskserve.protos.wire import MODEL_MNV2, MODEL_R50
from maskserve.training.datasets.manifest import load_manifest
from maskserve.training.own_command import own_command

BACKBONES = {MODEL_R50: "resnet50", MODEL_MNV2: "mobilenetv2"}
RUNS = Path("runs")
DEMO = Path("data/demo-pandas")
DEMO_PHOTOS = {"--train": "200", "--test": "50", "--seed": "1"}
_CHILD_STOPS_S = 20.0
_PR_SET_PDEATHSIG = 1
"""Linux's prctl: the signal a process gets when the one that started it is gone."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the arms' photos come from and where what is made of them goes."""

    photos: Path | None
    """Labelled photos to import; None: `dataset` is there already."""
    dataset: Path
    """Folder of train.json and test.json."""
    runs: Path

    @classmethod
    def of(cls, data: Path | None) -> Source:
        """The user's labelme folder or dataset folder, or the drawn pandas. Raises DataError."""
        if data is None:
            return cls(DEMO / "photos", DEMO, RUNS / DEMO.name)
        if not data.is_dir():
            raise DataError(f"{data}: no such folder; name one with labelme JSON files, or a dataset folder")
        name = data.resolve().name
        if (data / "train.json").is_file():
            return cls(None, data, RUNS / name)
        dataset = Path("data") / name
        if dataset.resolve() == data.resolve():
            # a train.json among the labels would be taken for all of them the next time
            dataset = dataset.with_name(f"{name}-dataset")
        return cls(data, dataset, RUNS / name)


def ensure_archives(
    archives: Mapping[str, str],
    model_store: Path,
    data: Path | None,
    *,
    preset: str,
    retrain: bool,
    force: bool = False,
) -> None:
    """Make every archive of {model: file} that is missing, or was trained on other photos than `data`.

    Without `data` an archive is kept whatever it was trained on; `force` trains on data with errors. Raises ConfigError
    or DataError; a step that fails has said why by itself.
    """
    if data is None and not retrain and all((model_store / archive).is_file() for archive in archives.values()):
        return
    source = Source.of(data)
    prepare_data(source)
    wanted = load_manifest(source.dataset / "train.json").data_hash
    stale = [
        model
        for model, archive in archives.items()
        if retrain or _is_stale(model_store / archive, wanted, keep=data is None)
    ]
    unknown = [archives[model] for model in stale if model not in BACKBONES or archives[model] != f"{model}.mar"]
    if unknown:
        raise ConfigError(
            f"{model_store / unknown[0]} is to be made, but `maskserve up` makes only {'.mar and '.join(BACKBONES)}"
            ".mar; package it yourself or take it out of config.properties"
        )
    if not stale:
        return
    train(stale, source, wanted, preset=preset, retrain=retrain, force=force)
    for model in stale:
        maskserve("package", str(source.runs / model), "-o", str(model_store), why="an archive for TorchServe")


def prepare_data(source: Source) -> None:
    """Photos and manifests, unless they are there."""
    if source.photos is None:
        return
    if source.photos == DEMO / "photos":
        if (source.dataset / "train.json").is_file():
            return
        # it is drawn whole or not at all
        if not source.photos.is_dir():
            options = [word for pair in DEMO_PHOTOS.items() for word in pair]
            maskserve("data", "make-pandas", str(source.photos), *options, why="no photos given: draws some pandas")
    maskserve("data", "import", str(source.photos), "-o", str(source.dataset), why="labels to manifests")


def train(
    models: list[str], source: Source, data_hash: str, *, preset: str, retrain: bool, force: bool = False
) -> None:
    """Train the arms of `models` that have no finished run on these photos."""
    todo = [model for model in models if retrain or not _is_finished(source.runs / model, data_hash, preset)]
    if not todo:
        return
    working = {model: source.runs / f".{model}.training" for model in todo}
    begun = [model for model in todo if not retrain and _is_begun(working[model], data_hash, preset)]
    others = [model for model in todo if model not in begun]
    # of other photos or with another preset: --resume would refuse it
    stale = any((working[model] / "last.pth").is_file() for model in others)
    for arms, resume in [(begun, True), (others, False)] if begun and stale else [(todo, bool(begun))]:
        options = ["--data", str(source.dataset), "--preset", preset, "--output", str(source.runs)]
        flags = [flag for flag, on in (("--resume", resume), ("--force", force)) if on]
        name = "all" if len(arms) == len(BACKBONES) else BACKBONES[arms[0]]
        why = f"{' and '.join(arms)}: this is what takes its time, minutes on a CPU"
        maskserve("train", name, *options, *flags, why=why)


def maskserve(*words: str, why: str) -> None:
    """Run one of our own commands; its output goes to stderr. Raises ConfigError when it fails."""
    click.secho(f"\n$ {own_command(*words)}", bold=True, err=True, nl=False)
    click.echo(f"   # {why}", err=True)
    command = [sys.executable, "-m", "maskserve.cli.main", *words]
    with (
        # a private temp folder: torch leaves caches in the shared one
        tempfile.TemporaryDirectory(prefix="maskserve-") as temp,
        # a session of its own: whatever stops us, the child is told once, by us
        subprocess.Popen(
            command,
            stdout=sys.stderr,
            env=os.environ | {"TMPDIR": temp},
            start_new_session=True,
            preexec_fn=_stops_with_us(),
        ) as child,
    ):
        try:
            status = child.wait()
        except KeyboardInterrupt:
            _stop(child)
            raise
    if status == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if status:
        step = f"`maskserve {' '.join(words[:2])}`"
        raise ConfigError(f"{step} {_end(status)}; nothing is being served")


def _end(status: int) -> str:
    """How a step that failed ended; one that a signal ended could not say it itself."""
    if status > 0:
        return "did not finish (see above)"
    killed = f"was ended by {signal.Signals(-status).name}"
    return f"{killed}, probably because memory was short" if status == -signal.SIGKILL else killed


def _stops_with_us() -> Callable[[], int] | None:
    """For a new child: Ctrl-C when we are killed, or a training would go on, in the folder of the next one."""
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGINT) if sys.platform == "linux" else None


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ctrl-C for the child, and time to put its files in order."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(_CHILD_STOPS_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()


def _is_stale(archive: Path, data_hash: str, *, keep: bool) -> bool:
    if not archive.is_file():
        return True
    return not keep and archive_card(archive).get("training", {}).get("data_hash") != data_hash


def archive_card(archive: Path) -> dict[str, Any]:
    """model_card.json of an archive; {} when it is not one of ours."""
    try:
        with zipfile.ZipFile(archive) as content:
            card: dict[str, Any] = json.loads(content.read("model_card.json"))
            return card
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return {}


def _is_finished(run: Path, data_hash: str, preset: str) -> bool:
    return (run / "model_best.pth").is_file() and _is_of(run / "run.json", data_hash, preset)


def _is_begun(run: Path, data_hash: str, preset: str) -> bool:
    """Whether `maskserve train --resume` can go on there."""
    return (run / "last.pth").is_file() and _is_of(run / "setup.json", data_hash, preset)


def _is_of(facts: Path, data_hash: str, preset: str) -> bool:
    said = json.loads(facts.read_bytes()) if facts.is_file() else {}
    return (said.get("data_hash"), said.get("preset")) == (data_hash, preset)


def sample_photo(data: Path | None, archives: Iterable[Path] = ()) -> Path:
    """A photo to try the server with: a held-out one of `data`, else of what an archive was trained on, else a newly
    drawn panda; where none can be drawn, a name for one.
    """
    trained_on = (archive_card(archive).get("training", {}).get("data") for archive in archives)
    known = (Path(folder) for folder in trained_on if folder)
    dataset = Source.of(data or next(filter(Path.is_dir, known), None)).dataset
    for split in ("test", "train"):
        file = dataset / f"{split}.json"
        if images := json.loads(file.read_bytes())["images"] if file.is_file() else []:
            return _as_typed(dataset / images[0]["file_name"])
    drawn = Path("data/sample")
    if not drawn.is_dir():
        from maskserve.training.datasets.pandas import make_pandas

        with contextlib.suppress(OSError):  # a folder that one may not write to is no reason not to serve
            make_pandas(drawn, train=1, test=0, seed=7)
    return next(drawn.glob("train/*.jpg"), Path("photo.jpg"))


def _as_typed(path: Path) -> Path:
    """The shortest way to name it from here."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
