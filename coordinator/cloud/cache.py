"""A worker's data blocks: warm in memory, then in the ephemeral disk, then in the bucket.

Blocks never change under their key, so one that was read once serves all later calls of the environment. Both tiers
are bounded, least recently used first out; what falls out of memory goes to disk. Blocks that a task will need soon
are fetched while it computes on the one before.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from coordinator import arrays as codec
from coordinator.arrays import NamedArrays
from coordinator.data.blocks import Block
from coordinator.errors import KeyMissingError
from coordinator.storage import Storage

AHEAD: Final = 3  # blocks fetched before they are asked for


class BlockCache:
    """Blocks of a storage by key.

    Parameters
    ----------
    storage : where they come from.
    memory, disk : bytes that the tiers may take.
    folder : of the second tier.
    """

    def __init__(self, storage: Storage, memory: int, disk: int, folder: Path) -> None:
        self._storage = storage
        self._memory, self._disk, self._folder = memory, disk, folder
        self._blocks: OrderedDict[str, tuple[Block, int]] = OrderedDict()
        self._files: OrderedDict[str, tuple[Path, int]] = OrderedDict()
        self._coming: dict[str, Future[NamedArrays]] = {}
        self._wanted: list[str] = []
        self._pool: ThreadPoolExecutor | None = None
        self._count = 0
        self.used = self.used_disk = 0
        self.hits = self.misses = 0
        self.seconds = 0.0  # that callers have waited

    def expect(self, keys: Sequence[str]) -> None:
        """Say which blocks the next task reads, in order."""
        self._coming.clear()
        self._wanted = list(dict.fromkeys(key for key in keys if key not in self._blocks))
        if len(self._wanted) > 1:
            self._fetch_ahead()

    def block(self, key: str, n_features: int) -> Block:
        """The block. StorageError where it is not one, KeyMissingError where there is none."""
        found = self._blocks.get(key)
        if found is not None:
            self._blocks.move_to_end(key)
            self.hits += 1
            return found[0]
        began = time.perf_counter()
        arrays = self._from_disk(key)
        if arrays is None:
            coming = self._coming.pop(key, None)
            arrays = self._storage.get_arrays(key) if coming is None else coming.result()
            self.misses += 1
        else:
            self.hits += 1
        with suppress(ValueError):
            self._wanted.remove(key)
        self._fetch_ahead()
        block = Block.from_arrays(arrays, n_features, key)
        size = sum(array.nbytes for array in arrays.values())
        self._keep(key, block, size)
        self.seconds += time.perf_counter() - began
        return block

    def _fetch_ahead(self) -> None:
        for key in self._wanted[:AHEAD]:
            if key in self._coming or key in self._files:
                continue
            if self._pool is None:
                self._pool = ThreadPoolExecutor(AHEAD, "overcast-ahead")
            self._coming[key] = self._pool.submit(self._storage.get_arrays, key)

    def _keep(self, key: str, block: Block, size: int) -> None:
        if size > self._memory:
            self._to_disk(key, block, size)
            return
        self._blocks[key] = (block, size)
        self.used += size
        while self.used > self._memory:
            old, (gone, freed) = self._blocks.popitem(last=False)
            self.used -= freed
            self._to_disk(old, gone, freed)

    def _to_disk(self, key: str, block: Block, size: int) -> None:
        if key in self._files or size > self._disk:
            return
        while self.used_disk + size > self._disk:
            _, (path, freed) = self._files.popitem(last=False)
            path.unlink(missing_ok=True)
            self.used_disk -= freed
        self._count += 1
        path = self._folder / f"block-{self._count:06d}"
        try:
            with path.open("wb") as file:
                codec.write(file, block.arrays())
        except OSError:  # the disk is fuller than was said: it is only a cache
            path.unlink(missing_ok=True)
            self._disk = self.used_disk
            return
        self._files[key] = (path, size)
        self.used_disk += size

    def _from_disk(self, key: str) -> NamedArrays | None:
        found = self._files.get(key)
        if found is None:
            return None
        self._files.move_to_end(key)
        try:
            return codec.decode(found[0].read_bytes(), key)
        except (OSError, KeyMissingError):
            del self._files[key]
            self.used_disk -= found[1]
            return None
