"""Nothing that is written twice drifts apart: stubs, TorchServe's own definition, limits."""

from __future__ import annotations

import zipfile
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from maskserve.protos import inference_pb2, management_pb2, wire

protoc = pytest.importorskip("grpc_tools.protoc")


def test_the_committed_stubs_are_those_of_the_protos(repo_root: Path, tmp_path: Path) -> None:
    """`make protos` would change nothing."""
    from maskserve.protos.generate import generate

    generate(tmp_path)
    committed = {path.name: path.read_text() for path in (repo_root / "protos").glob("*_pb2*.py*")}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == committed


@pytest.fixture(scope="module")
def torchserves_protos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileDescriptorProto]:
    """TorchServe's own definitions, out of the installed wheel's jar."""
    # found, not imported: `import ts` is slow
    spec = find_spec("ts")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("TorchServe is not installed")
    jar = Path(spec.submodule_search_locations[0]) / "frontend" / "model-server.jar"
    folder = tmp_path_factory.mktemp("protos")
    names = ["inference.proto", "management.proto"]
    with zipfile.ZipFile(jar) as archive:
        for name in [*names, "google/rpc/status.proto"]:
            archive.extract(name, folder)
    out = folder / "all.bin"
    include = files("grpc_tools") / "_proto"
    assert protoc.main(["protoc", f"-I{folder}", f"-I{include}", f"--descriptor_set_out={out}", *names]) == 0
    return {file.name: file for file in FileDescriptorSet.FromString(out.read_bytes()).file}


@pytest.mark.parametrize("ours", [inference_pb2, management_pb2], ids=["inference", "management"])
def test_our_messages_are_torchserves(ours: Any, torchserves_protos: dict[str, FileDescriptorProto]) -> None:
    """Each message that we use has TorchServe's package, field names, numbers and types; it may leave fields out."""
    mine = FileDescriptorProto.FromString(ours.DESCRIPTOR.serialized_pb)
    theirs = torchserves_protos[mine.name.rsplit("/", 1)[-1]]
    assert mine.package == theirs.package
    their_fields = {message.name: fields_of(message) for message in theirs.message_type}
    for message in mine.message_type:
        assert fields_of(message).items() <= their_fields[message.name].items(), message.name


@pytest.mark.parametrize("ours", [inference_pb2, management_pb2], ids=["inference", "management"])
def test_our_services_are_torchserves(ours: Any, torchserves_protos: dict[str, FileDescriptorProto]) -> None:
    """Each call that we make has TorchServe's service, name, input and output, and streams nothing."""
    mine = FileDescriptorProto.FromString(ours.DESCRIPTOR.serialized_pb)
    theirs = torchserves_protos[mine.name.rsplit("/", 1)[-1]]
    (our_service,) = mine.service
    their_service = next(service for service in theirs.service if service.name == our_service.name)
    their_calls = {call.name: call_of(call) for call in their_service.method}
    assert {call.name: call_of(call) for call in our_service.method}.items() <= their_calls.items()


def fields_of(message: DescriptorProto) -> dict[str, tuple[Any, ...]]:
    """Number, type and repetition by field name, nested map entries included."""
    fields: dict[str, tuple[Any, ...]] = {
        field.name: (field.number, field.type, field.label, field.type_name) for field in message.field
    }
    for nested in message.nested_type:
        fields |= {f"{nested.name}.{name}": of for name, of in fields_of(nested).items()}
    return fields


def call_of(call: Any) -> tuple[Any, ...]:
    return call.input_type, call.output_type, call.client_streaming, call.server_streaming


def test_torchserves_limits_are_the_wires(repo_root: Path) -> None:
    """config.properties lets through exactly what wire.py promises."""
    path = repo_root / "config.properties"
    if not path.exists():
        pytest.skip("config.properties is not there")
    lines = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines)
    assert int(settings["max_request_size"]) == wire.MAX_MESSAGE_BYTES
    assert int(settings["max_response_size"]) == wire.MAX_MESSAGE_BYTES


def test_an_image_fits_into_a_message() -> None:
    """The largest upload leaves room for options, and the largest reply stays well below TorchServe's limit."""
    assert wire.MAX_IMAGE_BYTES + 32 * 1024 < wire.MAX_MESSAGE_BYTES
    assert wire.MAX_REPLY_BYTES * 2 <= wire.MAX_MESSAGE_BYTES
