"""`maskserve gateway` says what is wrong in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "maskserve.cli.main", "gateway", *arguments],
        capture_output=True, text=True, cwd=cwd, timeout=60,
    )  # fmt: skip


def test_help_shows_examples(tmp_path):
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "maskserve gateway --config maskserve.toml" in done.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "maskserve.toml: there is no such file"),
        ("[server]\nport = 'x'\n", "server.port"),
        ("nonsense\n", "this is not TOML"),
        ("[torchserve]\ntoken_file = 'none.json'\n", "none.json"),
        ("[server]\nhost = '192.0.2.1'\n", "cannot listen there"),
    ],
)
def test_a_wrong_setting_is_one_clear_message(tmp_path, text, words):
    if text is not None:
        (tmp_path / "maskserve.toml").write_text(text)
    done = run(cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_none_is_a_usage_error(tmp_path):
    assert run("--port", "x", cwd=tmp_path).returncode == 2
