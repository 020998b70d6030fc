"""Many estimates of one inverse: how to draw them, correct each, weigh them, and how many are needed.

H = A'A + R with R = diag(ridge) >= 0, and independent estimates H^_t = G_t + R with E[G_t] = A'A. The mean of the
H^_t^-1 is not H^-1, however many there are. Three ways around that:

* determinantal averaging (Derezinski and Mahoney, "Distributed estimation of the inverse Hessian by determinantal
  averaging", arXiv 1905.11546): weights proportional to det H^_t. For G = sum_i s_i z_i z_i' with independent s_i,
  E[det H^ H^^-1] / E[det H^] = (E H^)^-1 exactly, because determinants and adjugates are affine in each s_i. Rows drawn
  by "bernoulli" and "poisson" are such sums;
* rows drawn "fixed" in number, with replacement: their s_i are dependent, and without R the identity holds up to the
  factor k / (k - d + 1), exactly (`correction`). The weights then vary by -2 ln(1 - d / k) in the logarithm, whatever
  d, where a random number of rows adds d^2 / k, which leaves next to no effective sample from d = 100 on;
* scaled regularization (arXiv 2007.01327): estimates are debiased, G_t / nu + R (`sketches.debias`), all weigh alike.

All linear functionals of the inverse may be averaged so: Newton directions, traces, c'H^-1 c, diagonals.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sketches.averaging import NU_FLOOR, debias

__all__ = [
    "ROW_LAWS",
    "Combined",
    "combine",
    "correction",
    "draw_rows",
    "effective_sample_size",
    "estimates_needed",
    "log_weights",
    "mean_step",
    "scaling",
]

ROW_LAWS: Final = ("fixed", "poisson", "bernoulli")
"""Laws of a random number of copies s_i of each row, with E[s_i] = k / n."""


def draw_rows(law: str, n: int, k: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw about k of n rows.

    Parameters
    ----------
    law
        "fixed": k rows with replacement. "poisson": a Poisson(k) number of them, which makes the copies of each row
        independent. "bernoulli": each row once with probability k / n.
    n, k
        Rows there are, and rows wanted; k <= n for "bernoulli".
    rng
        The stream that names the draw.

    Returns
    -------
    (m,) indices of the rows that were drawn, increasing, and (m,) how often each was.

    Raises
    ------
    ValueError
        For an unknown law, or k out of range.
    """
    if k < 1 or (law == "bernoulli" and k > n) or n < 1:
        raise ValueError(f"cannot draw {k} of {n} rows by {law!r}")
    if law == "bernoulli":
        rows = np.sort(rng.choice(n, size=int(rng.binomial(n, k / n)), replace=False))
        return rows.astype(np.int64), np.ones(rows.size)
    if law == "fixed":
        size = k
    elif law == "poisson":
        size = int(rng.poisson(k))
    else:
        raise ValueError(f"unknown law {law!r} of rows; known: {', '.join(ROW_LAWS)}")
    index, counts = np.unique(rng.integers(0, n, size=size), return_counts=True)
    return index.astype(np.int64), counts.astype(np.float64)


def correction(law: str, gram: NDArray[Any], ridge: NDArray[Any] | float, k: int) -> float:
    """Return nu such that G / nu + R, weighed by its determinant, is free of bias.

    1 for laws with independent copies. For "fixed", (k - d + 1) / k without R, which is exact. With R the formula takes
    the effective dimension for d: of the terms that make up the determinant, of j rows each, those of about d_lambda
    dominate, and each carries (k)_j / k^j where independence has 1 (spec B; exact at R = 0, a remainder of order 1 / k
    otherwise).

    Parameters
    ----------
    law
        A law of `draw_rows`.
    gram, ridge
        (d, d) data term G of one estimate, and the diagonal of R, (d,) or a number.
    k
        Rows wanted of `draw_rows`.
    """
    if law != "fixed":
        return 1.0
    return min(max(debias(gram, ridge, k).nu + 1.0 / k, NU_FLOOR), 1.0)


def scaling(gram: NDArray[Any], ridge: NDArray[Any] | float, m: float) -> float:
    """Return nu such that (G / nu + R)^-1, weighed alike, has next to no bias: that of `sketches.debias`, less 1 / m.

    Without R, Gaussian sketches then have none, E[G^-1] = m / (m - d - 1) H^-1, where 1 - d / m leaves 1 / (m - d): as
    much as the noise of a mean of d m estimates.
    """
    return max(debias(gram, ridge, m).nu - 1.0 / m, NU_FLOOR)


def log_weights(logdets: NDArray[Any]) -> NDArray[np.float64]:
    """Return weights proportional to exp(logdets), of sum one, without over- or underflow.

    ValueError when there are none, or one is not finite.
    """
    logs = np.asarray(logdets, dtype=np.float64)
    if logs.ndim != 1 or not logs.size or not np.all(np.isfinite(logs)):
        raise ValueError("log-determinants must be a vector of finite numbers, at least one")
    weights: NDArray[np.float64] = np.exp(logs - logs.max())
    return weights / weights.sum()


def effective_sample_size(weights: NDArray[Any]) -> float:
    """Return 1 / sum a_t^2 for weights of sum one: how many equal estimates they are worth."""
    return float(1.0 / np.sum(np.square(weights)))


@dataclass(frozen=True, eq=False)
class Combined:
    """An average of estimates.

    Attributes
    ----------
    value
        Of the shape of one estimate.
    error
        Its standard error from the scatter of the estimates, same shape; inf with one estimate.
    weights
        (q,), of sum one.
    ess
        Effective sample size, `effective_sample_size` of the weights.
    """

    value: NDArray[np.float64]
    error: NDArray[np.float64]
    weights: NDArray[np.float64]
    ess: float


def combine(values: NDArray[Any], logdets: NDArray[Any] | None = None) -> Combined:
    """Average estimates (q, ...), weighed by exp(logdets) (q,), or alike.

    The error is that of a ratio of means, sum a_t^2 (v_t - mean)^2, times q / (q - 1).
    """
    values = np.asarray(values, dtype=np.float64)
    q = len(values)
    weights = np.full(q, 1.0 / q) if logdets is None else log_weights(logdets)
    mean = np.tensordot(weights, values, axes=1)
    if q == 1:
        return Combined(mean, np.full_like(mean, np.inf), weights, 1.0)
    scatter = np.tensordot(weights**2, (values - mean) ** 2, axes=1)
    return Combined(mean, np.sqrt(scatter * q / (q - 1)), weights, effective_sample_size(weights))


def estimates_needed(combined: Combined, accuracy: float, scale: NDArray[Any] | None = None) -> int:
    """Return how many estimates bring the entries' standard errors to ``accuracy`` times their magnitudes, rms.

    From the errors of a pilot average of q estimates, which fall like 1 / sqrt(q). The root mean square over entries
    is what few estimates tell: the worst of many entries' errors is then mostly noise. ``scale``, of the shape of the
    value, replaces the entries' own magnitudes. ValueError unless 0 < accuracy and the pilot has two estimates.
    """
    q = len(combined.weights)
    if not accuracy > 0 or q < 2:
        raise ValueError(f"accuracy must be > 0 and a pilot of 2 estimates is needed, got {accuracy} and {q}")
    size = np.abs(combined.value if scale is None else np.asarray(scale, dtype=np.float64))
    relative = combined.error / np.maximum(size, np.finfo(np.float64).tiny)
    return max(1, ceil(q * float(np.mean(relative**2)) / accuracy**2))


def mean_step(nu: float, q: float) -> float:
    """Return the step for the mean of q debiased directions that contracts most, 1 / (1 + r / ((1 - r) q)).

    r = 1 - nu = d_lambda / m. For q = 1 it is nu; for many it is 1 (spec A5, C1).
    """
    r = min(1.0 - nu, 1.0 - NU_FLOOR)
    return 1.0 / (1.0 + r / ((1.0 - r) * q))
