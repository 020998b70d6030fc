"""Sketched Hessians: debiasing one, averaging many, and factoring the result.

H = A'A + R with R = diag(ridge) >= 0, and G = (SA)'(SA) with E[G] = A'A from m sketch rows. Only data terms G are
averaged; R is exact and added afterwards. Everything here is float64: a Gram matrix accumulated in float32 costs 1e-4
in the whitened norm, a float32 sketch with a float64 Gram 4e-7.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.sparse.linalg import ArpackError, eigsh

from sketches.factor import Factor, factor
from sketches.streams import stream

__all__ = ["Debiased", "HessianAverage", "debias"]

NU_FLOOR = 0.05
"""Least debiasing factor; at it the sketch has too few rows (m < 1.05 d_lambda) for a Newton step."""

_SLACK = 1.1  # how far beyond the edge of the law an eigenvalue of the pencil must lie to count as drift
_LOST = 1e8  # drift at which nothing of the old average is left; a singular sketch would have more
_DENSE = 200  # up to this d, all eigenvalues cost less than a Lanczos run


@dataclass(frozen=True)
class Debiased:
    """What inverting a sketched Hessian costs.

    Attributes
    ----------
    nu
        E[(G + nu R)^-1] is about (1 / nu) H^-1: use G / nu + R for H. In [0.05, 1].
    effective_dimension
        Estimate of d_lambda = tr(A'A (A'A + R)^-1), m (1 - nu).
    """

    nu: float
    effective_dimension: float


def debias(gram: NDArray[Any], ridge: NDArray[Any] | float, m: float) -> Debiased:
    """Estimate the inversion bias of a sketched Hessian from the sketch alone.

    Derezinski, Bartan, Pilanci and Mahoney, "Debiasing distributed second order optimization with surrogate sketching
    and scaled regularization" (arXiv 2007.01327). Two deviations: the data term is inflated, G / nu + R, where the
    paper shrinks the regulariser (equal up to the factor nu, and right for any R); and d_lambda is not given but found
    as the fixed point of nu <- 1 - tr(G (G + nu R)^-1) / m from nu = 1/2, clipped below at .05. Exact for surrogate
    sketches, asymptotically so for OverSketch, SJLT and sampling on incoherent rows.

    Cost: one symmetric eigenvalue problem. Unpenalised coordinates are eliminated first (they count 1 each, a Schur
    complement remains); with no ridge at all nu = 1 - d / m and nothing is decomposed.

    Parameters
    ----------
    gram
        (d, d) sketched data term G, symmetric positive semidefinite.
    ridge
        (d,) diagonal of R, >= 0, or one number for all.
    m
        Sketch rows behind ``gram``; m times the number of sketches for an average (it need not be whole).

    Raises
    ------
    ValueError
        On wrong shapes, a negative ridge, m <= 0, or numbers that are not finite.
    """
    gram, diagonal = _checked(gram, ridge, m)
    free = diagonal == 0.0
    n_free = int(free.sum())
    inner = gram
    if n_free == len(diagonal):
        spectrum: NDArray[np.float64] = np.zeros(0)
    else:
        if n_free:
            cross = gram[np.ix_(free, ~free)]
            inner = gram[np.ix_(~free, ~free)] - cross.T @ factor(gram[np.ix_(free, free)]).solve(cross)
        root = np.sqrt(diagonal[~free])
        spectrum = np.maximum(linalg.eigvalsh(inner / np.outer(root, root)), 0.0)

    # The map is increasing and concave in nu, so the iteration is monotone towards the positive fixed point.
    nu = 0.5
    for _ in range(1000):
        previous, nu = nu, max(NU_FLOOR, 1.0 - (n_free + float(np.sum(spectrum / (spectrum + nu)))) / m)
        if abs(nu - previous) <= 1e-12:
            break
    return Debiased(nu=nu, effective_dimension=m * (1.0 - nu))


@dataclass(frozen=True, eq=False)
class HessianAverage:
    """A running average of sketched Hessians that forgets as fast as the Hessian moves.

    Averaging: Na, Derezinski and Mahoney, "Hessian averaging in stochastic Newton methods" (arXiv 2204.09266).
    Deviation: their weights follow a schedule, uniform or log; here the new sketch is tested against the average. If
    the Hessian has not moved, the eigenvalues of the pencil (G_t + R, G_avg + R) lie between the edges a, b of the
    F-matrix law; what lies outside is drift, and adds to the variance of the old average. The fields are plain numbers
    and one array, so an instance is a checkpoint.

    Attributes
    ----------
    gram
        (d, d) averaged data term, float64.
    m
        Sketch rows of the last sketch.
    neff
        Sketches of m rows that the average is worth; 1 after the first, t after t without drift.
    drift
        Excess delta of the last update's pencil, 0 if none.
    nu, effective_dimension
        `debias` of ``gram`` with m x neff rows.
    """

    gram: NDArray[np.float64]
    m: float
    neff: float
    drift: float
    nu: float
    effective_dimension: float

    @classmethod
    def start(cls, gram: NDArray[Any], ridge: NDArray[Any] | float, m: float) -> HessianAverage:
        """Return the average of the one sketch ``gram``; arguments and errors as for `debias`."""
        gram, diagonal = _checked(gram, ridge, m)
        law = debias(gram, diagonal, m)
        return cls(gram, float(m), 1.0, 0.0, law.nu, law.effective_dimension)

    def update(self, gram: NDArray[Any], ridge: NDArray[Any] | float, m: float) -> HessianAverage:
        """Return the average with a new sketch in it.

        With v = d_lambda / m and y = min(v / neff, .9), the edges are ((1 -+ h) / (1 - y))^2, h^2 = v + y - v y. Drift
        is delta = max(0, lambda_max / (1.1 b) - 1, a / (1.1 lambda_min) - 1). The old average, of variance
        v_old = v / neff + delta^2, gets the weight rho = v / (v + v_old), and
        neff <- min(v (1 / v + 1 / v_old), neff + 1).

        The test needs sketches with m > d_lambda. v is clipped at .95, where the lower edge is all but 0.

        Parameters
        ----------
        gram
            (d, d) data term of a sketch that is independent of those before.
        ridge, m
            As for `debias`. m may differ from the last one: neff is converted to sketches of the new size.

        Raises
        ------
        ValueError
            As for `debias`, or if the shape differs from the average's.
        """
        gram, diagonal = _checked(gram, ridge, m)
        if gram.shape != self.gram.shape:
            raise ValueError(f"the average is {self.gram.shape}, the new sketch {gram.shape}")
        neff = self.neff * self.m / m
        v = min(max(self.effective_dimension / m, 1e-12), 0.95)
        y = min(v / neff, 0.9)
        h = sqrt(v + y - v * y)
        low, high = (((1.0 - h) / (1.0 - y)) ** 2, ((1.0 + h) / (1.0 - y)) ** 2)

        least, most = _pencil_range(gram, factor(self.gram + np.diag(diagonal)), diagonal)
        drift = min(max(0.0, most / (_SLACK * high) - 1.0, low / (_SLACK * least) - 1.0), _LOST)
        v_old = v / neff + drift**2
        rho = v / (v + v_old)
        neff = min(1.0 + v / v_old, neff + 1.0)

        mean = rho * self.gram + (1.0 - rho) * gram
        law = debias(mean, diagonal, m * neff)
        return HessianAverage(mean, float(m), neff, drift, law.nu, law.effective_dimension)

    def hessian(self, ridge: NDArray[Any] | float) -> NDArray[np.float64]:
        """Return the debiased Hessian ``gram / nu + diag(ridge)``."""
        _, diagonal = _checked(self.gram, ridge, self.m)
        return self.gram / self.nu + np.diag(diagonal)


def _pencil_range(gram: NDArray[np.float64], metric: Factor, ridge: NDArray[np.float64]) -> tuple[float, float]:
    """Return the extreme eigenvalues of (gram + R, metric), the lower one positive."""
    whitened = metric.whiten(gram + np.diag(ridge))
    d = len(whitened)
    if d <= _DENSE:
        ends = linalg.eigvalsh(whitened)
    else:
        # Ritz values lie inside the spectrum: what the loose tolerance misses makes the test milder, not wilder.
        start = stream(0, d).standard_normal(d)
        try:
            ends = eigsh(whitened, k=2, which="BE", v0=start, tol=1e-2, return_eigenvectors=False)
        except ArpackError:
            ends = linalg.eigvalsh(whitened)
    return max(float(ends.min()), np.finfo(np.float64).tiny), float(ends.max())


def _checked(
    gram: NDArray[Any], ridge: NDArray[Any] | float, m: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gram = np.asarray(gram, dtype=np.float64)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not gram.size:
        raise ValueError(f"gram must be square and not empty, got shape {gram.shape}")
    diagonal = np.asarray(ridge, dtype=np.float64)
    if diagonal.shape not in {(), (len(gram),)}:
        raise ValueError(f"ridge must be a number or have shape ({len(gram)},), got {diagonal.shape}")
    diagonal = np.broadcast_to(diagonal, len(gram))
    if not (np.all(np.isfinite(diagonal)) and np.all(diagonal >= 0.0)):
        raise ValueError("ridge must be finite and >= 0")
    if not m > 0:
        raise ValueError(f"m, the rows of the sketch, must be positive, got {m}")
    if not np.all(np.isfinite(gram)):
        raise ValueError("gram has entries that are not finite")
    return gram, diagonal
