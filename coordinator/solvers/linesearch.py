"""The line search that all descent solvers share: try one step, and if it will not do all candidates in one phase."""

from __future__ import annotations

from typing import Final

import numpy as np

from coordinator.solvers.objective import Objective, Point, Vector

CANDIDATES: Final = (2.0, 1.0, 0.7, 0.5, 0.25, 1 / 8, 1 / 32, 1 / 256, 1 / 4096, 1 / 65536)
LARGER: Final = (1.5, 2.0, 3.0, 4.0, 8.0, 16.0, 64.0, 256.0)
ARMIJO: Final = 1e-4
CURVATURE: Final = 0.9
FLAT = {False: 1e-7, True: 1e-10}  # relative change of f below which rounding decides, by precision of the products


def predicted(objective: Objective, start: Point, p: Vector) -> float:
    """First-order change of the objective over the step p: gradient'p + l1 (|w + p| - |w|), spec D5."""
    change = float(start.gradient @ p)
    if objective.problem.penalty.l1:
        change += float(objective.lasso @ (np.abs(start.w + p) - np.abs(start.w)))
    return change


def slope_at(objective: Objective, smooth: float, at: Vector, p: Vector) -> float:
    """Slope along p of the objective with l1, given that of its smooth part: at a kink that which is nearest to 0."""
    if not objective.problem.penalty.l1:
        return smooth
    kinks = float(objective.lasso @ np.where(at == 0, np.abs(p), 0.0))
    through = smooth + float(objective.lasso @ (np.sign(at) * p))
    return float(np.sign(through) * max(abs(through) - kinks, 0.0))


def acceptable(start: Point, end: Point, slope: float, step: float, flat: float, new_slope: float) -> bool:
    """Armijo's condition, or near convergence Wolfe's on slopes (Armijo on f means nothing below rounding, spec D3)."""
    if not np.isfinite(end.value) or not np.all(np.isfinite(end.gradient)):
        return False
    if end.value <= start.value + ARMIJO * step * slope and end.value < start.value:
        return True
    if abs(end.value - start.value) > flat * max(abs(start.value), 1e-300):
        return False
    return abs(new_slope) <= CURVATURE * abs(slope)


def line_search(
    objective: Objective, start: Point, p: Vector, double: bool, first: float = 1.0
) -> tuple[Point | None, float]:
    """The point at `start` + step p and the step; None when no candidate decreases the objective.

    `p` is a descent direction, with l1 in the sense that `predicted` is negative. One pass when the first step will do.
    Otherwise, and also when the objective still falls steeply there (Wolfe's second condition, without which curvature
    pairs are poor), one phase finds the values at all candidates from margins that are at hand, and one more pass takes
    the best of them.
    """
    slope = predicted(objective, start, p)
    flat = FLAT[objective.problem.data.dtype == "float64" or (double and start.double)]

    def slope_of(end: Point) -> float:
        return slope_at(objective, float(end.gradient @ p), end.w, p)

    end = objective.at(start.w + first * p, double)
    done = acceptable(start, end, slope, first, flat, slope_of(end))
    if done and slope_of(end) >= CURVATURE * slope:
        return end, first
    if not np.all(np.isfinite(end.w)):
        return None, 0.0
    fallback = (end, first) if done else (None, 0.0)
    steps = [first * s for s in LARGER] if done else [s for s in CANDIDATES if s != first]
    values, slopes = objective.search(start, end, [s / first for s in steps])
    good = []
    for value, step, smooth in zip(values, steps, slopes / first, strict=True):
        along = slope_at(objective, float(smooth), start.w + step * p, p)
        level = abs(value - start.value) <= flat * abs(start.value)
        if np.isfinite(value) and (
            value <= start.value + ARMIJO * step * slope or (level and abs(along) <= CURVATURE * abs(slope))
        ):
            # where rounding decides about values, the flattest candidate is the best
            good.append((start.value if level else float(value), abs(along), step))
    if done:
        good = [entry for entry in good if entry[0] < end.value]
    for _, _, step in sorted(good):
        point = objective.at(start.w + step * p, double)
        if acceptable(start, point, slope, step, flat, slope_of(point)):
            return point, step
    return fallback
