"""Row blocks: a data set as a manifest and the keys of its blocks.

A block holds whole rows: dense `X` of shape (n, d), or the CSR triple `data`, `indices`, `indptr`; always `y` (n,) in
float64, and `weight` (n,) where rows are weighted. Blocks are safetensors files (`coordinator.arrays`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from coordinator import arrays as codec
from coordinator.arrays import NamedArrays
from coordinator.errors import InputError, KeyMissingError, StorageError
from coordinator.storage import Storage

FORMAT: Final = 1
LEAST_BLOCK, MOST_BLOCK = 2 << 20, 64 << 20  # bytes
Array = NDArray[Any]


@dataclass(frozen=True)
class Block:
    """Rows in memory: `X` (n, d) dense C-ordered or CSR, targets `y` (n,), weights `weight` (n,) or None."""

    X: Array | sparse.csr_matrix
    y: NDArray[np.float64]
    weight: NDArray[np.float64] | None = None

    @property
    def n_rows(self) -> int:
        return int(self.y.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of the rows' values (and indices)."""
        if isinstance(self.X, np.ndarray):
            return int(self.X.nbytes)
        return int(self.X.data.nbytes + self.X.indices.nbytes + self.X.indptr.nbytes)

    @cached_property
    def XT(self) -> Array | sparse.csc_matrix:
        """The transposed rows, sharing memory."""
        return self.X.T

    def arrays(self) -> dict[str, Array]:
        """The named arrays that `from_arrays` reads back."""
        out: dict[str, Array] = {}
        if isinstance(self.X, np.ndarray):
            out["X"] = self.X
        else:
            out |= {"data": self.X.data, "indices": self.X.indices, "indptr": self.X.indptr}
        out["y"] = self.y
        if self.weight is not None:
            out["weight"] = self.weight
        return out

    @classmethod
    def from_arrays(cls, arrays: NamedArrays, n_features: int, where: str = "block") -> Block:
        """Check and wrap; no array is copied. StorageError for anything that could be read out of bounds."""
        y = arrays.get("y")
        if y is None or y.ndim != 1 or y.dtype != np.float64:
            raise StorageError(f"{where}: not a data block (no float64 vector 'y'); import the data again")
        weight = arrays.get("weight")
        if weight is not None and (weight.shape != y.shape or weight.dtype != np.float64):
            raise StorageError(f"{where}: 'weight' does not match 'y'; import the data again")
        X = arrays.get("X")
        if X is not None:
            if X.shape != (y.size, n_features) or X.dtype.kind != "f":
                raise StorageError(f"{where}: 'X' is not {y.size} x {n_features} of floats; import the data again")
            return cls(X, y, weight)
        return cls(_csr(arrays, y.size, n_features, where), y, weight)


def _csr(arrays: NamedArrays, n_rows: int, n_features: int, where: str) -> sparse.csr_matrix:
    try:
        data, indices, indptr = arrays["data"], arrays["indices"], arrays["indptr"]
    except KeyError as error:
        raise StorageError(f"{where}: not a data block (no array {error}); import the data again") from None
    sound = (
        data.ndim == indices.ndim == indptr.ndim == 1
        and data.dtype.kind == "f"
        and indices.dtype.kind == indptr.dtype.kind == "i"
        and data.size == indices.size
        and indptr.size == n_rows + 1
        and indptr[0] == 0
        and indptr[-1] == data.size
        and bool(np.all(np.diff(indptr) >= 0))
        and (indices.size == 0 or (int(indices.min()) >= 0 and int(indices.max()) < n_features))
    )
    if not sound:
        raise StorageError(f"{where}: damaged sparse rows (indices out of range); import the data again")
    return csr_view(data, indices, indptr, n_features)


def block_hash(arrays: NamedArrays) -> str:
    """BLAKE2b of a block's arrays in the form they are stored in (the version of its file)."""
    found = hashlib.blake2b(codec.header(arrays), digest_size=16)
    for array in arrays.values():
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        found.update(plain.reshape(-1).view(np.uint8).data)
        found.update(b"\0" * (-plain.nbytes % codec.ALIGN))
    return found.hexdigest()


def csr_view(data: Array, indices: Array, indptr: Array, n_features: int) -> sparse.csr_matrix:
    """A CSR matrix on these very arrays: the constructor would scan them and may copy."""
    out = sparse.csr_matrix((indptr.size - 1, n_features), dtype=data.dtype)
    out.data, out.indices, out.indptr = data, indices, indptr
    return out


def csr_rows(X: sparse.csr_matrix, start: int, stop: int) -> sparse.csr_matrix:
    """Rows start..stop of `X`; values and indices are views, only the row pointer is new."""
    low, high = int(X.indptr[start]), int(X.indptr[stop])
    pointer = (X.indptr[start : stop + 1] - low).astype(X.indices.dtype)
    return csr_view(X.data[low:high], X.indices[low:high], pointer, X.shape[1])


@dataclass(frozen=True)
class RowBlocks:
    """A data set in storage: the manifest.

    Attributes
    ----------
    keys, rows, hashes : one entry per block: storage key, number of rows, BLAKE2b of its arrays ("" if in memory only).
    n_features : columns.
    nnz : stored non-zeros (rows x columns when dense).
    layout, dtype : of the blocks' values.
    classes : distinct targets in increasing order, or None when there are more than 1000 of them. Text labels are
        stored in `y` as positions in this list; numbers are stored as they are.
    shuffle_seed : seed of the row shuffle, or None if rows are in their original order.
    scale : columns were divided by these factors on import (None: as they came); unscaled coefficient = w / scale.
    """

    name: str
    keys: tuple[str, ...]
    rows: tuple[int, ...]
    n_features: int
    nnz: int
    layout: Literal["dense", "csr"]
    dtype: Literal["float32", "float64"]
    hashes: tuple[str, ...] = ()
    classes: tuple[float, ...] | tuple[str, ...] | None = None
    weighted: bool = False
    shuffle_seed: int | None = None
    scale_key: str | None = None
    features: tuple[str, ...] | None = None
    source: str = ""
    format: int = field(default=FORMAT)

    @property
    def n_rows(self) -> int:
        return sum(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of values and indices over all blocks."""
        item = np.dtype(self.dtype).itemsize
        return self.nnz * item if self.layout == "dense" else self.nnz * (item + 4) + 4 * self.n_rows

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "manifest") -> RowBlocks:
        try:
            raw: Mapping[str, Any] = json.loads(text)
            if raw["format"] != FORMAT:
                raise InputError(f"{where}: data format {raw['format']}, this version reads {FORMAT}; import it again")
            tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
            return cls(**tuples)
        except (ValueError, TypeError, KeyError) as error:
            raise StorageError(f"{where}: not a data manifest ({error})") from None


def manifest_key(name: str) -> str:
    """Where the data set `name` keeps its manifest."""
    return f"data/{name}/manifest.json"


def open_data(storage: Storage, name: str) -> RowBlocks:
    """The data set `name`; InputError, listing what there is, when it does not exist."""
    try:
        raw = storage.get(manifest_key(name))
    except (KeyMissingError, InputError):  # the second for a name that no data set may have
        known = list_data(storage)
        have = f"there are: {', '.join(known)}" if known else "nothing has been imported yet; see `overcast import`"
        raise InputError(f"no data set {name!r} in this store; {have}") from None
    return RowBlocks.from_json(raw, name)


def list_data(storage: Storage) -> list[str]:
    """Names of the data sets in the store."""
    return [name for name in storage.folders("data") if storage.exists(manifest_key(name))]


def load_scale(storage: Storage, data: RowBlocks) -> NDArray[np.float64] | None:
    """The column factors of the import, or None."""
    return None if data.scale_key is None else np.array(storage.get_arrays(data.scale_key)["scale"])


def block_count(nbytes: float, most: int = MOST_BLOCK) -> int:
    """Blocks for so many bytes of rows: sixteen, work for every core, unless these are below 2 MB or above `most`."""
    return max(1, round(nbytes / min(max(nbytes / 16, LEAST_BLOCK), most)))


def memory_blocks(
    storage: Storage,
    name: str,
    X: Array | sparse.csr_matrix,
    y: Array,
    weight: Array | None = None,
    classes: tuple[Any, ...] | None = None,
    rows_per_block: int | None = None,
) -> RowBlocks:
    """Blocks that are views of arrays in memory, in their own order: nothing is copied, nothing is shuffled.

    `X` is C-ordered float32/64 or canonical CSR with int32 indices, already checked; `y` is float64.
    """
    n, d = X.shape
    nbytes = X.nbytes if isinstance(X, np.ndarray) else X.data.nbytes + X.indices.nbytes
    if rows_per_block is None:
        rows_per_block = max(1, -(-n // block_count(nbytes)))
    keys, rows = [], []
    for i, start in enumerate(range(0, n, rows_per_block)):
        part = slice(start, min(start + rows_per_block, n))
        piece = X[part] if isinstance(X, np.ndarray) else csr_rows(X, part.start, part.stop)
        block = Block(piece, y[part], None if weight is None else weight[part])
        keys.append(f"data/{name}/block-{i:05d}")
        rows.append(block.n_rows)
        storage.put_arrays(keys[-1], block.arrays())
    return RowBlocks(
        name=name,
        keys=tuple(keys),
        rows=tuple(rows),
        n_features=d,
        nnz=n * d if isinstance(X, np.ndarray) else int(X.nnz),
        layout="dense" if isinstance(X, np.ndarray) else "csr",
        dtype="float32" if X.dtype == np.float32 else "float64",
        classes=classes,
        weighted=weight is not None,
        source="memory",
    )
