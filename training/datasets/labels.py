"""`--labels`: which labels there may be, and which class each of them means.

    plain list (.txt)        one class name a line, in that order
    table (.csv, .tsv)       label, class name; an empty class name leaves the labelled objects out
    table (.yaml, .yml)      label: class name, or a list of class names

A class name stands for itself, so a table needs lines only for what is merged, renamed or left out.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from maskserve.protos.errors import DataError

IGNORED_LABEL = "__ignore__"
SKIPPED_LABELS = frozenset({IGNORED_LABEL, "_background_"})
"""What is nobody's object, in labelme's own label lists and in files made from them."""
CLOSE_SPELLING = 0.85
"""Similarity 0..1 (difflib's ratio) from which on a label is taken for a misspelling of another."""
_HEADER = ("label", "class")
Line = tuple[int, str, str]
"""Number in the file, label, class name or ""."""


@dataclass(frozen=True)
class LabelTable:
    """Class names in order, and label ─▶ class name ("" leaves the object out) of every label that is allowed."""

    class_names: tuple[str, ...]
    classes: Mapping[str, str]

    @classmethod
    def of_names(cls, names: Iterable[str]) -> LabelTable:
        names = tuple(names)
        return cls(names, {name: name for name in names})

    def class_of(self, label: str) -> str:
        """The class that a label means, labelme's `__ignore__` for none, and an unknown label as it is."""
        return self.classes.get(label, label) or IGNORED_LABEL

    def corrected(self, label: str) -> str:
        """`class_of`, also of a misspelling, when there is only one class that can be meant."""
        return self.class_of(self.meant(label))

    def meant(self, label: str) -> str:
        """The label of the table that this one is or is a misspelling of, itself when several classes can be meant."""
        candidates = closest(label, self.classes) if label not in self.classes else []
        classes = {self.class_of(candidate) for candidate in candidates}
        return candidates[0] if len(classes) == 1 else label


def read_label_table(path: Path) -> LabelTable:
    """Read a list or a table, told apart by the file's extension.

    Raises:
        DataError: when it cannot be read, is empty, or says two things about one label; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of labels ({error}).") from None
    lines = [line for line in _reader(path)(path, text) if line[1] not in SKIPPED_LABELS]
    classes = _classes(path, lines)
    names = tuple(dict.fromkeys(name for name in classes.values() if name))
    if not names:
        raise DataError(f"{path}: names no class; write one class name a line, or a table of label and class name.")
    return LabelTable(names, {**dict(zip(names, names, strict=True)), **classes})


def _reader(path: Path) -> Callable[[Path, str], list[Line]]:
    kinds = {".csv": _read_csv, ".tsv": _read_csv, ".yaml": _read_yaml, ".yml": _read_yaml}
    return kinds.get(path.suffix.lower(), _read_list)


def _read_list(_path: Path, text: str) -> list[Line]:
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, name, name) for number, name in lines if name]


def _read_csv(path: Path, text: str) -> list[Line]:
    rows = csv.reader(io.StringIO(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    lines: list[Line] = []
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if not any(cells) or (not lines and tuple(cell.lower() for cell in cells) == _HEADER):
                continue
            if len(cells) != 2 or not cells[0]:
                text = f"has {len(cells)} columns" if len(cells) != 2 else "has no label"
                raise DataError(
                    f"{path}, line {rows.line_num}: {text}; write label and class name, in quotes what has a comma."
                )
            lines.append((rows.line_num, cells[0], cells[1]))
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: {error}; correct the quotes.") from None
    return lines


def _read_yaml(path: Path, text: str) -> list[Line]:
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        number = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(f"{path}, line {number}: is no YAML ({error.problem}).") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path}: is no YAML ({error}).") from None
    if isinstance(root, yaml.SequenceNode):
        return [(node.start_mark.line + 1, *(2 * (_scalar(path, node),))) for node in root.value]
    if isinstance(root, yaml.MappingNode):
        pairs = root.value
        return [(key.start_mark.line + 1, _scalar(path, key), _scalar(path, value)) for key, value in pairs]
    raise DataError(f"{path}: needs lines of `label: class name`, or a list of class names.")


def _scalar(path: Path, node: object) -> str:
    """A scalar's text as it is written (`no` is a label, not False); null is ""."""
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        line = node.start_mark.line + 1 if isinstance(node, yaml.Node) else 1
        raise DataError(f"{path}, line {line}: needs one class name there, not a list or a table.")
    return "" if node.tag.endswith(":null") else node.value.strip()


def _classes(path: Path, lines: Iterable[Line]) -> dict[str, str]:
    first: dict[str, tuple[int, str]] = {}
    for number, label, name in lines:
        if label in first:
            raise DataError(
                f"{path}, line {number}: {label!r} stands in line {first[label][0]} already; keep one of them."
            )
        first[label] = number, "" if name in SKIPPED_LABELS else name
    for number, name in first.values():
        if name in first and first[name][1] != name:
            raise DataError(
                f"{path}, line {number}: the class {name!r} is itself a label that line {first[name][0]} makes "
                f"{first[name][1] or 'nothing'!r}; name the final class in both lines."
            )
    return {label: name for label, (_, name) in first.items()}


def is_name(label: str) -> bool:
    """Whether a class can be called so: it is not blank and has no half of a letter ("\\ud800" in JSON)."""
    try:
        return bool(label.strip().encode())
    except UnicodeEncodeError:
        return False


def spelling_key(label: str) -> str:
    """Case, blanks and punctuation do not make two labels; a number's sign and decimal point do."""
    folded = label.strip().casefold()
    return re.sub(r"(?!^[+-]\d|(?<=\d)[.,]\d)[\W_]", "", folded) or folded


def closest(label: str, candidates: Iterable[str]) -> list[str]:
    """The candidates that a label can be a misspelling of, the likeliest first.

    They differ in case only; if none does, in blanks and punctuation too; if none does, they are similar.
    """
    candidates, key = list(candidates), spelling_key(label)
    in_case = [candidate for candidate in candidates if candidate.casefold() == label.strip().casefold()]
    if in_case:
        return in_case
    by_key: defaultdict[str, list[str]] = defaultdict(list)
    for candidate in candidates:
        by_key[spelling_key(candidate)].append(candidate)
    if key in by_key:
        return by_key[key]
    close = difflib.get_close_matches(key, list(by_key), n=len(by_key) or 1, cutoff=CLOSE_SPELLING)
    return [candidate for near in close for candidate in by_key[near]]
