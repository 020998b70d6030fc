"""From pieces as they were read to blocks as they are stored: labels, categories, scale and layout."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from coordinator.data.blocks import Block, csr_view
from coordinator.data.intake import MAX_COLUMNS, Array, Intake, Piece
from coordinator.errors import InputError

SPARSE_BELOW: Final = 0.3
MAX_CLASSES: Final = 1000
MAX_NAMES: Final = 10_000


class Moments:
    """Mean, spread and range of columns, over the values that are stored in pieces seen one after another.

    Sums of squares are taken about each piece's mean and joined by the update of Chan, Golub and LeVeque (1983), which
    loses no digits to large means.
    """

    def __init__(self) -> None:
        self.count = np.zeros(0)
        self.mean = np.zeros(0)
        self.square = np.zeros(0)  # sum of squares about the mean
        self.low = np.zeros(0)
        self.high = np.zeros(0)

    def add(self, piece: Piece) -> None:
        """Take a piece in."""
        self._grow(piece.width)
        if piece.indices is None:
            x = piece.values.astype(np.float64, copy=False)
            count: Any = float(piece.n_rows)
            mean = x.mean(axis=0)
            square = ((x - mean) ** 2).sum(axis=0)
            np.minimum(self.low, x.min(axis=0), out=self.low)
            np.maximum(self.high, x.max(axis=0), out=self.high)
            part: Any = slice(None)
        else:
            part, column = np.unique(piece.indices, return_inverse=True)
            x = piece.values.astype(np.float64, copy=False)
            count = np.bincount(column).astype(np.float64)
            mean = np.bincount(column, weights=x) / count
            square = np.bincount(column, weights=(x - mean[column]) ** 2)
            np.minimum.at(self.low, piece.indices, x)
            np.maximum.at(self.high, piece.indices, x)
        before = self.count[part]
        total = before + count
        step = mean - self.mean[part]
        self.square[part] += square + step**2 * (before * count / total)
        self.mean[part] += step * (count / total)
        self.count[part] = total

    def factors(self, kind: Literal["std", "maxabs"], n_rows: int, n_columns: int) -> NDArray[np.float64]:
        """What to divide columns by; values that are not stored are zeros."""
        self._grow(n_columns)
        missing = n_rows - self.count
        low = np.where(missing > 0, np.minimum(self.low, 0), self.low)
        high = np.where(missing > 0, np.maximum(self.high, 0), self.high)
        if kind == "maxabs":
            out = np.maximum(-low, high)
        else:
            out = np.sqrt((self.square + self.mean**2 * (self.count * missing / n_rows)) / n_rows)
            out[low == high] = 0
        return np.where(out > 0, out, 1.0)

    def _grow(self, width: int) -> None:
        more = width - self.count.size
        if more > 0:
            zeros = np.zeros(more)
            self.count, self.mean, self.square = (np.append(a, zeros) for a in (self.count, self.mean, self.square))
            self.low, self.high = np.append(self.low, zeros + np.inf), np.append(self.high, zeros - np.inf)


class Tally:
    """What must be known of all rows before the first block can be written."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.sparse = False
        self.width = 0
        self.stored = 0
        self.weight = 0.0
        self.labels: NDArray[np.float64] | None = np.zeros(0)
        self.moments = Moments() if intake.options.scale != "none" else None
        self.hot_counts: list[Array] = []

    def add(self, piece: Piece) -> None:
        """Take a piece in."""
        intake = self.intake
        self.sparse = piece.indices is not None
        if not self.sparse and intake.rows and piece.width != self.width:
            raise InputError(
                f"files differ: {piece.width} columns here, {self.width} before; give files of the same columns"
            )
        self.width = max(self.width, piece.width)
        counts_zeros = bool(intake.hot) or intake.options.layout == "csr"
        self.stored += int(np.count_nonzero(piece.values)) if counts_zeros else piece.values.size
        if piece.weight is not None:
            self.weight += float(piece.weight.sum())
        if self.labels is not None:
            self.labels = np.union1d(self.labels, piece.y)
            if self.labels.size > MAX_CLASSES:
                if intake.words is not None:
                    raise InputError(
                        f"the label holds text of over {MAX_CLASSES} distinct values: is it the right column?"
                    )
                self.labels = None
        if self.moments is not None:
            self.moments.add(piece)
        if piece.codes is not None:
            for i, codes in enumerate(piece.codes.T):
                new = np.bincount(codes)
                old = self.hot_counts[i] if i < len(self.hot_counts) else np.zeros(0, dtype=np.int64)
                both = np.zeros(max(new.size, old.size), dtype=np.int64)
                both[: old.size] += old
                both[: new.size] += new
                self.hot_counts[i : i + 1] = [both]
        intake.rows += piece.n_rows


class Arrangement:
    """How pieces become blocks, once all rows have been counted.

    Attributes
    ----------
    n_features : columns of the blocks, with one column for each category in its table column's place.
    layout, classes, features, scale : as in `RowBlocks`; `scale` is None or the columns' factors.
    """

    def __init__(self, tally: Tally) -> None:
        intake, options = tally.intake, tally.intake.options
        width = max(tally.width, intake.n_columns or 0, options.n_features or 0)
        sizes = [len(words) for _, words in intake.hot]
        self.n_features = width + sum(sizes)
        if self.n_features == 0:
            raise InputError("no line has an index:value: there are no features")
        if self.n_features > MAX_COLUMNS:
            raise InputError(f"{self.n_features} columns, more than the {MAX_COLUMNS} that 32-bit indices hold")
        self._place = np.arange(width)
        self._hot: list[tuple[int, NDArray[np.int32]]] = []
        shift = 0
        for (position, words), size in zip(intake.hot, sizes, strict=True):
            self._place[position:] += size
            self._hot.append((position + shift, words.order))
            shift += size
        density = (tally.stored + intake.rows * len(intake.hot)) / (intake.rows * self.n_features)
        self.layout: Literal["dense", "csr"] = "dense"
        natural_csr = tally.sparse or bool(intake.hot)
        if options.layout is not None:
            self.layout = options.layout
        elif natural_csr and (density <= SPARSE_BELOW or (tally.sparse and intake.n_columns is not None)):
            self.layout = "csr"
        self.dtype = intake.float_type
        self.density = density
        self._labels(tally)
        self.features = self._features(intake)
        self.scale = self._scale(tally)

    @property
    def row_bytes(self) -> float:
        """Bytes of a row in a block, on average."""
        if self.layout == "dense":
            return self.n_features * self.dtype.itemsize
        return self.density * self.n_features * (self.dtype.itemsize + 4) + 4

    def block(self, piece: Piece) -> Block:
        """The rows of `piece` as they are stored. Shares no memory with it that would keep it alive for long."""
        X = self._dense(piece) if self.layout == "dense" else self._csr(piece)
        y = piece.y if self._label_order is None else self._label_order[piece.y.astype(np.int64)]
        return Block(X, np.ascontiguousarray(y), piece.weight)

    def _dense(self, piece: Piece) -> Array:
        if piece.indices is not None:
            X = piece.csr(self.n_features).toarray()
        elif not self._hot:
            X = np.ascontiguousarray(piece.values)
        else:
            X = np.zeros((piece.n_rows, self.n_features), dtype=self.dtype)
            X[:, self._place] = piece.values
            rows = np.arange(piece.n_rows)
            for column in self._hot_columns(piece):
                X[rows, column] = 1
        if self.scale is not None:
            X = self._checked(X / self.scale)
        return X

    def _csr(self, piece: Piece) -> sparse.csr_matrix:
        if piece.indices is None:
            found = sparse.csr_matrix(piece.values)
            X = sparse.csr_matrix(
                (found.data, self._place[found.indices], found.indptr), shape=(piece.n_rows, self.n_features)
            )
            if self._hot:
                columns = np.stack(self._hot_columns(piece), axis=1)
                pointer = np.arange(piece.n_rows + 1) * columns.shape[1]
                ones = np.ones(columns.size, dtype=self.dtype)
                X = X + sparse.csr_matrix((ones, columns.ravel(), pointer), shape=X.shape)
            X.sort_indices()
        else:
            X = piece.csr(self.n_features)
        data = X.data if self.scale is None else self._checked(X.data / self.scale[X.indices])
        return csr_view(data, X.indices.astype(np.int32), X.indptr.astype(np.int32), self.n_features)

    def _hot_columns(self, piece: Piece) -> list[Array]:
        assert piece.codes is not None
        return [start + order[codes] for (start, order), codes in zip(self._hot, piece.codes.T, strict=True)]

    def _checked(self, scaled: Array) -> Array:
        with np.errstate(over="ignore"):
            out: Array = scaled.astype(self.dtype, copy=False)
        if not bool(np.isfinite(out).all()):
            raise InputError(
                f"a column's spread is so small that its scaled values overflow {self.dtype}: scale='none'"
            )
        return out

    def _labels(self, tally: Tally) -> None:
        words, labels = tally.intake.words, tally.labels
        self.classes: tuple[float, ...] | tuple[str, ...] | None
        self._label_order: NDArray[np.float64] | None = None
        if words is None or labels is None:
            self.classes = None if labels is None else tuple(labels.tolist())
            return
        # words of rows that were left out are no classes
        order, used = words.order, labels.astype(np.int64)
        names = words.sorted
        kept = np.sort(order[used])
        self.classes = tuple(names[i] for i in kept.tolist())
        self._label_order = np.searchsorted(kept, order).astype(np.float64)

    def _features(self, intake: Intake) -> tuple[str, ...] | None:
        if intake.features is None or self.n_features > MAX_NAMES:
            return None
        names = [""] * self.n_features
        for column, name in zip(self._place.tolist(), intake.features, strict=True):
            names[column] = name
        for (start, _), (_, words) in zip(self._hot, intake.hot, strict=True):
            for k, word in enumerate(words.sorted):
                names[start + k] = f"{words.name}={word}"
        return tuple(names)

    def _scale(self, tally: Tally) -> NDArray[np.float64] | None:
        kind, n = tally.intake.options.scale, tally.intake.rows
        if kind == "none" or tally.moments is None:
            return None
        out = np.ones(self.n_features)
        out[self._place] = tally.moments.factors(kind, n, self._place.size)
        if kind == "std":
            for (start, order), counts in zip(self._hot, tally.hot_counts, strict=True):
                share = counts / n
                spread = np.sqrt(share * (1 - share))
                out[start + order] = np.where(spread > 0, spread, 1.0)
        return out
