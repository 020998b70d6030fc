"""Weakly convex steps: where the Hessian is singular, as softmax's is without a penalty.

OverSketched Newton (arXiv 1903.08857), weakly convex case: p = -H^^+ g, and the largest step that decreases the
gradient, |g(w + a p)|^2 <= |g|^2 + 2 a b p'H^g, with p'H^g = -|UU'g|^2 and U the range of H^ (spec A3).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from coordinator.solvers.linesearch import ARMIJO
from coordinator.solvers.objective import Objective, Point, Vector

CANDIDATES: Final = (1.0, 0.7, 0.5, 0.25, 1 / 8, 1 / 32, 1 / 256, 1 / 4096)


def null_free(H: NDArray[np.float64], g: Vector, narrow: bool) -> tuple[Vector, float]:
    """The direction -H^+ g, (p,), and |UU'g|^2; eigenvalues below p eps of the largest count as zero.

    `narrow`: H was formed in float32, whose eps applies.
    """
    values, vectors = linalg.eigh(H)
    eps = np.finfo(np.float32 if narrow else np.float64).eps
    kept = values > len(H) * eps * values[-1]
    inside = vectors[:, kept].T @ g
    return -(vectors[:, kept] @ (inside / values[kept])), float(inside @ inside)


def weak_search(
    objective: Objective, start: Point, p: Vector, inside: float, double: bool
) -> tuple[Point | None, float]:
    """The point at the largest candidate step that decreases the gradient norm enough, and the step.

    One pass when the full step will do; else one phase finds the gradients at all candidates, and one pass the point.
    """
    before = float(start.gradient @ start.gradient)

    def enough(gradient: Vector, step: float) -> bool:
        norm = float(gradient @ gradient)
        return np.isfinite(norm) and norm <= before - 2 * step * ARMIJO * inside

    end = objective.at(start.w + p, double)
    if enough(end.gradient, 1.0):
        return end, 1.0
    gradients = objective.gradients(start, end, CANDIDATES[1:])
    for step, gradient in zip(CANDIDATES[1:], gradients, strict=True):
        if enough(gradient, step):
            return objective.at(start.w + step * p, double), step
    return None, 0.0
