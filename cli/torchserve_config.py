r"""config.properties as text: read it, and make a copy of it with other values.

    text ──read_properties──▶ {name: value} ──Ports.of──▶ where the server listens
      └───with_properties(changes)──▶ text for one run

The file is Java's: Latin-1, other characters as \uXXXX (UTF-16), and \\ stands for a backslash.

Pure but for `Ports.free` and `Ports.check_free`, which ask the system.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import astuple, dataclass
from urllib.parse import urlsplit

from maskserve.protos.errors import ConfigError

ENCODING = "latin-1"
_BLANKS = " \t\f"
_GRPC_PORTS = ("grpc_inference_port", "grpc_management_port")
_ADDRESSES = ("inference_address", "management_address", "metrics_address")


def read_properties(text: str) -> dict[str, str]:
    """The settings of a config.properties, without comments."""
    pairs = (line.split("=", 1) for line in _lines(text) if not _is_comment(line))
    return {pair[0].strip(_BLANKS): _unescaped(pair[1].strip(_BLANKS)) for pair in pairs if len(pair) == 2}


def with_properties(text: str, changes: Mapping[str, str]) -> str:
    """`text` with the settings of `changes` replaced where they stand, or added at its end.

    Blanks at a line's end are left out: to Java they belong to the value, and "true " is not true.
    """
    left = dict(changes)
    lines = []
    for line in _lines(text):
        name = line.split("=", 1)[0].strip(_BLANKS)
        changed = name in left and not _is_comment(line)
        lines.append(f"{name}={_escaped(left.pop(name))}" if changed else line.rstrip(_BLANKS))
    return "\n".join([*lines, *(f"{name}={_escaped(value)}" for name, value in left.items())]) + "\n"


def _lines(text: str) -> list[str]:
    # not splitlines: bytes of a UTF-8 comment would end it
    return text.removesuffix("\n").split("\n")


def _is_comment(line: str) -> bool:
    return line.lstrip(_BLANKS).startswith("#")


def _escaped(value: str) -> str:
    return json.dumps(value)[1:-1]  # JSON's escapes are among Java's


def _unescaped(value: str) -> str:
    def character(found: re.Match[str]) -> str:
        return chr(int(found[1], 16)) if found[1] else found[2]

    units = re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", character, value)
    return units.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def archives_of(properties: Mapping[str, str]) -> dict[str, str]:
    """{model name: archive file} of `load_models`; a bare file name loads under its own stem."""
    entries = (entry.strip() for entry in properties.get("load_models", "").split(",") if entry.strip())
    named = (entry.split("=", 1) if "=" in entry else (entry.removesuffix(".mar"), entry) for entry in entries)
    return {name.strip(): archive.strip() for name, archive in named}


@dataclass(frozen=True, slots=True)
class Ports:
    """TorchServe's five ports; the field order is the order in which they are checked."""

    grpc: int = 7070
    grpc_management: int = 7071
    rest: int = 8080
    rest_management: int = 8081
    metrics: int = 8082

    @classmethod
    def of(cls, properties: Mapping[str, str]) -> Ports:
        """The ports that a config.properties names; TorchServe's defaults for those it does not.

        Raises ConfigError naming the first setting that holds none.
        """
        return cls(*(_port(name, properties[name]) if name in properties else port for name, port in cls().named()))

    @classmethod
    def free(cls) -> Ports:
        """Five ports that nobody listens on now, for tests."""
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            return cls(*(one.getsockname()[1] for one in sockets))

    def as_properties(self) -> dict[str, str]:
        """The same ports as settings; every address is loopback."""
        rest = dict(zip(_ADDRESSES, (self.rest, self.rest_management, self.metrics), strict=True))
        grpc = dict(zip(_GRPC_PORTS, (str(self.grpc), str(self.grpc_management)), strict=True))
        return {name: f"http://127.0.0.1:{port}" for name, port in rest.items()} | grpc

    def named(self) -> list[tuple[str, int]]:
        """(the setting that holds it, port)."""
        return list(zip((*_GRPC_PORTS, *_ADDRESSES), astuple(self), strict=True))

    def check_free(self) -> None:
        """Raises ConfigError naming the first port that somebody else listens on."""
        for setting, port in self.named():
            with socket.socket() as probe:
                # as Java does: a port in TIME_WAIT is free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    raise ConfigError(
                        f"port {port} ({setting} in config.properties) is in use; stop what listens there "
                        f"(`ss -ltnp 'sport = :{port}'` shows it) or choose another port"
                    ) from None


def _port(setting: str, value: str) -> int:
    is_address = setting in _ADDRESSES
    port: int | None = None
    with suppress(ValueError):  # letters, or above 65535
        port = urlsplit(value).port if is_address else int(value)
    if port is None or not 0 < port < 65536:
        example = "such as http://127.0.0.1:8080" if is_address else "1 to 65535"
        raise ConfigError(f"{setting}={value} in config.properties: no port; choose {example}")
    return port
