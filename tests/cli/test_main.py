"""The command's entry: quick help, errors in one line, exit codes that mean something."""

import errno
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from maskserve.cli import main as entry
from maskserve.protos.errors import DataError


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Run `maskserve data` as a command that raises what it is given."""

    def run(error: BaseException):
        @click.command()
        def broken() -> None:
            raise error

        monkeypatch.setattr(entry.LazyGroup, "get_command", lambda *_: broken)
        return CliRunner().invoke(entry.main, ["data"])

    return run


def test_help_names_every_command() -> None:
    """Each command stands in --help with a sentence of its own."""
    answer = CliRunner().invoke(entry.main, ["--help"])
    assert answer.exit_code == 0
    for name in entry.COMMANDS:
        assert f"\n  {name} " in answer.output, name


@pytest.mark.parametrize("name", list(entry.COMMANDS))
def test_every_command_has_help_with_an_example(name: str) -> None:
    """`maskserve COMMAND --help` shows how the command is typed."""
    answer = CliRunner().invoke(entry.main, [name, "--help"])
    assert answer.exit_code == 0
    assert f"maskserve {name}" in answer.output


def test_help_loads_nothing_heavy() -> None:
    """`maskserve --help` imports no numpy, torch, grpc or flask."""
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom maskserve.cli.main import main\n"
        "CliRunner().invoke(main, ['--help'])\n"
        "print(sorted({'numpy', 'torch', 'grpc', 'flask', 'cv2', 'pydantic'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_maskserve_error_is_one_line_and_exit_code_1(failing) -> None:
    """A person's mistake is told without a traceback."""
    answer = failing(DataError("photos/a.json: broken; open it in labelme"))
    assert answer.exit_code == 1
    assert answer.stderr == "error: photos/a.json: broken; open it in labelme\n"


def test_a_reader_that_has_read_enough_is_no_error(failing) -> None:
    """`maskserve predict photos/ --json | head` says nothing more."""
    answer = failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert (answer.exit_code, answer.output) == (1, "")


def test_a_full_disk_says_so(failing) -> None:
    """ENOSPC becomes advice that names the file."""
    answer = failing(OSError(errno.ENOSPC, "No space left on device", "runs/x.pth"))
    assert answer.exit_code == 1
    assert answer.stderr == "error: runs/x.pth: the disk is full; free some space and run the command again\n"


def test_a_missing_package_says_how_to_get_it(failing) -> None:
    """A half-installed environment names the package."""
    answer = failing(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert answer.exit_code == 1
    assert "'torch' is not installed" in answer.stderr


def test_ctrl_c_ends_with_130(failing) -> None:
    """As shells expect."""
    assert failing(KeyboardInterrupt()).exit_code == 130


def test_a_bug_keeps_its_traceback(failing) -> None:
    """What is nobody's mistake flies."""
    assert isinstance(failing(ZeroDivisionError()).exception, ZeroDivisionError)


def test_an_unknown_command_is_a_usage_error() -> None:
    """Exit code 2."""
    assert CliRunner().invoke(entry.main, ["frobnicate"]).exit_code == 2
