"""What Detectron2 0.6 needs for numpy 2, Pillow 10+, Python without setuptools, and no compiled part."""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    """Replace `pattern` (a regular expression) in `files` (a glob); it must match exactly `count` times in all."""

    files: str
    pattern: str
    replacement: str
    count: int


EDITS = (
    # numpy removed its aliases of Python's own types in 1.24
    Edit("**/*.py", r"\bnp\.(bool|int|float)\b", r"\1", 18),
    # Pillow removed this alias in 10
    Edit("data/transforms/transform.py", r"Image\.LINEAR\b", "Image.BILINEAR", 1),
    # pkg_resources left setuptools
    Edit("model_zoo/model_zoo.py", r"import pkg_resources\n", "from importlib.resources import files\n", 1),
    Edit(
        "model_zoo/model_zoo.py",
        r"pkg_resources\.resource_filename\(\s*\"detectron2\.model_zoo\", "
        r"os\.path\.join\(\"configs\", config_path\)\s*\)",
        'str(files("detectron2.model_zoo") / "configs" / config_path)',
        1,
    ),
    # the fast COCO evaluation is compiled; pycocotools is the reference anyway
    Edit("evaluation/coco_evaluation.py", r"use_fast_impl=True", "use_fast_impl=False", 2),
)

# `from detectron2 import _C` keeps working everywhere; only using a compiled operator fails.
ADDED = {
    "_C.py": '''"""Stands in for the compiled extension, which this pure-Python build does not have."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise ImportError(
        f"detectron2._C.{name}: this is the pure-Python build of Detectron2 (no rotated boxes, deformable "
        "convolutions or fast COCO evaluation); build Detectron2 from its own sources to have them"
    )
''',
}
