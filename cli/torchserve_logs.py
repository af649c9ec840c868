"""What TorchServe's logs say about a start that failed, in the few lines that a person needs.

The formats are those of handlers/log4j2.xml: model_log.log has `<time> W-9000-<model>_<version>-stdout - <text>`.
"""

from __future__ import annotations

import re
from pathlib import Path

_DIED = "Backend worker process died."
_TRACEBACK = "Traceback (most recent call last):"
_LINES = 12


def server_lines(log_folder: Path) -> str:
    """The last lines that TorchServe printed, indented."""
    return _indented(_read(log_folder / "stdout.log")[-_LINES:])


def load_failure(log_folder: Path, model: str) -> str:
    """Why a worker of `model` died while loading, or "" when none did."""
    registered = [
        line for line in _read(log_folder / "ts_log.log") if "Failed to load model: " in line and model in line
    ]
    if registered:
        return _indented(registered[-1:])
    worker = re.compile(rf"\S+ W-\d+-{re.escape(model)}_[^ ]*? - (.*)")
    said = [found[1] for line in _read(log_folder / "model_log.log") if (found := worker.match(line))]
    if _DIED not in said or _TRACEBACK not in said:
        return ""
    # the first traceback is the cause; TorchServe raises again above it
    told = said[said.index(_TRACEBACK) + 1 :]
    error = next((row for row, text in enumerate(told) if text and not text[0].isspace()), None)
    if error is None:
        return ""  # still being written
    return _indented(told[max(0, error - _LINES) : error + 1])


def _read(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []


def _indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines) or "    (it said nothing)"
