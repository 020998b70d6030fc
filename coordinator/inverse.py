"""Linear functionals of the inverse Hessian at a solution: exact, or from averaged estimates of it.

H is the Hessian of the objective (see `coordinator.problem`: losses per unit of weight, and the l2 penalty). A sum of
likelihoods over n rows has information n H, so variances are what is here over the total weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from coordinator.errors import InputError
from coordinator.kernels import Problem as Params
from coordinator.kernels import each
from coordinator.kernels.grams import mirrored, weighted_gram
from coordinator.solvers.estimates import Draw, Estimates, add_common, draw_estimates
from coordinator.solvers.metric import Scaled
from coordinator.solvers.objective import Objective, Point
from coordinator.tasks import Arrays, Work, kernel, total
from sketches import combine, estimates_needed

Array = NDArray[Any]

PILOT: Final = 4  # estimates from whose scatter the number needed is told
MOST: Final = 256  # estimates at most
SIGMAS: Final = 3.0  # an accuracy is three standard errors of what is estimated
ROWS: Final = 10  # rows of a sketch for each parameter
SINGULAR: Final = {"float32": 1e-5, "float64": 1e-11}  # pivots of unit-diagonal H below which a column is collinear


@dataclass(frozen=True)
class Functionals:
    """What was found of H^-1.

    Attributes
    ----------
    diagonal : (p,) of H^-1, and `diagonal_error`, its standard error (0 if exact).
    columns : (p, r) H^-1 V, and `forms`, the diagonal (r,) of V'H^-1 V, with `forms_error`.
    trace, effective_dimension : of H^-1; and tr(A'A H^-1) with A'A = H without the penalty; each with its error.
    estimates : that were averaged; 0 if exact.
    needed : estimates that the accuracy asked for takes, by the scatter of those that were averaged.
    inverse : (p, p), if exact.
    """

    diagonal: Array
    diagonal_error: Array
    columns: Array
    forms: Array
    forms_error: Array
    trace: float
    trace_error: float
    effective_dimension: float
    effective_dimension_error: float
    estimates: int = 0
    needed: int = 0
    inverse: Array | None = None


def exact(objective: Objective, at: Point, V: Array) -> Functionals:
    """From the Hessian itself. InputError when it is singular."""
    H = hessian(objective, at)
    with objective.ctx.linalg():
        inverse = invert(H, objective)
    columns = inverse @ V
    diagonal = np.diag(inverse).copy()
    forms = np.einsum("pr,pr->r", V, columns)
    return Functionals(
        diagonal=diagonal,
        diagonal_error=np.zeros_like(diagonal),
        columns=columns,
        forms=forms,
        forms_error=np.zeros_like(forms),
        trace=float(diagonal.sum()),
        trace_error=0.0,
        effective_dimension=_dimension(objective, diagonal),
        effective_dimension_error=0.0,
        inverse=inverse,
    )


def hessian(objective: Objective, at: Point) -> Array:
    """H, with 1 added to what neither losses nor penalty see of a softmax: shifts that all classes share."""
    [H] = objective.gram(at)
    H.flat[:: len(H) + 1] += objective.ridge
    problem = objective.problem
    if problem.loss.multi:
        add_common(H, objective.ridge, problem.task_params(), 1.0, problem.data.n_features)
    return H


def invert(H: Array, objective: Objective) -> Array:
    """The inverse; InputError, naming a column, for a matrix that is singular to rounding. H is lost."""
    found = Scaled.of(H, 0.0)
    pivots = np.diag(found.factor.root) ** 2
    if found.factor.jitter or pivots.min() < SINGULAR[objective.problem.data.dtype]:
        raise InputError(
            f"the Hessian is singular: {_name(objective, int(pivots.argmin()))} is a combination of others or constant "
            "and has no standard error: leave columns out, or fit with l2"
        )
    half, _ = linalg.lapack.dtrtri(found.factor.root, lower=1)
    half *= found.scale
    return np.asarray(half.T @ half)


def estimated(
    objective: Objective,
    at: Point,
    V: Array,
    *,
    accuracy: float,
    draw: Draw,
    estimates: int = 0,
    spare: int = 0,
    seed: int = 0,
) -> Functionals:
    """From averaged estimates: as many as asked for, or else as many as `accuracy` takes, relative, at most `MOST`.

    Accuracy is of standard errors, which are roots of the diagonal: three of their standard errors, rms over
    coefficients. A pilot tells how many estimates that takes. Draws corrected by determinants are weighed by them.
    """
    found = _more(objective, at, V, draw, range(estimates or PILOT), spare, seed)
    weighed = draw.correct == "determinant"
    wanted = 2 * accuracy / SIGMAS  # a root has half the relative error
    if not estimates:
        needed = estimates_needed(found.average(found.diagonals, determinants=weighed), wanted)
        more = range(PILOT, min(needed, MOST))
        if more:
            found = found.joined(_more(objective, at, V, draw, more, spare, seed))
    logs = found.logdets if weighed else None
    diagonal, columns = combine(found.diagonals, logs), combine(found.solutions, logs)
    forms = combine(np.einsum("pr,tpr->tr", V, found.solutions), logs)
    trace = combine(found.diagonals.sum(axis=1), logs)
    dimension = combine(np.array([_dimension(objective, d) for d in found.diagonals]), logs)
    return Functionals(
        diagonal=diagonal.value,
        diagonal_error=diagonal.error,
        columns=columns.value,
        forms=forms.value,
        forms_error=forms.error,
        trace=float(trace.value),
        trace_error=float(trace.error),
        effective_dimension=float(dimension.value),
        effective_dimension_error=float(dimension.error),
        estimates=len(found.logdets),
        needed=estimates_needed(diagonal, wanted) if len(found.logdets) > 1 else 0,
    )


def _more(objective: Objective, at: Point, V: Array, draw: Draw, numbers: range, spare: int, seed: int) -> Estimates:
    spare = min(spare, len(numbers) - 1)
    return draw_estimates(objective, at, V, draw, numbers, path=[0], seed=seed, spare=spare, diagonal=True)


def _dimension(objective: Objective, diagonal: Array) -> float:
    """tr((H - R) H^-1) = p - tr(R H^-1); less what a softmax does not see."""
    problem = objective.problem
    unseen = np.count_nonzero(objective.ridge == 0) / problem.n_outputs if problem.loss.multi else 0
    return float(diagonal.size - unseen - objective.ridge @ diagonal)


def leverages(objective: Objective, at: Point, inverse: Array) -> Array:
    """Leverage scores (n,) of the rows, in the order they are stored in: a_i'H^-1 a_i with A'A = H - R."""
    half = linalg.cholesky(inverse, lower=True)
    inputs = {"w": at.key, "half": objective.ctx.put(half)}
    found = objective.run("leverage", "inverse.leverage", inputs, double=at.double)
    objective.passes += 1
    return np.concatenate([scores for (scores,) in found]) / objective.weight


def scores(objective: Objective, at: Point) -> Array:
    """Second moments (p, p) of the rows' gradients, sum s_i^2 psi_i^2 x_i x_i' per unit of weight; one output only."""
    found = objective.run("scores", "inverse.scores", {"w": at.key}, double=at.double)
    objective.passes += 1
    return np.asarray(total(found)[0] / objective.weight)


def _name(objective: Objective, index: int) -> str:
    data, K = objective.problem.data, objective.problem.n_outputs
    j = index // K
    if j == data.n_features:
        return "the intercept"
    return f"column {data.features[j]!r}" if data.features else f"column {j}"


@kernel("inverse.leverage")
def leverage(work: Work, *, problem: Params) -> Arrays:
    """s_i h_i |half'x_i|^2 of the task's rows, (n,), for input `half` (p, p)."""
    out = []
    half = work.input("half")
    for rowwise in each(work, problem):
        if rowwise.loss.multi:
            raise InputError("leverage scores are of losses with one output: not of softmax")
        weight = rowwise.weighed(rowwise.hessian())
        for rows, part in rowwise.chunks(np.dtype(np.float64)):
            top = half[:-1] if rowwise.intercept else half
            projected = part @ top + (half[-1] if rowwise.intercept else 0.0)
            out.append(weight[rows] * np.einsum("ij,ij->i", projected, projected))
    return (np.concatenate(out),)


@kernel("inverse.scores")
def second_moments(work: Work, *, problem: Params) -> Arrays:
    """Sum over rows of s_i^2 psi_i^2 x_i x_i' (p, p), psi the derivative of the loss."""
    G: Array | None = None
    for rowwise in each(work, problem):
        slope = rowwise.weighed(rowwise.loss.gradient(rowwise.margins("w"), rowwise.y))
        part = np.zeros((rowwise.p, rowwise.p))
        weighted_gram(part, rowwise.block.X, np.square(slope), rowwise)
        G = part if G is None else G + part
    assert G is not None
    return (mirrored(G),)
