"""The real labelme package's own loader, in a process of its own: labelme leaves files open, and warns about it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# labelme's icons and buttons need a display's libraries; its loader does not
_LOAD = """
import json, sys
from unittest.mock import MagicMock
sys.modules["labelme.utils.qt"] = MagicMock()
from labelme.label_file import LabelFile
loaded = [LabelFile(name) for name in sys.argv[1:]]
print(json.dumps([{"shapes": f.shapes, "imagePath": f.imagePath, "bytes": len(f.imageData)} for f in loaded]))
"""


def load_with_labelme(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Each file's shapes, imagePath and size of the photo that labelme found; fails on anything it complains about."""
    command = [sys.executable, "-c", _LOAD, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    loaded: list[dict[str, Any]] = json.loads(done.stdout)
    return loaded
