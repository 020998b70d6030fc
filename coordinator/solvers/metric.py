"""Metrics: models of the Hessian that can be inverted, and conjugate gradients preconditioned by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.solvers.objective import Objective, Point, Vector
from sketches import Factor, factor


class Metric(Protocol):
    """A symmetric positive definite model of the Hessian."""

    def solve(self, v: Vector) -> Vector: ...


def rounding(dtype: str, p: int) -> float:
    """What is added to a p x p Hessian of unit diagonal whose products were taken in `dtype`.

    Where H is singular, rounding in the gradient must not be divided by rounding in H: float32 gradients have a
    null-space component of 1e-8, and float32 Grams of unit diagonal an error of up to 2 sqrt(p) eps.
    """
    return float(2 * np.sqrt(p) * np.finfo(np.float32).eps) if dtype == "float32" else 1e-12


@dataclass(frozen=True)
class Scaled:
    """A symmetric H that should be positive definite, factored at a unit diagonal: columns may be of any scale."""

    scale: Vector
    factor: Factor

    @classmethod
    def of(cls, H: NDArray[np.float64], floor: float) -> Scaled:
        """`floor` is added to H at its unit diagonal, where it is small in every column, as is a jitter. H is lost."""
        diagonal = np.diag(H)
        top = float(diagonal.max(initial=0.0))
        scale = 1 / np.sqrt(np.where(diagonal > 1e-30 * top, diagonal, top or 1.0))
        H *= scale[:, None]
        H *= scale
        H.flat[:: len(H) + 1] += floor
        return cls(scale, factor(H))

    def solve(self, b: NDArray[np.float64]) -> NDArray[np.float64]:
        """H^-1 b for b (p,) or (p, r)."""
        scale = self.scale if b.ndim == 1 else self.scale[:, None]
        out: NDArray[np.float64] = scale * self.factor.solve(scale * b)
        return out


@dataclass(frozen=True)
class Dense:
    """One matrix for all parameters, or one per class (parameters are (p, K) in C order)."""

    factors: Sequence[Scaled]

    @classmethod
    def of(cls, matrices: Sequence[NDArray[np.float64]], ridge: Vector, dtype: str = "float64") -> Dense:
        """Data terms, of products in `dtype`, plus diag(ridge). The matrices are lost."""
        K = len(matrices)
        parts = ridge.reshape(-1, K).T
        floor = rounding(dtype, len(matrices[0]))
        return cls([Scaled.of(_shifted(G, r), floor) for G, r in zip(matrices, parts, strict=True)])

    def solve(self, v: Vector) -> Vector:
        if len(self.factors) == 1:
            return self.factors[0].solve(v)
        V = v.reshape(-1, len(self.factors))
        return np.stack([f.solve(V[:, c]) for c, f in enumerate(self.factors)], axis=1).ravel()


def _shifted(G: NDArray[np.float64], ridge: Vector) -> NDArray[np.float64]:
    G.flat[:: len(G) + 1] += ridge
    return G


@dataclass(frozen=True)
class Diagonal:
    """The diagonal only."""

    values: Vector

    @classmethod
    def of(cls, data: Vector, ridge: Vector) -> Diagonal:
        """The data term's diagonal plus the ridge; columns that are all zero get the least positive entry."""
        d = data + ridge
        positive = d[d > 0]
        return cls(np.maximum(d, positive.min() if positive.size else 1.0))

    def solve(self, v: Vector) -> Vector:
        return v / self.values


@dataclass(frozen=True)
class Head:
    """A matrix for some rows of the parameters (p, K), the diagonal for the others.

    For more columns than a matrix may have: the heaviest ones, such as the frequent words of a text, are those that the
    intercept and others depend on, and the diagonal says enough of the rare ones.
    """

    head: Dense
    rows: NDArray[np.int64]
    tail: Diagonal

    @classmethod
    def of(cls, objective: Objective, at: Point, columns: int, every: int) -> Head:
        """With the `columns` features of the largest second derivatives in the head, from each `every`-th row."""
        problem, ridge = objective.problem, objective.ridge
        d, K = problem.data.n_features, problem.n_outputs
        diagonal = objective.diagonal(at)
        weights = diagonal.reshape(-1, K)[:d].sum(axis=1)
        features = np.sort(np.argsort(-weights, kind="stable")[:columns])
        grams = objective.gram_columns(at, features, "full" if K == 1 else "class", every)
        rows = np.append(features, d) if problem.intercept else features
        with objective.ctx.linalg():
            head = Dense.of(grams, ridge.reshape(-1, K)[rows].ravel(), problem.data.dtype)
        return cls(head, rows, Diagonal.of(diagonal, ridge))

    def solve(self, v: Vector) -> Vector:
        out = self.tail.solve(v)
        K = len(self.head.factors)
        out.reshape(-1, K)[self.rows] = self.head.solve(v.reshape(-1, K)[self.rows].ravel()).reshape(-1, K)
        return out


@dataclass(frozen=True)
class Solved:
    """A direction from conjugate gradients: `rate` is the log-reduction of the residual an iteration."""

    direction: Vector
    iterations: int
    reduction: float

    @property
    def rate(self) -> float:
        return float(-np.log(max(self.reduction, 1e-300)) / max(self.iterations, 1))


def conjugate_gradients(objective: Objective, at: Point, metric: Metric, eta: float, limit: int) -> Solved:
    """Minimise g'p + p'Hp/2 by CG preconditioned with `metric`, to |Hp + g| <= eta |g| (spec C9); a pass an iteration.

    Ends early, with what it has, at `limit` iterations or where H shows no curvature. Zero iterations is a failure.
    """
    p = np.zeros_like(at.w)
    r = -at.gradient
    start = norm = float(np.linalg.norm(r))
    z = metric.solve(r)
    s = z.copy()
    rz = float(r @ z)
    done = 0
    while done < limit and norm > eta * start and rz > 0:
        Hs = objective.product(at, s)
        curvature = float(s @ Hs)
        if not curvature > 0 or not np.isfinite(curvature):
            break
        alpha = rz / curvature
        p = p + alpha * s
        r = r - alpha * Hs
        done += 1
        norm = float(np.linalg.norm(r))
        z = metric.solve(r)
        rz, before = float(r @ z), rz
        s = z + (rz / before) * s
    return Solved(p, done, norm / start if start else 0.0)
