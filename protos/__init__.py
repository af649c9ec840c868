"""The contract between client and worker: .proto files, their stubs, plain types and the codec between them.

    types.py    what a request and an answer are, as frozen dataclasses
    wire.py     keys and limits that both sides must agree on
    codec.py    types ◀─▶ bytes (protobuf) and types ─▶ JSON
    errors.py   the exceptions of the whole project, sorted by whose fault it is

Imports neither numpy nor torch.
"""
