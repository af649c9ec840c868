"""What TorchServe's logs say about a start that failed, in the few lines that a person needs.

The formats are those of handlers/log4j2.xml: model_log.log has `<time> W-9000-<model>_<version>-stdout - <text>`. Both
logs are appended to, so a start notes their sizes first and reads what is new.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_SERVER, _WORKERS = "ts_log.log", "model_log.log"
_DIED = "Backend worker process died."
_TRACEBACK = "Traceback (most recent call last):"
_LINES = 12


def server_lines(log_folder: Path) -> str:
    """The last lines that TorchServe printed, indented."""
    return _indented(_read(log_folder / "stdout.log")[-_LINES:])


def sizes(log_folder: Path) -> dict[str, int]:
    """{log file: bytes} before a start, for `load_failure`."""
    paths = (log_folder / name for name in (_SERVER, _WORKERS))
    return {path.name: path.stat().st_size if path.is_file() else 0 for path in paths}


def load_failure(log_folder: Path, model: str, archive: str, before: Mapping[str, int]) -> str:
    """Why `model`'s archive could not be unpacked or its worker died while loading; "" when neither is so since the
    logs had the sizes `before`.
    """
    server, workers = (_read(log_folder / name, before[name]) for name in (_SERVER, _WORKERS))
    for number, line in enumerate(server):
        if line.endswith(f"Failed to load model: {archive}"):
            return _indented(server[number : number + 2])  # the exception is below it
    worker = re.compile(rf"\S+ W-\d+-{re.escape(model)}_[^ ]*? - (.*)")
    said = [found[1] for line in workers if (found := worker.match(line))]
    if _DIED not in said or _TRACEBACK not in said:
        return ""
    # the first traceback is the cause; TorchServe raises again above it
    told = said[said.index(_TRACEBACK) + 1 :]
    error = next((row for row, text in enumerate(told) if text and not text[0].isspace()), None)
    if error is None:
        return ""  # still being written
    return _indented(told[max(0, error - _LINES) : error + 1])


def _read(path: Path, start: int = 0) -> list[str]:
    """The lines from byte `start` on; all, where the file has been rolled since."""
    content = path.read_bytes() if path.is_file() else b""
    return content[start if start <= len(content) else 0 :].decode(errors="replace").splitlines()


def _indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines) or "    (it said nothing)"
