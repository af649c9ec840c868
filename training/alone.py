"""One training at a time in a working folder, whoever starts the other one.

The kernel holds the lock (flock) and gives it back whatever the process dies of. Its file is empty, lies beside the
working folder and is removed at the end.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from maskserve.protos.errors import ConfigError


@contextmanager
def alone(working: Path) -> Iterator[None]:
    """Nobody else trains in `working` meanwhile. Raises ConfigError when somebody does."""
    path = working.with_suffix(".lock")
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(path, working):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    finally:
        for folder in made:  # innermost first, where nothing came of it
            with suppress(OSError):
                folder.rmdir()


def _locked(path: Path, working: Path) -> IO[bytes]:
    """The open file that holds the lock."""
    while True:
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ConfigError(
                f"{working} is being trained by another process; wait for it, stop it, or choose another --output"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
                raise
            return file  # a file system without locks
        if _is_there(file, path):
            return file
        file.close()  # whoever had it has removed it since we opened it


def _is_there(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
