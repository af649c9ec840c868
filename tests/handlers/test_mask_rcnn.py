"""The entry class: a fake context of TorchServe's shape, the real handler, a real tiny archive folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maskserve.handlers import archive
from maskserve.handlers.archive import thread_count
from maskserve.handlers.mask_rcnn import MaskRcnnHandler
from maskserve.handlers.reply import pack
from maskserve.modeling import device, openvino_trunk
from maskserve.protos import wire
from maskserve.protos.codec import decode_reply
from maskserve.protos.errors import ConfigError, RequestError
from maskserve.protos.types import ErrorCode, Segmentation


class FakeContext:
    """What the handler uses of ts.context.Context."""

    def __init__(self, folder: Path) -> None:
        self.system_properties = {"model_dir": str(folder), "gpu_id": None, "batch_size": 2}
        self.model_name = "tiny"
        self.metrics = FakeMetrics()
        self.statuses: dict[int, int] = {}
        self.content_types: dict[int, str] = {}

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        self.statuses[idx] = code

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.content_types[idx] = value


class FakeMetrics:
    """Remembers what was recorded."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, dict[str, str]]] = []

    def add_counter(self, name: str, value: float, dimensions: list[Any]) -> None:
        self.rows.append((name, value, {one.name: one.value for one in dimensions}))

    def add_metric(self, name: str, value: float, unit: str, dimensions: list[Any], metric_type: Any) -> None:
        self.add_counter(name, value, dimensions)


@pytest.fixture(scope="session")
def archive_folder(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's files as an unpacked archive has them."""
    folder = tmp_path_factory.mktemp("archive")
    shutil.copyfile(tiny_run / "model_best.pth", folder / "model.pth")
    shutil.copyfile(tiny_run / "config.yaml", folder / "config.yaml")
    shutil.copyfile(tiny_run / "classes.json", folder / "classes.json")
    card = {"version": "1.0", "backbone": "mobilenetv2", "archive_digest": "abc"}
    (folder / "model_card.json").write_text(json.dumps(card))
    (folder / "model-config.yaml").write_text(
        "threads: 1\nprecision: fp32\nscore_threshold: 0.05\nmaxWorkers: 1\nminWorkers: 1\n"
    )
    return folder


@pytest.fixture
def loaded(archive_folder: Path) -> SimpleNamespace:
    """A loaded handler and its context."""
    handler, context = MaskRcnnHandler(), FakeContext(archive_folder)
    handler.initialize(context)
    return SimpleNamespace(handler=handler, context=context)


@pytest.mark.parametrize(
    ("precision", "says"),
    [
        ("bf16", r"this CPU .* does not calculate in bfloat16.*maskserve package"),
        ("int8", r"OpenVINO, which is not installed here: pip install openvino"),
        ("fp16", r"precision 'fp16': choose fp32, bf16, int8"),
    ],
)
def test_a_precision_that_this_machine_does_not_have_is_said_at_load(
    archive_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, says: str
) -> None:
    """The archive may come from another machine; what is missing and what to do is the last line of the log."""
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda _device: False)
    monkeypatch.setattr(openvino_trunk, "find_spec", lambda _name: None)
    folder = Path(shutil.copytree(archive_folder, tmp_path / "archive"))
    settings = (folder / "model-config.yaml").read_text()
    (folder / "model-config.yaml").write_text(settings.replace("fp32", precision))
    with pytest.raises(ConfigError, match=says):
        MaskRcnnHandler().initialize(FakeContext(folder))


def test_a_batch_of_grpc_and_rest_rows_is_answered_in_their_own_forms(loaded: Any, photo: bytes) -> None:
    """Protobuf for gRPC, JSON with a status for REST, in the rows' order."""
    rows = [
        {"image": bytearray(photo), "request_id": bytearray(b"one")},
        {"body": bytearray(photo)},
        {"image": bytearray(b"no image")},
        {"data": bytearray(b"no image")},
    ]
    replies = loaded.handler.handle(rows, loaded.context)
    assert all(isinstance(reply, bytes) for reply in replies)
    outcome, request_id = decode_reply(replies[0])
    assert isinstance(outcome, Segmentation)
    assert request_id == "one"
    assert outcome.timings.batch_size == 4
    assert outcome.model.archive_digest == "abc"
    assert json.loads(replies[1])["size"] == [90, 120]
    refused, _ = decode_reply(replies[2])
    assert isinstance(refused, RequestError)
    assert refused.code == ErrorCode.IMAGE_UNSUPPORTED
    assert json.loads(replies[3])["error"]["code"] == "image_unsupported"
    assert loaded.context.statuses == {3: 415}
    assert loaded.context.content_types == {1: "application/json", 3: "application/json"}


def test_metrics_count_images_instances_errors_and_time(loaded: Any, photo: bytes) -> None:
    """One batch of a good and a bad image leaves these traces; the warm-up leaves none."""
    assert loaded.context.metrics.rows == []
    loaded.handler.handle([{"image": photo}, {}], loaded.context)
    rows = loaded.context.metrics.rows
    values = {name: value for name, value, labels in rows if not labels}
    assert values["maskserve_images_total"] == 2
    assert values["maskserve_instances_total"] > 0
    assert values["maskserve_batch_images"] == 2
    assert ("maskserve_errors_total", 1, {"code": "image_missing"}) in rows
    stages = {labels["stage"]: value for name, value, labels in rows if name == "maskserve_stage_seconds"}
    assert set(stages) == {"decode", "preprocess", "inference", "postprocess"}
    assert sum(stages.values()) <= values["maskserve_batch_seconds"] + 0.001


def test_every_metric_that_the_handler_records_is_declared() -> None:
    """TorchServe drops a metric that handlers/metrics.yaml does not list, without a word."""
    import yaml

    import maskserve.handlers as package

    folder = Path(next(iter(package.__path__)))
    declared = yaml.safe_load((folder / "metrics.yaml").read_text())["model_metrics"]
    names = {metric["name"] for kind in declared.values() for metric in kind}
    source = (folder / "telemetry.py").read_text()
    recorded = {word.strip('"') for word in source.replace(",", " ").split() if word.startswith('"maskserve_')}
    recorded |= {part.split('"')[0] for part in source.split('"') if part.startswith("maskserve_")}
    assert recorded
    assert recorded <= names


def test_a_reply_that_torchserve_could_not_carry_becomes_an_error(
    loaded: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker would be killed by it; the sender is told what to ask instead. Its error is counted."""
    monkeypatch.setattr(wire, "MAX_REPLY_BYTES", 400)
    (reply,) = loaded.handler.handle([{"image": photo, "request_id": b"long"}], loaded.context)
    outcome, request_id = decode_reply(reply)
    assert isinstance(outcome, RequestError)
    assert outcome.code == ErrorCode.RESPONSE_TOO_LARGE
    assert request_id == "long"
    assert ("maskserve_errors_total", 1, {"code": "response_too_large"}) in loaded.context.metrics.rows


def test_text_from_a_request_cannot_forge_a_line_of_the_workers_output(
    loaded: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """TorchServe believes lines that begin with [PID] or [METRICS]."""
    with caplog.at_level("INFO"):
        loaded.handler.handle([{"image": b"", "request_id": b"x\n[PID]1\n[METRICS]cpu.ms:1"}], loaded.context)
    lines = [line for record in caplog.records for line in record.getMessage().splitlines()]
    assert any("image_missing" in line for line in lines)
    assert all(line.startswith("{") for line in lines)
    assert "[PID]" not in capfd.readouterr().out


def test_a_broken_archive_is_loud(archive_folder: Path, tmp_path: Path) -> None:
    """Classes that do not fit the weights stop the load."""
    from maskserve.protos.errors import ConfigError

    broken = tmp_path / "broken"
    shutil.copytree(archive_folder, broken)
    (broken / "classes.json").write_text('["one"]')
    with pytest.raises(ConfigError, match="NUM_CLASSES"):
        MaskRcnnHandler().initialize(FakeContext(broken))


@pytest.mark.parametrize(("cores", "workers", "threads"), [(2, 1, 2), (2, 2, 1), (2, 3, 1), (6, 2, 3), (64, 1, 8)])
def test_threads_are_the_archives_or_the_machines(
    cores: int, workers: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number is taken as it is; "auto" shares the cores among the model's workers, and ends at eight."""
    monkeypatch.setattr(archive, "usable_cores", lambda: cores)
    assert thread_count("auto", workers) == threads
    assert thread_count(3, workers) == 3


def test_the_entry_file_defines_one_class_and_imports_nothing_heavy() -> None:
    """TorchServe wants exactly one class, and hides an ImportError of this file."""
    import ast
    import inspect

    from maskserve.handlers import mask_rcnn

    tree = ast.parse(inspect.getsource(mask_rcnn))
    assert len([node for node in tree.body if isinstance(node, ast.ClassDef)]) == 1
    imported = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    imported += [name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names]
    assert set(imported) <= {"__future__", "collections.abc", "pathlib", "time", "typing"}


def test_packing_leaves_a_good_answer_alone(loaded: Any, photo: bytes) -> None:
    """The bytes decode to the outcome that was packed."""
    from maskserve.handlers.batch import answer_batch

    (answer,) = answer_batch([{"image": photo}], loaded.handler._engine)
    same, data = pack(answer)
    assert same is answer
    outcome, _ = decode_reply(data)
    assert isinstance(outcome, Segmentation)
    assert len(outcome.instances) == len(answer.outcome.instances)  # type: ignore[union-attr]


def test_the_documentation_lists_every_error_code_with_its_status_and_every_metric(repo_root: Path) -> None:
    """docs/serving.md says what the handler does."""
    import yaml

    from maskserve.protos.types import HTTP_STATUS

    text = (repo_root / "docs" / "serving.md").read_text()
    assert set(HTTP_STATUS) == set(ErrorCode)
    for code, status in HTTP_STATUS.items():
        assert f"| `{code}` | {status} |" in text
    declared = yaml.safe_load((repo_root / "handlers" / "metrics.yaml").read_text())["model_metrics"]
    for name in (one["name"] for kind in declared.values() for one in kind if one["name"].startswith("maskserve_")):
        assert f"| `{name}` |" in text
