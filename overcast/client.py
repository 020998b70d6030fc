"""The client: data in, jobs out, results back, on a store in memory or in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import sparse

from coordinator.cloud.deployment import cloud_profile
from coordinator.data.blocks import list_data, open_data
from coordinator.data.frames import is_frame
from coordinator.data.importing import ImportReport, Progress
from coordinator.driver import Watcher, check_place, check_spec, run_job, run_map_job
from coordinator.errors import InputError
from coordinator.jobs import JobSpec, JobStore, new_id
from coordinator.linear_program import KIND, cost_vector
from coordinator.losses import Loss, loss_from_spec
from coordinator.mapping import create_map
from coordinator.problem import Penalty
from coordinator.profile import Profile
from coordinator.results import Result
from coordinator.solvers import make_solver
from coordinator.storage import Storage
from overcast import store as stores
from overcast.handle import JobHandle, made_here

if TYPE_CHECKING:
    from coordinator.uncertainty import Uncertainty

SOLVER: Final = "oversketched-newton"
PROGRAMS: Final = "interior-point"
LITHOPS_PHASE: Final = 2.0  # seconds that a phase takes through Lithops, whatever it does


class Client:
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

    def import_data(
        self,
        source: Any,
        name: str | None = None,
        *,
        target: Any = None,
        row_weight: Any = None,
        progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> ImportReport:
        """Store a data set.

        Parameters
        ----------
        source : path, or list of paths of one format; or array, SciPy sparse matrix, pandas or polars frame.
        name : what to call it; default: the file's name without suffixes.
        target, row_weight : (n,) each, for sources in memory and .npy, .npz files.
        progress : called with how far it is.
        options : fields of `coordinator.data.importing.ImportOptions`, such as label, one_hot, scale, replace.

        Raises InputError for data or options that cannot be used; nothing is stored then.
        """
        if name is None:
            if not isinstance(source, str | os.PathLike):
                raise InputError("give the data a name: import_data(source, name=...)")
            name = stores.data_name(source)
        wanted = stores.import_options(name, **options)
        return stores.bring_in(self.storage, source, wanted, target=target, weight=row_weight, progress=progress)

    def submit(
        self,
        data: Any,
        *,
        loss: str | Mapping[str, Any] | Loss | None = None,
        c: Any = None,
        l2: float = 0.0,
        l1: float = 0.0,
        intercept: bool = True,
        class_weight: Any = None,
        solver: str | None = None,
        workers: int | None = None,
        start: str | JobHandle | None = None,
        id: str | None = None,  # noqa: A002  the word users know
        policy: str = "wait",
        executor: str = "local",
        wait: bool = False,
        **settings: Any,
    ) -> JobHandle:
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
        handle = self.prepare(
            data,
            loss,
            c=c,
            l2=l2,
            l1=l1,
            intercept=intercept,
            class_weight=class_weight,
            solver=solver,
            settings=settings,
            workers=workers,
            start=start,
            id=id,
            policy=policy,
            executor=executor,
        )
        handle.launch()
        if wait:
            handle.wait()
        return handle

    def solve(
        self,
        data: Any,
        *,
        loss: str | Mapping[str, Any] | Loss | None = None,
        c: Any = None,
        l2: float = 0.0,
        l1: float = 0.0,
        intercept: bool = True,
        class_weight: Any = None,
        solver: str | None = None,
        workers: int | None = None,
        start: str | JobHandle | None = None,
        id: str | None = None,  # noqa: A002  the word users know
        policy: str = "wait",
        executor: str = "local",
        watch: Watcher | None = None,
        **settings: Any,
    ) -> Result:
        """Solve here and now; arguments as for `submit`, `watch` is called with each iteration's figures.

        A result that did not converge is a result: see its `converged` and `reason`.
        """
        handle = self.prepare(
            data,
            loss,
            c=c,
            l2=l2,
            l1=l1,
            intercept=intercept,
            class_weight=class_weight,
            solver=solver,
            settings=settings,
            workers=workers,
            start=start,
            id=id,
            policy=policy,
            executor=executor,
        )
        return run_job(self.storage, handle.id, watch)

    def prepare(
        self,
        data: Any,
        loss: str | Mapping[str, Any] | Loss | None = None,
        *,
        c: Any = None,
        l2: float = 0.0,
        l1: float = 0.0,
        intercept: bool = True,
        class_weight: Any = None,
        solver: str | None = None,
        settings: Mapping[str, Any] | None = None,
        workers: int | None = None,
        start: str | JobHandle | None = None,
        id: str | None = None,  # noqa: A002  the word users know
        policy: str = "wait",
        executor: str = "local",
        import_options: Mapping[str, Any] | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> JobHandle:
        """Check and store a job without running it: `launch` or `resume` of the handle do that.

        Arguments as for `submit`; `import_options` and `progress` serve when `data` is a file. Data that were brought
        in for the job go again when it cannot be made.
        """
        settings = {key: plain(value) for key, value in (settings or {}).items()}
        # what needs no data is checked before data are imported
        if c is not None:
            problem = pose_program(c, loss, l2, l1, class_weight)
        else:
            problem = pose(loss, l2, l1, intercept, class_weight)
            loss_from_spec(problem["loss"])
            Penalty(l2=problem["l2"], l1=problem["l1"])
        if executor != "local" and made_here(problem):
            raise InputError(f"loss {problem['loss']!r} is known in this process only: use executor='local' for it")
        solver = solver or (SOLVER if c is None else PROGRAMS)
        make_solver(solver, settings)
        job = id or new_id()
        self._jobs.check_id(job)
        if start is not None:
            start = start.id if isinstance(start, JobHandle) else stores.find_job(self._jobs, start)
        before = self.data()
        name = bring_data(self.storage, data, import_options or {}, progress)
        try:
            spec = JobSpec(
                id=job,
                data=name,
                problem=problem,
                solver=solver,
                settings=settings,
                workers=workers,
                start=start,
                policy=policy,
                executor=executor,
                version=version("overcast"),
            )
            check_spec(self.storage, spec)
            spec = replace(spec, profile=asdict(self._profile(spec)))
            return JobHandle(self.storage, self._jobs.create(spec).id)
        except BaseException:
            if name not in before:
                self.storage.delete(f"data/{name}")
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
        made = {job: self._jobs.spec(job).created for job in self._jobs.ids()}
        found = sorted(made, key=lambda job: made[job])
        return tuple(JobHandle(self.storage, job, allow_code=self.allow_code) for job in found)

    list = jobs

    def data(self) -> tuple[str, ...]:
        """Names of the data sets."""
        return tuple(list_data(self.storage))

    def _profile(self, spec: JobSpec) -> Profile:
        """Rates of the machine, or of the workers, that run the job."""
        if spec.executor == "local":
            return stores.profile_of(self.storage)
        return replace(cloud_profile(spec.workers), phase=LITHOPS_PHASE)

    def delete_data(self, name: str) -> None:
        """Remove a data set. Jobs that use it can no longer run; their results stay."""
        open_data(self.storage, name)
        self.storage.delete(f"data/{name}")


def bring_data(
    storage: Storage, data: Any, options: Mapping[str, Any], progress: Callable[[Progress], None] | None = None
) -> str:
    """The name of a data set, imported into `storage` if need be: `data` as for `Client.submit`."""
    if isinstance(data, str | os.PathLike):
        return stores.find_data(storage, data, options, progress).name
    if not isinstance(data, tuple) or len(data) not in {2, 3}:
        raise InputError("data must be the name of a data set, a path, or a tuple (X, y) or (X, y, weight)")
    X, y, weight = (*data, None)[:3]
    name = f"arrays-{_content(X, y, weight)}"
    if not stores.manifest_there(storage, name):
        stores.bring_in(storage, X, stores.import_options(name), target=y, weight=weight)
    return name


def pose(loss: Any, l2: Any, l1: Any, intercept: Any, class_weight: Any) -> dict[str, Any]:
    """The problem as JSON."""
    if loss is None:
        raise InputError("say what to minimise: a loss, such as loss='logistic', or the cost c of a linear program")
    if isinstance(loss, Loss):
        loss = loss.spec()
    elif isinstance(loss, Mapping):
        loss = dict(loss)
    if isinstance(class_weight, Mapping):
        class_weight = {str(key): plain(value) for key, value in class_weight.items()}
    elif class_weight is not None and not isinstance(class_weight, str):
        class_weight = [plain(value) for value in class_weight]
    return {
        "loss": loss,
        "l2": plain(l2),
        "l1": plain(l1),
        "intercept": plain(intercept),
        "class_weight": class_weight,
    }


def pose_program(c: Any, loss: Any, l2: Any, l1: Any, class_weight: Any) -> dict[str, Any]:
    """The linear program as JSON."""
    if loss is not None or l2 or l1 or class_weight is not None:
        raise InputError("a linear program has its cost c only: give no loss, l1, l2 or class_weight with it")
    return {"kind": KIND, "c": cost_vector(c).tolist()}


def plain(value: Any) -> Any:
    """A NumPy scalar as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _content(*parts: Any) -> str:
    """A short hash of arrays, sparse matrices and frames."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if part is None:
            arrays: list[Any] = []
        elif sparse.issparse(part):
            csr = sparse.csr_matrix(part)
            arrays = [np.array(csr.shape), csr.data, csr.indices, csr.indptr]
        elif is_frame(part):
            arrays = [np.array([str(c) for c in part.columns])] + [np.asarray(part[c]) for c in part.columns]
        else:
            arrays = [np.asarray(part)]
        digest.update(f"{len(arrays)};".encode())
        for array in arrays:
            digest.update(f"{array.shape}{array.dtype};".encode())
            if array.dtype.kind in "OT":
                digest.update("\0".join(map(str, array.ravel().tolist())).encode())
            else:
                digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.hexdigest()
