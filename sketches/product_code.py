"""A two-dimensional product code over linear tasks.

Baharav, Lee, Ocal and Ramchandran, "Straggler-proofing massive-scale distributed matrix multiplication with
d-dimensional product codes" (ISIT 2018), in the layout of "OverSketched Newton" (arXiv 1903.08857). A task multiplies
its block by a vector; because that is linear, the task of a sum of blocks returns the sum of their results.

::

    data 0      data 1    ...  data P-1    | row parity 0
    data P      ...                        | row parity 1        parity = sum of its line
    ...                                    | ...
    ---------------------------------------+-------------        ids: data 0..T-1, then P column parities,
    column parity 0 ...  column parity P-1 | corner              then L row parities, then the corner

Deviation: the number of blocks need not fill the grid. The cells left over at the end of the last row are blocks of
zeros that are known beforehand, so no task computes them and the ids skip them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import reduce
from math import isqrt
from typing import TypeAlias

import numpy as np

from sketches.codes import Arrays, check_count, check_results

__all__ = ["ProductCode"]

Cell: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class ProductCode:
    """Data blocks on a ``rows`` x ``cols`` grid with a parity for each column, each row, and all of them.

    Any three erasures decode, and at most rows + cols + 1 can. Not for non-linear tasks (use `Replication`), nor for
    sparse blocks, whose parities are up to ``cols`` times as dense and become stragglers.

    Parameters
    ----------
    rows
        Grid rows L of data, >= 1.
    cols
        Grid columns P of data, >= 1.
    empty
        Cells at the end of the last row that hold no block, 0 <= empty < cols, and 0 if rows is 1.
    """

    rows: int
    cols: int
    empty: int = 0

    def __post_init__(self) -> None:
        check_count(self, "rows")
        check_count(self, "cols")
        check_count(self, "empty", least=0)
        if self.empty and (self.empty >= self.cols or self.rows == 1):
            raise ValueError(f"ProductCode {self.rows} x {self.cols} cannot have {self.empty} empty cells; drop a line")

    @classmethod
    def for_blocks(cls, n_blocks: int) -> ProductCode:
        """Return the nearly square code, with the fewest parities, for ``n_blocks`` >= 1 blocks; else ValueError."""
        if n_blocks < 1:
            raise ValueError(f"ProductCode needs at least one block, got {n_blocks}")
        cols = isqrt(n_blocks - 1) + 1
        rows = -(-n_blocks // cols)
        return cls(rows, cols, rows * cols - n_blocks)

    @property
    def n_blocks(self) -> int:
        """Data blocks T = rows x cols - empty."""
        return self.rows * self.cols - self.empty

    @property
    def n_tasks(self) -> int:
        """Tasks: the data blocks, cols + rows parities and the corner."""
        return self.n_blocks + self.cols + self.rows + 1

    @property
    def exchangeable(self) -> bool:
        """False: decoding is exact."""
        return False

    def cell(self, task_id: int) -> Cell:
        """Return the task's (row, column) on the (rows + 1) x (cols + 1) grid; ValueError on an unknown id."""
        parity = task_id - self.n_blocks
        if not 0 <= task_id < self.n_tasks:
            raise ValueError(f"ProductCode has tasks 0 to {self.n_tasks - 1}, got {task_id}")
        if parity < 0:
            return divmod(task_id, self.cols)
        if parity < self.cols:
            return self.rows, parity
        return parity - self.cols, self.cols  # the corner too: it follows the last row parity

    def parity_members(self, task_id: int) -> tuple[int, ...]:
        """Return the data blocks whose sum the task works on: one for a data task; ValueError on an unknown id."""
        row, col = self.cell(task_id)
        across = range(self.n_blocks) if row == self.rows else range(row * self.cols, (row + 1) * self.cols)
        return tuple(i for i in across if i < self.n_blocks and col in (i % self.cols, self.cols))

    def encode(self, blocks: Sequence[Arrays]) -> list[Arrays]:
        """Return the blocks of all tasks in task order: the data blocks as they are, then the parities.

        Parities are float64 whatever the data: float32 parities decode to 1e-7, float64 ones to 1e-15.

        Parameters
        ----------
        blocks
            The n_blocks data blocks, tuples of arrays of the same shapes (the caller pads uneven blocks with zeros).

        Raises
        ------
        ValueError
            On a wrong number of blocks or if their shapes differ.
        """
        if len(blocks) != self.n_blocks:
            raise ValueError(f"ProductCode encodes {self.n_blocks} blocks, got {len(blocks)}")
        _check_shapes(blocks)
        parities = range(self.n_blocks, self.n_tasks)
        return list(blocks) + [_total(blocks[i] for i in self.parity_members(task)) for task in parities]

    def decodable(self, done: Set[int]) -> bool:
        """Whether the erasures are correctable.

        They are, by this or any other decoder, if and only if the bipartite graph on grid rows and grid columns with an
        edge for each missing task is a forest, which union-find checks.
        """
        parent = list(range(self.rows + self.cols + 2))

        def root(node: int) -> int:
            while parent[node] != node:
                parent[node] = parent[parent[node]]
                node = parent[node]
            return node

        for task in range(self.n_tasks):
            if task not in done:
                row, col = self.cell(task)
                above, left = root(row), root(self.rows + 1 + col)
                if above == left:
                    return False
                parent[above] = left
        return True

    def decode(self, results: Mapping[int, Arrays]) -> list[Arrays]:
        """Return the results of the n_blocks data blocks, in order, as float64.

        Peeling: a grid line that misses one cell gives it by a subtraction; repeat until no data block is missing.

        Raises
        ------
        ValueError
            If the results are not decodable, one has an unknown task id, or their shapes differ.
        """
        check_results(self, results)
        _check_shapes(results.values())
        known = {self.cell(task): _float64(results[task]) for task in sorted(results)}
        missing = {self.cell(task) for task in range(self.n_tasks) if task not in results}
        while any(row < self.rows and col < self.cols for row, col in missing):
            for line in self._lines():
                lost = [cell for cell in line if cell in missing]
                if len(lost) == 1:
                    known[lost[0]] = _solve(line, lost[0], known)
                    missing.remove(lost[0])
        return [known[self.cell(block)] for block in range(self.n_blocks)]

    def _lines(self) -> list[list[Cell]]:
        """Return the grid lines, parities' own lines included, each with its parity last."""
        across = [[(row, col) for col in range(self.cols + 1)] for row in range(self.rows + 1)]
        return across + [list(line) for line in zip(*across, strict=True)]


def _solve(line: list[Cell], lost: Cell, known: Mapping[Cell, Arrays]) -> Arrays:
    *members, parity = line
    # A cell that is neither lost nor known is an empty one: zeros.
    rest = [known[cell] for cell in members if cell != lost and cell in known]
    if lost == parity:
        return _total(rest)
    return reduce(lambda total, arrays: tuple(a - b for a, b in zip(total, arrays, strict=True)), rest, known[parity])


def _total(blocks: Iterable[Arrays]) -> Arrays:
    return reduce(lambda total, arrays: tuple(a + b for a, b in zip(total, arrays, strict=True)), map(_float64, blocks))


def _float64(arrays: Arrays) -> Arrays:
    return tuple(np.asarray(a, dtype=np.float64) for a in arrays)


def _check_shapes(blocks: Iterable[Arrays]) -> None:
    shapes = {tuple(np.shape(a) for a in arrays) for arrays in blocks}
    if len(shapes) > 1:
        raise ValueError(f"ProductCode blocks must have equal shapes, pad them with zeros; got {sorted(shapes)}")
