"""One TorchServe as a child process that leaves nothing behind.

    TorchServe(config, model_store)
      __enter__   check archives, Java and ports ─▶ private folder ─▶ TorchServe's program, in `torchserve_child.py`
      wait_ready  DescribeModel until every worker of every model is READY, or say why it will not be
      __exit__    the program's input ends, and with it Java (running calls finish first), the group and the folder

The private folder holds what TorchServe scatters: unpacked models, Unix sockets, pid file, key_file.json, and, unless
`log_folder` is given, its logs. If this process is killed, the input ends as well.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from maskserve import handlers
from maskserve.cli.java import java_home
from maskserve.cli.torchserve_archive import worker_starts_s
from maskserve.cli.torchserve_child import PID_FILE, STOP_S
from maskserve.cli.torchserve_config import ENCODING, Ports, archives_of, read_properties, with_properties
from maskserve.cli.torchserve_logs import load_failure, server_lines, sizes
from maskserve.client import Client, ServerError
from maskserve.modeling.waiting import wait_briefly
from maskserve.protos.errors import ConfigError
from maskserve.training.own_command import own_command

# Unix socket paths end at about 108 characters; ours are <folder>/.ts.sock.9000
_LONGEST_TEMP = 70
_SPARE_S = 5.0
"""For TorchServe's program to end what is left when calls have had their time."""
_JAVA_STARTS_S = 60.0
# they would overrule --ts-config and where TorchServe finds itself
_FOREIGN_VARIABLES = ("TS_CONFIG_FILE", "TS_MODEL_SERVER_HOME", "TS_OPEN_INFERENCE_PROTOCOL")


class TorchServe:
    """TorchServe under our control; a context manager.

    Args:
        config: config.properties; metrics and log configuration are those beside it, in handlers/, else maskserve's.
        model_store: folder of the archives.
        ports: other ports than the file's.
        changes: other settings than the file's, for this run.
        log_folder: where its logs go and stay; None: into the private folder, gone at the end.

    Raises ConfigError for everything that the operator can put right: no archive, no Java, a busy port, a model that
    does not load.
    """

    def __init__(
        self,
        config: Path,
        model_store: Path,
        *,
        ports: Ports | None = None,
        changes: Mapping[str, str] | None = None,
        log_folder: Path | None = None,
    ) -> None:
        if not config.is_file():
            raise ConfigError(f"{config}: no such file; it is TorchServe's settings, in the project's root")
        self._text = with_properties(
            config.read_text(encoding=ENCODING),
            {
                "model_store": str(model_store.resolve()),
                "metrics_config": str(_settings_file(config, "metrics.yaml")),
                **(ports.as_properties() if ports else {}),
                **(changes or {}),
            },
        )
        properties = read_properties(self._text)
        self._log_config = _settings_file(config, "log4j2.xml")
        self._model_store = model_store.resolve()
        self._log_folder = log_folder.resolve() if log_folder else None
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._logs_before: dict[str, int] = {}
        self._tokens = properties.get("disable_token_authorization", "").lower() != "true"
        self.ports = Ports.of(properties)
        self.models = archives_of(properties)

    # --- where it is --------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports.grpc}"

    @property
    def management_address(self) -> str:
        return f"127.0.0.1:{self.ports.grpc_management}"

    @property
    def rest_address(self) -> str:
        return f"http://127.0.0.1:{self.ports.rest}"

    @property
    def metrics_address(self) -> str:
        return f"http://127.0.0.1:{self.ports.metrics}/metrics"

    @property
    def folder(self) -> Path:
        """The private folder; gone after the stop."""
        if self._folder is None:
            raise RuntimeError("TorchServe is not running")
        return self._folder

    @property
    def log_folder(self) -> Path:
        return self._log_folder or self.folder / "logs"

    @property
    def key_file(self) -> Path | None:
        """Where TorchServe writes its tokens; None when it wants none."""
        return self.folder / "key_file.json" if self._tokens else None

    @property
    def longest_start_s(self) -> float:
        """Java's time, and what the archives give their workers to load."""
        archives = (self._model_store / archive for archive in self.models.values())
        return _JAVA_STARTS_S + max(map(worker_starts_s, archives), default=0.0)

    @property
    def pid(self) -> int:
        """The Java process."""
        return int((self.folder / PID_FILE).read_text())

    # --- start, wait, stop --------------------------------------------------------------------------------------

    def __enter__(self) -> TorchServe:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def check(self) -> Path:
        """The Java that runs it. Raises ConfigError when that or TorchServe is missing, or a port is busy."""
        if find_spec("ts") is None:
            raise ConfigError("TorchServe is not installed here; `make setup`, or pip install 'maskserve[serve]'")
        self.ports.check_free()
        return java_home(os.environ)

    def start(self) -> None:
        """Starts it and returns at once; `wait_ready` waits. Raises ConfigError."""
        self._check_archives()
        home = self.check()
        self._folder = _private_folder()
        try:
            self._launch(home)
        except BaseException:
            self.stop()
            raise

    def wait_ready(self, timeout_s: float | None = None, report: Callable[[str], None] = lambda _model: None) -> None:
        """Returns when every worker of every model is READY; `report` gets each model's name as it becomes so.

        It waits for `longest_start_s` where no other time is given.

        Raises ConfigError, with the lines of the log that matter, when TorchServe ends, a model does not load, or
        the time is over.
        """
        deadline = time.monotonic() + (self.longest_start_s if timeout_s is None else timeout_s)
        waiting = list(self.models)
        client: Client | None = None
        with contextlib.ExitStack() as stack:
            while waiting:
                self._raise_if_failed(waiting, timed_out=time.monotonic() > deadline)
                if client is None and (client := self._client()):
                    stack.enter_context(client)
                for model in [name for name in waiting if client and _all_ready(client, name)]:
                    waiting.remove(model)
                    report(model)
                time.sleep(0.3)

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll() if self._process else None

    def raise_if_ended(self) -> None:
        """Raises ConfigError, with its last lines, when it has ended by itself."""
        if self.poll() is not None:
            # the status is the launcher's, 0 also where the kernel has killed Java
            raise ConfigError(
                f"TorchServe ended; where its last lines do not say why, it was killed, for lack of memory perhaps:\n"
                f"{server_lines(self.log_folder)}"
            )

    def stop(self) -> None:
        """Ends it and removes its folder; harmless when it does not run."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.communicate(timeout=STOP_S + _SPARE_S)  # its input ends
            _kill_group(self._process.pid)  # if it could not do that itself
            self._process.communicate()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    # --- steps --------------------------------------------------------------------------------------------------

    def _check_archives(self) -> None:
        for model, archive in self.models.items():
            if not (self._model_store / archive).is_file():
                command = own_command("package", f"runs/{model}", "-o", self._model_store)
                raise ConfigError(
                    f"{self._model_store / archive}: no such archive; make it with `{command}`, or `make up` makes both"
                )
            if not zipfile.is_zipfile(self._model_store / archive):
                raise ConfigError(
                    f"{self._model_store / archive}: no archive, or only its beginning; copy or package it again"
                )

    def _launch(self, home: Path) -> None:
        self.log_folder.mkdir(parents=True, exist_ok=True)
        self._logs_before = sizes(self.log_folder)
        config = self.folder / "config.properties"
        config.write_text(self._text, encoding=ENCODING)
        inherited = {name: value for name, value in os.environ.items() if name not in _FOREIGN_VARIABLES}
        environment = inherited | {
            "JAVA_HOME": str(home),
            "TEMP": str(self.folder),
            "TMPDIR": str(self.folder),
            "LOG_LOCATION": str(self.log_folder),
            "METRICS_LOCATION": str(self.log_folder),
        }
        wait_briefly(environment)  # the workers inherit it
        command = [sys.executable, "-m", "maskserve.cli.torchserve_child", str(self.folder), "--start", "--foreground"]
        command += ["--ncs", "--model-store", str(self._model_store), "--ts-config", str(config)]
        command += ["--log-config", str(self._log_config)]
        with (self.log_folder / "stdout.log").open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.PIPE,  # ends with this process
                stdout=output,
                stderr=subprocess.STDOUT,
                # a Ctrl-C in the terminal reaches us, and we stop it in order
                start_new_session=True,
            )

    def _client(self) -> Client | None:
        """None until TorchServe has written its tokens."""
        with contextlib.suppress(ConfigError):
            return Client(
                self.address,
                management_address=self.management_address,
                token=self.key_file,
                management_token=self.key_file,
                timeout_s=5.0,
            )
        return None

    def _raise_if_failed(self, waiting: list[str], *, timed_out: bool) -> None:
        self.raise_if_ended()
        for model in waiting:
            if why := load_failure(self.log_folder, model, self.models[model], self._logs_before):
                raise ConfigError(f"{model} does not load; TorchServe's log says:\n{why}")
        if timed_out:
            raise ConfigError(
                f"TorchServe's {' and '.join(waiting)} did not become ready in time:\n{server_lines(self.log_folder)}"
            )


def _settings_file(config: Path, name: str) -> Path:
    own = config.resolve().parent / "handlers" / name
    return own if own.is_file() else Path(handlers.__file__).parent / name


def _all_ready(client: Client, model: str) -> bool:
    try:
        status = client.model_status(model)
    except ServerError:
        return False
    return status.workers_ready == status.workers_total > 0


def _private_folder() -> Path:
    root = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="maskserve-", dir=root if len(root) <= _LONGEST_TEMP else "/tmp"))


def _kill_group(group: int, wait_s: float = 5.0) -> None:
    """SIGKILL to what is left of it; returns when it is gone."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.02)
