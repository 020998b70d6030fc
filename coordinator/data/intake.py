"""What the readers of one import share: options, pieces of rows, words seen so far, counts of bad rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from coordinator.data.blocks import MOST_BLOCK
from coordinator.errors import InputError

Array = NDArray[Any]
REASONS: Final = 5
MAX_WORDS: Final = 100_000
MAX_COLUMNS: Final = 2**31 - 1  # column indices are int32

Format = Literal["libsvm", "csv", "tsv", "npy", "npz", "parquet"]


@dataclass(frozen=True)
class ImportOptions:
    """How to read, arrange and name a data set.

    Attributes
    ----------
    name : the data set's name in the store: letters, digits and `._=-`.
    format : None takes it from the file's suffix (before .gz, .bz2, .xz).
    label : where the targets are. CSV, TSV, Parquet and frames: a column's name or index (negative from the end); None
        is the last column of a file. npy: a column index, or a second .npy file; None is the last column. npz: an
        array's name, None is "y"; with a sparse matrix file, a .npy file. libsvm has it at the head of each line.
    labelled : False when there are no targets (they are stored as 0).
    weight : column of row weights (CSV, TSV, Parquet, frames), a name or an index; not negative.
    dtype : of the stored values; None keeps float32 arrays, and is float64 for text and everything else.
    layout : None keeps what arrays are; libsvm and one-hot encoded data become CSR unless over 30 % is non-zero.
    n_features : libsvm: columns of the matrix (None: the largest index seen).
    index_base : libsvm: the index of the first column, 1 or 0.
    seed : of the random order of the rows; None keeps them in their order.
    block_bytes : largest size of a block, about.
    scale : divide columns by their standard deviation ("std", root mean square about the mean) or by their largest
        magnitude ("maxabs"). Nothing is centred; constant columns keep their values.
    on_bad_row : "error" stops at the first row that cannot be used, "skip" leaves such rows out and counts them.
    header : CSV and TSV: whether the first line holds names; None: it does when no field of it is a number, or when its
        fields count the columns from 0.
    one_hot : columns (names or indices) that become one 0/1 column for each distinct value.
    replace : an existing data set of this name is replaced, once the new one is complete.
    """

    name: str
    format: Format | None = None
    label: str | int | None = None
    labelled: bool = True
    weight: str | int | None = None
    dtype: Literal["float32", "float64"] | None = None
    layout: Literal["dense", "csr"] | None = None
    n_features: int | None = None
    index_base: int = 1
    seed: int | None = 0
    block_bytes: int = MOST_BLOCK
    scale: Literal["none", "std", "maxabs"] = "none"
    on_bad_row: Literal["error", "skip"] = "error"
    header: bool | None = None
    one_hot: tuple[str | int, ...] = ()
    replace: bool = False


@dataclass(frozen=True)
class Progress:
    """How far an import is: bytes of the source read, of all, and rows so far. `stage` is "read", then "write"."""

    stage: Literal["read", "write"]
    done: int
    total: int
    rows: int


@dataclass
class Piece:
    """Some consecutive rows.

    `values` is (m, d), or the stored values of a CSR triple with `indices` and `indptr`. `y` holds numbers, or the
    positions of text labels in `Intake.words`; `codes` (m, k) the positions of one-hot columns' values in `Intake.hot`.
    """

    values: Array
    y: NDArray[np.float64]
    indices: NDArray[np.int32] | None = None
    indptr: NDArray[np.int64] | None = None
    weight: NDArray[np.float64] | None = None
    codes: NDArray[np.int32] | None = None

    @property
    def n_rows(self) -> int:
        return int(self.y.size)

    @property
    def width(self) -> int:
        """Columns that are sure to exist: all when dense, up to the last index when sparse."""
        if self.indices is None:
            return int(self.values.shape[1])
        return int(self.indices.max(initial=-1)) + 1

    @property
    def nbytes(self) -> int:
        parts = [self.values, self.y, self.indices, self.indptr, self.weight, self.codes]
        return sum(part.nbytes for part in parts if part is not None)

    def take(self, rows: NDArray[np.int64]) -> Piece:
        """These rows, in this order, copied."""
        values, indices, indptr = self.values, self.indices, self.indptr
        if indices is None or indptr is None:
            values = values[rows]
        else:
            size = np.diff(indptr)[rows]
            new = np.concatenate([[0], np.cumsum(size)])
            at = np.repeat(indptr[rows] - new[:-1], size) + np.arange(new[-1])
            values, indices, indptr = values[at], indices[at], new
        weight = None if self.weight is None else self.weight[rows]
        codes = None if self.codes is None else self.codes[rows]
        return Piece(values, self.y[rows], indices, indptr, weight, codes)

    def slice(self, start: int, stop: int) -> Piece:
        """Rows start..stop; views, except of the row pointer."""
        part = slice(start, stop)
        weight = None if self.weight is None else self.weight[part]
        codes = None if self.codes is None else self.codes[part]
        if self.indices is None or self.indptr is None:
            return Piece(self.values[part], self.y[part], weight=weight, codes=codes)
        low, high = int(self.indptr[start]), int(self.indptr[stop])
        pointer = self.indptr[start : stop + 1] - low
        return Piece(self.values[low:high], self.y[part], self.indices[low:high], pointer, weight, codes)

    def csr(self, n_features: int) -> sparse.csr_matrix:
        """The values as a matrix (sparse pieces only)."""
        return sparse.csr_matrix((self.values, self.indices, self.indptr), shape=(self.n_rows, n_features))


def join(pieces: Sequence[Piece]) -> Piece:
    """Pieces one after another, copied."""

    def every(parts: Iterable[Array | None]) -> Any:
        there = [part for part in parts if part is not None]
        return np.concatenate(there) if there else None

    indptr = None
    if pieces[0].indptr is not None:
        sizes = [np.diff(piece.indptr) for piece in pieces if piece.indptr is not None]
        indptr = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
    return Piece(
        every(p.values for p in pieces),
        every(p.y for p in pieces),
        every(p.indices for p in pieces),
        indptr,
        every(p.weight for p in pieces),
        every(p.codes for p in pieces),
    )


class Words:
    """Distinct text values, numbered as they come and sorted at the end."""

    def __init__(self, what: str, name: str = "") -> None:
        self.what = what
        self.name = name
        self._number: dict[str, int] = {}

    def encode(self, values: Array) -> NDArray[np.int32]:
        """The numbers of byte strings or strings."""
        distinct, inverse = np.unique(values, return_inverse=True)
        names = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in distinct.tolist()]
        numbers = [self._number.setdefault(name, len(self._number)) for name in names]
        if len(self._number) > MAX_WORDS:
            raise InputError(f"{self.what} has more than {MAX_WORDS} distinct values: it is no category; leave it out")
        return np.array(numbers, dtype=np.int32)[inverse]

    def __len__(self) -> int:
        return len(self._number)

    @property
    def sorted(self) -> list[str]:
        return sorted(self._number)

    @property
    def order(self) -> NDArray[np.int32]:
        """Number as given -> position in `sorted`."""
        position = {name: i for i, name in enumerate(self.sorted)}
        return np.array([position[name] for name in self._number], dtype=np.int32)


@dataclass
class Intake:
    """The state of one import while it reads; readers write here what they learn."""

    options: ImportOptions
    report: Callable[[Progress], None] | None = None
    float_type: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float64))
    words: Words | None = None
    hot: list[tuple[int, Words]] = field(default_factory=list)
    features: list[str] | None = None
    n_columns: int | None = None
    rows: int = 0
    skipped: int = 0
    reasons: list[str] = field(default_factory=list)
    base: int = 0
    total: int = 0

    def advance(self, done: int) -> None:
        """Report `done` bytes of the present file as read."""
        if self.report is not None:
            self.report(Progress("read", min(self.base + done, self.total), self.total, self.rows))

    def bad(self, rows: Iterable[int], say: Callable[[int], str]) -> None:
        """Rows that cannot be used: raise InputError with what `say` finds, or count them."""
        for row in rows:
            if self.options.on_bad_row == "error":
                raise InputError(say(row))
            self.skipped += 1
            if len(self.reasons) < REASONS:
                self.reasons.append(say(row))

    def cast(self, values: NDArray[np.float64]) -> tuple[Array, NDArray[np.bool_]]:
        """Values in the stored type, and which of them are finite there."""
        with np.errstate(over="ignore", invalid="ignore"):
            out = values.astype(self.float_type, copy=False)
        return out, np.isfinite(out)


def keep_type(intake: Intake, single: bool) -> None:
    """Store float32 where that is asked for, or where the source is and nothing is asked for."""
    asked = intake.options.dtype
    intake.float_type = np.dtype(asked or ("float32" if single else "float64"))


def not_finite(value: float, dtype: np.dtype[Any]) -> str:
    """What to say of a value that is not finite, or not in `dtype`."""
    if np.isnan(value):
        return "is not a number (NaN): fill it in or leave the row out (on_bad_row='skip')"
    if np.isinf(value):
        return "is infinite or too large for a float64"
    return f"is {value:g}, too large for {dtype}: use dtype='float64'"
