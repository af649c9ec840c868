"""Initial weights: converted exactly, read safely, refused clearly, and never waited for offline."""

import pickle
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import build_resnet_backbone
from torch import nn
from torchvision.models import mobilenet_v2, resnet18, resnet34, resnet50, resnet101

from maskserve.modeling.config import load_cfg
from maskserve.modeling.network import backbone_name, network_name, settle
from maskserve.protos.errors import ConfigError
from maskserve.training import fetch as fetching
from maskserve.training.naming import PREFIX, from_torchvision
from maskserve.training.presets import ARMS, CONFIGS, resolve_cfg
from maskserve.training.safe_pickle import load_arrays
from maskserve.training.weights import NO_WEIGHTS, PUBLISHED, find_weights, from_file, load_into, published_url

R50, MNV2 = ARMS["resnet50"], ARMS["mobilenetv2"]
UNROUTABLE = "https://192.0.2.1/models/resnet50-0676ba61.pth"


def model_for(arm, weights, *overrides):
    cfg = resolve_cfg(
        arm,
        preset="quick",
        recipe=weights.recipe,
        recipe_values=weights.recipe_values,
        class_count=2,
        seed=0,
        overrides=("MODEL.DEVICE", "cpu", *overrides),
    )
    return cfg, build_model(cfg)


@pytest.mark.parametrize(("depth", "network"), [(18, resnet18), (34, resnet34), (50, resnet50), (101, resnet101)])
def test_torchvision_s_resnets_give_torchvision_s_features(depth: int, network: Callable[..., nn.Module]):
    torch.manual_seed(0)
    theirs = network(weights=None)
    photos = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs.train()(photos)
    cfg = load_cfg(CONFIGS / R50.config)
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    settle(cfg)
    ours = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    state = {k.removeprefix(PREFIX): v for k, v in from_torchvision(theirs.state_dict(), "resnet50").items()}
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not missing
    assert all(name.endswith("num_batches_tracked") for name in unexpected)
    theirs.eval()
    with torch.no_grad():
        features = ours(photos)
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(photos))))
        for index in range(1, 5):
            x = getattr(theirs, f"layer{index}")(x)
            torch.testing.assert_close(features[f"res{index + 1}"], x, rtol=1e-4, atol=1e-4)


def test_a_torchvision_file_fills_the_whole_backbone_and_brings_its_normalisation(tmp_path: Path):
    theirs = mobilenet_v2(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    weights = from_file(tmp_path / "weights.pth", MNV2)
    cfg, model = model_for(MNV2, weights)
    said = load_into(model, weights)
    assert "weights.pth" in said
    stem = model.state_dict()["backbone.bottom_up.stem.weight"]
    assert torch.equal(stem, theirs.state_dict()["features.0.0.weight"])
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.120, 57.375]


def test_a_run_s_weights_bring_the_preprocessing_of_the_config_beside_them(tmp_path: Path):
    cfg = resolve_cfg(
        MNV2,
        preset="quick",
        recipe="none",
        class_count=2,
        seed=0,
        overrides=("MODEL.DEVICE", "cpu", "MODEL.PIXEL_STD", "[2.0,2.0,2.0]"),
    )
    model = build_model(cfg)
    torch.save(model.state_dict(), tmp_path / "model_best.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    weights = from_file(tmp_path / "model_best.pth", MNV2)
    resolved, other = model_for(MNV2, weights)
    assert resolved.MODEL.PIXEL_STD == [2.0, 2.0, 2.0]
    assert load_into(other, weights).startswith(str(len(other.state_dict())))


@pytest.mark.parametrize(
    "overrides", [("MODEL.RESNETS.DEPTH", "18"), ("MODEL.RESNETS.DEPTH", "18", "MODEL.LITE", "True")]
)
def test_a_published_file_of_another_depth_fills_that_depth_s_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
):
    theirs = resnet18(weights=None)
    asked: list[str] = []

    def fetched(url: str, **_: object) -> Path:
        asked.append(url)
        torch.save(theirs.state_dict(), tmp_path / "fetched.pth")
        return tmp_path / "fetched.pth"

    monkeypatch.setattr("maskserve.training.weights.fetch", fetched)
    weights = find_weights(R50, "resnet18", "imagenet", "standard")
    assert "resnet18" in asked[0]
    cfg, model = model_for(R50, weights, *overrides)
    load_into(model, weights)
    assert cfg.INPUT.FORMAT == "RGB"
    convolution = model.state_dict()["backbone.bottom_up.res5.1.conv2.weight"]
    assert torch.equal(convolution, theirs.state_dict()["layer4.1.conv2.weight"])


@pytest.mark.parametrize(("depth", "network"), [(18, resnet18), (34, resnet34), (101, resnet101)])
def test_a_file_tells_the_depth_of_its_resnet(tmp_path: Path, depth: int, network: Callable[..., nn.Module]):
    torch.save(network(weights=None).state_dict(), tmp_path / "weights.pth")
    weights = from_file(tmp_path / "weights.pth", R50)
    cfg, model = model_for(R50, weights)
    assert backbone_name(cfg) == f"resnet{depth}"
    load_into(model, weights)
    with pytest.raises(ConfigError, match="another network, depth or width"):
        load_into(
            model_for(R50, weights, "MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "256")[1], weights
        )


@pytest.mark.parametrize(
    "overrides",
    [
        ("MODEL.LITE", "True", "MODEL.MOBILENETV2.OUTPUT_STRIDE", "16", "MODEL.MOBILENETV2.WIDTH_MULT", "0.5"),
        ("MODEL.MOBILENETV2.NORM", "GN", "MODEL.FPN.NORM", "GN"),
    ],
)
def test_a_run_s_weights_bring_its_network_along(tmp_path: Path, overrides: tuple[str, ...]):
    cfg, model = model_for(MNV2, NO_WEIGHTS, *overrides)
    torch.save(model.state_dict(), tmp_path / "model_best.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    weights = from_file(tmp_path / "model_best.pth", MNV2)
    resolved, other = model_for(MNV2, weights)
    assert network_name(resolved) == network_name(cfg)
    load_into(other, weights)
    own = other.state_dict()
    kept = [name for name in own if name in weights.state and torch.equal(own[name], weights.state[name])]
    assert len(kept) == len(own)


def test_the_weights_of_another_architecture_on_the_same_trunk_are_a_start(tmp_path: Path):
    cfg, model = model_for(R50, NO_WEIGHTS)
    torch.save(model.state_dict(), tmp_path / "model_final.pth")
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME = "PanopticFPN", "CascadeROIHeads"
    (tmp_path / "config.yaml").write_text(cfg.dump())
    weights = from_file(tmp_path / "model_final.pth", R50)
    resolved, other = model_for(R50, weights)
    assert resolved.MODEL.ROI_HEADS.NAME == "StandardROIHeads"
    load_into(other, weights)


@pytest.mark.parametrize("content", ["another network", "nothing useful", "garbage", "missing"])
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "weights.pth"
    if content == "another network":
        torch.save(mobilenet_v2(weights=None).state_dict(), path)
    elif content == "nothing useful":
        torch.save({"a": torch.ones(1)}, path)
    elif content == "garbage":
        path.write_bytes(b"not a file of tensors")
    with pytest.raises(ConfigError, match=r"weights\.pth"):
        from_file(path, R50)


@pytest.mark.parametrize("name", ["init.pth", "init.pkl"])
@pytest.mark.parametrize(
    "content",
    [
        b"hi",
        b".",
        b"\x80\x02cabc",
        pickle.dumps({"model": [1]}, protocol=2),
        pickle.dumps({1: np.ones(3, np.float32)}, protocol=2),
        pickle.dumps({}, protocol=2).replace(b"}", b"X\x01\x00\x00\x00a"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_whatever_it_is(tmp_path: Path, name: str, content: bytes):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        from_file(path, ARMS["mobilenetv2"])


def test_a_state_dict_without_names_is_refused(tmp_path: Path):
    torch.save({1: torch.ones(2)}, tmp_path / "init.pth")
    with pytest.raises(ConfigError, match="no state dict"):
        from_file(tmp_path / "init.pth", ARMS["mobilenetv2"])


def test_weights_of_another_width_say_how_many_tensors_match(tmp_path: Path):
    torch.save(mobilenet_v2(weights=None, width_mult=0.5).state_dict(), tmp_path / "half.pth")
    weights = from_file(tmp_path / "half.pth", MNV2)
    with pytest.raises(ConfigError, match=r"of 255 tensors match"):
        load_into(model_for(MNV2, weights)[1], weights)


@pytest.mark.kit
def test_the_kit_s_files_are_recognised_and_loaded_whole(kit: Path):
    for arm, name, mean in (
        (MNV2, "mobilenet_v2-imagenet-torchvision.pth", 127.5),
        (R50, "resnet50thin-open_nsfw-d2-fp16.pth", 104.0),
    ):
        weights = from_file(kit / "weights" / name, arm)
        for overrides in ((), ("MODEL.LITE", "True", "MODEL.MOBILENETV2.OUTPUT_STRIDE", "16")):
            cfg, model = model_for(arm, weights, *overrides)
            load_into(model, weights)
            assert cfg.MODEL.PIXEL_MEAN[0] == mean


def test_offline_auto_decides_for_random_weights_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MASKSERVE_CACHE", str(tmp_path))
    monkeypatch.setattr("maskserve.training.weights.published_url", lambda backbone, kind: UNROUTABLE)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    said: list[str] = []
    start = time.monotonic()
    weights = find_weights(R50, "resnet50", "auto", "standard", say=said.append)
    assert time.monotonic() - start < 15
    assert weights.kind == "none"
    assert "random" in said[-1]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="cannot be reached"):
        find_weights(R50, "resnet50", "imagenet", "standard")


def test_a_cached_file_is_used_only_with_the_checksum_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MASKSERVE_CACHE", str(tmp_path))
    monkeypatch.setattr(fetching, "reachable", lambda url: False)
    url = "https://example.invalid/models/weights-2cf24dba.pth"  # SHA-256 of "hello"
    (tmp_path / "models-weights-2cf24dba.pth").write_bytes(b"hello")
    assert fetching.fetch(url, deadline_s=1).read_bytes() == b"hello"
    (tmp_path / "models-weights-2cf24dba.pth").write_bytes(b"hullo")
    with pytest.raises(ConfigError, match="cannot be reached"):
        fetching.fetch(url, deadline_s=1)


def test_a_download_is_checked_and_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if "odd" in self.path:
                self.wfile.write(b"\x05\xff, as of a SOCKS proxy\r\n\r\n")
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *args):
            pass

    monkeypatch.setenv("MASKSERVE_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            base = f"http://127.0.0.1:{server.server_port}/models"
            assert fetching.fetch(f"{base}/weights-2cf24dba.pth", deadline_s=9).read_bytes() == b"hello"
            assert fetching.fetch(f"{base}/weights_5d4140.pkl", deadline_s=9).read_bytes() == b"hello"  # MD5
            with pytest.raises(ConfigError, match="checksum"):
                fetching.fetch(f"{base}/weights-00000000.pth", deadline_s=9)
            with pytest.raises(ConfigError, match="cannot be fetched"):
                fetching.fetch(f"{base}/odd-2cf24dba.pth", deadline_s=9)
        finally:
            server.shutdown()
            thread.join()
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_both_publishers_name_a_file_with_a_checksum():
    for kind, backbones in PUBLISHED.items():
        for backbone in backbones:
            assert fetching.NAME_CHECKSUM.search(published_url(backbone, kind))


def test_a_network_that_nobody_publishes_starts_at_random_without_a_download(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("maskserve.training.weights.fetch", lambda *_, **__: pytest.fail("downloads"))
    assert find_weights(MNV2, "mobilenetv2_0.5", "auto", "standard") is NO_WEIGHTS
    with pytest.raises(ConfigError, match=r"nobody publishes weights of mobilenetv2_0\.5, only of resnet18"):
        find_weights(MNV2, "mobilenetv2_0.5", "imagenet", "standard")
    said: list[str] = []
    with pytest.raises(ConfigError, match="nobody publishes"):
        find_weights(MNV2, "mobilenetv2_0.5", "coco", "standard", say=said.append)
    assert "taking ImageNet's" in said[0]


def test_a_zoo_pickle_gives_its_arrays_and_a_harmful_one_is_refused(tmp_path: Path):
    good, bad = tmp_path / "good.pkl", tmp_path / "bad.pkl"
    good.write_bytes(pickle.dumps({"model": {"a": np.ones((2, 3), np.float32)}, "__author__": "zoo"}))
    assert load_arrays(good)["model"]["a"].shape == (2, 3)
    bad.write_bytes(pickle.dumps({"model": Path("x")}))
    with pytest.raises(ConfigError, match="pathlib"):
        load_arrays(bad)
