"""`maskserve model`: what a network is and costs, of a run or before any training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maskserve.cli.train import BACKBONES, PRESETS

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from maskserve.modeling.complexity import Complexity


@click.command(short_help="Show a network's parts, parameters and FLOPs.")
@click.argument("target", metavar=f"RUN|{'|'.join(BACKBONES)}")
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
@click.option("--preset", default="standard", show_default=True, type=click.Choice(PRESETS), help="Of an arm.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
def model(target: str, overrides: tuple[str, ...], preset: str, as_json: bool) -> None:
    """Show what the network of RUN, or of an arm that is still to be trained, is made of and costs.

    A multiply-add is 2 FLOPs. The arms are shown as `--init imagenet` would train them.

    \b
    Examples:
      maskserve model runs/mask_rcnn_r50_fpn
      maskserve model resnet50 MODEL.RESNETS.DEPTH 18
      maskserve model mobilenetv2 MODEL.MOBILENETV2.WIDTH_MULT 0.5 MODEL.LITE True --json
    """
    import json

    from maskserve.modeling.complexity import describe, measure_complexity, typical_size

    if target not in BACKBONES and overrides:
        raise click.UsageError(f"KEY VALUE pairs are for {' and '.join(BACKBONES)}; a run keeps its config")
    cfg, init = _of_arm(target, preset, overrides) if target in BACKBONES else _of_run(Path(target))
    complexity = measure_complexity(_built(cfg), typical_size(cfg))
    facts = {**_facts(cfg), "init": init}
    if as_json:
        click.echo(json.dumps({**facts, "complexity": complexity.to_json()}, indent=1))
        return
    click.echo("\n".join(f"{name.replace('_', ' '):12} {value}" for name, value in facts.items()))
    click.echo(_table(complexity))
    click.echo(describe(complexity))


def _of_arm(backbone: str, preset: str, overrides: tuple[str, ...]) -> tuple[CfgNode, str]:
    from maskserve.training.presets import ARMS, resolve_cfg

    recipe = f"{backbone}-torchvision"
    cfg = resolve_cfg(ARMS[backbone], preset=preset, recipe=recipe, class_count=1, seed=1, overrides=overrides)
    return cfg, "imagenet"


def _of_run(path: Path) -> tuple[CfgNode, str]:
    from maskserve.training.run_folder import RunFolder

    run = RunFolder(path)
    cfg = run.load_cfg()
    init = run.read_json("run.json").get("init", {})
    return cfg, f"{init.get('kind', 'unknown')}, {init.get('source', 'unknown')}"


def _built(cfg: CfgNode) -> Any:
    from maskserve.modeling.network import build_network

    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    return build_network(cfg)


def _facts(cfg: CfgNode) -> dict[str, Any]:
    from maskserve.modeling.network import backbone_name, network_name

    parts = cfg.MODEL
    trunk = parts.MOBILENETV2 if backbone_name(cfg).startswith("mobilenetv2") else parts.RESNETS
    norms = {"backbone": trunk.NORM, "fpn": parts.FPN.NORM, "mask head": parts.ROI_MASK_HEAD.NORM}
    return {
        "network": network_name(cfg),
        "norm": ", ".join(f"{part} {norm or 'none'}" for part, norm in norms.items())
        + (f", separable convolutions {parts.LITE_NORM or 'none'}" if parts.LITE else ""),
        "freeze_at": parts.BACKBONE.FREEZE_AT,
        "fpn_channels": parts.FPN.OUT_CHANNELS,
        "classes": parts.ROI_HEADS.NUM_CLASSES,
        "short_side": f"train {', '.join(map(str, cfg.INPUT.MIN_SIZE_TRAIN))}; test {cfg.INPUT.MIN_SIZE_TEST} px",
    }


def _table(complexity: Complexity) -> str:
    from maskserve.modeling.complexity import MASK_INSTANCES

    notes = {"box_head": f"{complexity.proposals} regions", "mask_head": f"{MASK_INSTANCES} instances"}
    lines = [f"{'part':12}{'parameters':>12}{'trained':>12}{'GFLOPs':>9}"]
    for name, part in complexity.by_part.items():
        numbers = f"{part.parameters:12,}{part.trainable_parameters:12,}{part.flops / 1e9:9.2f}"
        lines.append(f"{name.replace('_', ' '):12}{numbers}  {notes.get(name, '')}".rstrip())
    total = f"{complexity.parameters:12,}{complexity.trainable_parameters:12,}{complexity.flops / 1e9:9.2f}"
    return "\n".join(["", *lines, f"{'all':12}{total}", ""])
