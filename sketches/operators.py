"""Sketching operators: the law of a random matrix S with E[S'S] = I.

Distribution, random state and operator are apart: a distribution is a frozen dataclass that travels as JSON
(`to_spec`, `sketch_from_spec`), the state is a named stream (`sketches.streams.stream`), and S itself is drawn where it
is applied and dropped at once.

Every `apply` takes ``rows`` (n, d), dense C-contiguous or CSR, float32 or float64, and an optional ``scale`` (n,), and
returns the dense C-contiguous ``S @ diag(scale) @ rows`` (size, d) in the dtype of ``rows``. The row weights of a
Hessian square root go in ``scale``, so that the weighted rows are never formed.

Dense throughput. S is held as CSC (one column per data row), so that ``S @ rows`` reads each data row once, in order,
and adds it to the accumulator while it is in cache; SciPy releases the GIL there. Measured on two EPYC cores, float32,
8000 x 2000, GB/s of ``rows``, one thread / two: CountSketch to 2000 rows CSC 8.1 / 10.8, CSR 6.2 / 10.9, sort by bucket
and `np.add.reduceat` 0.6 / 0.9, copying ``rows`` 7.8 / 11.4; four hashes to 400 rows CSC 6.6 / 11.6, CSR 1.7 / 2.7;
four hashes to 2000 rows (the accumulator outgrows the cache) CSC 2.0-3.7 / 3.5, CSR 1.5 / 3.1, CSC on copied column
tiles 32 to 512 wide 1.9-3.0 / 2.6-5.7. CSC needs neither a sort nor a tile width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

__all__ = [
    "DENSE_LIMIT",
    "SJLT",
    "CountSketch",
    "Gaussian",
    "LessUniform",
    "RowSampling",
    "Rows",
    "SketchDistribution",
    "SparseSketch",
]

Rows: TypeAlias = "NDArray[Any] | sparse.csr_array[Any] | sparse.csr_matrix[Any]"
Scale: TypeAlias = "NDArray[Any] | None"

DENSE_LIMIT = 2**30
"""Bytes: the largest dense sketch that `apply` makes from CSR rows; beyond it use `SparseSketch.apply_sparse`."""

_GAUSSIAN_CHUNK = 2**24  # bytes of S drawn at once; two such chunks are alive at a time


class SketchDistribution(Protocol):
    """The law of a random ``size`` x n matrix S with E[S'S] = I."""

    @property
    def size(self) -> int:
        """Rows of S."""
        ...

    def apply(self, rows: Rows, rng: np.random.Generator, scale: Scale = None) -> NDArray[Any]:
        """Draw S from ``rng`` and return the dense ``S @ diag(scale) @ rows``, shape (size, d), dtype of ``rows``."""
        ...


def check_positive(owner: object, *names: str) -> None:
    """Raise ValueError unless each named field of ``owner`` is an integer >= 1."""
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{type(owner).__name__} {name} must be an integer >= 1, got {value!r}")


def check_rows(rows: Rows, scale: Scale) -> None:
    """Raise ValueError unless ``rows`` is (n, d) float32 or float64, dense or CSR, and ``scale`` is None or (n,)."""
    if not isinstance(rows, np.ndarray) and not (sparse.issparse(rows) and rows.format == "csr"):
        raise ValueError(f"rows must be a dense array or a CSR matrix, got {type(rows).__name__}; convert with tocsr()")
    if rows.ndim != 2:
        raise ValueError(f"rows must have two axes (n, d), got shape {rows.shape}")
    if rows.dtype not in (np.float32, np.float64):
        raise ValueError(f"rows must be float32 or float64, got {rows.dtype}; convert with astype")
    if scale is not None and np.shape(scale) != (rows.shape[0],):
        raise ValueError(f"scale must have shape ({rows.shape[0]},), one per row, got {np.shape(scale)}")


def _check_dense(rows: Rows, size: int) -> None:
    if not isinstance(rows, np.ndarray) and size * rows.shape[1] * rows.dtype.itemsize > DENSE_LIMIT:
        raise ValueError(
            f"a dense {size} x {rows.shape[1]} sketch of CSR rows is over {DENSE_LIMIT} bytes; use apply_sparse"
        )


class SparseSketch(ABC):
    """A sketch whose matrix S is sparse: subclasses say how to draw S, this class how to apply it."""

    size: int

    @abstractmethod
    def matrix(self, n: int, rng: np.random.Generator, scale: Scale = None, dtype: Any = np.float64) -> Any:
        """Draw ``S @ diag(scale)`` (size, n) as a CSC or CSR array of ``dtype`` with int32 indices."""

    def apply(self, rows: Rows, rng: np.random.Generator, scale: Scale = None) -> NDArray[Any]:
        """Draw S and return the dense ``S @ diag(scale) @ rows``.

        Parameters
        ----------
        rows
            (n, d) float32 or float64, dense C-contiguous (any other layout is copied) or CSR.
        rng
            The stream that names the draw. Dense and CSR rows get the same S from the same stream.
        scale
            (n,) row weights, or None for ones.

        Returns
        -------
        numpy.ndarray
            (size, d), C-contiguous, dtype of ``rows``.

        Raises
        ------
        ValueError
            On a wrong shape or dtype, or if the dense sketch of CSR rows would exceed `DENSE_LIMIT` bytes.
        """
        check_rows(rows, scale)
        _check_dense(rows, self.size)
        matrix = self.matrix(rows.shape[0], rng, scale, rows.dtype)
        if isinstance(rows, np.ndarray):
            product: NDArray[Any] = matrix @ np.asarray(rows)
        elif matrix.format == "csc":
            product = _scatter(matrix, rows)
        else:
            product = (matrix @ sparse.csr_array(rows)).toarray()
        return product

    def apply_sparse(self, rows: Rows, rng: np.random.Generator, scale: Scale = None) -> Any:
        """Draw S and return ``S @ diag(scale) @ rows`` as a `scipy.sparse.csr_array` (size, d), for CSR rows.

        For d so large (beyond about 20,000) that size x d dense numbers are too many. Same draw as `apply`.

        Raises
        ------
        ValueError
            On a wrong shape or dtype, or if ``rows`` is dense.
        """
        check_rows(rows, scale)
        if not sparse.issparse(rows):
            raise ValueError("apply_sparse takes CSR rows; use apply for a dense array")
        left = self.matrix(rows.shape[0], rng, scale, rows.dtype).tocsr()
        return left @ sparse.csr_array(rows)


@dataclass(frozen=True)
class CountSketch(SparseSketch):
    """Each data row is added, with a random sign, to one bucket (Clarkson and Woodruff, STOC 2013).

    One pass over the rows, n d additions. On rows of high leverage one hash is not enough: with maximum leverage .999
    and size 10 d, the preconditioned condition number is 35 against 4 for `SJLT` with four hashes.

    Parameters
    ----------
    size
        Buckets, the rows of S, >= 1.
    """

    size: int

    def __post_init__(self) -> None:
        check_positive(self, "size")

    def matrix(self, n: int, rng: np.random.Generator, scale: Scale = None, dtype: Any = np.float64) -> Any:
        """Draw ``S @ diag(scale)`` (size, n), CSC, one nonzero per column."""
        return _hashed(self.size, 1, n, rng, scale, dtype)


@dataclass(frozen=True)
class SJLT(SparseSketch):
    """Sparse Johnson-Lindenstrauss transform, block form (Kane and Nelson, J. ACM 2014, section 1.1).

    ``hashes`` independent CountSketches of size / hashes buckets each, stacked and divided by sqrt(hashes). With four
    hashes or more its quality is that of OverSketch, also on rows of high leverage, and it is row-local: a worker
    sketches its own rows and no other pass follows. A row block's sketch must not be dropped: its rows would vanish.

    Parameters
    ----------
    size
        Rows of S, a multiple of ``hashes``.
    hashes
        Nonzeros per column of S, >= 1.
    """

    size: int
    hashes: int

    def __post_init__(self) -> None:
        check_positive(self, "size", "hashes")
        if self.size % self.hashes:
            low = self.size - self.size % self.hashes
            nearest = f"{low} or {low + self.hashes}" if low else f"{self.hashes}"
            raise ValueError(f"SJLT size {self.size} is not a multiple of its {self.hashes} hashes; use size {nearest}")

    def matrix(self, n: int, rng: np.random.Generator, scale: Scale = None, dtype: Any = np.float64) -> Any:
        """Draw ``S @ diag(scale)`` (size, n), CSC, ``hashes`` nonzeros per column."""
        return _hashed(self.size, self.hashes, n, rng, scale, dtype)


def _hashed(size: int, hashes: int, n: int, rng: np.random.Generator, scale: Scale, dtype: Any) -> Any:
    width = size // hashes
    buckets = rng.integers(0, width, size=(n, hashes), dtype=np.int32)
    buckets += np.arange(0, size, width, dtype=np.int32)
    signs = rng.integers(0, 2, size=(n, hashes), dtype=np.int8) * np.int8(2) - np.int8(1)
    weight = np.full(n, hashes**-0.5) if scale is None else np.asarray(scale, dtype=np.float64) * hashes**-0.5
    values = (signs * weight[:, None]).astype(dtype, copy=False)
    starts = np.arange(0, n * hashes + 1, hashes, dtype=np.int32)
    return sparse.csc_array((values.ravel(), buckets.ravel(), starts), shape=(size, n))


def _scatter(matrix: Any, rows: Any) -> NDArray[Any]:
    """Return the dense ``matrix @ rows`` of a matrix from `_hashed` and CSR rows: each nonzero added where it belongs.

    Millions of nonzeros per second, one thread, against a sparse product made dense: 42 / 33 (20000 x 5000, density
    .005, one hash to 2000 rows), 201 / 34 and with four hashes 70 / 12 (50000 x 500, .05), 32 / 9 (100000 x 2000, .01,
    four hashes to 4000 rows).
    """
    size, n = matrix.shape
    out: NDArray[Any] = np.zeros((size, rows.shape[1]), dtype=rows.dtype)
    hashes = matrix.nnz // max(n, 1)
    counts = np.diff(rows.indptr)
    for group in range(hashes):
        part = out[group * size // hashes : (group + 1) * size // hashes]
        buckets = matrix.indices[group::hashes] - np.int32(group * size // hashes)
        values = np.repeat(matrix.data[group::hashes], counts)
        values *= rows.data
        entries = (values, (np.repeat(buckets, counts), rows.indices))
        sparse.coo_array(entries, shape=part.shape).toarray(out=part)
    return out


@dataclass(frozen=True)
class Gaussian:
    """Independent normal entries of variance 1 / size: the reference law, at 2 size n d flops.

    S is drawn in chunks of data rows of about 32 MB, and in the dtype of ``rows`` (half the work for float32). The
    order of the draw is by data row, so it does not depend on the chunk.

    Parameters
    ----------
    size
        Rows of S, >= 1.
    """

    size: int

    def __post_init__(self) -> None:
        check_positive(self, "size")

    def apply(self, rows: Rows, rng: np.random.Generator, scale: Scale = None) -> NDArray[Any]:
        """Draw S and return the dense ``S @ diag(scale) @ rows`` (size, d); see `SparseSketch.apply`."""
        check_rows(rows, scale)
        _check_dense(rows, self.size)
        n, d = rows.shape
        chunk = max(1, _GAUSSIAN_CHUNK // (self.size * rows.dtype.itemsize))
        weight = np.full(n, self.size**-0.5) if scale is None else np.asarray(scale, np.float64) * self.size**-0.5
        weight = weight.astype(rows.dtype)
        dense = isinstance(rows, np.ndarray)
        out: NDArray[Any] = np.zeros((self.size, d), dtype=rows.dtype)
        for start in range(0, n, chunk):
            part = rows[start : start + chunk]
            draw = rng.standard_normal((part.shape[0], self.size), dtype=rows.dtype)  # columns of S, one a row
            draw *= weight[start : start + chunk, None]
            out += draw.T @ part if dense else (part.T @ draw).T
        return out


@dataclass(frozen=True)
class LessUniform(SparseSketch):
    """Rows of ``nonzeros`` uniform coordinates with random signs (Newton-LESS, arXiv 2107.07480, uniform variant).

    Reads only size x nonzeros data rows. There is no mixing (Hadamard) step before it, so it is as good as Gaussian
    only on incoherent rows: when a few rows carry the leverage it misses them, and the preconditioned condition number
    was measured at 1.8e4 against 3.6 for OverSketch. Use `SJLT` unless the rows are known to be incoherent.

    The paper draws coordinates without replacement; here they are with replacement, which keeps E[S'S] = I exactly and
    needs no shuffle.

    Parameters
    ----------
    size
        Rows of S, >= 1.
    nonzeros
        Coordinates per row of S, >= 1; the paper takes 8 to d.
    """

    size: int
    nonzeros: int

    def __post_init__(self) -> None:
        check_positive(self, "size", "nonzeros")

    def matrix(self, n: int, rng: np.random.Generator, scale: Scale = None, dtype: Any = np.float64) -> Any:
        """Draw ``S @ diag(scale)`` (size, n), CSR, ``nonzeros`` entries per row (equal coordinates add)."""
        shape = (self.size, self.nonzeros)
        if n == 0:
            return sparse.csr_array((self.size, 0), dtype=dtype)
        chosen = np.sort(rng.integers(0, n, size=shape, dtype=np.int32), axis=1)
        signs = rng.integers(0, 2, size=shape, dtype=np.int8) * np.int8(2) - np.int8(1)
        return _gathering(chosen, signs * (n / (self.size * self.nonzeros)) ** 0.5, n, scale, dtype)


@dataclass(frozen=True)
class RowSampling(SparseSketch):
    """``size`` data rows drawn uniformly with replacement, each multiplied by sqrt(n / size).

    The cheapest sketch, O(size d) whatever n, and the first to fail on rows of high leverage. The drawn rows come in
    the order of the data, so that the gather reads forward (S'S does not depend on the order).

    Parameters
    ----------
    size
        Rows drawn, >= 1.
    """

    size: int

    def __post_init__(self) -> None:
        check_positive(self, "size")

    def matrix(self, n: int, rng: np.random.Generator, scale: Scale = None, dtype: Any = np.float64) -> Any:
        """Draw ``S @ diag(scale)`` (size, n), CSR, one nonzero per row."""
        if n == 0:
            return sparse.csr_array((self.size, 0), dtype=dtype)
        chosen = np.sort(rng.integers(0, n, size=self.size, dtype=np.int32))[:, None]
        return _gathering(chosen, np.full((self.size, 1), (n / self.size) ** 0.5), n, scale, dtype)


def _gathering(chosen: NDArray[np.int32], values: NDArray[Any], n: int, scale: Scale, dtype: Any) -> Any:
    # CSR, so that the output is written in order and each row of it gathers a few data rows.
    if scale is not None:
        values = values * np.asarray(scale, dtype=np.float64)[chosen]
    size, width = chosen.shape
    starts = np.arange(0, size * width + 1, width, dtype=np.int32)
    return sparse.csr_array((values.astype(dtype, copy=False).ravel(), chosen.ravel(), starts), shape=(size, n))
