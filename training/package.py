"""A run folder ─▶ a TorchServe model archive that needs nothing else of maskserve.

    RUN ─▶ read_run ─▶ stage (model, card, source) ─▶ torch-model-archiver ─▶ the same zip without times ─▶ <model>.mar

In the archive:
    mask_rcnn.py                                     the entry
    maskserve/{handlers, modeling, imaging, protos}  the source it runs on; it wins over an installed maskserve
    model.pth, config.yaml, classes.json             the model: tensors only, resolved config, class names
    trunk.xml, trunk.bin                             precision int8 only: the trunk as OpenVINO runs it
    model-config.yaml                                how TorchServe and the handler shall run it
    model_card.json, MODEL_CARD.md                   what it is, what it was trained on, how well it does
Same run, same settings, same source: same bytes (except measured milliseconds, see `maskserve.training.precision`).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from detectron2.config import CfgNode

from maskserve.modeling.config import load_cfg
from maskserve.modeling.loading import load_state_dict
from maskserve.modeling.openvino_trunk import TRUNK_FILES
from maskserve.protos.errors import ConfigError
from maskserve.training.archive import add_source, archive, without_times
from maskserve.training.layouts import Layout
from maskserve.training.model_card import model_card, model_card_text
from maskserve.training.precision import Choice
from maskserve.training.tuning import Tuning

# in the order in which `unzip -p` gives them
_MODEL_FILES = ("classes.json", "config.yaml", "model.pth", *TRUNK_FILES)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")
_TRIES_AGAIN_S = 14 * 24 * 3600
"""So long TorchServe starts a worker anew that does not load. After its own 300 s it never would, and a shortage of
memory may last longer. At most 24 days: it counts milliseconds in 31 bits."""


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """How TorchServe runs the model; becomes model-config.yaml."""

    workers: int = 1
    batch_size: int = 1
    batch_delay_ms: int = 10
    response_timeout_s: int = 60
    startup_timeout_s: int = 180
    threads: int | Literal["auto"] = "auto"
    score_threshold: float = 0.5

    def tuned(self, layout: Layout) -> ServingSettings:
        """The same with what was measured to be best."""
        return replace(self, workers=layout.workers, threads=layout.threads, batch_size=layout.batch_size)

    def as_yaml(self, precision: str) -> str:
        """TorchServe's own keys first; it passes the others on to the handler."""
        keys = {
            "minWorkers": self.workers,
            "maxWorkers": self.workers,
            "batchSize": self.batch_size,
            "maxBatchDelay": self.batch_delay_ms,
            "responseTimeout": self.response_timeout_s,
            "startupTimeout": self.startup_timeout_s,
            "maxRetryTimeoutInSec": _TRIES_AGAIN_S,
            "threads": self.threads,
            "precision": precision,
            "score_threshold": self.score_threshold,
        }
        return yaml.safe_dump(keys, sort_keys=False)


@dataclass(frozen=True, slots=True)
class Package:
    """An archive that was made."""

    path: Path
    model: str
    version: str
    archive_digest: str
    """sha256 (hex) over classes.json, config.yaml and model.pth (int8: trunk.bin, trunk.xml), one after the other."""
    size_bytes: int
    choice: Choice
    """How it is run, and what that was chosen by."""
    proposals: int
    """The RPN's best boxes of a photo, which go to the heads."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a run folder says, checked."""

    cfg: CfgNode
    """Without the trainer's paths."""
    class_names: list[str]
    weights: Path
    facts: dict[str, Any]
    """run.json: backbone, model, initial weights, data hash, …"""
    evaluation: dict[str, Any]


def package_run(
    run: Path,
    store: Path,
    *,
    name: str | None = None,
    version: str = "1.0",
    settings: ServingSettings = ServingSettings(),
    choice: Choice | None = None,
    tuning: Tuning | None = None,
) -> Package:
    """Writes `<store>/<model>.mar`, whole or not at all.

    Args:
        run: a run folder, as `maskserve train` makes it.
        store: folder of archives; made when missing.
        name: TorchServe's name of the model; the run's own by default.
        version: TorchServe's version of the model.
        settings: how to serve it.
        choice: how it is run (`maskserve.training.precision.settle_precision`); as trained, in fp32, by default.
        tuning: what was measured on this machine; its choice goes into the settings, its table into the card.

    Raises:
        ConfigError: the run folder is incomplete or damaged, or the name is not one for TorchServe.
    """
    content, choice = read_run(run), choice or Choice()
    content = replace(content, cfg=choice.variant.cfg(content.cfg))
    if tuning:
        settings = settings.tuned(tuning.chosen.layout)
    name = model_name(run, content, name)
    store.mkdir(parents=True, exist_ok=True)
    # beside the result: the last step must be a rename within one file system
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=store) as folder:
        work = Path(folder)
        digest = _stage(content, work / "stage", name, version, settings, choice, tuning)
        made = archive(work, name, version)
        without_times(made, work / "final.mar")
        target = store / f"{name}.mar"
        (work / "final.mar").replace(target)
    proposals = content.cfg.MODEL.RPN.POST_NMS_TOPK_TEST
    return Package(target, name, version, digest, target.stat().st_size, choice, proposals)


def model_name(run: Path, content: Run, name: str | None) -> str:
    """TorchServe's name of a run's model; `name` where one is chosen. Raises ConfigError when it is none."""
    name = name or str(content.facts.get("model") or run.resolve().name)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a model: letters, digits and _ - . only, a letter or digit first")
    return name


def read_run(run: Path) -> Run:
    """The run folder's content. Raises ConfigError naming the file at fault."""
    if not run.is_dir():
        raise ConfigError(f"{run}: no such run folder; `maskserve train` makes one, for example runs/mask_rcnn_r50_fpn")
    for file in ("config.yaml", "classes.json", "model_best.pth", "run.json"):
        if not (run / file).is_file():
            raise ConfigError(f"{run / file}: missing, so {run} is no finished run; train it again: `maskserve train`")
    weights = run / "model_best.pth"
    load_state_dict(weights)
    class_names = _read_json(run / "classes.json")
    if not (isinstance(class_names, list) and class_names and all(isinstance(name, str) for name in class_names)):
        raise ConfigError(f"{run / 'classes.json'}: must be a list of class names")
    facts = _read_json(run / "run.json")
    if not isinstance(facts, dict) or not facts.get("backbone"):
        raise ConfigError(f"{run / 'run.json'}: must name the backbone; train it again: `maskserve train`")
    evaluation = _read_json(run / "evaluation.json") if (run / "evaluation.json").is_file() else {}
    return Run(_portable_cfg(run / "config.yaml"), class_names, weights, facts, evaluation)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); train it again: `maskserve train`") from None


def _portable_cfg(path: Path) -> CfgNode:
    """The config without the trainer's paths: they mean nothing elsewhere and would change the digest."""
    cfg = load_cfg(path)
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    cfg.OUTPUT_DIR = ""
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    return cfg


def _stage(
    content: Run,
    folder: Path,
    name: str,
    version: str,
    settings: ServingSettings,
    choice: Choice,
    tuning: Tuning | None,
) -> str:
    """Lays everything out in `folder`; returns the digest."""
    folder.mkdir()
    variant = choice.variant
    shutil.copyfile(content.weights, folder / "model.pth")
    if variant.trunk:
        for file in TRUNK_FILES:
            shutil.copyfile(variant.trunk.parent / file, folder / file)
    _write(folder / "config.yaml", content.cfg.dump())
    _write(folder / "classes.json", json.dumps(content.class_names, ensure_ascii=False, indent=2) + "\n")
    _write(folder / "model-config.yaml", settings.as_yaml(variant.precision))
    digest = _digest([folder / file for file in _MODEL_FILES if (folder / file).is_file()])
    card = model_card(
        name,
        version,
        digest,
        content.facts,
        content.class_names,
        content.evaluation,
        tuning=tuning.to_json() if tuning else None,
        precision=variant.precision,
        proposals=content.cfg.MODEL.RPN.POST_NMS_TOPK_TEST,
        precision_measured=choice.measurement.to_json() if choice.measurement else None,
    )
    _write(folder / "model_card.json", json.dumps(card, ensure_ascii=False, indent=2, sort_keys=True) + "\n")
    _write(folder / "MODEL_CARD.md", model_card_text(card))
    add_source(folder)
    return digest


def _write(path: Path, text: str) -> None:
    """In UTF-8, whatever the machine's encoding; the data's path in the card may hold what is none."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
