"""The real TorchServe with tiny models, for tests; one start serves a whole session.

Both arms under their real names with random weights, packaged as a user packages them, and the model `faults` (see
tests/faults.py). The MobileNetV2 arm collects batches of four, so that tests can see one.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from maskserve.cli.torchserve_config import Ports
from maskserve.cli.torchserve_process import TorchServe
from maskserve.protos import wire
from tests.faults import MODEL as FAULTS
from tests.faults import make_fault_archive
from tests.runs import make_run

ROOT = Path(__file__).resolve().parents[1]
BATCH_SIZE = 4
SCORE_THRESHOLD = 0.2
"""Random weights score about 1/3; so a request without options gets instances."""


def make_archives(folder: Path) -> Path:
    """<folder>/store with an archive of each arm."""
    from maskserve.training.package import ServingSettings, package_run

    store = folder / "store"
    for backbone, batch_size in (("resnet50", 1), ("mobilenetv2", BATCH_SIZE)):
        run = make_run(folder / "runs" / backbone, backbone)
        settings = ServingSettings(
            batch_size=batch_size, batch_delay_ms=100, threads=1, score_threshold=SCORE_THRESHOLD
        )
        package_run(run, store, settings=settings)
    return store


class RealTorchServe:
    """A context manager; ready when it is entered.

    Attributes: `address`, `management_address` (gRPC, host:port), `rest_address`, `metrics_address` (URLs), `models`
    (the two arms), `folder` (its private folder), `store` (the archives), `process` (maskserve's TorchServe).
    """

    models = (wire.MODEL_R50, wire.MODEL_MNV2)

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> RealTorchServe:
        with ExitStack() as stack:
            self.store = make_archives(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mstest-"))))
            make_fault_archive(self.store)
            loaded = ",".join(f"{name}={name}.mar" for name in (*self.models, FAULTS))
            self.process = TorchServe(
                ROOT / "config.properties", self.store, ports=Ports.free(), changes={"load_models": loaded}
            )
            stack.enter_context(self.process)
            self.process.wait_ready()
            self._stack = stack.pop_all()
        self.address = self.process.address
        self.management_address = self.process.management_address
        self.rest_address = self.process.rest_address
        self.metrics_address = self.process.metrics_address
        self.folder = self.process.folder
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()
