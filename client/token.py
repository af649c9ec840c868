"""A token's source (text, key_file.json or text file) ─▶ the metadata that each call carries.

TorchServe writes key_file.json into its working directory when it starts with token authorisation on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from maskserve.protos.errors import ConfigError


class Token:
    """The access token of one API; thread-safe.

    Args:
        source: the token itself (str), a file with it (Path), or None when TorchServe asks for none.
        api: which of key_file.json's keys is meant.

    Raises ConfigError when the file cannot be read or has no such key.
    """

    def __init__(self, source: str | Path | None, api: Literal["inference", "management"]) -> None:
        self._source = source
        self._api = api
        self._value = self._read()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """gRPC metadata; `Bearer` must be written just so."""
        return (("authorization", f"Bearer {self._value}"),) if self._value else ()

    def renew(self) -> bool:
        """Reads the file again; whether the token is another one now."""
        before = self._value
        try:
            self._value = self._read()
        except ConfigError:  # TorchServe is just rewriting it, or is gone
            return False
        return self._value != before

    def _read(self) -> str:
        if not isinstance(self._source, Path):
            return self._source or ""
        try:
            text = self._source.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the token file {self._source} cannot be read: {error}") from None
        token = self._from_key_file(text) if text.startswith("{") else text
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(f"the token file {self._source} has no {self._api} token in it")
        return token

    def _from_key_file(self, text: str) -> str:
        try:
            key = json.loads(text)[self._api]["key"]
        except (ValueError, KeyError, TypeError):
            return ""
        return key if isinstance(key, str) else ""
