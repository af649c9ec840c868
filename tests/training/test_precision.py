"""Which precision an archive runs in: the rule, the measuring on real models, and what stands in the way."""

from __future__ import annotations

import itertools
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from maskserve.cli.package import package as command
from maskserve.modeling import device
from maskserve.protos.errors import ConfigError
from maskserve.training import precision, quantize
from maskserve.training.datasets.manifest import load_dataset
from maskserve.training.model_card import model_card_text
from maskserve.training.package import ServingSettings, package_run
from maskserve.training.precision import BUDGETS, LEAST_SPEED_UP, Choice, Measured, Request, choose, settle_precision
from maskserve.training.variant import Variant
from maskserve.training.verify import verify
from tests.runs import make_run

# pycocotools on numpy 2.4
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")


def row(name: str, ap: float, speed_up: float, proposals: int = 1000) -> Measured:
    return Measured(name, proposals, mask_ap=ap, box_ap=ap, ms=100 / speed_up, speed_up=speed_up)


def test_the_fastest_within_its_budget_is_chosen():
    """All orders of speed, each precision within its budget or not, each faster than fp32 or not."""
    speeds, losses = (0.5, 1.0, 1.5, 2.0), (-1.0, 0.0, 0.3, 0.31, 1.0, 1.01)
    for bf16, int8 in itertools.product(itertools.product(speeds, losses), repeat=2):
        rows = [row("fp32", 40.0, 1.0), row("bf16", 40 - bf16[1], bf16[0]), row("int8", 40 - int8[1], int8[0])]
        able = {"fp32": 1.0}
        if bf16[1] <= 0.3 and bf16[0] > 1:
            able["bf16"] = bf16[0]
        if int8[1] <= 1.0 and int8[0] > 1:
            able["int8"] = int8[0]
        found = choose(rows, BUDGETS).precision
        assert able[found] == max(able.values())
    exact = row("fp32", 40.0, 1.0)
    assert choose([exact], BUDGETS) is exact
    assert choose([exact, row("int8", 40.0, LEAST_SPEED_UP - 0.01)], BUDGETS) is exact


def test_fewer_proposals_have_the_budget_of_their_precision():
    exact, int8 = row("fp32", 40.0, 1.0), row("int8", 39.5, 3.0)
    for loss, best in ((0.3, "few"), (0.31, "all")):
        few = row("fp32", 40.0 - loss, 1.2, proposals=300)
        assert choose([exact, few], BUDGETS) is {"few": few, "all": exact}[best]
    for loss, best in ((1.0, "few"), (1.01, "all")):
        few = row("int8", 40.0 - loss, 4.0, proposals=300)
        assert choose([exact, int8, few], BUDGETS) is {"few": few, "all": int8}[best]


def test_equally_fast_the_more_exact_is_chosen():
    rows = [row("fp32", 40.0, 1.0), row("bf16", 40.0, 2.0), row("int8", 40.0, 2.0)]
    assert choose(rows, BUDGETS).precision == "bf16"


def test_a_budget_of_ones_own_is_for_all():
    assert Request("auto", accuracy_budget=2.5).budgets() == {"fp32": 2.5, "bf16": 2.5, "int8": 2.5}
    assert Request("auto").budgets() == BUDGETS


@pytest.fixture(scope="module")
def data(pandas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn pandas, those of the test split as validation."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        content = json.loads((pandas / f"{split}.json").read_text())
        for image in content["images"]:
            image["file_name"] = str((pandas / image["file_name"]).resolve())
        (folder / f"{'val' if split == 'test' else split}.json").write_text(json.dumps(content))
    return folder


def trained_on(data: Path, folder: Path) -> Path:
    """A run folder that says so."""
    run = make_run(folder, "mobilenetv2")
    facts = json.loads((run / "run.json").read_text())
    facts |= {"data": str(data), "data_hash": load_dataset(data).train.data_hash}
    (run / "run.json").write_text(json.dumps(facts))
    return run


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_on(data, tmp_path_factory.mktemp("runs") / "mnv2")


def test_an_int8_archive_answers_in_a_worker_of_its_own(run: Path, tmp_path: Path):
    """Its graph is among the files that the digest covers; the same run gives the same bytes."""
    made = package_run(run, tmp_path / "store", choice=settle_precision(run, Request("int8"), tmp_path))
    answer = verify(made.path).answer
    assert answer["model"]["precision"] == "int8"
    assert answer["model"]["archive_digest"] == made.archive_digest
    with zipfile.ZipFile(made.path) as archive:
        assert {"trunk.xml", "trunk.bin", "model.pth"} <= set(archive.namelist())
        assert yaml.safe_load(archive.read("model-config.yaml"))["precision"] == "int8"
        card = json.loads(archive.read("model_card.json"))
    assert (card["precision"], card["precision_measured"]) == ("int8", None)
    assert "int8, as asked for; not measured" in model_card_text(card)
    exact = package_run(run, tmp_path / "exact")
    assert exact.archive_digest != made.archive_digest
    again = package_run(run, tmp_path / "again", choice=settle_precision(run, Request("int8"), tmp_path))
    assert again.path.read_bytes() == made.path.read_bytes()


def test_a_worker_takes_as_many_proposals_as_were_chosen(run: Path, tmp_path: Path):
    """Another model than with all of them, by its digest; one proposal is one answer a class at most."""
    every = ServingSettings(score_threshold=0.0)
    few = package_run(run, tmp_path / "few", settings=every, choice=Choice(Variant(proposals=1)))
    assert len(verify(few.path).answer["instances"]) <= 2
    exact = package_run(run, tmp_path / "exact", settings=every)
    assert len(verify(exact.path).answer["instances"]) > 2
    assert (few.proposals, exact.proposals) == (1, 50)
    assert few.archive_digest != exact.archive_digest


def test_auto_measures_and_says_what_it_found(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fp32 and int8 with all and with fewer proposals, on the validation photos, in the table, the JSON and the card;
    bf16 is left out with its reason.
    """
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda _device: False)
    monkeypatch.setattr(precision, "FEWER_PROPOSALS", 20)
    words = [str(run), "-o", str(tmp_path), "--precision", "auto", "--threads", "1", "--json"]
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (made,) = json.loads(result.stdout)
    found = made["precision_measured"]
    variants = [("fp32", 50), ("fp32", 20), ("int8", 50), ("int8", 20)]
    assert [(one["precision"], one["proposals"]) for one in found["rows"]] == variants
    assert all(one["ms"] > 0 and 0 <= one["mask_ap"] <= 100 for one in found["rows"])
    assert found["rows"][0]["speed_up"] == 1
    assert found["left_out"] == {"bf16": "this machine does not calculate in it"}
    assert (found["photo_count"], found["photos"], found["few_photos"]) == (2, "val.json", True)
    assert "1 threads" in found["machine"]
    rows = [Measured(**one) for one in found["rows"]]
    best = choose(rows, found["budgets"])
    assert (made["precision"], made["proposals"]) == (best.precision, best.proposals)
    chosen = next(line for line in result.stderr.splitlines() if line.endswith("chosen"))
    assert chosen.split()[:2] == [made["precision"], str(made["proposals"])]
    assert "Judged by 2 photos: val.json; these are few" in result.stderr
    with zipfile.ZipFile(made["path"]) as archive:
        card = json.loads(archive.read("model_card.json"))
        assert yaml.safe_load(archive.read("model-config.yaml"))["precision"] == made["precision"]
        assert ("trunk.xml" in archive.namelist()) is (made["precision"] == "int8")
        assert f"POST_NMS_TOPK_TEST: {made['proposals']}" in archive.read("config.yaml").decode()
    assert (card["precision_measured"], card["proposals"]) == (found, made["proposals"])
    text = model_card_text(card)
    assert "Judged by 2 photos: val.json. These are few" in text
    assert "- bf16: not measured, this machine does not calculate in it" in text


def test_what_cannot_run_here_is_left_out_of_auto(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda _device: True)
    monkeypatch.setattr(precision, "pick_device", lambda _device: "cpu")
    assert precision._candidates() == (["fp32", "bf16", "int8"], {})
    monkeypatch.setattr(quantize, "find_spec", lambda _name: None)
    names, left_out = precision._candidates()
    assert names == ["fp32", "bf16"]
    assert "pip install 'maskserve[int8]'" in left_out["int8"]
    monkeypatch.setattr(precision, "pick_device", lambda _device: "cuda")
    assert precision._candidates()[1] == {"int8": "it runs on the CPU, and this machine has a GPU"}


def test_a_precision_that_is_not_to_be_had_is_explained(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """bf16 on a CPU that would emulate it, int8 without its libraries; nothing is left behind."""
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda _device: False)
    monkeypatch.setattr(quantize, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"does not calculate in bfloat16.*--precision auto"):
        settle_precision(run, Request("bf16"), tmp_path)
    with pytest.raises(ConfigError, match=r"needs OpenVINO and NNCF: pip install 'maskserve\[int8\]'"):
        settle_precision(run, Request("int8"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_data_must_be_the_run_s_own(run: Path, data: Path, tmp_path: Path):
    """Named in run.json and gone, changed since, or with nothing to judge by."""
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    own = trained_on(moved, tmp_path / "run")
    shutil.rmtree(moved)
    with pytest.raises(ConfigError, match=r"moved is not there; name the dataset .* with --data"):
        settle_precision(own, Request("auto"), tmp_path)
    changed = Path(shutil.copytree(data, tmp_path / "changed"))
    content = json.loads((changed / "train.json").read_text())
    content["info"]["maskserve"]["data_hash"] = "f" * 64
    (changed / "train.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"changed is not the data that .* was trained on"):
        settle_precision(own, Request("int8", changed), tmp_path)
    few = Path(shutil.copytree(data, tmp_path / "few"))
    (few / "val.json").unlink()
    with pytest.raises(ConfigError, match=r"no photos to judge a precision by: the data has no val\.json"):
        settle_precision(own, Request("auto", few), tmp_path)


def test_a_budget_without_auto_is_refused(run: Path):
    result = CliRunner().invoke(command, [str(run), "--accuracy-budget", "1"])
    assert result.exit_code == 2
    assert "--accuracy-budget is for --precision auto" in result.stderr
