"""The line search that all descent solvers share: try one step, and only if it fails all candidates in one phase."""

from __future__ import annotations

from typing import Final

import numpy as np

from coordinator.solvers.objective import Objective, Point, Vector

CANDIDATES: Final = (2.0, 1.0, 0.7, 0.5, 0.25, 1 / 8, 1 / 32, 1 / 256, 1 / 4096, 1 / 65536)
ARMIJO: Final = 1e-4
CURVATURE: Final = 0.9
FLAT = {False: 1e-7, True: 1e-10}  # relative change of f below which rounding decides, by precision of the products


def acceptable(start: Point, end: Point, slope: float, step: float, flat: float) -> bool:
    """Armijo's condition, or near convergence Wolfe's on slopes (Armijo on f means nothing below rounding, spec D3)."""
    if not np.isfinite(end.value) or not np.all(np.isfinite(end.gradient)):
        return False
    if end.value <= start.value + ARMIJO * step * slope and end.value < start.value:
        return True
    if abs(end.value - start.value) > flat * max(abs(start.value), 1e-300):
        return False
    new_slope = float(end.gradient @ (end.w - start.w)) / step
    return abs(new_slope) <= CURVATURE * abs(slope)


def line_search(
    objective: Objective, start: Point, p: Vector, double: bool, first: float = 1.0
) -> tuple[Point | None, float]:
    """The point at `start` + step p and the step; None when no candidate decreases the objective.

    `p` is a descent direction of the smooth part. One pass when the first step will do; otherwise one phase finds the
    values at all candidates from margins that are at hand, and one more pass takes the best of them.
    """
    slope = float(start.gradient @ p)
    flat = FLAT[double or objective.problem.data.dtype == "float64"]
    end = objective.at(start.w + first * p, double)
    if acceptable(start, end, slope, first, flat):
        return end, first
    steps = [s for s in CANDIDATES if s != first]
    if np.all(np.isfinite(end.w)):
        values, slopes = objective.search(start, end, [s / first for s in steps])
        slopes = slopes / first
        good = [
            (v, s)
            for v, s, t in zip(values, steps, slopes, strict=True)
            if np.isfinite(v)
            and (
                v <= start.value + ARMIJO * s * slope
                or (abs(v - start.value) <= flat * abs(start.value) and abs(t) <= CURVATURE * abs(slope))
            )
        ]
        for _, step in sorted(good):
            end = objective.at(start.w + step * p, double)
            if acceptable(start, end, slope, step, flat):
                return end, step
    return None, 0.0
