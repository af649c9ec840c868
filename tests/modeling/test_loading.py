"""Networks are loaded without the work that their weights make needless, and torchvision without torch's compiler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from maskserve.modeling.loading import load_network, load_state_dict


def test_loading_draws_no_random_number_and_leaves_nothing_out(small_cfg: CfgNode, tmp_path: Path):
    """Parameters, statistics and what no state dict holds (anchors, pixel mean) are those of the usual way."""
    usual = build_model(small_cfg).eval()
    torch.save(usual.state_dict(), tmp_path / "model.pth")
    before = torch.get_rng_state()
    loaded = load_network(small_cfg, tmp_path / "model.pth")
    assert torch.equal(torch.get_rng_state(), before)
    assert not loaded.training
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = dict(getattr(loaded, kind)()), dict(getattr(usual, kind)())
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor), name
            assert ours[name].requires_grad == tensor.requires_grad, name


def test_a_network_outlives_its_weights_file(small_cfg: CfgNode, tmp_path: Path):
    """The file is mapped only while it is copied from; whoever overwrites it later changes no model."""
    path = tmp_path / "model.pth"
    torch.save(build_model(small_cfg).state_dict(), path)
    loaded = load_network(small_cfg, path)
    wanted = load_state_dict(path)["backbone.fpn_output2.weight"].clone()
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(loaded.backbone.fpn_output2.weight, wanted)


def test_a_weights_file_of_the_old_format_is_read(tmp_path: Path):
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert load_state_dict(tmp_path / "old.pth")["a"].sum() == 2


def test_a_process_that_answers_photos_never_loads_the_compiler():
    """It would take longer to import than torch; whoever asks for it later gets the real one."""
    program = """
import sys
from maskserve.modeling.torchvision_import import import_torchvision
import_torchvision()
from maskserve.modeling.predictor import Predictor
compiler = [name for name in sys.modules if name.startswith(("sympy", "triton", "torch._dynamo"))]
assert not compiler, compiler
from torchvision.ops import roi_align
assert sys.modules["torchvision.ops.roi_align"].is_compile_supported("meta") is False
import torch._dynamo.utils
assert sys.modules["torch._dynamo.utils"].__file__.endswith("utils.py")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
