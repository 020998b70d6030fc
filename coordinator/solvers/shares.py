"""Shares of the rows: what each of any number of workers has for its own, and a kernel's view of it.

Rows should be in random order (imports see to that): a share is then a sample of all. Shares are parted row by row
where there are more of them than blocks, and block by block otherwise, so that a drift along the rows parts them least.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.data.blocks import Block
from coordinator.errors import InputError
from coordinator.kernels import Problem as Params
from coordinator.kernels import gram, weigh
from coordinator.problem import Problem
from coordinator.solvers.estimates import interleaved
from coordinator.solvers.objective import Matrix, Objective, Vector
from coordinator.tasks import Arrays, Work
from sketches import Quorum

ROWS: Final = 20  # rows of a share per parameter, at least, by default: a direction's error is about 1 / 20
MOST: Final = 32  # shares by default


def n_shares(problem: Problem, wanted: int) -> int:
    """As many as wanted, or as leave 20 rows a parameter in each, at most 32."""
    count = wanted or min(MOST, problem.data.n_rows // (ROWS * problem.n_parameters))
    return max(1, min(count, problem.data.n_rows))


def check_shares(name: str, problem: Problem, groups: int, spare: int) -> None:
    """InputError for numbers out of range."""
    if groups < 0 or spare < 0:
        raise InputError(f"{name}: groups and spare must be >= 0")
    if groups > problem.data.n_rows:
        raise InputError(f"{name}: groups={groups} is more than the {problem.data.n_rows} rows of the data")
    count = n_shares(problem, groups)
    if spare >= count:
        raise InputError(f"{name}: spare must be less than the {count} groups, not {spare}")


def on_shares(
    objective: Objective,
    name: str,
    kernel: str,
    count: int,
    spare: int,
    inputs: dict[str, str],
    double: bool,
    **params: Any,
) -> list[Arrays]:
    """Run `kernel` on each of `count` shares, of which `spare` may be missing; it is told `part` and `parts`."""
    keys = objective.problem.data.keys
    if count <= len(keys):
        blocks: Sequence[tuple[str, ...]] = [keys[i::count] for i in range(count)]
        parts = [(0, 1)] * count
    else:
        blocks = [(keys[i % len(keys)],) for i in range(count)]
        parts = [(i // len(keys), len(range(i % len(keys), count, len(keys)))) for i in range(count)]
    each = [params | {"part": part, "parts": of} for part, of in parts]
    code = Quorum(count - spare, count)
    objective.passes += 1
    return objective.phase(name, kernel, blocks, inputs, double=double, params=each, code=code)


@dataclass(frozen=True)
class Part(Work):
    """A task's share of its blocks, every `parts`-th row from `part` on; with `here`, parameters of its own in `w`."""

    part: int = 0
    parts: int = 1
    here: NDArray[np.float64] | None = None
    moves: int = 0

    @classmethod
    def of(cls, work: Work, part: int, parts: int) -> Part:
        return cls(work.worker, work.task, part, parts)

    def at(self, w: Vector) -> Part:
        """The same rows at other parameters."""
        return replace(self, here=w, moves=self.moves + 1)

    def blocks(self) -> Iterator[tuple[str, Block]]:
        for key, block in super().blocks():
            if self.parts == 1:
                yield key, block
                continue
            rows = slice(self.part, None, self.parts)
            X = block.X[rows]
            X = np.ascontiguousarray(X) if isinstance(X, np.ndarray) else X
            weight = None if block.weight is None else block.weight[rows]
            yield f"{key}/{self.part}-{self.parts}", Block(X, block.y[rows], weight)

    def key(self, name: str) -> str:
        return super().key(name) if name != "w" or self.here is None else f"{self.task.output}/{self.moves}"

    def input(self, name: str) -> NDArray[Any]:
        return super().input(name) if name != "w" or self.here is None else self.here


def local_hessian(part: Part, problem: Params) -> tuple[Matrix, float, int]:
    """Exact Hessian (p K, p K) of the share's losses per unit of weight, its weight, and its rows."""
    [H] = gram(part, problem=problem, what="full")
    weight = max(float(weigh(part, problem=problem)[0]), 1e-300)
    n_rows = sum(block.n_rows for _, block in part.blocks())
    return interleaved(H, problem, part.task.n_features) / weight, weight, n_rows
