"""Tables with typed columns: pandas and polars data frames, Parquet files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.data.columnar import PIECE, checked, targets, weights
from coordinator.data.intake import Intake, Piece, keep_type, not_finite
from coordinator.data.tables import Roles, assign
from coordinator.errors import InputError

Column = Callable[[int], NDArray[Any]]
_TEXT: Final = frozenset({"str", "string", "object", "category", "String", "Categorical", "Enum", "large_string"})


@dataclass(frozen=True)
class Frame:
    """A table, whatever library holds it.

    `kinds` says of each column "number", "text", or its type when it is neither. A batch is a number of rows, and a
    function from a column's position to float64 (NaN where missing) or to text (None where missing).
    """

    where: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    single: bool
    n_rows: int
    nbytes: int
    batches: Callable[[int], Iterator[tuple[int, Column]]]


def is_frame(source: object) -> bool:
    """Whether `source` is a pandas or polars data frame."""
    return type(source).__name__ == "DataFrame" and type(source).__module__.split(".")[0] in {"pandas", "polars"}


def frame_of(source: Any) -> Frame:
    """A pandas or polars data frame."""
    return _pandas(source) if type(source).__module__.split(".")[0] == "pandas" else _polars(source)


def _pandas(df: Any) -> Frame:
    from pandas.api.types import is_bool_dtype, is_complex_dtype, is_numeric_dtype

    def kind(dtype: Any) -> str:
        if (is_numeric_dtype(dtype) or is_bool_dtype(dtype)) and not is_complex_dtype(dtype):
            return "number"
        return "text" if getattr(dtype, "name", "") in _TEXT else str(dtype)

    def batches(rows: int) -> Iterator[tuple[int, Column]]:
        for start in range(0, len(df), rows):
            part = df.iloc[start : start + rows]

            def column(j: int, part: Any = part) -> NDArray[Any]:
                found = part.iloc[:, j]
                if kinds[j] == "number":
                    return np.asarray(found.to_numpy(dtype=np.float64, na_value=np.nan))
                return np.asarray(found.astype(object).where(found.notna(), None).to_numpy())

            yield len(part), column

    kinds = tuple(kind(dtype) for dtype in df.dtypes)
    single = all(dtype == np.float32 for dtype, k in zip(df.dtypes, kinds, strict=True) if k == "number")
    return Frame("frame", tuple(map(str, df.columns)), kinds, single, len(df), int(df.memory_usage().sum()), batches)


def _polars(df: Any) -> Frame:
    import polars as pl

    def kind(dtype: Any) -> str:
        if dtype.is_numeric() or dtype == pl.Boolean:
            return "number"
        return "text" if str(dtype.base_type()) in _TEXT else str(dtype)

    def batches(rows: int) -> Iterator[tuple[int, Column]]:
        for start in range(0, df.height, rows):
            part = df.slice(start, rows)

            def column(j: int, part: Any = part) -> NDArray[Any]:
                found = part.to_series(j)
                if kinds[j] == "number":
                    return np.asarray(found.cast(pl.Float64).fill_null(float("nan")).to_numpy())
                return np.array(found.cast(pl.String).to_list(), dtype=object)

            yield part.height, column

    kinds = tuple(kind(dtype) for dtype in df.dtypes)
    single = all(dtype == pl.Float32 for dtype, k in zip(df.dtypes, kinds, strict=True) if k == "number")
    return Frame("frame", tuple(df.columns), kinds, single, df.height, int(df.estimated_size()), batches)


def parquet(path: Path) -> Frame:
    """A Parquet file; InputError without pyarrow, and for files that it cannot read."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(f"{path}: reading Parquet needs pyarrow: pip install 'overcast[parquet]'") from None
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({_first_line(error)})") from None

    def kind(dtype: Any) -> str:
        types = pa.types
        if types.is_integer(dtype) or types.is_floating(dtype) or types.is_boolean(dtype) or types.is_decimal(dtype):
            return "number"
        if types.is_dictionary(dtype):
            return kind(dtype.value_type)
        return "text" if types.is_string(dtype) or types.is_large_string(dtype) else str(dtype)

    def batches(rows: int) -> Iterator[tuple[int, Column]]:
        try:
            for batch in file.iter_batches(batch_size=rows):

                def column(j: int, batch: Any = batch) -> NDArray[Any]:
                    found = batch.column(j)
                    if kinds[j] == "number":
                        return np.array(found.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
                    return np.array(found.cast(pa.string()).to_pylist(), dtype=object)

                yield batch.num_rows, column
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: damaged Parquet data ({_first_line(error)}): fetch the file again") from None

    schema = file.schema_arrow
    kinds = tuple(kind(field.type) for field in schema)
    single = all(field.type == pa.float32() for field, k in zip(schema, kinds, strict=True) if k == "number")
    return Frame(str(path), tuple(schema.names), kinds, single, file.metadata.num_rows, path.stat().st_size, batches)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_frame(
    frame: Frame,
    intake: Intake,
    before: Roles | None,
    target: Any = None,
    weight: Any = None,
    *,
    last_is_label: bool = False,
) -> Iterator[Piece | Roles]:
    """The rows of a table in pieces, and at last its columns' roles, which further files must share.

    Parameters
    ----------
    before : roles found in the files before, or None.
    target, weight : (n,) each, in the place of columns.
    last_is_label : whether the last column holds the targets where nothing else is said.

    Raises
    ------
    InputError
        For text columns that are not in `one_hot`, missing or infinite values, unknown columns.
    """
    options, where = intake.options, frame.where
    if before is not None and before.names != frame.names:
        raise InputError(f"{where}: other columns than in the files before: give files of the same columns")
    has_column = options.labelled and target is None
    if has_column and options.label is None and not last_is_label:
        raise InputError(f"{where}: no targets: pass target=, name a column in label=, or say labelled=False")
    default = len(frame.names) - 1 if has_column and options.label is None else None
    roles = before or assign(frame.names, intake, where, default_label=default, named=True)
    for column in roles.numbers:
        if frame.kinds[column] == "text":
            raise InputError(
                f"{where}: {roles.said(column)} holds text: encode it with one_hot=({roles.names[column]!r},)"
            )
    used = [*roles.numbers, *roles.hot, *(c for c in (roles.label, roles.weight) if c is not None)]
    for column in used:
        if frame.kinds[column] not in {"number", "text"}:
            raise InputError(f"{where}: {roles.said(column)} is of type {frame.kinds[column]}: turn it into numbers")
    if before is None:
        keep_type(intake, frame.single and bool(roles.numbers))
    given_y, given_w = (None if given is None else np.asarray(given) for given in (target, weight))
    for what, given in (("targets", given_y), ("weights", given_w)):
        if given is not None and given.shape != (frame.n_rows,):
            raise InputError(f"{where}: {frame.n_rows} rows but {what} of shape {given.shape}: they must be as many")
    start = 0
    for n, column_of in frame.batches(max(1, min(65536, PIECE // (8 * len(frame.names))))):
        part = slice(start, start + n)
        y_raw = column_of(roles.label) if roles.label is not None else None if given_y is None else given_y[part]
        w_raw = column_of(roles.weight) if roles.weight is not None else None if given_w is None else given_w[part]
        yield from _batch(roles, n, column_of, y_raw, w_raw, start, intake, where)
        start += n
        intake.advance(min(frame.nbytes, start * 8 * len(frame.names)))
    intake.advance(frame.nbytes)
    yield roles


def _batch(
    roles: Roles, n: int, column_of: Column, y_raw: Any, w_raw: Any, start: int, intake: Intake, where: str
) -> Iterator[Piece]:
    raw = np.empty((n, len(roles.numbers)))
    for i, column in enumerate(roles.numbers):
        raw[:, i] = column_of(column)
    values, finite = intake.cast(raw)
    fine = np.asarray(finite.all(axis=1))
    texts = [_categories(column_of(column)) for column in roles.hot]
    for text in texts:
        fine &= np.array([item is not None for item in text])

    def at(row: int) -> str:
        bad = np.flatnonzero(~finite[row])
        if bad.size:
            value = not_finite(float(raw[row, bad[0]]), values.dtype)
            return f"{roles.said(roles.numbers[int(bad[0])])}: the value {value}"
        column = next(c for c, text in zip(roles.hot, texts, strict=True) if text[row] is None)
        return f"{roles.said(column)}: the value is missing: fill it in or leave the row out (on_bad_row='skip')"

    y_bad = np.zeros(n, dtype=bool)
    if y_raw is not None and np.asarray(y_raw).dtype == object:
        y_bad = np.array([item is None for item in y_raw])
    y = np.full(n, np.nan)
    if y_raw is None:
        y[:] = 0.0
    elif not y_bad.all():
        kept = np.asarray(y_raw)[~y_bad]
        y[~y_bad] = targets(kept, kept.size, intake, where)
    w = None if w_raw is None else weights(w_raw, n, where)
    codes = None
    if texts:
        # words of rows that are left out must not become columns: missing ones borrow the number 0
        usable = fine & np.isfinite(y)
        codes = np.zeros((n, len(texts)), dtype=np.int32)
        for i, (text, (_, words)) in enumerate(zip(texts, intake.hot, strict=True)):
            codes[usable, i] = words.encode(np.array([str(item) for item in text[usable]], dtype=str))
    piece = Piece(values, y, weight=w, codes=codes)
    yield from checked(piece, fine, intake, where, at, start)


def _categories(column: NDArray[Any]) -> NDArray[Any]:
    """Values as text, None where missing; whole numbers without a point."""
    if column.dtype == object:
        return column
    distinct, inverse = np.unique(column, return_inverse=True)
    names = [None if np.isnan(v) else str(int(v)) if v == int(v) else repr(v) for v in distinct.tolist()]
    return np.array(names, dtype=object)[inverse]
