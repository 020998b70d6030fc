"""Arrays: in memory, and in .npy and .npz files."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from coordinator.data.intake import MAX_COLUMNS, Array, Intake, Piece, Words, keep_type, not_finite
from coordinator.data.tables import check_weights
from coordinator.errors import InputError

PIECE: Final = 4 << 20  # bytes of rows checked at once


def read_npy(path: Path, intake: Intake, target: Any, weight: Any) -> Iterator[Piece]:
    """The rows of a .npy file, mapped and read piece by piece."""
    X = _load(path)
    label = intake.options.label
    if target is None and isinstance(label, str) and not _is_index(label):
        target = _load(Path(label))
    yield from read_arrays(X, intake, target, weight, str(path))


def _is_index(word: str) -> bool:
    return word.lstrip("-").isdigit()


def _load(path: Path) -> Array:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError, SyntaxError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not a .npy file of numbers ({_short(error)}); objects and pickles are not read"
        ) from None
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path}: an .npz archive by content; rename it")
    return found


def _short(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


def read_npz(path: Path, intake: Intake, target: Any, weight: Any) -> Iterator[Piece]:
    """The rows of an .npz file: one written by `scipy.sparse.save_npz`, or by `np.savez` with arrays X and y."""
    options = intake.options
    try:
        # opened here: numpy leaves the file open when it is no archive
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: a .npy array by content; rename it")
            names = list(archive.files)
            if "format" in names and "shape" in names:
                X: Any = sparse.load_npz(path)
                if target is None and options.labelled:
                    if not isinstance(options.label, str):
                        raise InputError(f"{path} holds a sparse matrix and no targets: name their .npy file in label=")
                    target = _load(Path(options.label))
            else:
                X = _member(archive, "X", path, "the rows")
                if target is None and options.labelled:
                    target = _member(archive, str(options.label or "y"), path, "the targets")
                if weight is None and options.weight is not None:
                    weight = _member(archive, str(options.weight), path, "the weights")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not an .npz file of numbers ({_short(error)}); objects are not read") from None
    yield from read_arrays(X, intake, target, weight, str(path), columns=False)


def _member(archive: Any, name: str, path: Path, what: str) -> Array:
    if name not in archive.files:
        raise InputError(f"{path}: no array {name!r} for {what}; it holds {', '.join(archive.files) or 'nothing'}")
    found: Array = archive[name]
    return found


def read_arrays(
    X: Any, intake: Intake, target: Any, weight: Any, where: str, *, columns: bool = True
) -> Iterator[Piece]:
    """The rows of a 2-D array or sparse matrix.

    Parameters
    ----------
    X : array (n, d) or SciPy sparse of any format.
    target, weight : (n,) each, or None; where `columns`, options may name columns of a dense X by index instead.
    where : what messages call the data.

    Raises
    ------
    InputError
        For other shapes and types, lengths that differ, and values that are not finite.
    """
    options = intake.options
    if options.one_hot:
        raise InputError(f"{where}: one_hot is for tables with named columns (CSV, TSV, Parquet, data frames)")
    if not sparse.issparse(X):
        X = np.asanyarray(X)
    if X.ndim != 2:
        raise InputError(f"{where}: rows must be a 2-D array, not {X.ndim}-D{'; reshape it' if X.ndim else ''}")
    if X.dtype.kind not in "fiub":
        raise InputError(f"{where}: values of type {X.dtype} cannot be used: convert them to float64")
    n, d = X.shape
    if n == 0 or d == 0:
        raise InputError(f"{where}: {n} rows and {d} columns: there is nothing to import")
    if d > MAX_COLUMNS:
        raise InputError(f"{where}: {d} columns, more than the {MAX_COLUMNS} that 32-bit indices hold")
    chosen: list[int] = []
    if columns and not sparse.issparse(X):
        if target is None and options.labelled and (options.label is not None or isinstance(X, np.memmap)):
            target = _column(X, -1 if options.label is None else options.label, chosen, where)
        if weight is None and options.weight is not None:
            weight = _column(X, options.weight, chosen, where)
        if len(set(chosen)) < len(chosen) or len(chosen) == d:
            raise InputError(f"{where}: no column is left for features, or one is both label and weight")
    if target is None and options.labelled:
        raise InputError(f"{where}: no targets: pass target=, name them in label=, or say labelled=False")
    if sparse.issparse(X) and X.format in {"csr", "csc", "bsr"}:
        try:
            X.check_format(full_check=True)  # SciPy reads and writes beyond its arrays where indices do
        except ValueError as error:
            raise InputError(f"{where}: a broken sparse matrix ({_short(error)})") from None
    keep_type(intake, X.dtype in {np.dtype(np.float32), np.dtype(np.float16)})
    y = targets(target, n, intake, where) if target is not None else np.zeros(n)
    w = weights(weight, n, where) if weight is not None else None
    if sparse.issparse(X):
        yield from _sparse(X, y, w, intake, where)
        return
    rest = np.setdiff1d(np.arange(d), chosen) if chosen else None
    step = max(1, PIECE // (8 * d))
    for start in range(0, n, step):
        stop = min(start + step, n)
        raw = X[start:stop]
        if rest is not None:
            raw = raw[:, rest]
        values, finite = intake.cast(np.asarray(raw))
        fine = np.asarray(finite.all(axis=1))
        piece = Piece(np.ascontiguousarray(values), y[start:stop], weight=None if w is None else w[start:stop])
        yield from checked(piece, fine, intake, where, partial(_at, raw, rest, intake), start)
        intake.advance(int(X.nbytes * stop / n))


def _sparse(X: Any, y: Array, w: Array | None, intake: Intake, where: str) -> Iterator[Piece]:
    n, d = X.shape
    X = sparse.csr_matrix(X)
    step = max(1, int(n * PIECE / max(12 * X.nnz, 1)))
    for start in range(0, n, step):
        stop = min(start + step, n)
        part = X[start:stop]  # a copy, so that it may be put in order
        part.sum_duplicates()
        values, good = intake.cast(part.data)
        stored = values != 0
        row = np.repeat(np.arange(stop - start), np.diff(part.indptr))
        fine = np.ones(stop - start, dtype=bool)
        fine[row[~good]] = False
        indptr = np.concatenate([[0], np.cumsum(np.bincount(row[stored], minlength=stop - start))])
        indices = part.indices[stored].astype(np.int32)
        weight = None if w is None else w[start:stop]
        piece = Piece(values[stored], y[start:stop], indices, indptr, weight)
        yield from checked(piece, fine, intake, where, partial(_at_sparse, part, intake), start)
        intake.advance(int(12 * X.nnz * stop / n))
    intake.n_columns = d


def checked(
    piece: Piece, fine: NDArray[np.bool_], intake: Intake, where: str, at: Callable[[int], str], start: int
) -> Iterator[Piece]:
    """`piece`, or its rows that can be used when bad ones are skipped.

    `fine` says which rows' features can be used, `at` what is wrong with one; `start` is the first row's number.
    """
    y, w = piece.y, piece.weight
    y_good = np.isfinite(y)
    w_good = np.ones(piece.n_rows, dtype=bool) if w is None else check_weights(w)
    fine = fine & y_good & w_good

    def say(row: int) -> str:
        head = f"{where}, row {start + row}"
        if not y_good[row]:
            return f"{head}: the target is missing or not finite: leave the row out (on_bad_row='skip')"
        if w is not None and not w_good[row]:
            return f"{head}: the weight {w[row]:g} is not a number from 0 up"
        return f"{head}, {at(row)}"

    if not bool(fine.all()):
        intake.bad(np.flatnonzero(~fine).tolist(), say)
        piece = piece.take(np.flatnonzero(fine))
    if piece.n_rows:
        yield piece


def _at(raw: Array, rest: Array | None, intake: Intake, row: int) -> str:
    values, finite = intake.cast(np.asarray(raw[row]))
    column = int(np.flatnonzero(~finite)[0])
    said = column if rest is None else int(rest[column])
    return f"column {said}: the value {not_finite(float(raw[row, column]), values.dtype)}"


def _at_sparse(part: Any, intake: Intake, row: int) -> str:
    low, high = part.indptr[row], part.indptr[row + 1]
    values, finite = intake.cast(part.data[low:high])
    i = int(np.flatnonzero(~finite)[0])
    return f"column {part.indices[low + i]}: the value {not_finite(float(part.data[low + i]), values.dtype)}"


def _column(X: Array, wanted: str | int, chosen: list[int], where: str) -> Array:
    index = int(wanted) if isinstance(wanted, int) or _is_index(wanted) else X.shape[1]
    if not -X.shape[1] <= index < X.shape[1]:
        raise InputError(f"{where}: no column {wanted!r}: columns of an array are 0 to {X.shape[1] - 1}")
    chosen.append(index % X.shape[1])
    return X[:, index]


def targets(target: Any, n: int, intake: Intake, where: str) -> NDArray[np.float64]:
    """Targets as float64: numbers as they are, text as positions in `intake.words`. Missing numbers become NaN."""
    y = np.asarray(target)
    if y.ndim == 2 and 1 in y.shape:
        y = y.ravel()
    if y.ndim != 1:
        raise InputError(f"{where}: targets must be a 1-D array, not {y.ndim}-D")
    if y.size != n:
        raise InputError(f"{where}: {n} rows but {y.size} targets: they must be as many")
    if y.dtype.kind in "OUST":
        return _words(y, intake, where)
    if y.dtype.kind not in "fiub":
        raise InputError(f"{where}: targets of type {y.dtype} cannot be used: give numbers or text")
    if intake.words is not None:
        raise InputError(f"{where}: targets are numbers here and text in the files before")
    return y.astype(np.float64)


def _words(y: Array, intake: Intake, where: str) -> NDArray[np.float64]:
    items = y.tolist()
    text = [isinstance(item, str | bytes) for item in items]
    if not any(text):
        try:
            return np.array([np.nan if item is None else float(item) for item in items])
        except (TypeError, ValueError):
            raise InputError(f"{where}: targets must all be numbers or all be text") from None
    if not all(text):
        row = text.index(False)
        raise InputError(f"{where}, row {row}: the target {items[row]!r} is no text, as others are: make them alike")
    if intake.words is None:
        if intake.rows:
            raise InputError(f"{where}: targets are text here and numbers in the files before")
        intake.words = Words("the label")
    return intake.words.encode(np.array(items)).astype(np.float64)


def weights(weight: Any, n: int, where: str) -> NDArray[np.float64]:
    """Weights as float64; InputError unless they are n numbers."""
    w = np.asarray(weight)
    if w.shape != (n,):
        raise InputError(f"{where}: {n} rows but weights of shape {w.shape}: they must be as many")
    if w.dtype.kind not in "fiub":
        raise InputError(f"{where}: weights of type {w.dtype} cannot be used: give numbers")
    return w.astype(np.float64)
