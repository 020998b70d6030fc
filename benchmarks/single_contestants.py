"""One contestant of the single-node benchmark in a process of its own: fits, and says how it went as lines of JSON."""

from __future__ import annotations

import contextlib
import json
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import single_cases as cases
from numpy.typing import NDArray

from coordinator import embedded
from coordinator.driver import run_job
from coordinator.errors import InputError
from coordinator.jobs import JobSpec, JobStore, new_id
from coordinator.profile import Profile
from coordinator.results import Result
from coordinator.solvers import SOLVERS
from coordinator.solvers.averaging import AveragedState
from coordinator.storage import FileStorage

OVERCAST = ("auto", "metric", "averaged", "pcg", "exact", "lbfgs")  # strategies, and solvers by name
SKLEARN = ("newton-cholesky", "lbfgs", "newton-cg", "sag", "saga", "liblinear")
CONTESTANTS = (*(f"overcast/{name}" for name in OVERCAST), *(f"sklearn/{name}" for name in SKLEARN))
AVERAGING = tuple(f"overcast/{name}" for name, kind in SOLVERS.items() if issubclass(kind.state, AveragedState))
DEFAULT = "overcast/auto"
CHOOSERS = (DEFAULT, "overcast/averaged-newton")
SLACK = 1.05  # a gradient is known no better than this in float32
BRIEF = 5.0  # seconds; briefer fits are repeated
LADDER = 10**-0.5  # from one tolerance of scikit-learn to the next
MATRIX = 4e9  # bytes of a Hessian that newton-cholesky may form


@dataclass
class Fit:
    """Coefficients (d, K), intercepts (K,), and figures."""

    W: NDArray[Any]
    bias: NDArray[Any]
    figures: dict[str, Any]


Fitter = Callable[[float], Fit]


def run(name: str, folder: Path, target: float, limit: float, repeats: int) -> None:
    """Run contestant `name`, printing one line of JSON per event; the last with "seconds" is the outcome."""
    meta = cases.load_meta(folder)
    library, method = name.split("/")
    remark = {}
    if method == "liblinear" and meta.intercept:
        # it would penalise the intercept, so it solves the problem without one
        meta = replace(meta, intercept=False)
        meta = replace(meta, gradient0=cases.gradient_at_zero(meta, folder))
        remark = {"remark": "without an intercept"}
    try:
        if library == "overcast":
            fitter, tolerances = _overcast(meta, folder, method), iter([target])
        else:
            fitter, tolerances = _sklearn(meta, folder, method), _tolerances(meta, method, target)
    except cases.Skip as why:
        _say(skip=str(why))
        return
    spent, best, worse = 0.0, np.inf, 0
    for tol in tolerances:
        try:
            seconds, fit, memory = _timed(fitter, tol)
        except InputError as error:
            _say(skip=str(error))
            return
        _say(fitted=seconds)
        relative = cases.gradient_norm(meta, folder, fit.W, fit.bias) / meta.gradient0
        reached = relative <= SLACK * target
        outcome = {"tol": tol, "relative": relative, "reached": reached, **remark, **memory, **fit.figures}
        times = [seconds]
        _say(seconds=seconds, runs=times, **outcome)
        spent += seconds
        if reached and seconds < BRIEF:
            while len(times) < repeats:
                times.append(_timed(fitter, tol)[0])
                _say(fitted=times[-1])
            _say(seconds=statistics.median(times), runs=times, **outcome)
        # a solver that three tighter tolerances in a row do not help has come as far as it can
        worse = 0 if relative < 0.8 * best else worse + 1
        best = min(best, relative)
        if reached or worse >= 3 or spent > limit:
            return


def _say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def _timed(fitter: Fitter, tol: float) -> tuple[float, Fit, dict[str, float]]:
    _say(attempt=tol)
    with watch_memory() as memory:
        began, worked = time.perf_counter(), time.process_time()
        fit = fitter(tol)
        seconds = time.perf_counter() - began
        fit.figures["cpu"] = time.process_time() - worked
    return seconds, fit, memory


@contextlib.contextmanager
def watch_memory() -> Iterator[dict[str, float]]:
    """Bytes: the most resident; the most that was anonymous (no page of a file), sampled; and that before."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    now = _status()
    out: dict[str, float] = {"before": now["RssAnon"], "anonymous": now["RssAnon"]}
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.03):
            out["anonymous"] = max(out["anonymous"], _status()["RssAnon"])

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield out
    finally:
        stop.set()
        thread.join()
        now = _status()
        out["anonymous"] = max(out["anonymous"], now["RssAnon"])
        out["peak"] = now["VmHWM"]


def _status() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return {name: float(rest.split()[0]) * 1024 for name, rest in (li.split(":", 1) for li in lines) if "kB" in rest}


# -- Overcast ---------------------------------------------------------------------------------------------------------


def _overcast(meta: cases.Meta, folder: Path, name: str) -> Fitter:
    """A job on blocks on disk (case a), or an embedded solve of X and y in memory."""
    rates = json.loads((folder.parent / "profile.json").read_text(encoding="utf-8"))
    problem = {"loss": meta.loss, "l2": meta.l2, "intercept": meta.intercept}
    arrays = None if meta.layout == "dense" else cases.load_arrays(meta, folder)
    # small problems are planned on nominal rates: `embedded` says why
    profile = Profile(**rates) if meta.nbytes >= embedded.SMALL else None

    def fit(tol: float) -> Fit:
        settings: dict[str, Any] = {"tol": tol} if name in SOLVERS else {"tol": tol, "strategy": name}
        solver = name if name in SOLVERS else "oversketched-newton"
        if arrays is None:
            storage = FileStorage(folder / "store")
            spec = JobSpec(new_id(), cases.NAME, problem, solver, settings, profile=rates)
            result = run_job(storage, JobStore(storage).create(spec).id)
        else:
            X, y = arrays
            classes = tuple(np.unique(y).tolist())
            result = embedded.solve(X, y, problem, classes=classes, solver=solver, settings=settings, profile=profile)
        return Fit(result.coef_.reshape(-1, meta.columns).T, np.atleast_1d(result.intercept_), _figures(result))

    return fit


def _figures(result: Result) -> dict[str, Any]:
    history = [[row["seconds"], row["relative"], row["passes"], row.get("strategy", "")] for row in result.history]
    return {
        "passes": result.passes,
        "iterations": result.n_iter_,
        "claimed": result.relative,
        "reason": result.reason,
        "phases": dict(result.seconds),
        "chosen": dict(result.chosen),
        "history": history,
    }


# -- scikit-learn -----------------------------------------------------------------------------------------------------


def _sklearn(meta: cases.Meta, folder: Path, solver: str) -> Fitter:
    """LogisticRegression with C = 1 / (l2 n): the same objective times a constant."""
    from sklearn.linear_model import LogisticRegression

    if solver == "liblinear" and meta.loss == "softmax":
        raise cases.Skip("liblinear has no softmax")
    size = meta.parameters**2 * np.dtype(meta.dtype).itemsize
    if solver == "newton-cholesky" and size > MATRIX:
        raise cases.Skip(f"its Hessian of {meta.parameters:,} parameters would take {size / 1e9:.0f} GB")
    X, y = cases.load_arrays(meta, folder)
    C = 1 / (meta.l2 * meta.rows)

    def fit(tol: float) -> Fit:
        model = LogisticRegression(
            C=C, solver=solver, tol=tol, max_iter=1_000_000, fit_intercept=meta.intercept, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whether it converged is for our own gradient to say
            model.fit(X, y)
        iterations = int(np.max(model.n_iter_))
        figures: dict[str, Any] = {"iterations": iterations}
        if solver in {"sag", "saga"}:
            figures["passes"] = iterations
        return Fit(model.coef_.T, np.atleast_1d(model.intercept_), figures)

    return fit


def _tolerances(meta: cases.Meta, solver: str, target: float) -> Iterator[float]:
    """From loose to tight; the meaning of a tolerance differs from solver to solver."""
    if solver in {"sag", "saga"}:  # largest change of a weight over the largest weight
        tol, factor = 1e-3, 0.1
    elif solver == "liblinear":  # the gradient's norm, in units of the first one times the share of the rarer class
        tol, factor = 2 * target, LADDER
    elif meta.layout == "dense":  # the gradient's largest entry, all of them about alike
        tol, factor = 3 * target * meta.gradient0 / meta.parameters**0.5, LADDER
    else:
        tol, factor = 0.5 * target * meta.gradient0, LADDER
    while tol > 1e-20:
        yield tol
        tol *= factor
