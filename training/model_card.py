"""What an archive says about its model: model_card.json for programs, MODEL_CARD.md for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def model_card(
    name: str,
    version: str,
    archive_digest: str,
    facts: Mapping[str, Any],
    class_names: Sequence[str],
    evaluation: Mapping[str, Any],
    *,
    tuning: Mapping[str, Any] | None = None,
    precision: str,
    proposals: int,
    precision_measured: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The card as JSON types.

    Args:
        name, version: TorchServe's.
        archive_digest: sha256 (hex) of classes.json, config.yaml and model.pth (int8: trunk.bin, trunk.xml).
        facts: run.json of the run folder, kept whole under `training`.
        class_names: by class id.
        evaluation: evaluation.json of the run folder, kept whole; {} when the run was not evaluated.
        tuning: what `package --tune` measured, kept whole; None when it was not asked for.
        precision: in which the archive runs.
        proposals: the RPN's best boxes of a photo, which go to the heads.
        precision_measured: `maskserve.training.precision.Measurement` that chose it; None when it was asked for.
    """
    return {
        "name": name,
        "version": version,
        "backbone": facts["backbone"],
        "task": "instance segmentation",
        "architecture": "Mask R-CNN with FPN (Detectron2)",
        "network": facts.get("network", facts["backbone"]),
        "precision": precision,
        "proposals": proposals,
        "precision_measured": precision_measured and dict(precision_measured),
        "class_names": list(class_names),
        "archive_digest": archive_digest,
        "training": dict(facts),
        "evaluation": dict(evaluation),
        **({"tuning": dict(tuning)} if tuning else {}),
    }


def model_card_text(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    lines = [
        f"# {card['name']} {card['version']}",
        "",
        f"{card['architecture']}, {card['network']}, {card['precision']}, {card['proposals']} proposals.",
        "",
        f"- Classes: {', '.join(card['class_names'])}",
        f"- Digest (sha256 of {_model_files(card)}): `{card['archive_digest']}`",
        "",
        "## Precision",
        "",
        *_precision(card),
        "",
        "## Training",
        "",
        *(_rows(card["training"]) or ["Not recorded."]),
        "",
        "## Evaluation",
        "",
        *(_rows(card["evaluation"]) or ["Not evaluated: run `maskserve evaluate` before packaging."]),
        "",
        *_tuning(card.get("tuning")),
        "## Use",
        "",
        "For photos like those it was trained on. Scores are not calibrated probabilities.",
    ]
    return "\n".join(lines) + "\n"


def _tuning(tuning: Mapping[str, Any] | None) -> list[str]:
    if not tuning:
        return []
    lines = [
        "## Workers, threads, batch",
        "",
        f"Measured on {tuning['machine']}, {tuning['photos']} photos; chosen for: {tuning['objective']}.",
        "",
        "| workers | threads each | batch | images/s, all busy | ms, alone (p95) | |",
        "|---|---|---|---|---|---|",
    ]
    for row in tuning["rows"]:
        layout = f"| {row['workers']} | {row['threads']} | {row['batch_size']} | {row['images_per_s']:.2f} "
        alone = f"| {row['latency_ms']:.0f} ({row['latency_p95_ms']:.0f}) "
        lines.append(f"{layout}{alone}| {'chosen' if row['chosen'] else ''} |")
    return [*lines, ""]


def _model_files(card: Mapping[str, Any]) -> str:
    return "classes.json, config.yaml, model.pth" + ", trunk.bin, trunk.xml" * (card["precision"] == "int8")


def _precision(card: Mapping[str, Any]) -> list[str]:
    measured, chosen = card["precision_measured"], (card["precision"], card["proposals"])
    if measured is None:
        return [f"{card['precision']}, as asked for; not measured (`maskserve package --precision auto` measures)."]
    exact = measured["rows"][0]
    lines = [
        "| precision | proposals | mask AP | difference | budget | box AP | ms | speed-up | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in measured["rows"]:
        name, count, difference = row["precision"], row["proposals"], row["mask_ap"] - exact["mask_ap"]
        budget = "" if row == exact else f"{-measured['budgets'][name]:g}"
        cells = [name, str(count), f"{row['mask_ap']:.1f}", f"{difference:+.1f}", budget]
        cells += [f"{row['box_ap']:.1f}", f"{row['ms']:g}", f"{row['speed_up']:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {'chosen' if (name, count) == chosen else ''} |")
    left_out = [f"- {name}: not measured, {reason}" for name, reason in sorted(measured["left_out"].items())]
    few = " These are few: differences of AP may be chance." if measured["few_photos"] else ""
    judged = f"Judged by {measured['photo_count']} photos: {measured['photos']}.{few}"
    return [*lines, "", *left_out, "", f"{judged} On {measured['machine']}."]


def _rows(facts: Mapping[str, Any], prefix: str = "") -> list[str]:
    rows: list[str] = []
    for key, value in sorted(facts.items()):
        if isinstance(value, Mapping):
            rows += _rows(value, f"{prefix}{key} / ")
        else:
            rows.append(f"- {prefix}{key}: {value}")
    return rows
