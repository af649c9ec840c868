"""What must hold for the repository as a whole."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOSTS = re.compile(
    r"files\.pythonhosted|pypi\.org|pypi\.python|registry\.npmjs|deb\.debian\.org|download\.pytorch", re.I
)


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name]


def test_no_registry_host_is_named() -> None:
    """Pins carry names and versions; where they come from is the user's setting."""
    this = Path(__file__)
    named = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path != this and path.is_file() and HOSTS.search(path.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert named == []


def test_every_requirement_is_pinned() -> None:
    """`requirements.txt` has exact versions only."""
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert lines
    assert [line for line in lines if not re.match(r"^[\w.\-\[\]]+==\S+", line)] == []


def test_no_photo_or_weight_is_committed() -> None:
    """People's photos and weights stay out; archives are made, not committed."""
    kinds = {".jpg", ".jpeg", ".pth", ".pkl", ".mar", ".safetensors", ".onnx"}
    assert [path.name for path in tracked_files() if path.suffix.lower() in kinds] == []
