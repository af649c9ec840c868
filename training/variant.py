"""How a run's network is run: in which precision, and with how many proposals; and the predictor that runs it so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode

from maskserve.modeling.device import Precision
from maskserve.modeling.predictor import Predictor
from maskserve.training.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Variant:
    """By default as it was trained, in fp32."""

    precision: Precision = "fp32"
    trunk: Path | None = None
    """trunk.xml of int8, trunk.bin beside it."""
    proposals: int | None = None
    """The RPN's best boxes of a photo, which go to the heads; None: as many as the run's config says."""

    def cfg(self, cfg: CfgNode) -> CfgNode:
        """A copy of a run's config with this variant's proposals."""
        cfg = cfg.clone()
        if self.proposals is not None:
            cfg.defrost()
            cfg.MODEL.RPN.POST_NMS_TOPK_TEST = self.proposals
        return cfg

    def predictor(self, folder: RunFolder, *, device: str = "auto") -> Predictor:
        """The run's predictor. Raises ConfigError: see `Predictor`."""
        return Predictor(
            self.cfg(folder.load_cfg()),
            folder.load_classes(),
            weights=folder.weights,
            device=device,
            precision=self.precision,
            trunk=self.trunk,
        )


AS_TRAINED = Variant()
