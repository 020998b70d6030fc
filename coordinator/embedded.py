"""A solve of arrays in memory, in this process, with nothing stored: what estimators and benchmarks call.

The same solvers, runtime and kernels as a job; there is no checkpoint, no event and no job. Rows are views of the
caller's arrays. What would dominate a small fit is left out: measuring the machine takes a second, so problems below
`SMALL` bytes are planned on nominal rates, the same on every machine, and those above on rates that are measured once
and kept in the user's cache directory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from coordinator.data.blocks import RowBlocks, memory_blocks
from coordinator.errors import StorageError
from coordinator.executors.local import LocalExecutor, default_workers
from coordinator.kernels import memo_bytes
from coordinator.problem import Problem, problem_from_spec
from coordinator.profile import Profile, measure, stored_profile
from coordinator.results import Result, make_result
from coordinator.runtime import Runtime
from coordinator.solvers import make_solver
from coordinator.solvers.base import Solver, State
from coordinator.storage import FileStorage, MemoryStorage
from coordinator.tasks import Worker

Array = NDArray[Any]
Rows = Any  # dense, or CSR

SMALL: Final = 50 << 20  # bytes; a plan that is twice too slow costs less here than measuring would
WIDE: Final = 1000  # columns from which more threads are worth their risk (see `Runtime.linalg_threads`)
NOMINAL: Final = Profile(
    workers=2,
    read=2e10,
    stream=9e9,
    nonzeros=5e8,
    gemm32=1.5e11,
    gemm64=8e10,
    syrk32=1.5e11,
    scatter=8e9,
    sparse_scatter=6e7,
    solve64=4e10,
)


@cache
def machine_profile() -> Profile:
    """Rates of the machine, measured once and kept under the user's cache directory."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        return stored_profile(FileStorage(home / "overcast"))
    except (StorageError, OSError):  # nowhere to keep it: for as long as this process lives
        return measure()


def solve(
    X: Rows,
    y: Array,
    problem: Mapping[str, Any],
    *,
    weight: Array | None = None,
    classes: tuple[Any, ...] | None = None,
    solver: str = "oversketched-newton",
    settings: Mapping[str, Any] | None = None,
    workers: int | None = None,
    start: Array | None = None,
    profile: Profile | None = None,
) -> Result:
    """Solve `problem` (see `problem_from_spec`; class weights as a list) on rows in memory.

    Parameters
    ----------
    X : C-ordered float32/64, or canonical CSR of them with int32 indices; neither copied nor shuffled.
    y : float64 targets (n,); where `classes` are text, positions in it, otherwise its values.
    weight : float64 (n,), or None.
    classes : distinct targets in order, or None.
    solver, settings : name in the registry, and its settings.
    workers : threads (default: all cores). The result does not depend on it.
    start : flat parameter vector to start at; tolerances stay relative to zero parameters.
    profile : rates that decisions stand on (default: see the module).

    Raises InputError for a problem or settings that cannot be used.
    """
    began = time.perf_counter()
    storage, scratch = MemoryStorage(), MemoryStorage()
    data = memory_blocks(storage, "memory", X, y, weight, classes)
    posed = problem_from_spec(problem, data)
    chosen = make_solver(solver, settings or {})
    chosen.check(posed)
    memo = memo_bytes(data.n_rows, posed.n_outputs)
    with LocalExecutor(Worker(storage, scratch, memo), _threads(data, workers)) as executor:
        ctx = Runtime(executor, scratch, linalg_threads=1 if posed.n_parameters < WIDE else None)
        ctx.cache["profile"] = profile or (NOMINAL if data.nbytes < SMALL else machine_profile())
        with ctx.session():
            state, history = _steps(chosen, posed, ctx, start, began)
    return make_result(
        "",
        solver,
        posed,
        storage,
        state,
        chosen.solution(state),
        seconds={**ctx.seconds, "total": time.perf_counter() - began},
        history=tuple(history),
    )


def _threads(data: RowBlocks, workers: int | None) -> int | None:
    """No more threads than tasks: waking one that finds nothing to do costs as much as a small task."""
    return min(workers or default_workers(), len(data.keys)) if workers is None or workers > 0 else workers


def _steps(
    solver: Solver, problem: Problem, ctx: Runtime, start: Array | None, began: float
) -> tuple[State, list[dict[str, Any]]]:
    history = []
    ctx.prefix = "000000"
    state = solver.init(problem, ctx, start)
    while True:
        history.append(state.figures(time.perf_counter() - began))
        ctx.records.clear()
        if state.reason is not None:
            return state, history
        ctx.prefix = f"{state.iteration + 1:06d}"
        state = solver.step(problem, state, ctx)


__all__ = ["NOMINAL", "SMALL", "machine_profile", "solve"]
