"""Logarithmic barriers as losses in the prediction, and what an interior-point method asks of each row.

A polyhedron's barrier -sum log(slack) is a sum over rows of a function of a_i x, so that values, gradients, exact and
sketched Hessians come from the kernels of generalized linear problems ("OverSketched Newton", arXiv 1903.08857, section
4.3 and 4.4). Along a direction p every slack falls at a relative rate, a number per constraint, and all that a step
needs are sums and extremes of rates: the longest step is 1 / max rate, the barrier grows by -sum log(1 - t rate), which
loses no digits, and (1 + rate) / slack are the multipliers at the Newton step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from coordinator.data.blocks import csr_rows
from coordinator.errors import InputError
from coordinator.kernels import CHUNK_BYTES, CHUNK_ROWS, Problem, Rowwise, as_double, chunks, each, left
from coordinator.losses import Array, Loss, register_loss
from coordinator.tasks import Arrays, Work, kernel


class Barrier(Loss):
    """-sum of the logarithms of the slacks of a row; infinite outside."""

    public: ClassVar[bool] = False
    self_check: ClassVar[bool] = False  # the points where losses are checked lie outside

    def slacks(self, z: Array, y: Array) -> tuple[tuple[Array, float], ...]:
        """Each slack of the rows, (n,), and its derivative in z."""
        raise NotImplementedError

    def value(self, z: Array, y: Array) -> Array:
        out = np.zeros_like(z)
        for slack, _ in self.slacks(z, y):
            out -= _log(slack)
        return out

    def gradient(self, z: Array, y: Array) -> Array:
        with np.errstate(divide="ignore"):  # on the boundary
            return sum((-slope / slack for slack, slope in self.slacks(z, y)), np.zeros_like(z))

    def hessian(self, z: Array, y: Array) -> Array:
        with np.errstate(divide="ignore"):
            return sum((1.0 / (slack * slack) for slack, _ in self.slacks(z, y)), np.zeros_like(z))


@dataclass(frozen=True)
class LogBarrier(Barrier):
    """-log(y - z): the half-space z < y."""

    name: ClassVar[str] = "log-barrier"

    def slacks(self, z: Array, y: Array) -> tuple[tuple[Array, float], ...]:
        return ((y - z, -1.0),)


@dataclass(frozen=True)
class BoxBarrier(Barrier):
    """-log(bound - z) - log(bound + z): the slab |z| < bound. Targets are not used."""

    name: ClassVar[str] = "box-barrier"
    bound: float = 1.0

    def __post_init__(self) -> None:
        if not self.bound > 0:
            raise InputError(f"box-barrier: bound must be > 0, not {self.bound}")

    def slacks(self, z: Array, y: Array) -> tuple[tuple[Array, float], ...]:  # noqa: ARG002
        return (self.bound - z, -1.0), (self.bound + z, 1.0)


register_loss(LogBarrier)
register_loss(BoxBarrier)


def _log(a: Array) -> Array:
    """Logarithm, -inf for what is not positive."""
    inside = a > 0
    return np.where(inside, np.log(np.where(inside, a, 1.0)), -np.inf)


def _rates(rowwise: Rowwise) -> list[tuple[Array, Array, float]]:
    """(slack, rate, slope) of each constraint of the rows, (n,), at input `w` along input `p`."""
    assert isinstance(rowwise.loss, Barrier)
    q = rowwise.margins("p")
    return [(slack, -slope * q / slack, slope) for slack, slope in rowwise.loss.slacks(rowwise.margins("w"), rowwise.y)]


@kernel("barrier.violation")
def violation(work: Work, *, problem: Problem) -> Arrays:
    """Largest violation of a constraint at `w`, (); negative where all have slack."""
    worst = -np.inf
    for rowwise in each(work, problem):
        assert isinstance(rowwise.loss, Barrier)
        slacks = rowwise.loss.slacks(rowwise.margins("w"), rowwise.y)
        worst = max(worst, *(-float(slack.min()) for slack, _ in slacks))
    return (np.array(worst),)


@kernel("barrier.look")
def look(work: Work, *, problem: Problem) -> Arrays:
    """Largest rate, largest absolute rate and sum of squared rates along `p` from `w`: (3,)."""
    top, size, squares = -np.inf, 0.0, 0.0
    for rowwise in each(work, problem):
        for _, rate, _ in _rates(rowwise):
            top = max(top, float(rate.max()))
            size = max(size, float(np.abs(rate).max()))
            squares += float(rate @ rate)
    return (np.array([top, size, squares]),)


@kernel("barrier.climb")
def climb(work: Work, *, problem: Problem) -> Arrays:
    """Largest a_i p / |a_i| over the rows that are not zero, (): how steeply `p` climbs towards a constraint."""
    top = -np.inf
    for rowwise in each(work, problem):
        norms = row_norms(rowwise, np.ones(work.task.n_features))
        some = norms > 0
        top = max(top, float((rowwise.margins("p")[some] / norms[some]).max(initial=-np.inf)))
    return (np.array(top),)


@kernel("barrier.search")
def search(work: Work, *, problem: Problem, steps: list[float]) -> Arrays:
    """Growth of the barrier from `w` to w + step p, (n_steps,); margins are at hand, no row is read."""
    growth = np.zeros(len(steps))
    for rowwise in each(work, problem):
        for _, rate, _ in _rates(rowwise):
            for i, step in enumerate(steps):
                fall = step * rate
                inside = fall < 1
                growth[i] -= np.where(inside, np.log1p(np.where(inside, -fall, 0.0)), -np.inf).sum()
    return (growth,)


@kernel("barrier.multipliers")
def multipliers(work: Work, *, problem: Problem, radius: float | None) -> Arrays:
    """Net multiplier of each row at the Newton step w + p, (n,): sum of -slope (1 + rate) / slack over its constraints.

    With a `radius`, those rows' multipliers are zero whose slack is more than radius x |row| (in the metric of input
    `s`) at the step: no point within the radius touches them (the rule is safe: Fercoq, Gramfort and Salmon,
    arXiv 1505.03410).
    """
    out = []
    for rowwise in each(work, problem):
        found = _rates(rowwise)
        net: Array = sum((-slope * (1 + rate) / slack for slack, rate, slope in found), np.zeros(rowwise.block.n_rows))
        if radius is not None:
            least = np.min([slack * (1 - rate) for slack, rate, _ in found], axis=0)
            net[least > radius * row_norms(rowwise, work.input("s"))] = 0.0
        out.append(net)
    return (np.concatenate(out),)


def row_norms(rowwise: Rowwise, s: NDArray[np.float64]) -> Array:
    """sqrt(sum_j s_j a_ij^2) of each row, (n,)."""
    out = np.zeros(rowwise.block.n_rows)
    for start, stop, part in chunks(rowwise.block.X, CHUNK_BYTES, CHUNK_ROWS):
        if isinstance(part, np.ndarray):
            squared: Any = np.square(part, dtype=np.float64)
        else:
            squared = csr_rows(part, 0, part.shape[0])
            squared.data = np.square(part.data, dtype=np.float64)
        out[start:stop] = np.sqrt(squared @ s)
    return out


@kernel("barrier.combine")
def combine(work: Work, *, problem: Problem, offset: int) -> Arrays:  # noqa: ARG001  every task is told its problem
    """Sum of the block's rows times the entries of input `v` from `offset` on, (n_features,), in float64."""
    v = work.input("v")[offset:]
    out = np.zeros(work.task.n_features)
    for _, block in work.blocks():
        for start, stop, part in chunks(block.X, CHUNK_BYTES, CHUNK_ROWS):
            out += left(as_double(part), v[start:stop])
    return (out,)
