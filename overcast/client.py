"""The client: data in, jobs out, results back, on a store in memory or in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from coordinator.cloud.deployment import cloud_profile
from coordinator.data.importing import Progress
from coordinator.driver import Watcher, check_place, check_spec, run_job, run_map_job
from coordinator.errors import InputError
from coordinator.jobs import JobSpec, JobStore, new_id
from coordinator.listing import list_jobs
from coordinator.losses import loss_from_spec
from coordinator.mapping import create_map
from coordinator.problem import Penalty
from coordinator.profile import Profile
from coordinator.results import Result
from coordinator.solvers import make_solver
from overcast import store as stores
from overcast.asking import ask, takes
from overcast.handle import JobHandle, made_here

if TYPE_CHECKING:
    from coordinator.uncertainty import Uncertainty

LITHOPS_PHASE: Final = 2.0  # seconds that a phase takes through Lithops, whatever it does


class Client(stores.DataSets):
    """Solves problems on the data of one store.

    Parameters
    ----------
    store : folder, made if need be, or "s3://BUCKET"; None keeps everything in memory, for as long as the client lives.
    allow_code : lets functions that are mapped run in this process, and on workers on this machine.

    Examples
    --------
    >>> client = Client("my-store")
    >>> client.import_data("a9a.libsvm.xz", name="a9a")
    >>> job = client.submit("a9a", loss="logistic", l2=1e-4)
    >>> for row in job.stream():
    ...     print(row["iteration"], row["relative"])
    >>> job.result().coef_
    """

    def __init__(self, store: str | os.PathLike[str] | None = None, *, allow_code: bool = False) -> None:
        self.storage = stores.open_store(store)
        self.allow_code = allow_code
        self._jobs = JobStore(self.storage)

    @takes(ask)
    def submit(self, data: Any, *, wait: bool = False, **options: Any) -> JobHandle:
        """Check a job, store it, run it in the background.

        With a store on disk it runs in a process of its own, which the end of this one leaves alone; in memory, or
        with a loss that is registered in this process only, it runs in a thread.

        Parameters
        ----------
        data : name of a data set, path of a file (imported first, under its name), or (X, y) or (X, y, weight)
            of arrays or a frame (imported first, under a name made of their content).
        loss : name, {"name": ..., options}, or instance of a registered class.
        c : instead of a loss: the cost of a linear program, (d,). It is min c'x subject to Ax <= b, the rows of the
            data being those of A and their targets b; x is free, so that bounds are rows too, x_j >= 0 being -e_j with
            target 0. An equality is no pair of rows: the inside must not be empty. The solution x is the result's
            `coef_`; `reason` says so where there is none, beginning with "infeasible", "no interior" or "unbounded".
        l2, l1 : penalties l2/2 |w|^2 + l1 |w|_1, per unit of weight; the intercept is not penalised.
        class_weight : {class: weight}, list in the order of classes, or "balanced".
        solver, settings : name in the registry (`overcast solvers`; default: oversketched-newton, for linear programs
            interior-point), and its settings, such as tol, max_iter, seed.
        workers : threads, or calls at once elsewhere; None: all cores, or 32.
        start : earlier job (or its id) to start from the solution of.
        id : of the job; default: made of the time.
        policy : what to do about straggling tasks, "wait" or "speculate".
        executor : what runs the tasks: "local" is threads of one process here, "lithops" whatever back end Lithops is
            configured for.
        wait : return only when it has ended.

        Raises InputError for whatever cannot be used; nothing is stored then.
        """
        handle = self.prepare(data, **options)
        handle.launch()
        if wait:
            handle.wait()
        return handle

    @takes(ask)
    def solve(self, data: Any, *, watch: Watcher | None = None, **options: Any) -> Result:
        """Solve here and now; arguments as for `submit`, `watch` is called with each iteration's figures.

        A result that did not converge is a result: see its `converged` and `reason`.
        """
        return run_job(self.storage, self.prepare(data, **options).id, watch)

    @takes(ask)
    def prepare(
        self,
        data: Any,
        *,
        import_options: Mapping[str, Any] | None = None,
        progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> JobHandle:
        """Check and store a job without running it: `launch` or `resume` of the handle do that.

        Arguments as for `submit`. Data that were brought in for the job go again when it cannot be made.
        """
        # what needs no data is checked before data are imported
        asked = ask(data, **options) | {"version": version("overcast")}
        problem = asked["problem"]
        if "loss" in problem:
            loss_from_spec(problem["loss"])
            Penalty(l2=problem["l2"], l1=problem["l1"])
        if asked["executor"] != "local" and made_here(problem):
            raise InputError(f"loss {problem['loss']!r} is known in this process only: use executor='local' for it")
        make_solver(asked["solver"], asked["settings"])
        asked["id"] = asked["id"] or new_id()
        self._jobs.check_id(asked["id"])
        if asked["start"] is not None:
            asked["start"] = stores.find_job(self._jobs, asked["start"])
        before = self.data()
        asked["data"] = stores.bring_data(self.storage, data, import_options or {}, progress)
        try:
            spec = JobSpec(**asked)
            check_spec(self.storage, spec)
            spec = replace(spec, profile=asdict(self._profile(spec)))
            return JobHandle(self.storage, self._jobs.create(spec).id)
        except BaseException:
            if asked["data"] not in before:
                self.storage.delete(f"data/{asked['data']}")
            raise

    def map(
        self,
        fn: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        executor: str = "local",
        workers: int | None = None,
        retries: int = 2,
        policy: str = "wait",
        trust_results: bool = False,
        id: str | None = None,  # noqa: A002  the word users know
        watch: Watcher | None = None,
    ) -> list[Any]:
        """`[fn(item) for item in items]` on workers, with failures tried again; a job like others.

        The function travels by cloudpickle and runs only where code is allowed: `Client(allow_code=True)` for this
        process and machine, OVERCAST_ALLOW_CODE=1 on workers elsewhere. Python's minor version must be the same there.

        Parameters
        ----------
        fn : function of one item. What it imports must be installed where it runs.
        items : plain data and arrays of numbers travel as such, anything else by cloudpickle.
        executor, workers, policy, id : as for `submit`; the policy "speculate" gives stragglers a second copy.
        retries : times that the function may fail on one item before the job does.
        trust_results : let results that are no plain data or arrays come back pickled. Unpickling them runs what the
            workers, and whoever can write to the store, wish.
        watch : called with "done", "items" and "seconds" now and then.

        Raises
        ------
        ItemError
            When the function fails on an item; `index` is the item's.
        CodeRefusedError
            Where code is not allowed, or the function that was found is not the one that was sent.
        CancelledError
            When it is cancelled; `job(id).resume()` goes on.
        """
        job = id or new_id()
        spec = JobSpec(job, "", {}, "", workers=workers, policy=policy, executor=executor, version=version("overcast"))
        check_place(self.storage, spec)
        create_map(self._jobs, spec, fn, items, pickled=trust_results, attempts=retries + 1)
        run_map_job(self.storage, job, watch, allow_code=self.allow_code)
        return self.job(job).outputs(trust_results=trust_results)

    def job(self, id: str) -> JobHandle:  # noqa: A002  the word users know
        """A handle on the job; its unambiguous beginning is enough. JobMissingError if there is none."""
        return JobHandle(self.storage, stores.find_job(self._jobs, id), allow_code=self.allow_code)

    def uncertainty(self, job: str | JobHandle, **options: Any) -> Uncertainty:
        """Standard errors, tests and intervals of an ended job's coefficients: see `JobHandle.uncertainty`."""
        return (job if isinstance(job, JobHandle) else self.job(job)).uncertainty(**options)

    def jobs(self) -> tuple[JobHandle, ...]:
        """All jobs, oldest first."""
        return tuple(JobHandle(self.storage, job.id, allow_code=self.allow_code) for job in list_jobs(self._jobs))

    list = jobs

    def _profile(self, spec: JobSpec) -> Profile:
        """Rates of the machine, or of the workers, that run the job."""
        if spec.executor == "local":
            return stores.profile_of(self.storage)
        return replace(cloud_profile(spec.workers), phase=LITHOPS_PHASE)
