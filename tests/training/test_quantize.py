"""A trunk on OpenVINO answers like torch's: to rounding in float32, closely in int8; the same input, the same bytes."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.layers import Conv2d
from torch import Tensor

from maskserve.modeling import int8_pyramid, openvino_trunk, winograd
from maskserve.modeling.device import multiplies_int8
from maskserve.modeling.fold import prepare
from maskserve.modeling.int8_linear import Int8Linear
from maskserve.modeling.int8_pyramid import Int8Pyramid
from maskserve.modeling.loading import load_network
from maskserve.modeling.openvino_trunk import LEVEL, OpenVinoGraph, OpenVinoTrunk
from maskserve.modeling.predictor import Predictor
from maskserve.modeling.trunk import Affine, TorchTrunk, TrunkOutput
from maskserve.modeling.winograd import Way
from maskserve.modeling.winograd_int8 import conv_suits_int8
from maskserve.protos.errors import ConfigError
from maskserve.training.datasets.manifest import dataset_dicts, load_dataset
from maskserve.training.quantize import _sensitive, calibration_pixels, to_openvino, write, write_int8_trunk
from tests.modeling.test_fast_path import CLASSES, NETWORKS, network

SHAPES = ((1, 64, 96), (1, 96, 160), (2, 160, 128), (1, 64, 96))
"""Photos, height, width; levels of odd sides among them."""


def flat(output: TrunkOutput) -> dict[str, Tensor]:
    """All tensors by a name."""
    named = {f"logits {level}": one for level, one in enumerate(output.logits)}
    named |= {f"deltas {level}": one for level, one in enumerate(output.deltas)}
    return {**output.features, **named}


def distances(found: TrunkOutput, expected: TrunkOutput) -> dict[str, float]:
    """Each tensor's distance as a share of its length; the names, their order and the shapes are the same."""
    ours, theirs = flat(found), flat(expected)
    assert list(ours) == list(theirs)
    assert [one.shape for one in ours.values()] == [one.shape for one in theirs.values()]
    return {name: float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in ours}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    cfg, model = network("mobilenetv2", "quick")
    return Predictor(cfg, CLASSES, weights=model.state_dict(), device="cpu")


@pytest.fixture(scope="module")
def records(pandas: Path) -> list[dict[str, Any]]:
    return dataset_dicts(load_dataset(pandas).train)


@pytest.fixture(scope="module")
def int8(predictor: Predictor, records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_int8_trunk(predictor, records[:4], tmp_path_factory.mktemp("int8"))


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_in_float32_openvino_calculates_what_torch_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For each kind of network and batches of several shapes; channels last as they come."""
    monkeypatch.setattr(openvino_trunk, "has_fast_bfloat16", lambda _device: False)
    _, model = network(*NETWORKS[name])
    prepare(model)
    theirs = TorchTrunk(model)
    ours = OpenVinoTrunk(write(to_openvino(theirs), tmp_path))
    for seed, (count, height, width) in enumerate(SHAPES):
        pixels = torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
        found = ours(pixels.to(memory_format=torch.channels_last))
        assert all(distance < 1e-3 for distance in distances(found, theirs(pixels)).values())
        assert all(one.is_contiguous(memory_format=torch.channels_last) for one in flat(found).values())


@torch.inference_mode()
def test_int8_stays_close_on_photos_that_it_has_not_seen(
    predictor: Predictor, int8: Path, records: list[dict[str, Any]]
):
    """A random network's features, which differ far more than a trained one's; not the same, so it is in int8."""
    trunk = OpenVinoTrunk(int8)
    for record in records[4:]:
        pixels = calibration_pixels(predictor, record)
        stored = trunk(pixels)
        assert all(stored.features[name].dtype == torch.uint8 for name in ("p2", "p3", "p4", "p5"))  # the heads'
        found = distances(as_values(trunk, stored), predictor.trunk(pixels))
        assert all(1e-4 < found[name] < 0.4 for name in ("p2", "p3", "p4", "p5", "p6"))


@pytest.mark.parametrize(("name", "kept"), [("mobilenetv2, quick", 51 + 51 + 10), ("resnet50", 0)])
def test_a_backbone_of_depthwise_convolutions_stays_in_float(name: str, kept: int):
    """MobileNetV2's 1 + 2 + 16 × 3 convolutions (Sandler et al., 2018, table 2, without the last), their biases and its
    ten sums; nothing of a ResNet's."""
    _, model = network(*NETWORKS[name])
    prepare(model)
    assert len(_sensitive(to_openvino(TorchTrunk(model)))) == kept


def test_the_same_weights_and_photos_give_the_same_bytes(
    predictor: Predictor, int8: Path, records: list[dict[str, Any]], tmp_path: Path
):
    """Whatever this process has made before; each calibration photo is told of."""
    seen: list[None] = []
    again = write_int8_trunk(predictor, records[:4], tmp_path, lambda: seen.append(None))
    assert len(seen) >= 4
    for suffix in (".xml", ".bin"):
        assert again.with_suffix(suffix).read_bytes() == int8.with_suffix(suffix).read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    different = write_int8_trunk(predictor, records[2:], other)
    assert different.with_suffix(".bin").read_bytes() != int8.with_suffix(".bin").read_bytes()


def test_a_predictor_in_int8_finds_its_own_instances_with_as_many_threads_as_torch(predictor: Predictor, int8: Path):
    cfg, model = network("mobilenetv2", "quick")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        quantised = Predictor(cfg, CLASSES, weights=model.state_dict(), precision="int8", trunk=int8, device="cuda")
    finally:
        torch.set_num_threads(before)
    assert isinstance(quantised._heads.box_head[0].fc1, Int8Linear) == multiplies_int8()
    compiled = quantised.trunk.graph._request((1, 128, 256, 3)).get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert quantised.cfg.MODEL.DEVICE == "cpu"  # int8 runs there whatever is asked for
    photo = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    (found,), _ = quantised([photo])
    (again,), _ = quantised([photo])
    assert len(found.scores) > 0
    np.testing.assert_array_equal(found.boxes_xyxy, again.boxes_xyxy)


def test_a_light_pyramid_has_no_levels(records: list[dict[str, Any]], tmp_path: Path):
    """Its last convolutions are two each: OpenVINO does all of it."""
    cfg, model = network(*NETWORKS["mobilenetv2 lite, stride 16"])
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    trunk = write_int8_trunk(Predictor(cfg, CLASSES, weights=model.state_dict(), device="cpu"), records[:2], tmp_path)
    assert OpenVinoGraph(trunk, (LEVEL,)).names == []
    quantised = Predictor(cfg, CLASSES, weights=weights, precision="int8", trunk=trunk)
    (found,), _ = quantised([np.full((90, 120, 3), 99, np.uint8)])
    assert found.size == (90, 120)


@torch.inference_mode()
def test_group_norm_sees_no_more_padding_than_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Or every feature differed: here of a trunk on OpenVINO that is in float32, too."""
    monkeypatch.setattr(openvino_trunk, "has_fast_bfloat16", lambda _device: False)
    cfg, model = network(*NETWORKS["mobilenetv2 lite, stride 16"])
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    exact = Predictor(cfg, CLASSES, weights=model.state_dict(), device="cpu")
    trunk = write(to_openvino(exact.trunk), tmp_path)
    ours = Predictor(cfg, CLASSES, weights=weights, precision="int8", trunk=trunk)
    image = np.random.default_rng(0).integers(0, 256, (100, 140, 3), dtype=np.uint8)
    found, expected = (one.trunk(one.pixels([image], [(100, 140)])[0].float()) for one in (ours, exact))
    assert all(distance < 1e-3 for distance in distances(found, expected).values())


def int8_predictor(predictor: Predictor, trunk: Path) -> Predictor:
    weights = network("mobilenetv2", "quick")[1].state_dict()
    return Predictor(predictor.cfg, CLASSES, weights=weights, precision="int8", trunk=trunk)


def as_values(trunk: OpenVinoTrunk, output: TrunkOutput) -> TrunkOutput:
    """What its features stand for."""
    values = {name: trunk.scales.get(name, Affine()).values(one) for name, one in output.features.items()}
    return output._replace(features=values)


NARROW = ("MODEL.MOBILENETV2.WIDTH_MULT", "0.35")
"""Its first blocks answer 8 channels."""
needs_int8_convs = pytest.mark.skipif(
    not conv_suits_int8(Conv2d(64, 64, 3, padding=1)), reason="this CPU has no VNNI, or AMX as well"
)


@needs_int8_convs
@torch.inference_mode()
def test_the_last_convolutions_are_winograds_and_as_close(
    predictor: Predictor, int8: Path, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    """To the network in float32, as OpenVINO's int8 is, which remains for small photos and for many threads."""
    theirs = int8_predictor(predictor, int8).trunk
    assert isinstance(theirs, OpenVinoTrunk)
    monkeypatch.setattr(int8_pyramid, "LEAST", 0)  # of photos as small as these
    monkeypatch.setitem(winograd.WAYS, torch.uint8, Way(3, 0))
    ours = int8_predictor(predictor, int8)
    assert isinstance(ours.trunk, Int8Pyramid)
    assert all(conv.winograd.pays((1, 64, 8, 8)) for conv in ours.trunk._fpn.output_convs)
    monkeypatch.setattr(winograd, "MOST_THREADS", 0)
    assert isinstance(int8_predictor(predictor, int8).trunk, OpenVinoTrunk)
    monkeypatch.setattr(winograd, "MOST_THREADS", 8)
    for record in records[4:6]:
        pixels = calibration_pixels(ours, record)
        expected, found, other = (trunk(pixels) for trunk in (predictor.trunk, ours.trunk, theirs))
        far = distances(as_values(theirs, other), expected)
        assert all(1e-4 < distance < 1.5 * far[name] + 0.03 for name, distance in distances(found, expected).items())
        height, width = pixels.shape[2], pixels.shape[3] - 32
        part = ours.trunk(pixels, (height, width))
        assert part.logits[0].shape[2:] == (height // 4, width // 4)
        inner = slice(width // 4 - 8)  # beside what is left out are zeros
        torch.testing.assert_close(part.logits[0][..., inner], found.logits[0][..., inner])


@needs_int8_convs
@torch.inference_mode()
def test_a_backbone_in_float_needs_no_openvino(
    predictor: Predictor, int8: Path, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    """Where photos are large: all of it is torch's, as close as OpenVINO's int8 is, and of any size."""
    monkeypatch.setattr(int8_pyramid, "LEAST_SIDE", 0)
    monkeypatch.setitem(winograd.WAYS, torch.uint8, Way(3, 0))
    with monkeypatch.context() as without:
        without.setattr(openvino_trunk, "find_spec", lambda _name: None)
        ours = int8_predictor(predictor, int8)
    assert isinstance(ours.trunk, TorchTrunk)
    assert ours.pixels([np.zeros((96, 97, 3), np.uint8)], [(96, 97)])[0].shape == (1, 3, 96, 128)
    assert all(conv.winograd.pays((1, 64, 8, 8)) for conv in ours.trunk.backbone.output_convs)
    for record in records[4:6]:
        pixels = calibration_pixels(predictor, record)
        found = distances(ours.trunk(pixels), predictor.trunk(pixels))
        assert all(1e-4 < found[name] < 0.05 for name in ("p2", "p3", "p4", "p5", "p6"))


@needs_int8_convs
@pytest.mark.parametrize(
    ("options", "side", "goes"),
    [((), 544, True), ((), 543, False), (("MODEL.MOBILENETV2.NORM", "GN"), 544, False), (NARROW, 544, False)],
)
def test_openvino_stays_where_blocks_do_not_run_row_by_row(options: tuple[str, ...], side: int, goes: bool):
    _, model = network("mobilenetv2", "quick", *options)
    prepare(model)
    assert int8_pyramid.suits(model)
    assert int8_pyramid.goes_without_openvino(model, side) == goes


@pytest.mark.parametrize("kind", [OpenVinoTrunk, pytest.param(Int8Pyramid, marks=needs_int8_convs)])
def test_no_weights_stay_in_memory_that_openvino_calculates_with(
    predictor: Predictor, int8: Path, monkeypatch: pytest.MonkeyPatch, kind: type
):
    networks = []

    def load(*args: Any) -> Any:
        model = load_network(*args)
        networks.append(weakref.ref(model.backbone.bottom_up))
        return model

    monkeypatch.setattr("maskserve.modeling.predictor.load_network", load)
    monkeypatch.setattr(int8_pyramid, "LEAST", 0 if kind is Int8Pyramid else float("inf"))
    ours = int8_predictor(predictor, int8)
    gc.collect()
    assert isinstance(ours.trunk, kind)
    assert [network() for network in networks] == [None]


@torch.inference_mode()
def test_an_archive_of_before_has_no_levels(
    predictor: Predictor, int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(int8_pyramid, "LEAST", 0)
    openvino = openvino_trunk.load_openvino()
    whole = openvino.Core().read_model(int8)
    results = [one for one in whole.get_results() if not one.input_value(0).get_any_name().startswith(LEVEL)]
    assert len(results) == len(whole.get_results()) - 4
    openvino.save_model(openvino.Model(results, whole.get_parameters()), tmp_path / "trunk.xml", compress_to_fp16=False)
    trunk = int8_predictor(predictor, tmp_path / "trunk.xml").trunk
    assert isinstance(trunk, OpenVinoTrunk)
    assert "p2" in trunk(torch.zeros(1, 3, 64, 128)).features


def test_a_full_disk_is_said_with_the_path(predictor: Predictor, tmp_path: Path):
    """OpenVINO's own text is "iostream error"."""
    (tmp_path / "trunk.bin").symlink_to("/dev/full")
    with pytest.raises(ConfigError, match=r"trunk\.xml: OpenVINO cannot write it .*disk full"):
        write(to_openvino(predictor.trunk), tmp_path)


def test_int8_answers_the_same_without_numba(predictor: Predictor, int8: Path, monkeypatch: pytest.MonkeyPatch):
    """Detectron2's pooler, which is the reference, reads the stored features, too."""
    photo = np.random.default_rng(1).integers(0, 255, (90, 120, 3), np.uint8)
    answers = []
    for can_replace in (True, False):
        monkeypatch.setattr("maskserve.modeling.heads.can_replace", lambda _pooler, can=can_replace: can)
        answers += int8_predictor(predictor, int8)([photo])[0]
    fast, reference = answers
    assert len(fast.scores) > 0
    np.testing.assert_allclose(fast.scores, reference.scores, atol=0.02)  # the heads calculate in bfloat16
    np.testing.assert_allclose(fast.boxes_xyxy, reference.boxes_xyxy, atol=2)


def test_int8_answers_at_sizes_that_once_ended_the_process(int8: Path):
    """On CPUs with AMX, compiled for any size: OpenVINO's issue 37577. In another process, which may die."""
    program = (
        "import sys, torch; from pathlib import Path; from maskserve.modeling.openvino_trunk import OpenVinoTrunk\n"
        "trunk = OpenVinoTrunk(Path(sys.argv[1]))\n"
        "for size in ((32, 32), (544, 544), (608, 704), (32, 32)): trunk(torch.zeros(2, 3, *size))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(int8)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_signal_ends_no_process_that_had_two_trunks(int8: Path):
    """OpenVINO gives threads a stack for signals, and may leave them one that is gone. In another process, which may
    die."""
    program = (
        "import os, signal, sys, torch; from pathlib import Path\n"
        "from maskserve.modeling.openvino_trunk import OpenVinoTrunk\n"
        "trunks = [OpenVinoTrunk(Path(sys.argv[1])) for _ in range(2)]\n"
        "for trunk in trunks: trunk(torch.zeros(1, 3, 32, 32))\n"
        "del trunk, trunks[0]\n"
        "del trunks[0]\n"
        "signal.signal(signal.SIGINT, lambda *_: print('told'))\n"
        "os.kill(os.getpid(), signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(int8)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "told\n"), done.stderr


def test_a_missing_openvino_is_named_with_what_to_do(int8: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openvino_trunk, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="not installed here: pip install openvino"):
        OpenVinoTrunk(int8)


def test_files_that_are_no_trunk_are_named(int8: Path, predictor: Predictor, tmp_path: Path):
    """Missing, damaged, or a graph of something else."""
    with pytest.raises(ConfigError, match=r"trunk\.xml: no such file"):
        OpenVinoTrunk(tmp_path / "trunk.xml")
    (tmp_path / "trunk.xml").write_bytes(int8.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"trunk\.bin: no such file"):
        OpenVinoTrunk(tmp_path / "trunk.xml")
    (tmp_path / "trunk.bin").write_bytes(int8.with_suffix(".bin").read_bytes())
    with pytest.raises(ConfigError, match=r"trunk\.xml: OpenVINO cannot load it"):
        OpenVinoTrunk(tmp_path / "trunk.xml")
    (tmp_path / "trunk.xml").write_text(int8.read_text().replace("feature/", "something/"))
    with pytest.raises(ConfigError, match=r"trunk\.xml: no trunk of `maskserve package`"):
        OpenVinoTrunk(tmp_path / "trunk.xml")
    with pytest.raises(ConfigError, match=r"precision int8 needs the trunk\.xml"):
        Predictor(predictor.cfg, CLASSES, weights=network("mobilenetv2", "quick")[1].state_dict(), precision="int8")


def test_openvino_and_nncf_report_nothing_to_anyone():
    """They tell Google Analytics of an import unless their telemetry cannot be imported."""
    program = (
        "import sys; from maskserve.training.quantize import _load_nncf\n"
        "from maskserve.modeling.openvino_trunk import load_openvino\n"
        "load_openvino(); _load_nncf()\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry') and sys.modules[name]])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
