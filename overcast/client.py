"""The client: data in, jobs out, results back, on a store in memory or in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from scipy import sparse

from coordinator.data.blocks import list_data, open_data
from coordinator.data.frames import is_frame
from coordinator.data.importing import ImportReport, Progress
from coordinator.driver import Watcher, check_spec, run_job
from coordinator.errors import InputError
from coordinator.jobs import JobSpec, JobStore, new_id
from coordinator.linear_program import KIND, cost_vector
from coordinator.losses import Loss, loss_from_spec
from coordinator.problem import Penalty
from coordinator.results import Result
from coordinator.solvers import make_solver
from coordinator.storage import Storage
from overcast import store as stores
from overcast.handle import JobHandle

SOLVER: Final = "oversketched-newton"
PROGRAMS: Final = "interior-point"


class Client:
    """Solves problems on the data of one store.

    Parameters
    ----------
    store : folder, made if need be; None keeps everything in memory, for as long as the client lives.

    Examples
    --------
    >>> client = Client("my-store")
    >>> client.import_data("a9a.libsvm.xz", name="a9a")
    >>> job = client.submit("a9a", loss="logistic", l2=1e-4)
    >>> for row in job.stream():
    ...     print(row["iteration"], row["relative"])
    >>> job.result().coef_
    """

    def __init__(self, store: str | os.PathLike[str] | None = None) -> None:
        self.storage = stores.open_store(store)
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
        workers : threads; None: all cores.
        start : earlier job (or its id) to start from the solution of.
        id : of the job; default: made of the time.
        policy : what to do about straggling tasks, "wait" or "speculate".
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
                version=version("overcast"),
            )
            check_spec(self.storage, spec)
            spec = replace(spec, profile=asdict(stores.profile_of(self.storage)))
            return JobHandle(self.storage, self._jobs.create(spec).id)
        except BaseException:
            if name not in before:
                self.storage.delete(f"data/{name}")
            raise

    def job(self, id: str) -> JobHandle:  # noqa: A002  the word users know
        """A handle on the job; its unambiguous beginning is enough. JobMissingError if there is none."""
        return JobHandle(self.storage, stores.find_job(self._jobs, id))

    def jobs(self) -> tuple[JobHandle, ...]:
        """All jobs, oldest first."""
        made = {job: self._jobs.spec(job).created for job in self._jobs.ids()}
        return tuple(JobHandle(self.storage, job) for job in sorted(made, key=lambda job: made[job]))

    list = jobs

    def data(self) -> tuple[str, ...]:
        """Names of the data sets."""
        return tuple(list_data(self.storage))

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
