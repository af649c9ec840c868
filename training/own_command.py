"""What messages tell people to do next: commands of ours, which can be pasted whatever a folder is called."""

from __future__ import annotations

import shlex
from pathlib import Path


def own_command(*words: str | Path) -> str:
    """`maskserve` with these words, as a shell reads them."""
    return shlex.join(["maskserve", *map(str, words)])
