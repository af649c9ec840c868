"""The log of a training, as it is found."""

from __future__ import annotations

from pathlib import Path

from maskserve.training.curves import read_log


def test_rows_are_merged_by_step_and_what_is_no_row_is_passed_over(tmp_path: Path):
    """A training that is killed may leave half a line, to which the next one appends."""
    log = tmp_path / "metrics.jsonl"
    rows = [b'{"iteration": 9, "lr": 1}', b'{"iterat{"iteration": 19}', b"5", b'{"lr": 2}', b"\0\xff", b""]
    log.write_bytes(b"\n".join([*rows, b'{"iteration": 9, "lr": 3}', b'{"iteration": 5}', b'{"iteration": 29, "l']))
    assert read_log(log) == [{"iteration": 5}, {"iteration": 9, "lr": 3}]
    assert read_log(tmp_path / "none.jsonl") == []
