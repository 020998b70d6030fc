"""Curvature pairs of limited-memory quasi-Newton methods, and the two-loop recursion over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

LEAST_CURVATURE: Final = 1e-14  # s'y below this share of |s||y| is rounding, or not convex: the pair is skipped


def two_loop(g: Vector, S: Sequence[Vector], Y: Sequence[Vector], apply_h0: Callable[[Vector], Vector]) -> Vector:
    """The BFGS inverse Hessian times `g`, without forming it.

    Nocedal, "Updating quasi-Newton matrices with limited storage" (Mathematics of Computation 35, 1980).

    Parameters
    ----------
    g : (p,).
    S, Y : k steps and differences of gradients (p,) each, oldest first, every s'y > 0; k may be 0.
    apply_h0 : the initial inverse Hessian times a vector; symmetric positive definite.

    Returns
    -------
    (p,) H g.
    """
    q = np.array(g, dtype=np.float64)
    rho = [1.0 / float(s @ y) for s, y in zip(S, Y, strict=True)]
    alpha = [0.0] * len(rho)
    for i in reversed(range(len(rho))):
        alpha[i] = rho[i] * float(S[i] @ q)
        q -= alpha[i] * Y[i]
    r = np.array(apply_h0(q), dtype=np.float64)
    for i in range(len(rho)):
        r += (alpha[i] - rho[i] * float(Y[i] @ r)) * S[i]
    return r


@dataclass(frozen=True, eq=False)
class Memory:
    """The last few curvature pairs; plain data, so that a state may hold it.

    Attributes
    ----------
    S : steps w_new - w_old, (p,) each, oldest first.
    Y : differences of gradients, (p,) each.
    """

    S: tuple[Vector, ...] = ()
    Y: tuple[Vector, ...] = ()

    def __len__(self) -> int:
        return len(self.S)

    def push(self, s: Vector, y: Vector, limit: int) -> Memory:
        """With the pair added and at most `limit` kept; unchanged when the pair shows no curvature (spec C11)."""
        curvature = float(s @ y)
        if not curvature > LEAST_CURVATURE * float(np.linalg.norm(s)) * float(np.linalg.norm(y)):
            return self
        start = max(0, len(self.S) + 1 - limit)
        return Memory((*self.S[start:], s), (*self.Y[start:], y))

    def direction(self, g: Vector, h0: Callable[[Vector], Vector]) -> Vector:
        """The descent direction -H g, (p,)."""
        return -two_loop(g, self.S, self.Y, h0)
