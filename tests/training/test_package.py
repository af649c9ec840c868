"""Run folder ─▶ archive: self-contained, reproducible, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from maskserve.cli.main import main
from maskserve.cli.package import package as command
from maskserve.protos.errors import ConfigError
from maskserve.training.package import Package, ServingSettings, package_run
from maskserve.training.verify import verify
from tests.runs import CLASS_NAMES, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the small arm."""
    return make_run(tmp_path_factory.mktemp("runs") / "mnv2", "mobilenetv2")


@pytest.fixture(scope="module")
def packaged(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Its archive."""
    return package_run(run, tmp_path_factory.mktemp("store"), settings=ServingSettings(threads=1, score_threshold=0.2))


def copy(run: Path, tmp_path: Path) -> Path:
    """A run folder that a test may spoil."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_the_archive_holds_the_model_its_code_and_its_card(packaged: Package) -> None:
    """Everything that a worker needs, and no code beside the entry's packages."""
    with zipfile.ZipFile(packaged.path) as archive:
        names = set(archive.namelist())
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]
        card = json.loads(archive.read("model_card.json"))
        assert "mask AP" not in archive.read("MODEL_CARD.md").decode()
        assert "mask / ap50: 40.0" in archive.read("MODEL_CARD.md").decode()
    assert {"mask_rcnn.py", "model.pth", "config.yaml", "classes.json", "model-config.yaml"} <= names
    assert {"maskserve/handlers/batch.py", "maskserve/modeling/predictor.py", "maskserve/protos/codec.py"} <= names
    assert "maskserve/imaging/decode.py" in names
    # a namespace, as it is installed
    assert "maskserve/__init__.py" not in names
    # the entry stands at the root only: two copies of it would be two classes
    assert "maskserve/handlers/mask_rcnn.py" not in names
    assert {name.split("/")[1] for name in names if name.startswith("maskserve/")} == {
        "handlers",
        "imaging",
        "modeling",
        "protos",
    }
    assert manifest["modelName"] == packaged.model == "mask_rcnn_mnv2_fpn"
    assert manifest["handler"] == "mask_rcnn.py"
    assert card["class_names"] == list(CLASS_NAMES)
    assert card["training"]["data_hash"] == "0" * 64
    assert card["evaluation"]["mask"]["ap50"] == 40.0


def test_data_of_a_path_that_is_no_utf_8_is_in_the_card(run: Path, tmp_path: Path) -> None:
    changed, data = copy(run, tmp_path), os.fsdecode(b"caf\xe9")
    facts = json.loads((changed / "run.json").read_text(encoding="utf-8"))
    (changed / "run.json").write_text(json.dumps({**facts, "data": data}), encoding="utf-8")
    with zipfile.ZipFile(package_run(changed, tmp_path / "store").path) as archive:
        assert json.loads(archive.read("model_card.json"))["training"]["data"] == data


def test_the_digest_can_be_checked_by_hand(packaged: Package) -> None:
    """sha256 over classes.json, config.yaml and model.pth, as `unzip -p` gives them."""
    with zipfile.ZipFile(packaged.path) as archive:
        joined = b"".join(archive.read(name) for name in ("classes.json", "config.yaml", "model.pth"))
        card = json.loads(archive.read("model_card.json"))
    assert hashlib.sha256(joined).hexdigest() == packaged.archive_digest == card["archive_digest"]


def test_weights_are_tensors_only(packaged: Package, tmp_path: Path) -> None:
    """They load with weights_only=True."""
    with zipfile.ZipFile(packaged.path) as archive:
        archive.extract("model.pth", tmp_path)
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    assert state
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_the_config_does_not_carry_the_trainers_paths(packaged: Package) -> None:
    """They mean nothing elsewhere, and would make the digest depend on a folder's name."""
    with zipfile.ZipFile(packaged.path) as archive:
        config = yaml.safe_load(archive.read("config.yaml"))
    assert config["OUTPUT_DIR"] == config["MODEL"]["WEIGHTS"] == ""


def test_the_same_run_gives_the_same_bytes(run: Path, packaged: Package, tmp_path: Path) -> None:
    """Also from another folder, on another day."""
    settings = ServingSettings(threads=1, score_threshold=0.2)
    again = package_run(copy(run, tmp_path), tmp_path / "other" / "store", settings=settings)
    assert again.path.read_bytes() == packaged.path.read_bytes()
    other = package_run(run, tmp_path / "store", settings=ServingSettings(threads=2, score_threshold=0.2))
    assert other.path.read_bytes() != packaged.path.read_bytes()
    assert other.archive_digest == packaged.archive_digest


def test_settings_become_torchserves_keys_and_the_handlers(run: Path, tmp_path: Path) -> None:
    """Both timeouts are in the archive: TorchServe ignores its own defaults for a model that has a config file."""
    line = (
        f"{run} -o {tmp_path} --name other --version 2.1 --workers 2 --batch-size 4 --batch-delay-ms 20 "
        "--response-timeout-s 9 --startup-timeout-s 99 --threads 3 --score-threshold 0.7 --json"
    )
    result = CliRunner().invoke(command, line.split())
    assert result.exit_code == 0, result.output
    (made,) = json.loads(result.stdout)
    assert (made["model"], made["version"]) == ("other", "2.1")
    with zipfile.ZipFile(made["path"]) as archive:
        assert json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]["modelVersion"] == "2.1"
        assert yaml.safe_load(archive.read("model-config.yaml")) == {
            "minWorkers": 2,
            "maxWorkers": 2,
            "batchSize": 4,
            "maxBatchDelay": 20,
            "responseTimeout": 9,
            "startupTimeout": 99,
            "maxRetryTimeoutInSec": 1209600,
            "threads": 3,
            "precision": "fp32",
            "score_threshold": 0.7,
        }


def test_nothing_but_the_archive_is_left(packaged: Package) -> None:
    """No temp folder in the store, where `load_models=all` would take it for a model."""
    assert [path.name for path in packaged.path.parent.iterdir()] == ["mask_rcnn_mnv2_fpn.mar"]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda run: (run / "model_best.pth").unlink(), r"model_best\.pth: missing.*maskserve train"),
        (lambda run: (run / "run.json").unlink(), r"run\.json: missing.*maskserve train"),
        (lambda run: _truncate(run / "model_best.pth"), r"model_best\.pth: not a file of tensors"),
        (lambda run: (run / "classes.json").write_text("{"), r"classes\.json: not JSON"),
        (lambda run: (run / "classes.json").write_text("[]"), r"classes\.json: must be a list"),
        (lambda run: (run / "run.json").write_text("{}"), r"run\.json: must name the backbone"),
        (lambda run: (run / "config.yaml").write_text("NOTHING: 1\n"), r"config\.yaml"),
        (shutil.rmtree, r"no such run folder.*maskserve train"),
    ],
)
def test_a_run_that_cannot_be_packaged_is_explained_and_leaves_nothing(
    run: Path, tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    """The file at fault and the remedy are named; the store stays empty."""
    spoiled = copy(run, tmp_path)
    spoil(spoiled)
    with pytest.raises(ConfigError, match=says):
        package_run(spoiled, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_name_that_torchserve_would_refuse_is_refused_first(run: Path, tmp_path: Path) -> None:
    """Slashes, spaces and a leading dash."""
    for name in ("../up", "a b", "-x", "ü"):
        with pytest.raises(ConfigError, match="no name for a model"):
            package_run(run, tmp_path, name=name)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--name", "a/b"], "no name for a model"),
        (["nowhere"], "nowhere: no such run folder"),
        (["-o", "pyproject.toml"], "is a file"),
    ],
)
def test_what_cannot_be_packaged_is_refused_before_anything_is_measured(
    run: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    """Measuring takes minutes, and it may be the last of several runs that cannot."""
    monkeypatch.setattr("maskserve.training.precision.settle_precision", lambda *_, **__: pytest.fail("measures"))
    done = CliRunner().invoke(main, ["package", str(run), *words, "--precision", "auto"])
    assert done.exit_code
    assert says in done.stderr


def test_what_is_said_to_serve_an_archive_looks_where_it_lies(run: Path, tmp_path: Path) -> None:
    """`maskserve up` by itself serves those in model_store."""
    out = tmp_path / "my store"
    done = CliRunner().invoke(main, ["package", str(run), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert f"Next: `maskserve up --model-store '{out}'` serves" in done.stdout


def test_an_archive_that_was_there_survives_a_failure(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is replaced in one step, at the end."""
    (tmp_path / "mask_rcnn_mnv2_fpn.mar").write_bytes(b"old")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConfigError, match="torch-model-archiver failed"):
        package_run(run, tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_verify_answers_a_photo_with_the_archives_own_code(packaged: Package, tmp_path: Path) -> None:
    """maskserve is installed here; still the archive's copy is what runs."""
    verified = verify(packaged.path)
    assert verified.handler == "maskserve/handlers/__init__.py"
    assert verified.answer["size"] == [240, 320]
    assert verified.answer["instances"]
    assert verified.answer["model"]["archive_digest"] == packaged.archive_digest


def test_verify_does_not_wait_for_ever(packaged: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that has not answered in time is one line."""
    monkeypatch.setattr("maskserve.training.verify._TIMEOUT_S", 0.01)
    with pytest.raises(ConfigError, match="has not answered a photo within"):
        verify(packaged.path)


def test_verify_says_why_an_archive_does_not_load(packaged: Package, tmp_path: Path) -> None:
    """The last line of the worker's traceback, without the traceback."""
    broken = tmp_path / "broken.mar"
    with zipfile.ZipFile(packaged.path) as source, zipfile.ZipFile(broken, "w") as target:
        for name in source.namelist():
            target.writestr(name, b'["one"]' if name == "classes.json" else source.read(name))
    with pytest.raises(ConfigError, match=r"broken\.mar: does not load: .*2 classes"):
        verify(broken)
    (tmp_path / "text.mar").write_text("no zip")
    with pytest.raises(ConfigError, match="not a model archive"):
        verify(tmp_path / "text.mar")


def test_an_archive_runs_where_maskserve_is_not_installed(packaged: Package, tmp_path: Path) -> None:
    """A Python that sees only third-party packages and the unpacked archive."""
    with zipfile.ZipFile(packaged.path) as archive:
        archive.extractall(tmp_path)
    site_packages = Path(torch.__file__).parents[1]
    program = (
        f"import sys; sys.path += [{str(site_packages)!r}]\n"
        "import mask_rcnn, maskserve.handlers.archive as found\n"
        "from types import SimpleNamespace as S\n"
        f"context = S(system_properties=dict(model_dir={str(tmp_path)!r}), model_name='m', metrics=None)\n"
        "handler = mask_rcnn.MaskRcnnHandler(); handler.initialize(context)\n"
        "print(handler.handle([{'image': b''}], context)[0] != b'', found.__file__)\n"
    )
    # -S and -I: no .pth files, so neither the editable install nor its import hook
    isolated = [sys.executable, "-S", "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{program}"]
    result = subprocess.run(isolated, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-2:] == ["True", str(tmp_path / "maskserve/handlers/archive.py")]
