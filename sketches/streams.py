"""Random streams with names.

A random draw is named by a seed and a path of integers (iteration, sketch, block, ...). The name travels in a task's
JSON; the numbers never do. Two workers given one name draw the same bits, in whatever order or process they run.
"""

from __future__ import annotations

import operator

import numpy as np

__all__ = ["stream"]

# SeedSequence cuts integers into 32-bit words and concatenates them, so (2**32,) and (0, 1) would be one stream.
_PATH_LIMIT = 2**32
_SEED_LIMIT = 2**128


def stream(seed: int, *path: int) -> np.random.Generator:
    """Return the generator named ``(seed, *path)``.

    Parameters
    ----------
    seed
        The job's seed, ``0 <= seed < 2**128``.
    *path
        Integers in ``[0, 2**32)`` naming the draw, for instance ``(iteration, sketch, block)``. Paths that differ, also
        in length only, give independent streams.

    Returns
    -------
    numpy.random.Generator
        A fresh counter-based generator (Philox; Salmon et al., SC 2011).

    Raises
    ------
    ValueError
        If the seed or a path element is not an integer in its range.
    """
    seed = _word("seed", seed, _SEED_LIMIT)
    key = tuple(_word("path element", part, _PATH_LIMIT) for part in path)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def _word(name: str, value: int, limit: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"stream {name} must be an integer, got {value!r}") from None
    if not 0 <= number < limit:
        raise ValueError(f"stream {name} must be in [0, 2**{limit.bit_length() - 1}), got {number}")
    return number
