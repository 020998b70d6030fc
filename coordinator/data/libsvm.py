"""libsvm text: `label [qid:n] index:value ... [# comment]` on each line, `qid` ignored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from coordinator.data.files import line_of, text_of, without
from coordinator.data.intake import MAX_COLUMNS, Intake, Piece, not_finite
from coordinator.data.numbers import Cuts, cut
from coordinator.errors import InputError

_SPACE: Final = b" \t\r\v\f\n"
_COMMENT: Final = re.compile(rb"#[^\n]*")
_QUERY: Final = re.compile(rb"(?<=[ \t])qid:[^ \t\r\n]+")
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NEWLINE, _COLON = 10, 58


def read_libsvm(path: Path, intake: Intake) -> Iterator[Piece]:
    """The rows of one file, in pieces."""
    for number, raw in text_of(path, intake):
        text = _COMMENT.sub(b"", raw) if b"#" in raw else raw
        if b"qid:" in text:
            text = _QUERY.sub(b"", text)
        found = parse(text, intake)
        while not isinstance(found, Piece):
            rows = sorted(set(found.tolist()))
            intake.bad(rows, partial(_say, text, path, number, intake))
            text = without(text, set(rows))
            found = parse(text, intake)
        if found.n_rows:
            yield found


def _say(text: bytes, path: Path, number: int, intake: Intake, row: int) -> str:
    return explain(line_of(text, row), f"{path}, line {number + row}", intake)


def parse(text: bytes, intake: Intake) -> Piece | NDArray[np.int64]:
    """Whole lines as rows; or, when some cannot be read, the numbers (from 0) of lines that cannot."""
    cuts = cut(text)
    first, last = cuts.fields(b":" + _SPACE)
    char = cuts.char[last]
    line = np.cumsum(char == _NEWLINE)
    line -= char == _NEWLINE
    colon = char == _COLON
    after_colon = np.zeros_like(colon)
    after_colon[1:] = colon[:-1]
    # runs of blanks leave empty fields between them; beside a colon, an empty field is an error
    keep = colon | after_colon | ~cuts.empty(first, last)
    first, last, line, colon, after_colon = (a[keep] for a in (first, last, line, colon, after_colon))
    if not line.size:
        return Piece(np.empty(0, intake.float_type), np.empty(0), np.empty(0, np.int32), np.zeros(1, np.int64))
    head = np.ones(line.size, dtype=bool)
    head[1:] = line[1:] != line[:-1]
    # after the label, index fields (ended by a colon) and value fields (begun by one) take turns
    wrong = (head & (colon | after_colon)) | (~head & (colon == after_colon))
    if bool(wrong.any()):
        return line[wrong]
    y, good = cuts.floats(first[head], last[head])
    if not bool(good.all()):
        return line[head][~good]
    pair = colon
    indices, good = _indices(cuts, first[pair], last[pair], intake)
    values, fine = cuts.floats(first[after_colon], last[after_colon])
    values, finite = intake.cast(values)
    good &= fine & finite
    row = np.cumsum(head)[pair] - 1
    if not bool(good.all()):
        return line[pair][~good]
    step = np.diff(indices)
    within = row[1:] == row[:-1]
    if bool(np.any(within & (step <= 0))):
        order = np.lexsort((indices, row))
        indices, values = indices[order], values[order]
        twice = within & (np.diff(indices) == 0)
        if bool(twice.any()):
            return line[pair][1:][twice]
    if not bool(values.all()):
        stored = values != 0
        indices, values, row = indices[stored], values[stored], row[stored]
    indptr = np.zeros(y.size + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=y.size), out=indptr[1:])
    return Piece(values, y, indices.astype(np.int32), indptr)


def _indices(
    cuts: Cuts, first: NDArray[np.int64], last: NDArray[np.int64], intake: Intake
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    indices, good = cuts.integers(first, last)
    base = intake.options.index_base
    limit = MAX_COLUMNS if intake.options.n_features is None else intake.options.n_features
    good &= (indices >= base) & (indices < base + limit)
    return indices - base, good


def explain(line: bytes, where: str, intake: Intake) -> str:
    """Why a line cannot be read: in one line, with the place and what to do."""
    text = line.decode("utf-8", "replace")
    tokens = [(match.start() + 1, match.group()) for match in re.finditer(r"[^ \t\r\v\f]+", text)]
    column, label = tokens[0]
    if ":" in label:
        return f"{where}: no label before {label!r}: each line starts with its target"
    if _bad(label):
        hint = "; several labels a line are not supported" if "," in label else ""
        return f"{where}, column {column}: the label {label!r} is not a finite number{hint}"
    base, declared = intake.options.index_base, intake.options.n_features
    seen: set[int] = set()
    for column, token in tokens[1:]:
        at = f"{where}, column {column}"
        index, colon, value = token.partition(":")
        if not colon or not index or not value or ":" in value:
            return f"{at}: {token!r} is not index:value"
        if not re.fullmatch(r"\d+", index, re.ASCII):
            return f"{at}: the index {index!r} is not a whole number from {base} up"
        number = int(index)
        if number < base:
            return f"{at}: index 0, but columns count from 1 here: pass index_base=0 if they count from 0"
        if number - base >= (MAX_COLUMNS if declared is None else declared):
            limit = f"n_features={declared}: declare more" if declared is not None else "what 32-bit indices hold"
            return f"{at}: index {index} is beyond {limit}"
        if not _NUMBER.fullmatch(value) and value.lower().lstrip("+-") not in {"nan", "inf", "infinity"}:
            return f"{at}: the value {value!r} is not a number"
        cast, finite = intake.cast(np.array([float(value)]))
        if not bool(finite[0]):
            return f"{at}: the value {not_finite(float(value), cast.dtype)}"
        if number in seen:
            return f"{at}: index {index} occurs twice on this line"
        seen.add(number)
    return f"{where}: this line cannot be read as label index:value ..."


def _bad(token: str) -> bool:
    return not _NUMBER.fullmatch(token) or not np.isfinite(float(token))


def check_options(intake: Intake) -> None:
    """InputError for options that libsvm text has no use for or cannot meet."""
    options = intake.options
    if options.index_base not in {0, 1}:
        raise InputError(f"index_base is 0 or 1, not {options.index_base!r}")
    if options.n_features is not None and not 1 <= options.n_features <= MAX_COLUMNS:
        raise InputError(f"n_features is a number from 1 to {MAX_COLUMNS}, not {options.n_features!r}")
    for name, given in (("label", options.label), ("weight", options.weight), ("one_hot", options.one_hot or None)):
        if given is not None:
            raise InputError(f"{name}={given!r} is for tables: a libsvm line holds its label and numbered columns only")
