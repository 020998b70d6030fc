"""Newton systems of the barrier method: a dense Hessian, exact or sketched, and conjugate gradients where it must be.

Sketch-and-precondition: with the Hessian's sketch as preconditioner, conjugate gradients on the exact Hessian converge
at a rate that depends on the sketch only, so that steps are exact however crude it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from coordinator.solvers.forms import Newton
from coordinator.solvers.objective import Matrix, Objective, Point, Vector
from coordinator.solvers.tiles import tiled_sketch
from sketches import SJLT, to_spec
from sketches.factor import factor

HASHES: Final = 4
SHARP, BLUNT = 1e-10, 1e-2  # accuracy of conjugate gradients for decrements below and above 1
INNER: Final = 500


def barrier_hessian(
    objective: Objective, point: Point, how: str, *, rows: float, spare: int, seed: int, iteration: int
) -> Matrix:
    """Hessian of the barrier at `point`, (p, p): "exact", or sketched to about rows x p rows ("sketch", "tiles").

    `spare` tiled sketches may be late or lost; which, is chance.
    """
    data, p = objective.problem.data, objective.problem.n_parameters
    if how == "exact":
        [G] = objective.gram(point)
    elif how == "tiles":
        # tiles of p rows are as large as the Gram of all columns; at least four, as high leverage demands
        n = max(HASHES, round(rows))
        [G] = tiled_sketch(
            objective, point, block=-(-int(rows * p) // n), n=n, extra=spare, seed=seed, path=(iteration,)
        )
    else:
        share = rows * p / data.n_rows
        laws = [to_spec(SJLT(HASHES * max(1, round(share * n / HASHES)), HASHES)) for n in data.rows]
        [G] = objective.sketch(point, laws, seed, (iteration,))
    return G * objective.weight


def newton_step(
    objective: Objective,
    point: Point,
    gradient: Vector,
    hessian: Matrix,
    extra: Vector,
    normal: Vector | None,
    *,
    exact: bool,
) -> Newton:
    """Solve (barrier Hessian + diag(extra)) p = -gradient, within normal'p = 0 if there is a normal.

    `hessian` is the barrier's, and the preconditioner only unless `exact`.
    """

    def inside(v: Vector) -> Vector:
        """Projection of v (p,), or of each column of v (p, k), on the equality."""
        return v if normal is None else v - np.multiply.outer(normal, (normal @ v) / (normal @ normal))

    dense = hessian.copy()
    dense.flat[:: len(dense) + 1] += extra
    if normal is not None:
        # projecting first loses no digits where the barrier is stiff across the equality, as for columns not centred
        scale = float(np.trace(dense)) / len(dense) / float(normal @ normal)
        dense = inside(inside(dense).T) + scale * np.outer(normal, normal)
    with objective.ctx.linalg(len(dense)):
        M = factor(dense)

    def solve(r: Vector) -> Vector:
        return inside(M.solve(inside(r)))

    def times(v: Vector) -> Vector:
        if exact:
            return inside(dense @ v)
        return inside(objective.product(point, v, exact=True) * objective.weight + extra * v)

    g = inside(gradient)
    p = -solve(g)
    if not exact:
        return _conjugate_gradients(times, solve, g, p)
    p -= solve(g + times(p))  # refined once: barrier Hessians are badly conditioned near the end
    return Newton(p, g + times(p), _root(-float(p @ g)), 0)


def _conjugate_gradients(
    times: Callable[[Vector], Vector], solve: Callable[[Vector], Vector], g: Vector, z: Vector
) -> Newton:
    """From zero, `z` being the preconditioned first residual."""
    p, r, direction = np.zeros_like(z), -g, z
    rho = first = float(r @ z)
    limit = (SHARP if first <= 1 else BLUNT) ** 2 * first
    inner = 0
    while rho > limit and inner < INNER:
        product = times(direction)
        bend = float(direction @ product)
        if not bend > 0:
            break
        step = rho / bend
        p, r = p + step * direction, r - step * product
        z = solve(r)
        rho, before = float(r @ z), rho
        direction = z + (rho / before) * direction
        inner += 1
    return Newton(p, -r, _root(-float(p @ g)) if inner or rho <= limit else float("nan"), inner)


def _root(square: float) -> float:
    """Square root of what only rounding can make negative."""
    return max(square, 0.0) ** 0.5
