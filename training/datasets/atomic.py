"""Several files appear in a folder together, or none does."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def landing(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` when the block succeeds; when it raises they are gone.

    Files of the same names are replaced, others in `folder` stay. It lies in `folder` where that exists, which may be a
    mount or in a folder that is not to be written to, else beside it.
    """
    folder = folder.resolve()
    parent = folder if folder.is_dir() else folder.parent
    made = next((p for p in reversed([parent, *parent.parents]) if not p.exists()), None)
    parent.mkdir(parents=True, exist_ok=True)
    try:
        staged = _hidden_folder(parent)
        try:
            yield staged
            _move(staged, folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except BaseException:
        if made is not None:
            _remove_empty(made)
        raise


def _hidden_folder(parent: Path) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=".maskserve-", dir=parent))
    except OSError as error:  # of a name that nobody has given
        raise OSError(error.errno, error.strerror, str(parent)) from None


def _move(staged: Path, folder: Path) -> None:
    if not folder.exists():
        staged.chmod(0o777 & ~_umask())
        staged.replace(folder)
        return
    for source in sorted(p for p in staged.rglob("*") if p.is_file()):
        target = folder / source.relative_to(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _remove_empty(top: Path) -> None:
    """Take away the empty folders that were made on the way."""
    for path in sorted((p for p in [top, *top.rglob("*")] if p.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()


def write_atomically(path: Path, content: bytes) -> None:
    """The whole content, or the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
