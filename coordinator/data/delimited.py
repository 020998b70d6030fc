"""Comma- and tab-separated text.

Numbers and unquoted text take one path of array operations. A piece that holds quotes is first rewritten, row by row,
with a separator that needs none.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.data.files import last_line, line_of, lines, without
from coordinator.data.intake import Intake, Piece, Words, not_finite
from coordinator.data.numbers import Cuts, cut
from coordinator.data.tables import Roles, assign, check_weights
from coordinator.errors import InputError

_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NO_NUMBER: Final = frozenset({"", "nan", "inf", "-inf", "+inf", "infinity", "-infinity"})
_MISSING: Final = _NO_NUMBER | {"na", "n/a", "null", "none", "?"}
_UNIT: Final = b"\x1f"  # the separator of rewritten pieces
_MAX_TEXT: Final = 1000
_NEWLINE: Final = 10


class Table:
    """The reader of one file: its columns are known from its first line on."""

    def __init__(self, path: Path, intake: Intake, delimiter: bytes, before: Roles | None) -> None:
        self.path = path
        self.intake = intake
        self.delimiter = delimiter
        self.before = before
        self.roles: Roles | None = None

    def pieces(self) -> Iterator[Piece]:
        """The rows."""
        for number, raw in lines(self.path, self.intake, _whole_rows):
            text, delimiter = (self._unquote(raw, number), _UNIT) if b'"' in raw else (raw, self.delimiter)
            text = _strip(text, delimiter)
            if self.roles is None:
                text = self._open(text, delimiter, number)
                if self.roles is None:
                    continue
            yield from self._rows(text, delimiter, number)
        if self.roles is None:
            raise InputError(f"{self.path} holds no rows")

    def _rows(self, text: bytes, delimiter: bytes, number: int) -> Iterator[Piece]:
        found = self.parse(text, delimiter)
        while not isinstance(found, Piece):
            rows = sorted(set(found.tolist()))
            self.intake.bad(rows, partial(self._say, text, delimiter, number))
            text = without(text, set(rows))
            found = self.parse(text, delimiter)
        if found.n_rows:
            yield found

    def _say(self, text: bytes, delimiter: bytes, number: int, row: int) -> str:
        return self.explain(line_of(text, row), delimiter, number + row)

    def _unquote(self, text: bytes, number: int) -> bytes:
        out: list[str] = []
        reader = csv.reader(
            io.StringIO(text.decode("utf-8", "replace"), newline=""),
            delimiter=self.delimiter.decode(),
            skipinitialspace=True,
            strict=True,
        )
        done = 0
        try:
            for row in reader:
                # a record over several lines becomes one, and blank ones, so that later lines keep their numbers
                out.append("\x1f".join(row).replace("\n", " ").replace("\r", " ") + "\n" * (reader.line_num - done))
                done = reader.line_num
        except csv.Error as error:
            raise InputError(f"{self.path}, line {number + reader.line_num - 1}: bad quoting ({error})") from None
        return "".join(out).encode()

    def _open(self, text: bytes, delimiter: bytes, number: int) -> bytes:
        """Learn the columns from the first line that is not blank, and blank it out if it is a header."""
        all_lines = text.split(b"\n")
        at = next((i for i, line in enumerate(all_lines) if line.strip()), None)
        if at is None:
            return text
        fields = [field.decode("utf-8", "replace").strip() for field in all_lines[at].split(delimiter)]
        where = f"{self.path}, line {number + at}"
        if len(fields) == 1 and self.intake.options.labelled:
            raise InputError(
                f"{where}: one column only: the separator here is {self.delimiter.decode()!r}; is it right?"
            )
        named = self.intake.options.header
        if named is None:
            named = not any(_NUMBER.fullmatch(field) or field.lower() in _MISSING for field in fields)
            # positions written as names, as data frames without names leave them
            named = named or (len(fields) > 2 and fields == [str(i) for i in range(len(fields))])
        names = fields if named else [str(i) for i in range(len(fields))]
        if self.before is not None and len(self.before.names) != len(fields):
            raise InputError(
                f"{where}: {len(fields)} fields, but the files before have {len(self.before.names)} columns"
            )
        if self.before is not None and named and self.before.names != tuple(names):
            raise InputError(f"{where}: other column names than in the files before: give files of the same columns")
        label = len(fields) - 1 if self.intake.options.labelled else None
        self.roles = self.before or assign(names, self.intake, where, default_label=label, named=named)
        if named:
            all_lines[at] = b""
        return b"\n".join(all_lines) if named else text

    def parse(self, text: bytes, delimiter: bytes) -> Piece | NDArray[np.int64]:
        """Whole lines as rows; or, when some cannot be read, the numbers (from 0) of lines that cannot."""
        roles = self.roles
        assert roles is not None
        width = len(roles.names)
        cuts = cut(text)
        first, last = cuts.fields(delimiter + b"\n")
        ends = np.flatnonzero(cuts.char[last] == _NEWLINE)
        line = np.arange(ends.size)
        starts = np.concatenate([[0], ends[:-1] + 1])
        blank = (starts == ends) & cuts.empty(first[ends], last[ends])
        if bool(blank.any()):
            starts, ends, line = starts[~blank], ends[~blank], line[~blank]
        ragged = ends - starts + 1 != width
        if bool(ragged.any()):
            return line[ragged]
        if starts.size * width == first.size:
            first, last = first.reshape(-1, width), last.reshape(-1, width)
        else:
            grid = starts[:, None] + np.arange(width)
            first, last = first[grid], last[grid]
        return self._piece(roles, cuts, first, last, line)

    def _piece(
        self, roles: Roles, cuts: Cuts, first: NDArray[np.int64], last: NDArray[np.int64], line: NDArray[np.int64]
    ) -> Piece | NDArray[np.int64]:
        n = line.size
        columns = _pick(roles.numbers)
        raw, good = cuts.floats(first[:, columns].ravel(), last[:, columns].ravel())
        values, finite = self.intake.cast(raw)
        fine = (good & finite).reshape(n, len(roles.numbers)).all(axis=1)
        y = np.zeros(n)
        if roles.label is not None and n:
            label_first, label_last = first[:, roles.label], last[:, roles.label]
            numeric, good = cuts.floats(label_first, label_last)
            if self.intake.words is None and self.intake.rows == 0 and not good[0]:
                token = cuts.text(int(label_first[0]), int(label_last[0]))
                if token.decode("utf-8", "replace").lower() not in _MISSING and not _NUMBER.fullmatch(
                    token.decode("utf-8", "replace")
                ):
                    self.intake.words = Words("the label")
            if self.intake.words is None:
                y = numeric
            else:
                good = ~cuts.empty(label_first, label_last)
        else:
            good = np.ones(n, dtype=bool)
        fine &= good
        weight = None
        if roles.weight is not None:
            weight, good = cuts.floats(first[:, roles.weight], last[:, roles.weight])
            fine &= good & check_weights(weight)
        long = np.zeros(n, dtype=bool)
        for column in roles.hot:
            long |= _length(cuts, first[:, column], last[:, column]) > _MAX_TEXT
            fine &= ~cuts.empty(first[:, column], last[:, column])
        fine &= ~long
        if not bool(fine.all()):
            return line[~fine]
        codes = None
        if roles.label is not None and self.intake.words is not None:
            y = self.intake.words.encode(_texts(cuts, first[:, roles.label], last[:, roles.label])).astype(np.float64)
        if roles.hot:
            each = [
                words.encode(_texts(cuts, first[:, column], last[:, column]))
                for column, (_, words) in zip(roles.hot, self.intake.hot, strict=True)
            ]
            codes = np.stack(each, axis=1)
        return Piece(values.reshape(n, len(roles.numbers)), y, weight=weight, codes=codes)

    def explain(self, line: bytes, delimiter: bytes, number: int) -> str:
        """Why a line cannot be read: in one line, with the place and what to do."""
        roles = self.roles
        assert roles is not None
        where = f"{self.path}, line {number}"
        fields = [field.strip() for field in line.decode("utf-8", "replace").split(delimiter.decode())]
        if len(fields) != len(roles.names):
            return f"{where}: {len(fields)} fields where {len(roles.names)} are expected, as on the first line"
        for column, field in enumerate(fields):
            at = f"{where}, {roles.said(column)}"
            role = {roles.label: "the label", roles.weight: "the weight"}.get(column, "the value")
            if not field:
                return f"{at}: {role} is missing: fill it in or leave the row out (on_bad_row='skip')"
            if column in roles.hot or (column == roles.label and self.intake.words is not None):
                if len(field) > _MAX_TEXT:
                    return f"{at}: a text of {len(field)} characters is no category"
                continue
            if field.lower() in _MISSING:
                return f"{at}: {role} is {field!r}: fill it in or leave the row out (on_bad_row='skip')"
            if not _NUMBER.fullmatch(field):
                return f"{at}: {role} {field!r} is not a number{self._hint(column, number)}"
            cast, finite = self.intake.cast(np.array([float(field)]))
            if not bool(finite[0]) and (column in roles.numbers or np.isinf(float(field))):
                return f"{at}: {role} {not_finite(float(field), cast.dtype)}"
            if column == roles.weight and float(field) < 0:
                return f"{at}: the weight {field} is negative"
        return f"{where}: this line cannot be read"

    def _hint(self, column: int, number: int) -> str:
        assert self.roles is not None
        if column in self.roles.numbers:
            name: str | int = self.roles.names[column]
            name = column if name == str(column) else name
            names = "; if the line holds names, pass header=True" if number == 1 else ""
            return f"; encode a text column with one_hot=({name!r},){names}"
        return ", as the labels before it are" if column == self.roles.label else ""


def _strip(text: bytes, delimiter: bytes) -> bytes:
    """`text` without blanks beside its separators; tabs that separate are none."""
    blanks = b" " if delimiter == b"\t" else b" \t"
    ends = delimiter + b"\n"
    pairs = (pair for blank in blanks for end in ends for pair in (bytes((blank, end)), bytes((end, blank))))
    if text[:1] not in blanks and not any(pair in text for pair in pairs):
        return text
    inside = rb"[" + blanks + rb"]*"
    return re.sub(inside + rb"([" + ends + rb"])" + inside, rb"\1", text).lstrip(blanks)


def _pick(columns: tuple[int, ...]) -> Any:
    """A slice where columns are consecutive, so that nothing is copied to pick them."""
    if columns and columns[-1] - columns[0] + 1 == len(columns):
        return slice(columns[0], columns[-1] + 1)
    return np.array(columns, dtype=np.int64)


def _length(cuts: Cuts, first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.int64]:
    return cuts.at[last] - cuts.at[first - 1] - 1


def _texts(cuts: Cuts, first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[Any]:
    """Fields as byte strings."""
    size = _length(cuts, first, last)
    width = int(size.max(initial=1))
    at = np.arange(width)
    start = cuts.at[first - 1] + 1
    index = np.minimum(start[:, None] + at, cuts.buffer.size - 1)
    out = np.where(at < size[:, None], cuts.buffer[index], np.uint8(0))
    return np.ascontiguousarray(out).view(f"S{width}").ravel()


def _whole_rows(text: bytes) -> int:
    """Length of the whole records at the head of `text`: newlines inside quotes end none."""
    if b'"' not in text:
        return last_line(text)
    data = np.frombuffer(text, dtype=np.uint8)
    newlines, quotes = np.flatnonzero(data == _NEWLINE), np.flatnonzero(data == 34)
    outside = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    return int(outside[-1]) + 1 if outside.size else 0


def read_delimited(path: Path, intake: Intake, delimiter: bytes, before: Roles | None) -> Iterator[Piece | Roles]:
    """The rows of one file in pieces, and at last its columns' roles, which further files must share."""
    table = Table(path, intake, delimiter, before)
    yield from table.pieces()
    assert table.roles is not None
    yield table.roles
