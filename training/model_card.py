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
) -> dict[str, Any]:
    """The card as JSON types.

    Args:
        name, version: TorchServe's.
        archive_digest: sha256 (hex) of classes.json, config.yaml and model.pth.
        facts: run.json of the run folder, kept whole under `training`.
        class_names: by class id.
        evaluation: evaluation.json of the run folder, kept whole; {} when the run was not evaluated.
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
        "## Use",
        "",
        "For photos like those it was trained on. Scores are not calibrated probabilities.",
    ]
    return "\n".join(lines) + "\n"


def _rows(facts: Mapping[str, Any], prefix: str = "") -> list[str]:
    rows: list[str] = []
    for key, value in sorted(facts.items()):
        if isinstance(value, Mapping):
            rows += _rows(value, f"{prefix}{key} / ")
        else:
            rows.append(f"- {prefix}{key}: {value}")
    return rows
