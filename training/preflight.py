"""What is looked at before a training starts: the labels and photos, as `maskserve data check` looks at them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from maskserve.protos.errors import DataError
from maskserve.training.datasets.check import Report, check
from maskserve.training.hooks import Progress
from maskserve.training.own_command import own_command

LISTED = 3
"""So many findings are printed; `data check` prints them all."""
NOTE_PERIOD_S = 15.0


def check_data(data: Path, data_hash: str, *, force: bool, progress: Progress) -> int:
    """The number of errors in the data, which only `force` lets be more than 0.

    Raises:
        DataError: there are errors; the text lists the first few.
    """
    told: Any = progress
    report = _report(data, data_hash, told)
    if not report.error_count:
        return 0
    count = "1 error" if report.error_count == 1 else f"{report.error_count} errors"
    if force:
        progress.note(f"{data}: `maskserve data check` finds {count}; trains all the same (--force)")
        return report.error_count
    errors = [str(finding) for finding in report.findings if finding.level == "error"]
    more = [f"… and {len(errors) - LISTED} more"] if len(errors) > LISTED else []
    listed = "\n".join(f"  {line}" for line in [*errors[:LISTED], *more])
    raise DataError(
        f"{data} has {count}, so no training starts:\n{listed}\n"
        f"fix with `{own_command('data', 'check', data, '--fix', '-o', 'FOLDER')}` or go on with --force"
    )


@lru_cache(maxsize=1)  # both arms of `train all` are told the same
def _report(data: Path, data_hash: str, progress: Progress) -> Report:  # noqa: ARG001
    progress.note(f"{data}: checking labels and photos")
    return check([data], on_photo=_now_and_then(data, progress))


def _now_and_then(data: Path, progress: Progress) -> Callable[[int, int], None]:
    said = time.monotonic()

    def on_photo(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > NOTE_PERIOD_S:
            said = time.monotonic()
            progress.note(f"{data}: {done} of {total} photos checked")

    return on_photo
