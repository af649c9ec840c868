"""Regenerates the committed stubs: `python -m maskserve.protos.generate [FOLDER]` (needs grpcio-tools)."""

from __future__ import annotations

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVICES = ("inference", "management")


def generate(target: Path) -> None:
    """Write `*_pb2.py`, `*_pb2.pyi` and `*_pb2_grpc.py` for every .proto into `target`."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        # The include root stands above maskserve/protos, so that stubs import each other by their full name.
        root = Path(folder)
        (root / "maskserve").mkdir()
        (root / "maskserve" / "protos").symlink_to(HERE)
        out = root / "out"
        out.mkdir()
        for proto in sorted(HERE.glob("*.proto")):
            flags = [f"-I{root}", f"-I{files('grpc_tools') / '_proto'}", f"--python_out={out}", f"--pyi_out={out}"]
            if proto.stem in SERVICES:
                flags.append(f"--grpc_python_out={out}")
            if protoc.main(["protoc", *flags, f"maskserve/protos/{proto.name}"]) != 0:
                raise SystemExit(f"protoc refused {proto.name}; see above")
        for stub in (out / "maskserve" / "protos").iterdir():
            (target / stub.name).write_text(stub.read_text(encoding="utf-8"), encoding="utf-8")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
