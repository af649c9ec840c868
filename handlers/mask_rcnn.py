"""The entry that TorchServe loads from a model archive.

    initialize   archive ─▶ threads ─▶ predictor ─▶ one synthetic photo through everything
    handle       rows ─▶ answer_batch ─▶ one reply per row, in the rows' order

TorchServe wants exactly one class in this file, and it hides an ImportError of the file behind "No module named
'ts.torch_handler.…'"; so everything heavy is imported inside `initialize`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class MaskRcnnHandler:
    """Instance segmentation over TorchServe's batch protocol. One worker runs one batch at a time, in one thread."""

    def initialize(self, context: Any) -> None:
        """Loads the archive's model and warms it up. Raises whatever is wrong: a broken archive must be loud."""
        started = time.perf_counter()
        from maskserve.modeling.torchvision_import import import_torchvision

        import_torchvision()  # before anything else imports it
        from maskserve.handlers.archive import Archive, device_of
        from maskserve.handlers.batch import Engine
        from maskserve.handlers.telemetry import log_event
        from maskserve.modeling.config import load_cfg
        from maskserve.modeling.device import check_precision
        from maskserve.modeling.predictor import Predictor
        from maskserve.modeling.process import prepare_process

        imported = time.perf_counter()
        properties = context.system_properties
        archive = Archive.read(Path(properties["model_dir"]), context.model_name)
        prepare_process(archive.threads)
        device = device_of(properties)
        precision = check_precision(archive.model.precision, device)
        predictor = Predictor(
            load_cfg(archive.config),
            archive.class_names,
            weights=archive.weights,
            device=device,
            precision=precision,
            trunk=archive.trunk,
        )
        self._engine = Engine(predictor, archive.model, archive.score_threshold)
        loaded = time.perf_counter()
        self._engine.warm_up()
        log_event(
            "model_loaded",
            model=archive.model.name,
            device=predictor.cfg.MODEL.DEVICE,
            precision=precision,
            threads=archive.threads,
            import_s=round(imported - started, 2),
            load_s=round(loaded - imported, 2),
            warm_up_s=round(time.perf_counter() - loaded, 2),
            source=Predictor.__call__.__code__.co_filename,
        )

    def handle(self, rows: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """One reply per row, in order; never raises for an image.

        Args:
            rows: TorchServe's batch, see maskserve.handlers.request.
            context: TorchServe's; a REST caller's status and content type are set on it.
        """
        from maskserve.handlers.batch import answer_batch
        from maskserve.handlers.reply import announce, pack
        from maskserve.handlers.telemetry import record

        packed = [pack(answer) for answer in answer_batch(rows, self._engine)]
        record([answer for answer, _ in packed], context.metrics)
        for index, (answer, _) in enumerate(packed):
            announce(answer, context, index)
        return [data for _, data in packed]
