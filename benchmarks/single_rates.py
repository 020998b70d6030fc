"""Rates of this machine and of Overcast's two heaviest kernels on it, on rows of the benchmark's first case."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import single_cases as cases
from threadpoolctl import threadpool_limits

import coordinator.kernels  # noqa: F401  registers the kernels that tasks name
from coordinator.data.blocks import open_data
from coordinator.executors.local import LocalExecutor, default_workers
from coordinator.problem import problem_from_spec
from coordinator.runtime import Runtime
from coordinator.solvers.objective import Objective
from coordinator.storage import FileStorage, MemoryStorage
from coordinator.tasks import Worker

ROWS = 100_000  # of the Gram
SIDE = 3000  # of the square product


def measure(folder: Path) -> dict[str, float]:
    """Rates in bytes/s and flop/s, the best of several runs each: other programs only ever slow a run down."""
    meta = cases.load_meta(folder)
    storage = FileStorage(folder / "store")
    data = open_data(storage, cases.NAME)
    blocks = [storage.get_arrays(key)["X"] for key in data.keys]
    threads = default_workers()
    out = {"threads": float(threads), "bytes": float(data.nbytes)}
    with ThreadPoolExecutor(threads) as pool, threadpool_limits(1, user_api="blas"):
        read = _best(lambda: list(pool.map(lambda X: float(np.dot(X.ravel(), X.ravel())), blocks)), 5)
        out["read"] = data.nbytes / read
    rng = np.random.default_rng(0)
    A, B = (rng.standard_normal((SIDE, SIDE), dtype=np.float32) for _ in range(2))
    with threadpool_limits(threads, user_api="blas"):
        out["gemm"] = 2 * SIDE**3 / _best(lambda: A @ B, 4)

    problem = problem_from_spec({"loss": meta.loss, "l2": meta.l2, "intercept": meta.intercept}, data)
    count = int(np.searchsorted(np.cumsum(data.rows), ROWS) + 1)
    part = replace(problem, data=replace(data, keys=data.keys[:count], rows=data.rows[:count]))
    w = 0.1 * rng.standard_normal(meta.columns)
    scratch = MemoryStorage()
    with LocalExecutor(Worker(storage, scratch)) as executor:
        ctx = Runtime(executor, scratch)
        with ctx.session():
            objective = Objective(problem, ctx)
            gradient = _best(lambda: objective.at(w), 5)
            whole = objective.at(w)
            product = _best(lambda: objective.product(whole, w), 5)
            objective = Objective(part, ctx)
            at = objective.at(w)
            gram = _best(lambda: objective.gram(at), 2)
    out["gradient"] = data.nbytes / gradient
    out["product"] = data.nbytes / product
    out["gram"] = part.data.n_rows * meta.columns**2 / gram  # a symmetric product: half the flops of a general one
    return out


def _best(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def lines(rates: dict[str, float]) -> list[str]:
    """The rates in words."""
    stream, gram = rates["gradient"] / rates["read"], rates["gram"] / rates["gemm"]
    return [
        (
            f"memory read bandwidth   {rates['read'] / 1e9:7.1f} GB/s  ({rates['threads']:.0f} threads, "
            f"{rates['bytes'] / 1e9:.2f} GB of memory-mapped blocks in the page cache)"
        ),
        f"float32 GEMM            {rates['gemm'] / 1e9:7.0f} GF/s  ({SIDE} x {SIDE})",
        (
            f"gradient pass           {rates['gradient'] / 1e9:7.1f} GB/s  {stream:4.0%} of the read bandwidth "
            f"(wanted: 60 %{'' if stream >= 0.6 else ', MISSED'})"
        ),
        f"Hessian-vector product  {rates['product'] / 1e9:7.1f} GB/s  {rates['product'] / rates['read']:4.0%}",
        (
            f"Gram                    {rates['gram'] / 1e9:7.0f} GF/s  {gram:4.0%} of the GEMM rate "
            f"(wanted: 80 %{'' if gram >= 0.8 else ', MISSED'}; a symmetric product, n d^2 flops)"
        ),
    ]
