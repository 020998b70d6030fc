"""The problems of the single-node benchmark: made or fetched once into a folder, read from there by each contestant."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from coordinator.data.blocks import MOST_BLOCK, Block, RowBlocks, csr_rows, csr_view, manifest_key, open_data
from coordinator.errors import InputError
from coordinator.storage import FileStorage

Rows = Any  # dense (n, d), or CSR
CASES = ("a", "b-narrow", "b-wide", "c", "d")
NAME = "rows"  # of the data set in the store of case a
CHUNK = 16_384
SMALL_ROWS = 20_000


class Skip(Exception):  # noqa: N818  not an error: a case that cannot be had here
    """Why a case is left out."""


@dataclass(frozen=True)
class Meta:
    """A prepared case.

    Attributes
    ----------
    key : what it was made from, to know it again.
    gradient0 : norm of the gradient at zero parameters, in float64.
    notes : figures to print.
    """

    case: str
    title: str
    key: str
    loss: str
    l2: float
    intercept: bool
    rows: int
    columns: int
    nnz: int
    layout: str
    dtype: str
    classes: int
    gradient0: float = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of X."""
        item = np.dtype(self.dtype).itemsize
        return self.nnz * item if self.layout == "dense" else self.nnz * (item + 4) + 4 * self.rows

    @property
    def parameters(self) -> int:
        return (self.columns + self.intercept) * (self.classes if self.loss == "softmax" else 1)


def prepare(case: str, folder: Path, small: bool, data: Path | None) -> Meta:
    """Make `case` in `folder`, unless it is there; raises Skip."""
    key = json.dumps([case, small, 7])
    found = folder / "meta.json"
    if found.exists() and (meta := load_meta(folder)).key == key:
        return meta
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if case == "a":
        meta = _synthetic(folder, key, small)
    else:
        make: Mapping[str, Callable[[], tuple[Rows, NDArray[Any], str]]] = {
            "b-narrow": lambda: _flights(False, small),
            "b-wide": lambda: _flights(True, small),
            "c": lambda: _a9a(data),
            "d": lambda: _words(small),
        }
        X, y, title = make[case]()
        _need(folder, 3 * X.data.nbytes)
        np.savez(folder / "X.npz", data=X.data, indices=X.indices, indptr=X.indptr, shape=np.array(X.shape))
        np.save(folder / "y.npy", y)
        classes = int(np.unique(y).size)
        loss = "softmax" if classes > 2 else "logistic"
        meta = Meta(case, title, key, loss, 1 / len(y), True, *X.shape, int(X.nnz), "csr", str(X.dtype), classes)
    meta = replace(meta, gradient0=gradient_at_zero(meta, folder))
    found.write_text(json.dumps(asdict(meta)), encoding="utf-8")
    return meta


def load_meta(folder: Path) -> Meta:
    return Meta(**json.loads((folder / "meta.json").read_text(encoding="utf-8")))


def load_arrays(meta: Meta, folder: Path) -> tuple[Rows, NDArray[np.float64]]:
    """X and y in memory."""
    if meta.layout == "dense":
        X, y = np.empty((meta.rows, meta.columns), dtype=meta.dtype), np.empty(meta.rows)
        start = 0
        for block in _blocks(folder):
            X[start : start + block.n_rows], y[start : start + block.n_rows] = block.X, block.y
            start += block.n_rows
        return X, y
    with np.load(folder / "X.npz") as file:
        X = csr_view(file["data"], file["indices"], file["indptr"], meta.columns)
    X.has_canonical_format = True
    return X, np.load(folder / "y.npy")


def gradient_at_zero(meta: Meta, folder: Path) -> float:
    outputs = meta.classes if meta.loss == "softmax" else 1
    return gradient_norm(meta, folder, np.zeros((meta.columns, outputs)), np.zeros(outputs))


def gradient_norm(meta: Meta, folder: Path, W: NDArray[Any], bias: NDArray[Any]) -> float:
    """Norm of the gradient at coefficients W (d, K) and intercepts (K,), in float64 throughout, chunk by chunk."""
    W = W.astype(np.float64)
    total, total0 = np.zeros_like(W), np.zeros(W.shape[1])
    for X, y in _chunks(meta, folder):
        Z = X @ W + bias
        if meta.loss == "softmax":
            R = special.softmax(Z, axis=1)
            R[np.arange(len(y)), y.astype(int)] -= 1
        else:
            R = special.expit(Z) - (y > 0)[:, None]
        total += X.T @ R
        total0 += R.sum(axis=0)
    total = total / meta.rows + meta.l2 * W
    return float(np.hypot(np.linalg.norm(total), np.linalg.norm(total0 / meta.rows) if meta.intercept else 0.0))


def _chunks(meta: Meta, folder: Path) -> Iterator[tuple[Rows, NDArray[np.float64]]]:
    if meta.layout == "dense":
        for block in _blocks(folder):
            for start in range(0, block.n_rows, CHUNK):
                part = slice(start, start + CHUNK)
                yield block.X[part].astype(np.float64), block.y[part]
        return
    X, y = load_arrays(meta, folder)
    for start in range(0, meta.rows, CHUNK):
        stop = min(start + CHUNK, meta.rows)
        yield csr_rows(X, start, stop).astype(np.float64), y[start:stop]


def _blocks(folder: Path) -> Iterator[Block]:
    storage = FileStorage(folder / "store")
    data = open_data(storage, NAME)
    for key in data.keys:
        yield Block.from_arrays(storage.get_arrays(key), data.n_features, key)


def _need(folder: Path, nbytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < 1.2 * nbytes + (1 << 30):
        raise Skip(f"needs {1.2 * nbytes / 1e9 + 1:.0f} GB of disk, {free / 1e9:.0f} GB are free: see --work")


# -- (a) --------------------------------------------------------------------------------------------------------------


def _synthetic(folder: Path, key: str, small: bool) -> Meta:
    """X = G diag(s) Q: a spectrum that falls as a power, turned so that all columns weigh the same."""
    n, d = (20_000, 400) if small else (400_000, 2_000)
    _need(folder, 4 * n * d)
    rng = np.random.default_rng(1)
    s2 = np.arange(1, d + 1) ** -(np.log(4e4) / np.log(d))  # cond(X'X/n) = 4e4
    s2 /= s2.sum()  # rows of norm one, about
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    turn = (np.sqrt(s2)[:, None] * Q).astype(np.float32)
    truth = rng.standard_normal(d)
    truth *= 2 / np.sqrt(s2 @ (Q @ truth) ** 2)  # margins of deviation 2: noisy labels, far from separable
    storage = FileStorage(folder / "store")
    size = min(MOST_BLOCK // (4 * d), n // 16)
    keys, rows = [], []
    for i, start in enumerate(range(0, n, size)):
        count = min(size, n - start)
        X = rng.standard_normal((count, d), dtype=np.float32) @ turn
        y = (rng.random(count) < special.expit(X @ truth)).astype(np.float64)
        keys.append(f"data/{NAME}/block-{i:05d}")
        rows.append(count)
        storage.put_arrays(keys[-1], Block(X, y).arrays())
    data = RowBlocks(
        NAME, tuple(keys), tuple(rows), d, n * d, "dense", "float32", classes=(0.0, 1.0), shuffle_seed=1, source="made"
    )
    storage.put(manifest_key(NAME), data.to_json().encode())
    l2 = 0.04 / n
    notes = {"condition of X'X/n": float(s2[0] / s2[-1])}
    notes["condition of the Hessian at the true weights, from 20 d rows"] = _condition(storage, data, truth, l2)
    return Meta("a", "dense, EPSILON's shape", key, "logistic", l2, False, n, d, n * d, "dense", "float32", 2, 0, notes)


def _condition(storage: FileStorage, data: RowBlocks, w: NDArray[np.float64], l2: float) -> float:
    H, seen = np.zeros((w.size, w.size)), 0
    for name in data.keys:
        if seen >= 20 * w.size:
            break
        X = storage.get_arrays(name)["X"]
        p = special.expit(X @ w)
        A = X * np.sqrt(p * (1 - p))[:, None].astype(np.float32)
        H += A.T @ A
        seen += len(X)
    values = np.linalg.eigvalsh(H / seen) + l2
    return float(values[-1] / values[0])


# -- (b), (c), (d) ----------------------------------------------------------------------------------------------------


def _flights(wide: bool, small: bool) -> tuple[Rows, NDArray[Any], str]:
    from overcast.flights import flights

    try:
        X, y, _ = flights(wide=wide)
    except InputError as error:
        raise Skip(str(error)) from None
    order = np.random.default_rng(0).permutation(len(y))[: SMALL_ROWS if small else None]
    return _csr(X[order]), np.asarray(y, dtype=np.float64)[order], f"flights, {'wide' if wide else 'narrow'} one-hot"


def _a9a(data: Path | None) -> tuple[Rows, NDArray[Any], str]:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = data or Path(os.environ.get("OVERCAST_TEST_DATA", beside))
    path = next((p for p in (root / "libsvm" / "a9a.xz", root / "a9a.xz") if p.exists()), None)
    if path is None:
        raise Skip(f"a9a.xz is not in {root}: name its folder by --data or OVERCAST_TEST_DATA")
    from sklearn.datasets import load_svmlight_file

    with lzma.open(path) as file:
        X, y = load_svmlight_file(file, n_features=123)
    return _csr(X), y, "a9a"


def _words(small: bool) -> tuple[Rows, NDArray[Any], str]:
    """Word -> language; a word of several languages is a row in each."""
    try:
        import spellchecker
    except ImportError:
        raise Skip("pyspellchecker is not installed: pip install 'overcast[bench]'") from None
    from sklearn.feature_extraction.text import HashingVectorizer

    words: list[str] = []
    languages: list[int] = []
    for i, path in enumerate(sorted((Path(spellchecker.__file__).parent / "resources").glob("*.json.gz"))):
        found = list(json.loads(gzip.decompress(path.read_bytes())))
        words += found
        languages += [i] * len(found)
    order = np.random.default_rng(0).permutation(len(words))[: SMALL_ROWS if small else None]
    hashing = HashingVectorizer(
        analyzer="char_wb", ngram_range=(1, 4), n_features=2 ** (12 if small else 17), alternate_sign=False
    )
    X = hashing.transform(words[i] for i in order)
    return _csr(X), np.array(languages, dtype=np.float64)[order], "word -> language, hashed n-grams"


def _csr(X: Rows) -> sparse.csr_matrix:
    """Canonical CSR of float64 with 32-bit indices."""
    X = sparse.csr_matrix(X, dtype=np.float64)
    X.sum_duplicates()
    return csr_view(X.data, X.indices.astype(np.int32), X.indptr.astype(np.int32), X.shape[1])
