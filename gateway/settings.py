"""maskserve.toml (and MASKSERVE_… variables) ─▶ frozen, validated Settings, read once at start.

Every key has a default; the shipped maskserve.toml spells them all out. A key that does not exist, or a value that
cannot be, is a ConfigError that names the key and the file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from maskserve.protos import wire
from maskserve.protos.errors import ConfigError

ArmName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$")]
CookieName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]
Address = Annotated[str, StringConstraints(pattern=r"^\S+:\d{1,5}$")]

_ENV_PREFIX = "MASKSERVE"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(_Section):
    """Where the gateway listens."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    access_log: bool = False
    """One JSON line per request on stderr."""
    shutdown_s: float = Field(default=30.0, ge=0, le=600)
    """How long requests in flight may take to finish after SIGTERM or Ctrl-C."""


class TorchServe(_Section):
    """Where the models are. A token is given either as text or as a file, which is read again when it is refused."""

    address: Address = "127.0.0.1:7070"
    management_address: Address = "127.0.0.1:7071"
    token: str = ""
    token_file: Path | None = None
    management_token: str = ""
    management_token_file: Path | None = None
    timeout_s: float = Field(default=30.0, gt=0, le=600)
    """The one deadline of a request: queue, retries, fallback and drawing included."""

    @model_validator(mode="after")
    def _one_source_per_token(self) -> Self:
        for name in ("token", "management_token"):
            if getattr(self, name) and getattr(self, f"{name}_file"):
                raise ValueError(f"{name} and {name}_file are both given; keep one")
        return self


class Routing(_Section):
    """How a request gets its arm."""

    salt: str = "maskserve"
    """Another salt deals the users out anew."""
    user_header: HeaderName = "X-User-Id"
    user_cookie: CookieName = "maskserve_user"
    arm_header: HeaderName = "X-Maskserve-Arm"
    fallback: bool = True
    """Whether another arm answers when the chosen one is down."""
    fallback_on_override: bool = False
    """Also when the request named its arm."""


class Limits(_Section):
    """What is refused or put off, so that the rest stays quick."""

    deadline_share: float = Field(default=0.5, gt=0, le=1)
    """An answer that is expected to take more of `torchserve.timeout_s` than this is refused (503, Retry-After)."""
    in_flight_per_arm: int = Field(default=16, ge=1, le=256)
    """More requests than these are refused, whatever they cost."""
    drawings: int = Field(default=1, ge=1, le=64)
    """Pictures drawn at the same time; each holds a few copies of the decoded photo."""


class Arm(_Section):
    """A model that takes part of the traffic."""

    model: ModelName
    version: str = ""
    """"" is TorchServe's default version."""
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Share of the users relative to the other arms; 0: only on request."""
    required: bool = True
    """Whether /readyz waits for it."""


def _default_arms() -> dict[str, Arm]:
    return {"a": Arm(model=wire.MODEL_R50, weight=50), "b": Arm(model=wire.MODEL_MNV2, weight=50)}


class Settings(_Section):
    server: Server = Server()
    torchserve: TorchServe = TorchServe()
    routing: Routing = Routing()
    limits: Limits = Limits()
    arms: dict[ArmName, Arm] = Field(default_factory=_default_arms)

    @model_validator(mode="after")
    def _somebody_answers(self) -> Self:
        if not any(arm.weight > 0 for arm in self.arms.values()):
            raise ValueError("arms: at least one arm needs a weight above 0")
        return self

    @property
    def weights(self) -> dict[str, float]:
        return {name: arm.weight for name, arm in self.arms.items()}

    @property
    def places(self) -> int:
        """Requests that may be at the arms, all together."""
        return self.limits.in_flight_per_arm * len(self.arms)


_SECTIONS: dict[str, type[_Section]] = {
    "server": Server,
    "torchserve": TorchServe,
    "routing": Routing,
    "limits": Limits,
}


def load_settings(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings in `path`, with MASKSERVE_<SECTION>_<KEY> variables on top. Raises ConfigError.

    Relative token files are relative to the folder of `path`.
    """
    values = _read_toml(path)
    for section, key, text in _from_environment(environ):
        values.setdefault(section, {})[key] = text
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_finding(path, item) for item in error.errors())) from None
    return _with_absolute_token_files(settings, path.resolve().parent)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        text = "there is no such file; run in the folder that has maskserve.toml, or say --config FILE"
        raise ConfigError(f"{path}: {text}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: this is not TOML: {error}") from None


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [
        (section, key, environ[name])
        for section, model in _SECTIONS.items()
        for key in model.model_fields
        if (name := f"{_ENV_PREFIX}_{section}_{key}".upper()) in environ
    ]


def _finding(path: Path, item: Any) -> str:
    keys = [str(key) for key in item["loc"] if key != "[key]"]
    where = ".".join(keys)
    variable = "_".join([_ENV_PREFIX, *keys]).upper()
    source = f"${variable}" if len(keys) == 2 and variable in os.environ else str(path)
    if item["type"] == "extra_forbidden":
        return f"{source}: {where}: there is no such setting; docs/gateway.md lists them all"
    given = "" if isinstance(item["input"], dict | BaseModel) else f" (it is {item['input']!r})"
    text = item["msg"].removeprefix("Value error, ")
    return f"{source}: {where + ': ' if where else ''}{text}{given}"


def _with_absolute_token_files(settings: Settings, folder: Path) -> Settings:
    files = {
        name: folder / path
        for name in ("token_file", "management_token_file")
        if (path := getattr(settings.torchserve, name)) is not None
    }
    return settings.model_copy(update={"torchserve": settings.torchserve.model_copy(update=files)})
