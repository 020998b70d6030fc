"""Blocks warm in memory and on disk, within bounds."""

import numpy as np
import pytest

from coordinator.cloud.cache import BlockCache
from coordinator.data.blocks import Block
from coordinator.errors import KeyMissingError

SIZE = 8 * 50 * 5 + 8 * 50


def fill(storage, n):
    keys = [f"data/x/{i}" for i in range(n)]
    for i, key in enumerate(keys):
        storage.put_arrays(key, Block(np.full((50, 5), float(i)), np.zeros(50)).arrays())
    return keys


def values(cache, keys):
    return [float(cache.block(key, 5).X[0, 0]) for key in keys]


def cache_of(storage, folder, blocks, files):
    return BlockCache(storage, blocks * SIZE, files * SIZE, folder)


def test_a_block_is_fetched_once(counted, tmp_path):
    keys = fill(counted, 4)
    cache = cache_of(counted, tmp_path, 4, 0)
    for _ in range(3):
        cache.expect(keys)
        assert values(cache, keys) == [0, 1, 2, 3]
    assert counted.usage.reads == 4
    assert (cache.hits, cache.misses) == (8, 4)
    assert cache.used == 4 * SIZE


def test_what_falls_out_of_memory_is_on_disk(counted, tmp_path):
    keys = fill(counted, 6)
    cache = cache_of(counted, tmp_path, 2, 6)
    for _ in range(3):
        cache.expect(keys)
        assert values(cache, keys) == [0, 1, 2, 3, 4, 5]
        assert cache.used <= 2 * SIZE
        assert cache.used_disk <= 6 * SIZE
    assert counted.usage.reads == 6
    assert cache.misses == 6


def test_both_tiers_are_bounded(counted, tmp_path):
    keys = fill(counted, 8)
    cache = cache_of(counted, tmp_path, 1, 2)
    for _ in range(2):
        cache.expect(keys)
        assert values(cache, keys) == list(range(8))
        assert cache.used <= SIZE
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * (SIZE + 1024)
    assert counted.usage.reads == 16  # a cycle that fits nowhere is read anew


def test_a_block_larger_than_memory_is_not_kept_there(counted, tmp_path):
    [key] = fill(counted, 1)
    cache = BlockCache(counted, SIZE // 2, 2 * SIZE, tmp_path)
    assert values(cache, [key, key]) == [0, 0]
    assert cache.used == 0
    assert counted.usage.reads == 1


def test_a_full_disk_is_only_a_slower_cache(counted, tmp_path):
    keys = fill(counted, 3)
    cache = cache_of(counted, tmp_path / "absent", 1, 9)
    assert values(cache, keys * 2) == [0, 1, 2, 0, 1, 2]


def test_a_lost_file_is_fetched_again(counted, tmp_path):
    keys = fill(counted, 3)
    cache = cache_of(counted, tmp_path, 1, 9)
    values(cache, keys)
    for path in tmp_path.iterdir():
        path.unlink()
    assert values(cache, keys) == [0, 1, 2]


def test_no_such_block(counted, tmp_path):
    cache = cache_of(counted, tmp_path, 1, 1)
    cache.expect(["data/a", "data/b"])
    with pytest.raises(KeyMissingError):
        cache.block("data/a", 5)
