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

ROWS = 200_000  # of the Gram: half of the first case
ROUNDS = 9  # of reading the data, taking a gradient, and a Hessian-vector product
SIDE = 3000  # of the square product


def measure(folder: Path) -> dict[str, float]:
    """Rates in bytes/s and flop/s.

    A virtual machine's memory is at times faster, at times slower: passes over the data are timed in turn with plain
    reading, and medians given, of rates and of ratios within a turn. Products are the best of several runs.
    """
    meta = cases.load_meta(folder)
    storage = FileStorage(folder / "store")
    data = open_data(storage, cases.NAME)
    blocks = [storage.get_arrays(key)["X"] for key in data.keys]
    threads = default_workers()
    out = {"threads": float(threads), "bytes": float(data.nbytes)}
    rng = np.random.default_rng(0)
    A, B = (rng.standard_normal((SIDE, SIDE), dtype=np.float32) for _ in range(2))
    with threadpool_limits(threads, user_api="blas"):
        out["gemm"] = 2 * SIDE**3 / _best(lambda: A @ B, 4)

    problem = problem_from_spec({"loss": meta.loss, "l2": meta.l2, "intercept": meta.intercept}, data)
    count = int(np.searchsorted(np.cumsum(data.rows), ROWS) + 1)
    part = replace(problem, data=replace(data, keys=data.keys[:count], rows=data.rows[:count]))
    w = 0.1 * rng.standard_normal(meta.columns)
    scratch = MemoryStorage()
    with ThreadPoolExecutor(threads) as pool, LocalExecutor(Worker(storage, scratch)) as executor:
        ctx = Runtime(executor, scratch)
        with ctx.session():
            objective = Objective(problem, ctx)
            whole = objective.at(w)
            passes: dict[str, Callable[[], object]] = {
                "read": lambda: list(pool.map(lambda X: float(np.dot(X.ravel(), X.ravel())), blocks)),
                "gradient": lambda: objective.at(w),
                "product": lambda: objective.product(whole, w),
            }
            seconds = np.array([[_best(run, 1) for run in passes.values()] for _ in range(ROUNDS)])
            objective = Objective(part, ctx)
            at = objective.at(w)
            gram = _best(lambda: objective.gram(at), 3)
    for name, column in zip(passes, seconds.T, strict=True):
        out[name] = data.nbytes / float(np.median(column))
        out[f"{name}_of_read"] = float(np.median(seconds[:, 0] / column))
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
    stream, gram = rates["gradient_of_read"], rates["gram"] / rates["gemm"]
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
        f"Hessian-vector product  {rates['product'] / 1e9:7.1f} GB/s  {rates['product_of_read']:4.0%}",
        (
            f"Gram                    {rates['gram'] / 1e9:7.0f} GF/s  {gram:4.0%} of the GEMM rate "
            f"(wanted: 80 %{'' if gram >= 0.8 else ', MISSED'}; a symmetric product, n d^2 flops)"
        ),
    ]
