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
    tuning: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The card as JSON types.

    Args:
        name, version: TorchServe's.
        archive_digest: sha256 (hex) of classes.json, config.yaml and model.pth.
        facts: run.json of the run folder, kept whole under `training`.
        class_names: by class id.
        evaluation: evaluation.json of the run folder, kept whole; {} when the run was not evaluated.
        tuning: what `package --tune` measured, kept whole; None when it was not asked for.
    """
    return {
        "name": name,
        "version": version,
        "backbone": facts["backbone"],
        "task": "instance segmentation",
        "architecture": "Mask R-CNN with FPN (Detectron2)",
        "network": facts.get("network", facts["backbone"]),
        "precision": "fp32",
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
        f"{card['architecture']}, {card['network']}, {card['precision']}.",
        "",
        f"- Classes: {', '.join(card['class_names'])}",
        f"- Digest (sha256 of classes.json, config.yaml, model.pth): `{card['archive_digest']}`",
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


def _rows(facts: Mapping[str, Any], prefix: str = "") -> list[str]:
    rows: list[str] = []
    for key, value in sorted(facts.items()):
        if isinstance(value, Mapping):
            rows += _rows(value, f"{prefix}{key} / ")
        else:
            rows.append(f"- {prefix}{key}: {value}")
    return rows
