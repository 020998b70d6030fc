"""What this machine can do, measured once: the rates that the cost models of solvers stand on.

A profile is part of a job's spec, so that a resumed job decides as it did before. It is measured on arrays of a few
tens of megabytes with as many threads as tasks will have, and takes about a second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
from scipy import linalg, sparse
from threadpoolctl import threadpool_limits

from coordinator.errors import KeyMissingError, StorageError
from coordinator.executors.local import default_workers
from coordinator.storage import Storage, version_of
from sketches import SJLT, stream

KEY = "profile.json"
VERSION = 1


@dataclass(frozen=True)
class Profile:
    """Rates over all workers together.

    Attributes
    ----------
    read : bytes/s of reading memory (a dot product): the machine's memory bandwidth.
    stream : bytes/s of a fused X'(D(Xv)) over dense rows larger than the caches.
    nonzeros : stored non-zeros/s of the same over sparse rows.
    gemm32, gemm64 : flop/s of a dense product.
    syrk32 : flop/s of A'A in float32, where a multiplication and an addition are two flops and symmetry is used.
    scatter : bytes/s of a dense sketch with one hash.
    sparse_scatter : non-zeros/s of a sparse one.
    solve64 : flop/s of a Cholesky factorization (d^3/3 each).
    task, phase : seconds of overhead a task and a phase.
    """

    workers: int
    read: float
    stream: float
    nonzeros: float
    gemm32: float
    gemm64: float
    syrk32: float
    scatter: float
    sparse_scatter: float
    solve64: float
    task: float = 60e-6
    phase: float = 200e-6
    version: int = VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def _best(run: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return max(min(times), 1e-9)


def measure(workers: int | None = None) -> Profile:
    """Measure the rates with `workers` threads (default: all cores)."""
    threads = workers or default_workers()
    rng = np.random.default_rng(0)
    n, d = 6000 * threads, 1000
    X = rng.standard_normal((n, d), dtype=np.float32)
    parts = np.array_split(X, 4 * threads)
    v = rng.standard_normal(d, dtype=np.float32)
    S = sparse.random_array((100_000, 2000), density=0.01, rng=rng, format="csr")
    rows = [S[i : i + 25_000] for i in range(0, 100_000, 25_000)]
    s = rng.standard_normal(2000)
    A, B = X[:1500], X[1500:3000]

    def fused(part: np.ndarray) -> None:
        out = np.zeros(d)
        for start in range(0, len(part), 256):
            chunk = part[start : start + 256]
            u = chunk @ v
            u *= 0.5
            out += u @ chunk

    with ThreadPoolExecutor(threads) as pool:

        def spread(work: Callable[..., object], items: list[np.ndarray]) -> Callable[[], object]:
            return lambda: list(pool.map(work, items))

        with threadpool_limits(1, user_api="blas"):
            read = X.nbytes / _best(spread(lambda p: np.dot(p.ravel(), p.ravel()), parts), 5)
            streamed = X.nbytes / _best(spread(fused, parts), 5)
            nonzeros = S.nnz / _best(spread(lambda p: p.T @ (p @ s), rows))
            syrk = n * d * d / _best(spread(lambda p: p.T @ p, np.array_split(X, threads)), 2)
            law = SJLT(500, 1)
            scatter = X.nbytes / _best(spread(lambda p: law.apply(p, stream(0, 0)), parts))
            sparse_scatter = S.nnz / _best(spread(lambda p: law.apply(p, stream(0, 0)), rows))
    with threadpool_limits(threads, user_api="blas"):
        gemm32 = 2 * 1500 * 1500 * d / _best(lambda: A @ B.T)
        A64, B64 = A.astype(np.float64), B.astype(np.float64)
        gemm64 = 2 * 1500 * 1500 * d / _best(lambda: A64 @ B64.T, 2)
        G = A64 @ A64.T + 1e3 * np.eye(1500)
        solve64 = 1500**3 / 3 / _best(lambda: linalg.cholesky(G, lower=True), 2)
    return Profile(
        workers=threads,
        read=read,
        stream=streamed,
        nonzeros=nonzeros,
        gemm32=gemm32,
        gemm64=gemm64,
        syrk32=syrk,
        scatter=scatter,
        sparse_scatter=sparse_scatter,
        solve64=solve64,
    )


def stored_profile(storage: Storage) -> Profile:
    """The profile kept in `storage`, measured and kept on first use or when the number of cores has changed."""
    version: str | None = None
    try:
        data, version = storage.read(KEY)
        found = json.loads(data)
        if found.get("version") == VERSION and found.get("workers") == default_workers():
            return Profile(**found)
    except (KeyMissingError, ValueError, TypeError, AttributeError):
        pass
    profile = measure()
    try:
        storage.swap(KEY, profile.to_json().encode(), version)
    except StorageError:  # another process was first: its figures are as good
        return Profile(**json.loads(storage.get(KEY)))
    return profile


def profile_id(profile: Profile) -> str:
    """A short name of the figures."""
    return version_of(profile.to_json().encode())[:8]
