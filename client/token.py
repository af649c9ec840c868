"""A token's source (text, key_file.json or text file) ─▶ the metadata that each call carries.

TorchServe writes key_file.json into its working directory when it starts with token authorisation on.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Literal

from maskserve.protos.errors import ConfigError

Metadata = tuple[tuple[str, str], ...]


class Token:
    """The access token of one API; thread-safe.

    Args:
        source: the token itself (str), a file with it (Path), or None when TorchServe asks for none.
        api: which of key_file.json's keys is meant.

    Raises ConfigError when the file cannot be read or has no such key, and for a text that cannot be a token.
    """

    def __init__(self, source: str | Path | None, api: Literal["inference", "management"]) -> None:
        self._source = source
        self._api = api
        self._value = self._read()

    @property
    def metadata(self) -> Metadata:
        """gRPC metadata; `Bearer` must be written just so."""
        return (("authorization", f"Bearer {self._value}"),) if self._value else ()

    def renew(self, refused: Metadata) -> bool:
        """Reads the file again; whether the token is not the `refused` one now, perhaps thanks to another thread."""
        with contextlib.suppress(ConfigError):  # TorchServe is just rewriting it, or is gone
            self._value = self._read()
        return self.metadata != refused

    def _read(self) -> str:
        if not self._source:
            return ""
        if isinstance(self._source, Path):
            text, where = _read_file(self._source), f"the token file {self._source}"
        else:
            text, where = self._source.strip(), "the text that is given as token"
        token = self._from_key_file(text) if text.startswith("{") else text
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(f"{where} has no {self._api} token in it")
        return token

    def _from_key_file(self, text: str) -> str:
        try:
            key = json.loads(text)[self._api]["key"]
        except (ValueError, KeyError, TypeError):
            return ""
        return key if isinstance(key, str) else ""


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {path} cannot be read: {error}") from None
