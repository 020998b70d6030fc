"""Fixtures of the data tests: stores, real data sets, and reading a data set back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from coordinator.data.blocks import Block, RowBlocks, block_hash, load_scale, open_data
from coordinator.data.importing import ImportOptions, ImportReport, import_data
from coordinator.storage import FileStorage, MemoryStorage, Storage


@pytest.fixture(params=["files", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return FileStorage(tmp_path / "store") if request.param == "files" else MemoryStorage()


@dataclass(frozen=True)
class Stored:
    """A data set read back: dense rows in stored order."""

    report: ImportReport
    data: RowBlocks
    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None
    scale: np.ndarray | None

    @property
    def rows(self) -> np.ndarray:
        """Features, target and weight, rows sorted: equal for equal sets of rows."""
        return in_order(self.X, self.y, self.weight)


def in_order(X: Any, y: Any, weight: Any = None) -> np.ndarray:
    X = X.toarray() if sparse.issparse(X) else np.asarray(X)
    columns = [X, np.asarray(y)[:, None]] + ([] if weight is None else [np.asarray(weight)[:, None]])
    rows = np.hstack(columns).astype(np.float64)
    return rows[np.lexsort(rows.T[::-1])]


def read_back(storage: Storage, report: ImportReport) -> Stored:
    data = open_data(storage, report.data.name)
    assert data == report.data
    blocks = []
    for key, rows, digest in zip(data.keys, data.rows, data.hashes, strict=True):
        arrays = storage.get_arrays(key)
        block = Block.from_arrays(arrays, data.n_features, key)
        assert block.n_rows == rows
        assert block_hash(block.arrays()) == digest
        assert block.X.dtype == data.dtype
        if data.layout == "csr":
            assert block.X.indices.dtype == np.int32
            assert block.X.has_canonical_format
        else:
            assert block.X.flags.c_contiguous
        blocks.append(block)
    assert sum(b.X.size if isinstance(b.X, np.ndarray) else b.X.data.size for b in blocks) == data.nnz
    X = np.vstack([b.X if isinstance(b.X, np.ndarray) else b.X.toarray() for b in blocks])
    y = np.concatenate([b.y for b in blocks])
    weight = np.concatenate([b.weight for b in blocks]) if data.weighted else None
    return Stored(report, data, X, y, weight, load_scale(storage, data))


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Stored]:
    """Import into a store of files and read back. A `weight` that is a name or an index is the option."""
    count = iter(range(10**6))

    def run(source: Any, *, target: Any = None, weight: Any = None, **options: Any) -> Stored:
        storage = FileStorage(tmp_path / f"store-{next(count)}")
        if isinstance(weight, str | int):
            options["weight"], weight = weight, None
        report = import_data(storage, source, ImportOptions("t", **options), target=target, weight=weight)
        assert report.rows == report.data.n_rows
        assert not list(storage.root.rglob(".tmp*"))
        return read_back(storage, report)

    return run


@pytest.fixture
def sort_rows() -> Callable[..., np.ndarray]:
    return in_order


@pytest.fixture
def read() -> Callable[[Storage, ImportReport], Stored]:
    return read_back
