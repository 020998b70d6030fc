"""Rows in random order, however many: an external sort by random keys.

Row i, counted from 0 in reading order, gets the i-th 63-bit number of one named random stream, and rows are sorted by
these keys. Sorting by independent, identically distributed keys gives every order of the rows the same chance (two of
n keys are equal with probability below n^2 / 2^64; such rows stay in reading order). The order is a function of the
seed and the row number alone: piece sizes, memory and the number of blocks do not change it.

Rows are collected into runs, each sorted by its keys and held in memory; when the runs outgrow `memory` bytes they go
to temporary files, which are mapped. Reading back takes one range of keys at a time from all runs. So the memory in use
is about `memory`, plus a few times the larger of a run and a block, whatever the size of the data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coordinator import arrays as codec
from coordinator.data.intake import Piece, join
from coordinator.errors import StorageError
from sketches.streams import stream

MEMORY: Final = 256 << 20
_PATH: Final = 0x5348  # this stream's name among those of the same seed
_KEYS: Final = 1 << 63


class Rows:
    """Rows being put in order; `close` removes what they left on disk.

    Parameters
    ----------
    seed : of the random order; None keeps the order of reading.
    folder : where temporary files may go; made when it is needed.
    run_bytes : size of a sorted run.
    memory : bytes of runs that are held in memory.
    """

    def __init__(self, seed: int | None, folder: Path, run_bytes: int, memory: int = MEMORY) -> None:
        self.n_rows = 0
        self.nbytes = 0
        self._random = None if seed is None else stream(seed, _PATH).bit_generator
        self._folder = folder
        self._run_bytes = run_bytes
        self._memory = memory
        self._waiting: list[Piece] = []
        self._waiting_bytes = 0
        self._runs: list[tuple[NDArray[np.int64], Piece]] = []
        self._files: list[Path] = []

    def add(self, piece: Piece) -> None:
        """Take rows in."""
        self._waiting.append(piece)
        self._waiting_bytes += piece.nbytes
        if self._waiting_bytes >= self._run_bytes:
            self._sort()

    def ordered(self, rows: int) -> Iterator[Piece]:
        """All rows in their order, `rows` at a time (the last piece may hold fewer)."""
        self._sort()
        n_ranges = max(1, -(-self.n_rows // rows))
        span = self.n_rows if self._random is None else _KEYS
        left: list[Piece] = []
        n_left = 0
        for i in range(n_ranges):
            found = self._range(span * i // n_ranges, span * (i + 1) // n_ranges - 1)
            if found is None:
                continue
            left.append(found)
            n_left += found.n_rows
            if n_left < rows:
                continue
            whole = join(left) if len(left) > 1 else left[0]
            stop = n_left - n_left % rows
            for start in range(0, stop, rows):
                yield whole.slice(start, start + rows)
            left, n_left = ([whole.take(np.arange(stop, n_left))] if stop < n_left else []), n_left - stop
        if left:
            yield join(left)

    def close(self) -> None:
        """Forget the rows and remove temporary files."""
        self._runs.clear()
        self._waiting.clear()
        for path in self._files:
            path.unlink(missing_ok=True)
        self._files.clear()

    def _range(self, low: int, high: int) -> Piece | None:
        parts, keys = [], []
        for run_keys, piece in self._runs:
            start, stop = np.searchsorted(run_keys, [low, high + 1 if high + 1 < _KEYS else high], side="left").tolist()
            if high + 1 >= _KEYS:
                stop = run_keys.size
            if stop > start:
                parts.append(piece.slice(start, stop))
                keys.append(run_keys[start:stop])
        if not parts:
            return None
        return join(parts).take(np.argsort(np.concatenate(keys), kind="stable"))

    def _sort(self) -> None:
        if not self._waiting:
            return
        piece = join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        if self._random is None:
            keys = np.arange(self.n_rows, self.n_rows + piece.n_rows)
        else:
            raw: Any = self._random.random_raw(piece.n_rows)
            keys = (raw >> np.uint64(1)).view(np.int64)
            order = np.argsort(keys, kind="stable")
            keys, piece = keys[order], piece.take(order)
        self.n_rows += piece.n_rows
        held = self.nbytes + piece.nbytes
        self.nbytes = held
        self._runs.append((keys, piece))
        if held > self._memory:
            for i in range(len(self._files), len(self._runs)):
                self._runs[i] = self._spill(*self._runs[i])

    def _spill(self, keys: NDArray[np.int64], piece: Piece) -> tuple[NDArray[np.int64], Piece]:
        # the store sweeps files of this name whose process is gone
        path = self._folder / f".tmp-{os.getpid()}-{len(self._files):05d}-rows"
        self._files.append(path)
        named = {"keys": keys} | {name: array for name, array in vars(piece).items() if array is not None}
        shape = piece.values.shape
        named["values"] = piece.values.reshape(-1)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                codec.write(file, named)
            found = codec.load(path)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}; free some space") from None
        found["values"] = found["values"].reshape(shape)
        return found.pop("keys"), Piece(**found)
