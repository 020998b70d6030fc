"""The driver: runs a job's solver from its newest checkpoint to its end, leaving a checkpoint after every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from coordinator.data.blocks import RowBlocks, load_scale, open_data
from coordinator.errors import CancelledError, InputError, JobError, UnknownNameError
from coordinator.executors.local import LocalExecutor
from coordinator.jobs import JobSpec, JobStore
from coordinator.kernels import join, memo_bytes
from coordinator.linear_program import KIND, LinearProgram, program_from_spec
from coordinator.phases import Speculate, StragglerPolicy, Wait
from coordinator.problem import Problem, problem_from_spec
from coordinator.profile import Profile, measure
from coordinator.results import Result, load_result, make_result, save_result
from coordinator.runtime import Runtime
from coordinator.solvers import check_problem, make_solver
from coordinator.solvers.base import Solver, State
from coordinator.storage import FileStorage, MemoryStorage, Storage
from coordinator.tasks import Worker

Watcher = Callable[[Mapping[str, Any]], None]
_POLICIES: Mapping[str, StragglerPolicy] = {"wait": Wait(), "speculate": Speculate()}


def class_counts(storage: Storage, data: RowBlocks) -> dict[str, float]:
    """Rows of each class, by str(class)."""
    classes = data.classes or ()
    counts = np.zeros(len(classes))
    values = np.arange(len(classes)) if classes and isinstance(classes[0], str) else np.asarray(classes)
    for key in data.keys:
        y = storage.get_arrays(key)["y"]
        counts += np.bincount(np.searchsorted(values, y), minlength=len(classes))
    return {str(c): float(n) for c, n in zip(classes, counts, strict=True)}


def open_problem(storage: Storage, spec: JobSpec) -> Problem | LinearProgram:
    """The problem of a job, checked against its data."""
    data = open_data(storage, spec.data)
    if "kind" in spec.problem:
        if spec.problem["kind"] != KIND:
            raise UnknownNameError("kind of problem", spec.problem["kind"], (KIND,))
        return program_from_spec(spec.problem, data, load_scale(storage, data))
    balanced = spec.problem.get("class_weight") == "balanced" and data.classes is not None
    return problem_from_spec(spec.problem, data, class_counts(storage, data) if balanced else None)


def check_spec(storage: Storage, spec: JobSpec) -> None:
    """InputError for a job that could not run: everything is checked before anything is stored."""
    problem = open_problem(storage, spec)
    solver = make_solver(spec.solver, spec.settings)
    check_problem(solver, problem)
    if spec.policy not in _POLICIES:
        raise InputError(f"policy must be one of {', '.join(_POLICIES)}, not {spec.policy!r}")
    if spec.workers is not None and spec.workers < 1:
        raise InputError(f"workers must be >= 1, not {spec.workers}")
    if spec.start is not None:
        _start(storage, spec, problem)


def run_job(storage: Storage, job: str, watch: Watcher | None = None) -> Result:
    """Run or resume `job` here, to its end; `watch` is given each iteration's figures.

    Returns the result, also of a cancelled job (its best iterate so far) and of one that had ended before. Raises
    JobError when the job runs already, in this process or another, or has ended without a result, and CancelledError
    when it is cancelled before its first iterate; errors of the run are kept in its status and raised.
    """
    store = JobStore(storage)
    spec = store.spec(job)
    if not store.claim(job):
        status = store.status(job)
        if status.final:
            return load_result(storage, job)
        raise JobError(f"job {job!r} runs already, in process {status.pid}: wait for it, or cancel it")
    if isinstance(storage, FileStorage):
        storage.sweep(f"jobs/{job}")  # of a run before that was killed after this store was opened
    try:
        return _Run(store, spec, watch).run()
    except KeyboardInterrupt:
        store.update(job, state="interrupted", pid=None, message="interrupted; resume it")
        raise
    except CancelledError:
        store.update(job, state="cancelled", pid=None, ended=time.time(), message="cancelled before its first iterate")
        raise
    except BaseException as error:
        store.update(job, state="failed", pid=None, ended=time.time(), message=f"{error}")
        raise


def _start(storage: Storage, spec: JobSpec, problem: Problem | LinearProgram) -> np.ndarray:
    """The solution of an earlier job as a starting point."""
    assert spec.start is not None
    before = load_result(storage, spec.start)
    bias = before.intercept_ if isinstance(problem, Problem) and problem.intercept else None
    scale = load_scale(storage, problem.data)
    # coefficients of results are for columns as they came
    w = join((before.coef_ if scale is None or scale.size != before.coef_.shape[-1] else before.coef_ * scale).T, bias)
    if w.size != problem.n_parameters:
        raise InputError(f"job {spec.start!r} has {w.size} parameters, this problem {problem.n_parameters}")
    return w


@dataclass
class _Run:
    store: JobStore
    spec: JobSpec
    watch: Watcher | None
    _checked: float = 0.0
    _stop: bool = False
    _resumed: bool = False  # whether the next event is the first of a run that goes on

    def run(self) -> Result:
        storage, spec = self.store.storage, self.spec
        problem = open_problem(storage, spec)
        solver = make_solver(spec.solver, spec.settings)
        check_problem(solver, problem)
        scratch = MemoryStorage()
        memo = memo_bytes(problem.data.n_rows, problem.n_outputs)
        with LocalExecutor(Worker(storage, scratch, memo), spec.workers) as executor:
            ctx = Runtime(executor, scratch, policy=_POLICIES[spec.policy], stopped=self._stopped)
            profile = Profile(**spec.profile) if spec.profile is not None else measure(spec.workers)
            ctx.cache["profile"] = profile
            with ctx.session():
                return self._steps(solver, problem, ctx)

    def _steps(self, solver: Solver, problem: Problem | LinearProgram, ctx: Runtime) -> Result:
        job = self.spec.id
        began = time.perf_counter()
        before = self.store.events(job)
        earlier = float(before[-1]["seconds"]) if before else 0.0
        ctx.began = began - earlier  # task records lie on one axis, whatever the number of runs
        self._resumed = bool(before)
        state = self.store.load_state(job, solver.state)
        cancelled = False
        try:
            if state is None:
                w0 = _start(self.store.storage, self.spec, problem) if self.spec.start else None
                ctx.prefix = "000000"
                state = solver.init(problem, ctx, w0)
                self._keep(state, ctx, earlier + time.perf_counter() - began)
            while state.reason is None:
                ctx.prefix = f"{state.iteration + 1:06d}"
                state = solver.step(problem, state, ctx)
                self._keep(state, ctx, earlier + time.perf_counter() - began)
        except CancelledError:
            if state is None:
                raise
            cancelled = True
        seconds = {**ctx.seconds, "total": earlier + time.perf_counter() - began}
        result = self._result(solver, problem, state, seconds, cancelled)
        save_result(self.store.storage, result)
        word = "cancelled" if cancelled else "done"
        self.store.update(job, state=word, pid=None, ended=time.time(), message=result.reason)
        return result

    def _keep(self, state: State, ctx: Runtime, seconds: float) -> None:
        job = self.spec.id
        row = {
            "iteration": state.iteration,
            "objective": state.value,
            "residual": state.residual,
            "relative": state.relative,
            "passes": state.passes,
            "seconds": seconds,
            **state.row,
            "arrivals": dict(ctx.arrivals),
            **({"resumed": True} if self._resumed else {}),
        }
        self.store.save_tasks(job, state.iteration, ctx.records)
        if self.store.save_event(job, state.iteration, row):
            self._resumed = False
        self.store.save_state(job, state.iteration, state)
        ctx.records.clear()
        ctx.arrivals.clear()
        self.store.update(job, iteration=state.iteration, objective=state.value, relative=state.relative)
        if self.watch is not None:
            self.watch(row)

    def _result(
        self,
        solver: Solver,
        problem: Problem | LinearProgram,
        state: State,
        seconds: Mapping[str, float],
        cancelled: bool,
    ) -> Result:
        return make_result(
            self.spec.id,
            self.spec.solver,
            problem,
            self.store.storage,
            solver.solution(state),
            n_iter_=state.iteration,
            converged=state.reason == "converged",
            reason="cancelled; this is the best iterate so far" if cancelled else str(state.reason),
            objective=state.value,
            residual=state.residual,
            relative=state.relative,
            passes=state.passes,
            seconds=seconds,
            chosen=getattr(state, "chosen", {}),
            history=tuple(self.store.events(self.spec.id)),
        )

    def _stopped(self) -> str | None:
        now = time.perf_counter()
        if now - self._checked > 0.2 and not self._stop:  # a look at the store costs more than a small task
            self._checked = now
            self._stop = self.store.cancelled(self.spec.id)
        return "cancelled" if self._stop else None


def profile_spec(profile: Profile) -> dict[str, Any]:
    """A profile as JSON for a job's spec."""
    return asdict(profile)
