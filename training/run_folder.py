"""The folder of one training: what is in it, written so that nothing is ever half there.

runs/.mask_rcnn_r50_fpn.training/   while it trains; an interrupted one is resumed from here
runs/mask_rcnn_r50_fpn/             appears when the training is complete, in place of an earlier one

config.yaml     resolved config, enough to rebuild the model        classes.json      class names, in order
model_best.pth  state dict of tensors, FP32, Detectron2's names     run.json          how it was made
metrics.json    what was logged, one object per logged step         evaluation.json   AP on held-out photos
curves.png      losses and AP over the steps                        samples.png       held-out photos, segmented
events.*        the same for TensorBoard                            train.log         Detectron2's own log
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from maskserve.modeling.config import load_cfg
from maskserve.protos.errors import ConfigError

VERSIONS_OF = ("maskserve", "torch", "torchvision", "detectron2", "numpy", "pillow", "pycocotools")
LAST = "last.pth"


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, and atomic writing into it."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def classes(self) -> Path:
        return self.path / "classes.json"

    @property
    def weights(self) -> Path:
        return self.path / "model_best.pth"

    @property
    def last(self) -> Path:
        return self.path / LAST

    @property
    def log(self) -> Path:
        return self.path / "metrics.jsonl"

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Let `write` fill a file beside the target and put it in place when it is whole."""
        partial = self.path / f".{name}"
        try:
            write(partial)
            partial.replace(self.path / name)
        finally:
            partial.unlink(missing_ok=True)

    def write_json(self, name: str, value: object) -> None:
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        self.write(name, lambda path: path.write_text(text, encoding="utf-8", errors="backslashreplace"))

    def write_state(self, name: str, state: Mapping[str, Any]) -> None:
        self.write(name, lambda path: _save(state, path))

    def read_json(self, name: str) -> Any:
        """The JSON in a file of the run; ConfigError when it is missing or broken."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{self.path} is no run folder: it has no {name}; `maskserve train` makes one") from None
        except ValueError as error:
            raise ConfigError(f"{self.path / name} is broken: {error}; train again") from error

    def load_cfg(self) -> CfgNode:
        if not self.config.is_file():
            raise ConfigError(f"{self.path} is no run folder: it has no config.yaml; `maskserve train` makes one")
        return load_cfg(self.config)

    def load_classes(self) -> tuple[str, ...]:
        return tuple(self.read_json("classes.json"))


def _save(state: Mapping[str, Any], path: Path) -> None:
    """torch.save, with the OSError of a full disk, for which torch raises RuntimeErrors about its own positions."""
    try:
        with path.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def working_folder(output: Path, model: str) -> RunFolder:
    """Where a model of that name is trained."""
    return RunFolder(output / f".{model}.training")


def publish(working: RunFolder, final: Path, say: Callable[[str], None]) -> RunFolder:
    """Put a complete run in the place of the earlier one.

    Raises:
        ConfigError: the earlier one cannot be replaced; both are as they were.
    """
    previous = final.with_name(f".{final.name}.previous")
    try:
        with _aside(final, previous):
            working.path.replace(final)
    except OSError as error:
        raise ConfigError(
            f"the training is complete, but cannot take the place of {final} ({error}); move that away or unmount it, "
            "then give the same command with --resume"
        ) from error
    try:
        _remove(previous)
    except OSError as error:
        say(f"{previous}: the earlier run cannot be removed: {error.strerror}")
    return RunFolder(final)


@contextmanager
def _aside(path: Path, aside: Path) -> Iterator[None]:
    """Whatever is at `path` is moved away, and back when the block raises."""
    there = os.path.lexists(path)
    if there:
        _remove(aside)
        path.replace(aside)
    try:
        yield
    except BaseException:
        if there:
            aside.replace(path)
        raise


def _remove(path: Path) -> None:
    """A folder, a file or a link, if there is any; never what a link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide what comes out."""
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the checkout this code runs from, with "-dirty" for local changes; None outside of one."""
    here = Path(__file__)
    try:
        # an installed maskserve may lie in a checkout that is somebody else's
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(here.parent, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*") or None
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
