"""What tests of solvers share: a runtime whose attempts fail by a table, and objectives written down once more."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy import optimize, sparse, special

import coordinator.kernels  # noqa: F401  registers kernels
from coordinator.data.blocks import memory_blocks
from coordinator.embedded import NOMINAL
from coordinator.executors.local import LocalExecutor
from coordinator.phases import Outcome
from coordinator.problem import problem_from_spec
from coordinator.runtime import Runtime
from coordinator.solvers import make_solver
from coordinator.solvers.objective import Objective
from coordinator.storage import MemoryStorage
from coordinator.tasks import Worker


class FlakyExecutor(LocalExecutor):
    """Attempts fail by a table {phase kind: {task index: attempts that fail}}; failures come back at once."""

    def __init__(self, worker, workers=1, faults=None):
        super().__init__(worker, workers)
        self.faults = faults or {}
        self.lost = []

    def submit(self, launches):
        well = []
        for launch in launches:
            bad = self.faults.get(launch.phase.split("#")[0], {}).get(launch.index, 0)
            if launch.attempt <= bad:
                self.lost.append(Outcome(launch, error="killed", worker="flaky"))
            else:
                well.append(launch)
        super().submit(well)

    def poll(self, timeout):
        lost, self.lost = self.lost, []
        return lost or super().poll(timeout)


class ShuffledExecutor:
    """Runs launches when polled, one at a time, in an order drawn for `seed`; outcomes come in handfuls."""

    def __init__(self, worker, seed=0):
        self.worker = worker
        self.rng = np.random.default_rng(seed)
        self.queue = []

    def submit(self, launches):
        self.queue += launches

    def poll(self, timeout):
        outcomes = []
        for _ in range(min(len(self.queue), 1 + self.rng.integers(3))):
            launch = self.queue.pop(self.rng.integers(len(self.queue)))
            outcomes.append(Outcome(launch, self.worker.run(launch.task)))
        return outcomes

    def cancel(self):
        self.queue.clear()

    def close(self):
        self.cancel()


@dataclass(frozen=True)
class Solved:
    """How a solve ended, and the figures of its iterations."""

    w: Any
    state: Any
    history: Any
    problem: Any
    ctx: Any

    @property
    def converged(self):
        return self.state.reason == "converged"

    @property
    def objective(self):
        return self.state.value


def solve(
    X,
    y,
    spec,
    solver="oversketched-newton",
    *,
    weight=None,
    classes=None,
    rows_per_block=None,
    workers=2,
    order=None,
    profile=NOMINAL,
    start=None,
    replay=None,
    **settings,
):
    """Solve in blocks of `rows_per_block`; `order` seeds a `ShuffledExecutor` in place of `workers` threads."""
    storage, scratch = MemoryStorage(), MemoryStorage()
    data = memory_blocks(storage, "toy", X, y, weight, classes, rows_per_block)
    problem = problem_from_spec(spec, data)
    chosen = make_solver(solver, settings)
    chosen.check(problem)
    worker = Worker(storage, scratch)
    executor = LocalExecutor(worker, workers) if order is None else ShuffledExecutor(worker, order)
    try:
        ctx = Runtime(executor, scratch, linalg_threads=1, replay=replay or {})
        ctx.cache["profile"] = profile
        with ctx.session():
            state = chosen.init(problem, ctx, start)
            history = [state.row]
            while state.reason is None:
                ctx.prefix = f"{state.iteration + 1:06d}"
                state = chosen.step(problem, state, ctx)
                history.append(state.row)
    finally:
        executor.close()
    return Solved(chosen.solution(state), state, history, problem, ctx)


class Bench:
    """A runtime on an executor with faults, as a context."""

    def __init__(self, storage, problem, workers=1, faults=None, scratch=None):
        self.scratch = scratch if scratch is not None else MemoryStorage()
        self.executor = FlakyExecutor(Worker(storage, self.scratch), workers, faults)
        self.ctx = Runtime(self.executor, self.scratch)
        self.objective = Objective(problem, self.ctx)
        rng = np.random.default_rng(5)
        self.w = 0.5 * rng.standard_normal(problem.n_parameters)

    def __enter__(self):
        self.session = self.ctx.session()
        self.session.__enter__()
        self.point = self.objective.at(self.w)
        return self

    def __exit__(self, *error):
        self.session.__exit__(*error)
        self.executor.close()


@pytest.fixture(name="Bench")
def bench():
    return Bench


class Oracle:
    """Value, gradient and Hessian of a problem in plain NumPy and float64, from formulas of its own.

    `y` is +-1 for binary losses and positions for softmax; `s` weights (sample times class). Parameters are flattened
    (p, K) matrices with the intercept in the last row; `H` is over them.
    """

    def __init__(self, loss, X, y, s=None, l2=0.0, l1=0.0, intercept=True, delta=1.35):
        X = np.asarray(X.toarray() if sparse.issparse(X) else X, dtype=np.float64)
        self.A = np.column_stack([X, np.ones(len(X))]) if intercept else X
        self.loss, self.y, self.delta = loss, y, delta
        self.s = np.ones(len(X)) if s is None else s
        self.K = int(y.max()) + 1 if loss == "softmax" else 1
        free = np.ones((self.A.shape[1], self.K))
        if intercept:
            free[-1] = 0
        self.ridge, self.lasso = l2 * free.ravel(), l1 * free.ravel()

    def margins(self, w):
        return self.A @ w.reshape(-1, self.K)

    def rows(self, z):
        """Losses (n,), derivatives (n, K) and second derivatives (n, K, K)."""
        n, y, eye = len(z), self.y, np.eye(self.K)
        if self.loss == "softmax":
            p = special.softmax(z, axis=1)
            value = special.logsumexp(z, axis=1) - z[np.arange(n), y]
            return value, p - eye[y], p[:, :, None] * eye - p[:, :, None] * p[:, None, :]
        z = z[:, 0]
        r = z - y
        value, slope, bend = {
            "logistic": lambda: (
                np.logaddexp(0, -y * z),
                -y * special.expit(-y * z),
                special.expit(z) * special.expit(-z),
            ),
            "squared": lambda: (r**2 / 2, r, np.ones(n)),
            "squared-hinge": lambda: (
                np.where(y * z < 1, (1 - y * z) ** 2 / 2, 0),
                np.where(y * z < 1, z - y, 0),
                np.where(y * z < 1, 1.0, 0),
            ),
            "poisson": lambda: (np.exp(z) - y * z, np.exp(z) - y, np.exp(z)),
            "huber": lambda: (
                special.huber(self.delta, r),
                np.sign(r) * np.minimum(np.abs(r), self.delta),
                np.where(np.abs(r) <= self.delta, 1.0, 0),
            ),
        }[self.loss]()
        return value, slope[:, None], bend[:, None, None]

    def value(self, w):
        losses, _, _ = self.rows(self.margins(w))
        return self.s @ losses / self.s.sum() + 0.5 * w @ (self.ridge * w) + self.lasso @ np.abs(w)

    def gradient(self, w):
        """Of the smooth part."""
        _, dz, _ = self.rows(self.margins(w))
        return (self.A.T @ (self.s[:, None] * dz)).ravel() / self.s.sum() + self.ridge * w

    def data_hessian(self, w):
        """Without the penalty."""
        _, _, bend = self.rows(self.margins(w))
        H = np.einsum("n,ni,nab,nj->iajb", self.s / self.s.sum(), self.A, bend, self.A, optimize=True)
        return H.reshape(w.size, w.size)

    def hessian(self, w):
        return self.data_hessian(w) + np.diag(self.ridge)

    def minimum(self, w0=None):
        """A minimiser of the smooth objective, (p K,), by SciPy's trust-region Newton method."""
        w = np.zeros(self.ridge.size) if w0 is None else w0
        with np.errstate(over="ignore"):
            found = optimize.minimize(
                self.value, w, jac=self.gradient, hess=self.hessian, method="trust-exact", options={"gtol": 1e-10}
            )
        return found.x


CLASSES = {
    "logistic": (-1.0, 1.0),
    "squared-hinge": ("no", "yes"),
    "softmax": (2.0, 3.0, 5.0),
}
LOSSES = ("logistic", "squared", "squared-hinge", "poisson", "huber", "softmax")


class Toy:
    """A small random problem in row blocks, and its oracle."""

    losses = LOSSES

    def __init__(
        self,
        loss="logistic",
        layout="dense",
        dtype=np.float64,
        n=90,
        d=7,
        intercept=True,
        weight=True,
        class_weight=False,
        l2=0.1,
        l1=0.0,
        rows_per_block=33,
        seed=0,
        X=None,
    ):
        rng = np.random.default_rng(seed)
        if X is None:
            X = rng.standard_normal((n, d)).astype(dtype)
            if layout == "csr":
                X = np.where(rng.random((n, d)) < 0.4, X, 0).astype(dtype)
        n, d = X.shape
        classes = CLASSES.get(loss)
        index = rng.permutation(np.arange(n) % len(classes)) if classes else None
        if classes:
            stored = index.astype(float) if isinstance(classes[0], str) else np.asarray(classes)[index]
            y = index if loss == "softmax" else 2.0 * index - 1
        else:
            stored = y = rng.poisson(1.5, n).astype(float) if loss == "poisson" else 2 * rng.standard_normal(n)
        s = rng.uniform(0.5, 2, n) if weight else None
        spec = {"loss": loss, "intercept": intercept, "l2": l2, "l1": l1}
        total = s
        if class_weight and classes:
            by_class = np.array([0.5, 2.0, 3.0])[: len(classes)]
            spec["class_weight"] = by_class.tolist()
            total = by_class[index] * (1 if s is None else s)
        self.X, self.y, self.weight, self.classes, self.spec = X, stored, s, classes, spec
        rows = X
        if layout == "csr":
            rows = sparse.csr_matrix(X)
            rows.indices, rows.indptr = rows.indices.astype(np.int32), rows.indptr.astype(np.int32)
        self.rows = rows
        self.storage = MemoryStorage()
        data = memory_blocks(self.storage, "toy", rows, stored, s, classes, rows_per_block)
        self.problem = problem_from_spec(spec, data)
        self.oracle = Oracle(loss, X, y, total, l2, l1, intercept)
        self.w = 0.5 * rng.standard_normal(self.problem.n_parameters)


@pytest.fixture(name="Oracle")
def oracle():
    return Oracle


@pytest.fixture(name="Toy")
def toy():
    return Toy


@pytest.fixture(name="solve")
def solve_fixture():
    return solve
