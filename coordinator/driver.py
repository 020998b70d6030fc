"""The driver: runs a job's solver from its newest checkpoint to its end, leaving a checkpoint after every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np

from coordinator.data.blocks import RowBlocks, load_scale, open_data
from coordinator.errors import CancelledError, InputError, JobError, UnknownNameError
from coordinator.executors.choice import check_executor, open_place
from coordinator.jobs import JobSpec, JobStore
from coordinator.kernels import join, memo_bytes
from coordinator.linear_program import KIND, LinearProgram, program_from_spec
from coordinator.losses import is_number
from coordinator.mapping import is_map, run_map
from coordinator.phases import Speculate, StragglerPolicy
from coordinator.problem import Problem, problem_from_spec
from coordinator.profile import Profile, measure
from coordinator.results import Result, load_result, make_result, save_result
from coordinator.runtime import Runtime, TaskRecord
from coordinator.solvers import check_problem, make_solver
from coordinator.solvers.base import Solver, State
from coordinator.storage import FileStorage, Storage

Watcher = Callable[[Mapping[str, Any]], None]
Replay = Mapping[int, Mapping[str, Sequence[int]]]
POLICIES: Final[Mapping[str, StragglerPolicy | None]] = {"wait": None, "speculate": Speculate()}
CANCELLED: Final = "cancelled"
MOST_WORKERS: Final = 10_000
COLD_STARTS: Final = "cold starts"  # beside kinds of phases
MAP_MEMO: Final = 256 << 20  # bytes of items that local workers keep


def class_counts(storage: Storage, data: RowBlocks) -> dict[str, float]:
    """Rows of each class, by str(class)."""
    classes = data.classes or ()
    counts = np.zeros(len(classes))
    values = np.arange(len(classes)) if classes and isinstance(classes[0], str) else np.asarray(classes)
    for key in data.keys:
        y = storage.get_arrays(key)["y"]
        counts += np.bincount(np.searchsorted(values, y), minlength=len(classes))
    return {str(c): float(n) for c, n in zip(classes, counts, strict=True)}


Counter = Callable[[RowBlocks], Mapping[str, float]]


def open_problem(storage: Storage, spec: JobSpec, counts: Counter | None = None) -> Problem | LinearProgram:
    """The problem of a job, checked against its data; `counts` gives the rows of each class where they are needed."""
    data = open_data(storage, spec.data)
    if "kind" in spec.problem:
        if spec.problem["kind"] != KIND:
            raise UnknownNameError("kind of problem", spec.problem["kind"], (KIND,))
        return program_from_spec(spec.problem, data, load_scale(storage, data))
    balanced = spec.problem.get("class_weight") == "balanced" and data.classes is not None
    counts = counts or partial(class_counts, storage)
    return problem_from_spec(spec.problem, data, counts(data) if balanced else None)


def check_spec(storage: Storage, spec: JobSpec) -> Problem | LinearProgram:
    """The problem; InputError for a job that could not run: everything is checked before anything is stored."""
    # any counts will do to check with: the rows need not be read
    problem = open_problem(storage, spec, lambda data: {str(c): 1.0 for c in data.classes or ()})
    solver = make_solver(spec.solver, spec.settings)
    check_problem(solver, problem)
    check_place(storage, spec)
    for name, value in (("max_cost", spec.max_cost), ("deadline", spec.deadline)):
        if value is not None and not (is_number(value) and value > 0):
            raise InputError(f"{name} must be a number above 0, not {value!r}")
    if spec.start is not None:
        _start(storage, spec, problem)
    return problem


def check_place(storage: Storage, spec: JobSpec) -> None:
    """InputError for a policy, an executor or a number of workers that cannot be had."""
    if spec.policy not in POLICIES:
        raise InputError(f"policy must be one of {', '.join(POLICIES)}, not {spec.policy!r}")
    check_executor(spec.executor, storage)
    if spec.workers is not None and not (isinstance(spec.workers, int) and 1 <= spec.workers <= MOST_WORKERS):
        raise InputError(f"workers must be >= 1 and at most {MOST_WORKERS}, not {spec.workers!r}")


def run_job(storage: Storage, job: str, watch: Watcher | None = None, replay: Replay | None = None) -> Result:
    """Run or resume `job` here, to its end; `watch` is given each iteration's figures.

    `replay` names, by iteration and phase, the results to use, as the "arrivals" of another run's events do.

    Returns the result, also of a cancelled job (its best iterate so far) and of one that had ended before. Raises
    JobError when the job runs already, in this process or another, or has ended without a result, and CancelledError
    when it is cancelled before its first iterate; errors of the run are kept in its status and raised.
    """
    store = JobStore(storage)
    spec = store.spec(job)
    if is_map(spec):
        raise JobError(f"job {job!r} maps a function: it has results, not a solution")
    if not _claim(store, job):
        return load_result(storage, job)
    with _accounted(store, job):
        return _run_here(store, spec, watch, replay or {})


def run_map_job(storage: Storage, job: str, watch: Watcher | None = None, *, allow_code: bool = False) -> None:
    """Run or resume a job that maps a function here, to its end; its status says whether it was cancelled.

    `allow_code` : lets the function run in this process, or on workers on this machine. Raises JobError when the job
    runs already, ItemError when its function fails, and CodeRefusedError where it may not run.
    """
    store = JobStore(storage)
    spec = store.spec(job)
    if not _claim(store, job):
        return
    with (
        _accounted(store, job),
        open_place(spec.executor, storage, job, spec.workers, MAP_MEMO, allow_code=allow_code) as place,
    ):
        ctx = Runtime(place.executor, place.scratch, policy=POLICIES[spec.policy], stopped=Stops(store, spec))
        with ctx.session():
            run_map(store, spec, ctx, partial(store.update, job), watch, root=place.root)


def carry_out(storage: Storage, job: str, *, allow_code: bool = False) -> None:
    """Run or resume a job of whatever kind here; see `run_job` and `run_map_job`."""
    if is_map(JobStore(storage).spec(job)):
        run_map_job(storage, job, allow_code=allow_code)
    else:
        run_job(storage, job)


def _claim(store: JobStore, job: str) -> bool:
    """Make the job this process's to run; False when it has ended, JobError when it runs."""
    if not store.claim(job):
        status = store.status(job)
        if status.final:
            return False
        raise JobError(f"job {job!r} runs already, in process {status.pid}: wait for it, or cancel it")
    if isinstance(store.storage, FileStorage):
        store.storage.sweep(f"jobs/{job}")  # of a run before that was killed after this store was opened
    return True


@contextmanager
def _accounted(store: JobStore, job: str) -> Iterator[None]:
    """Keep in the job's status how a run ended that ended in an exception."""
    try:
        yield
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


def _run_here(store: JobStore, spec: JobSpec, watch: Watcher | None, replay: Replay) -> Result:
    problem = open_problem(store.storage, spec)
    memo = memo_bytes(problem.data.n_rows, problem.n_outputs)
    with open_place(spec.executor, store.storage, spec.id, spec.workers, memo) as place:
        ctx = Runtime(place.executor, place.scratch, policy=POLICIES[spec.policy], stopped=Stops(store, spec))
        profile = Profile(**spec.profile) if spec.profile is not None else measure(spec.workers)
        update = partial(store.update, spec.id)
        result = Loop(store, spec, ctx, profile, update, watch, root=place.root, replay=replay).run(problem)
    assert result is not None  # nobody asked it to leave
    return result


@dataclass
class Stops:
    """Whether to stop, and why: somebody cancelled the job, or its deadline has passed."""

    store: JobStore
    spec: JobSpec
    every: float = 0.2  # seconds: a look at the store costs more than a small task
    _checked: float = 0.0
    _reason: str | None = None

    def __call__(self) -> str | None:
        now = time.perf_counter()
        if self._reason is None and now - self._checked > self.every:
            self._checked = now
            self._reason = self.look()
        return self._reason

    def look(self) -> str | None:
        """The reason to stop now, or None."""
        if self.store.cancelled(self.spec.id):
            return CANCELLED
        if self.spec.deadline is not None and time.time() > self.spec.deadline:
            return "stopped at its deadline"
        return None


@dataclass
class Loop:
    """Steps of one job's solver, from its newest checkpoint on, on a runtime that is given.

    Attributes
    ----------
    update : changes fields of the job's status.
    watch : is given each iteration's figures.
    root : key prefix of what a step stores.
    leave : asked between steps, given the seconds of the longest: whether another process is to do the rest.
    replay : iteration -> phase -> the results to use, as events hold them, to repeat a run bit for bit.
    run_id : tells the task records of this run from those of others that got no further.
    """

    store: JobStore
    spec: JobSpec
    ctx: Runtime
    profile: Profile
    update: Callable[..., object]
    watch: Watcher | None = None
    root: str = ""
    leave: Callable[[float], bool] = lambda longest: False  # noqa: ARG005
    replay: Replay = field(default_factory=dict)
    run_id: str = ""
    _began: float = 0.0
    _resumed: bool = False  # whether the next event is the first of a run that goes on
    _row: Mapping[str, Any] = field(default_factory=dict)  # of the newest iteration

    def run(self, problem: Problem | LinearProgram) -> Result | None:
        """The result, also of a job that was stopped, its best iterate so far; None when it is left to another."""
        solver = make_solver(self.spec.solver, self.spec.settings)
        check_problem(solver, problem)
        self.ctx.cache["profile"] = self.profile
        with self.ctx.session():
            return self._steps(solver, problem)

    def _steps(self, solver: Solver, problem: Problem | LinearProgram) -> Result | None:
        job, ctx = self.spec.id, self.ctx
        before = self.store.last_event(job)
        self._resumed = before is not None
        # times go on from those of the runs before: records lie on one axis
        self._began = ctx.began = time.perf_counter() - (float(before["seconds"]) if before else 0.0)
        state = self.store.load_state(job, solver.state)
        longest, stopped = 0.0, ""
        try:
            if state is None:
                w0 = _start(self.store.storage, self.spec, problem) if self.spec.start else None
                self._prepare(0)
                state = self._keep(solver, solver.init(problem, ctx, w0))
                self._tell()
            while state.reason is None:
                if self.leave(longest):
                    return None
                began = time.perf_counter()
                self._prepare(state.iteration + 1)
                state = self._keep(solver, solver.step(problem, state, ctx))
                self._tell()
                longest = max(longest, time.perf_counter() - began)
        except CancelledError as error:
            if state is None:
                raise
            stopped = str(error)
        seconds = {**ctx.seconds, "total": time.perf_counter() - self._began}
        result = self._result(solver, problem, state, seconds, stopped)
        save_result(self.store.storage, result)
        word = "cancelled" if stopped == CANCELLED else "done"
        self.update(state=word, pid=None, ended=time.time(), message=result.reason)
        return result

    def _prepare(self, iteration: int) -> None:
        self.ctx.prefix = f"{self.root}{iteration:06d}"
        self.ctx.replay = self.replay.get(iteration, {})

    def _keep(self, solver: Solver, state: State) -> State:
        """Store what the iteration has left; the state to go on from."""
        job, ctx = self.spec.id, self.ctx
        row = {
            **state.figures(time.perf_counter() - self._began),
            "arrivals": dict(ctx.arrivals),
            **({"resumed": True} if self._resumed else {}),
        }
        self.store.save_tasks(job, state.iteration, ctx.records, self.run_id)
        if self.store.save_event(job, state.iteration, row):
            self._resumed = False
        if not self.store.save_state(job, state.iteration, state) and state.reason is None:
            # a run that was thought dead got as far: its checkpoint was first, and stands
            stands = self.store.load_state(job, solver.state)
            assert stands is not None
            state = stands
        self.update(iteration=state.iteration, objective=state.value, relative=state.relative)
        ctx.records.clear()
        ctx.arrivals.clear()
        self._row = row
        return state

    def _tell(self) -> None:
        """Show the newest iteration to who watches; what that raises stops the run at the state that is kept."""
        if self.watch is not None:
            self.watch(self._row)

    def _result(
        self,
        solver: Solver,
        problem: Problem | LinearProgram,
        state: State,
        seconds: Mapping[str, float],
        stopped: str,
    ) -> Result:
        return make_result(
            self.spec.id,
            self.spec.solver,
            problem,
            self.store.storage,
            state,
            solver.solution(state),
            stopped=stopped,
            seconds=seconds,
            history=tuple(self.store.events(self.spec.id)),
            cost=cost_by_phase(self.store.tasks(self.spec.id)),
        )


def cost_by_phase(records: Iterable[TaskRecord]) -> dict[str, float]:
    """Dollars by kind of phase, of the attempts that cost any; those of starting workers apart."""
    out: dict[str, float] = {}
    for record in records:
        if (report := record.report) is not None:
            kind = record.phase.rsplit("#", 1)[0]
            out[kind] = out.get(kind, 0.0) + report.cost - report.starting
            if report.starting:
                out[COLD_STARTS] = out.get(COLD_STARTS, 0.0) + report.starting
    return out


def profile_spec(profile: Profile) -> dict[str, Any]:
    """A profile as JSON for a job's spec."""
    return asdict(profile)
