"""OverSketch: independent CountSketch blocks of which any N of N + e are enough.

Gupta, Wang, Courtade and Ramchandran, "OverSketch" (arXiv 1811.02653) and "OverSketched Newton" (arXiv 1903.08857).
S stacks N + e independent CountSketches S_k of b rows; a straggling S_k is dropped whole. Three deviations from the
published script:

* The sum is divided by the number of blocks used. The script leaves missing parts zero and divides by N all the same,
  which biases the Hessian low.
* Spare blocks that arrive are used: S'S is then the mean of more independent terms.
* A sketch index is dropped whole, not tile by tile: what is left is always a Gram matrix, hence positive semidefinite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sketches.operators import CountSketch, Rows, Scale, check_positive

__all__ = ["OverSketch"]

Blocks = Mapping[int, NDArray[Any]] | Sequence[NDArray[Any]]


@dataclass(frozen=True)
class OverSketch:
    """N of N + e CountSketch blocks of ``block`` rows each.

    In law, N used blocks are an `SJLT` with N hashes and N x block rows. Take n >= 5 on data with high-leverage rows.

    Parameters
    ----------
    block
        Rows b of each CountSketch, >= 1.
    n
        Blocks N that are enough, >= 1.
    extra
        Spare blocks e, >= 0.
    """

    block: int
    n: int
    extra: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "block", "n")
        if isinstance(self.extra, bool) or not isinstance(self.extra, int | np.integer) or self.extra < 0:
            raise ValueError(f"OverSketch extra must be an integer >= 0, got {self.extra!r}")

    @property
    def size(self) -> int:
        """Rows of S when exactly n blocks are used."""
        return self.block * self.n

    @property
    def drawn(self) -> int:
        """Blocks drawn, n + extra."""
        return self.n + self.extra

    def draw(self, k: int, rows: Rows, rng: np.random.Generator, scale: Scale = None) -> NDArray[Any]:
        """Return the unscaled k-th block ``S_k @ diag(scale) @ rows``.

        Parameters
        ----------
        k
            Which block, ``0 <= k < n + extra``. The caller names ``rng`` by k, so that blocks are independent.
        rows, rng, scale
            As for `SparseSketch.apply`. ``rows`` may be a slab of columns: equal streams give equal S_k.

        Returns
        -------
        numpy.ndarray
            (block, d), dtype of ``rows``.

        Raises
        ------
        ValueError
            If k is out of range, or on rows of a wrong shape or dtype.
        """
        self._check_index(k)
        return CountSketch(self.block).apply(rows, rng, scale)

    def combine(self, blocks: Blocks) -> NDArray[Any]:
        """Stack the blocks that arrived, divided by the square root of their number.

        Parameters
        ----------
        blocks
            (block, d) arrays from `draw`: those that arrived, by index k or as a plain sequence. Whether enough arrived
            is the code's decision; any number >= 1 keeps E[S'S] = I.

        Returns
        -------
        numpy.ndarray
            (used x block, d), in the order of k, dtype of the blocks.

        Raises
        ------
        ValueError
            If there is no block, an index is out of range, or a shape is not (block, d).
        """
        used = self._used(blocks)
        if any(part.ndim != 2 or part.shape[0] != self.block for part in used):
            raise ValueError(f"every OverSketch block must have {self.block} rows, got {[part.shape for part in used]}")
        stacked = np.concatenate(used)
        stacked *= stacked.dtype.type(len(used) ** -0.5)
        return stacked

    def gram_average(self, grams: Blocks) -> NDArray[np.float64]:
        """Average the Gram matrices ``(S_k A)'(S_k A)`` that arrived: the Gram matrix of `combine`.

        Parameters
        ----------
        grams
            (d, d) Gram matrices (or equal tiles of them) of unscaled blocks, by index k or as a sequence.

        Returns
        -------
        numpy.ndarray
            Their mean in float64, summed in the order of k.

        Raises
        ------
        ValueError
            If there is none or an index is out of range.
        """
        used = self._used(grams)
        total = np.array(used[0], dtype=np.float64)
        for gram in used[1:]:
            total += gram
        total /= len(used)
        return total

    def apply(self, rows: Rows, rng: np.random.Generator, scale: Scale = None) -> NDArray[Any]:
        """Draw n blocks one after another from one stream and combine them: where nothing can straggle."""
        return self.combine([self.draw(k, rows, rng, scale) for k in range(self.n)])

    def _used(self, blocks: Blocks) -> list[NDArray[Any]]:
        if isinstance(blocks, Mapping):
            for k in blocks:
                self._check_index(k)
            used = [blocks[k] for k in sorted(blocks)]
        else:
            used = list(blocks)
        if not 1 <= len(used) <= self.drawn:
            raise ValueError(f"OverSketch needs between 1 and {self.drawn} blocks, got {len(used)}")
        return used

    def _check_index(self, k: int) -> None:
        if not 0 <= k < self.drawn:
            raise ValueError(f"OverSketch block index must be in [0, {self.drawn}), got {k}")
