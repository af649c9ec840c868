"""maskserve.toml becomes settings, or an error that names key and file."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from maskserve.gateway.settings import Arm, Settings, load_settings
from maskserve.protos.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(tmp_path):
    def from_text(text: str, **environ: str) -> Settings:
        path = tmp_path / "my.toml"
        path.write_text(text)
        return load_settings(path, environ)

    return from_text


def test_the_shipped_file_holds_the_defaults():
    assert load_settings(ROOT / "maskserve.toml", {}) == Settings()


def _keys(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def test_the_shipped_file_shows_every_setting_and_the_docs_name_it():
    text = (ROOT / "maskserve.toml").read_text()
    docs = (ROOT / "docs/gateway.md").read_text()
    for section, values in Settings().model_dump().items():
        keys = _keys(Arm) if section == "arms" else values
        for key in keys:
            assert f"{key} =" in text, f"maskserve.toml does not show {section}.{key}"
            assert f"`{key}`" in docs, f"docs/gateway.md does not name {section}.{key}"


def test_an_empty_file_is_the_defaults(load):
    assert load("") == Settings()


def test_a_file_may_begin_with_a_byte_order_mark_as_windows_editors_write_it(load):
    assert load("\ufeff[server]\nport = 8001\n").server.port == 8001


def test_arms_are_named_freely_and_replace_the_default_ones(load):
    settings = load('[arms.old]\nmodel = "m1"\nweight = 9\n[arms.new]\nmodel = "m2"\nversion = "2.0"\nweight = 1\n')
    assert settings.weights == {"old": 9, "new": 1}
    assert settings.arms["new"].version == "2.0"


def test_a_variable_wins_over_the_file(load):
    settings = load("[server]\nport = 8001\n", MASKSERVE_SERVER_PORT="8002", MASKSERVE_ROUTING_FALLBACK="false")
    assert (settings.server.port, settings.routing.fallback) == (8002, False)


def test_a_token_file_is_relative_to_the_settings_file(load, tmp_path):
    assert load('[torchserve]\ntoken_file = "keys/k.json"\n').torchserve.token_file == tmp_path / "keys/k.json"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nprot = 1\n", "server.prot: there is no such setting"),
        ("[server]\nport = 70000\n", "server.port: Input should be less than or equal to 65535 (it is 70000)"),
        ("[surver]\n", "surver: there is no such setting"),
        ('[arms.a]\nmodel = "m"\nweight = -1\n', "arms.a.weight: Input should be greater than or equal to 0"),
        ('[arms.a]\nmodel = "m"\nweight = nan\n', "arms.a.weight"),
        ('[arms.a]\nmodel = "m"\nweight = 0\n', "at least one arm needs a weight above 0"),
        ("[arms]\n", "at least one arm needs a weight above 0"),
        ("[arms.a]\nweight = 1\n", "arms.a.model: Field required"),
        ('[arms."Bad Name"]\nmodel = "m"\n', "arms.Bad Name"),
        ('[torchserve]\naddress = "nowhere"\n', "torchserve.address"),
        ('[torchserve]\ntoken = "x"\ntoken_file = "y"\n', "token and token_file are both given"),
        ("[server\n", "this is not TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(load, text, words):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert words in str(caught.value)
    assert "my.toml" in str(caught.value)


def test_all_wrong_settings_are_said_at_once(load):
    with pytest.raises(ConfigError) as caught:
        load("[server]\nport = -1\n[limits]\ndrawings = 0\n")
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no such file.*--config"):
        load_settings(tmp_path / "none.toml", {})


def test_settings_cannot_be_changed_later():
    with pytest.raises(ValueError, match="frozen"):
        Settings().server.port = 1
