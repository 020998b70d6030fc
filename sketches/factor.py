"""Factoring a symmetric matrix that should be positive definite, and in floating point may not be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

__all__ = ["Factor", "factor"]

_FIRST_JITTER, _LAST_JITTER = -12, -4  # powers of ten, relative to the mean diagonal


@dataclass(frozen=True, eq=False)
class Factor:
    """The factor of a positive definite matrix ``root @ root.T``.

    Attributes
    ----------
    root
        (d, d): the lower Cholesky factor, or eigenvectors times the roots of the clipped eigenvalues.
    inverse
        (d, d) inverse of ``root`` when it is not triangular, else None.
    jitter
        What was added to the diagonal (or the least eigenvalue allowed), absolute; 0 for a well-conditioned matrix.
    """

    root: NDArray[np.float64]
    inverse: NDArray[np.float64] | None
    jitter: float

    def solve(self, b: NDArray[Any]) -> NDArray[np.float64]:
        """Return x with ``root @ root.T @ x = b``, for b (d,) or (d, k), in float64."""
        b = np.asarray(b, dtype=np.float64)
        if self.inverse is None:
            solution: NDArray[np.float64] = linalg.cho_solve((self.root, True), b)
            return solution
        product: NDArray[np.float64] = self.inverse.T @ (self.inverse @ b)
        return product

    def whiten(self, matrix: NDArray[Any]) -> NDArray[np.float64]:
        """Return the symmetric ``root^-1 @ matrix @ root^-T``, whose eigenvalues are those of the pencil."""
        if self.inverse is None:
            half = linalg.solve_triangular(self.root, np.asarray(matrix, dtype=np.float64), lower=True)
            white: NDArray[np.float64] = linalg.solve_triangular(self.root, half.T, lower=True)
        else:
            white = self.inverse @ np.asarray(matrix, dtype=np.float64) @ self.inverse.T
        return 0.5 * (white + white.T)

    @property
    def logdet(self) -> float:
        """Logarithm of the determinant."""
        if self.inverse is None:
            return 2.0 * float(np.sum(np.log(np.diag(self.root))))
        return float(np.sum(np.log(np.sum(self.root**2, axis=0))))


def factor(matrix: NDArray[Any]) -> Factor:
    """Factor a symmetric matrix: Cholesky, then with jitter, then by eigenvalues.

    The jitter starts at 1e-12 of the mean diagonal and grows tenfold up to 1e-4 of it. If that does not do, eigenvalues
    are clipped below at the last jitter, so that the result is always positive definite.

    Parameters
    ----------
    matrix
        (d, d) symmetric; the lower triangle is read. float64 is used throughout.

    Raises
    ------
    ValueError
        If the matrix is not square or has entries that are not finite.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"the matrix to factor must be square and not empty, got shape {matrix.shape}")
    if not np.all(np.isfinite(matrix)):
        raise ValueError("the matrix to factor has entries that are not finite")
    mean = max(float(np.mean(np.diag(matrix))), 0.0)
    jitters = [mean * 10.0**power for power in range(_FIRST_JITTER, _LAST_JITTER + 1)]
    for jitter in [0.0, *jitters]:
        try:
            shifted = matrix.copy()
            shifted.flat[:: len(matrix) + 1] += jitter
            return Factor(linalg.cholesky(shifted, lower=True, overwrite_a=True), None, jitter)
        except linalg.LinAlgError:
            continue
    values, vectors = linalg.eigh(matrix)
    # A diagonal that gives no scale leaves the largest eigenvalue; zeros altogether are replaced by the identity.
    floor = 10.0**_LAST_JITTER * (mean or float(np.abs(values).max())) or 1.0
    roots = np.sqrt(np.maximum(values, floor))
    return Factor(vectors * roots, (vectors / roots).T, floor)
