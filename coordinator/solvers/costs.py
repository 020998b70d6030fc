"""The cost model: seconds of every move, from the machine's rates and the problem's shape (spec F).

Decisions are functions of these figures and of the iterates alone, so that a resumed run decides alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, log, sqrt
from typing import Any, Final

from coordinator.problem import Problem
from coordinator.profile import Profile

NEWTON_STEPS: Final = 6.0  # outer iterations from zero to the last digit, typical of a GLM
SETTLING: Final = 4.0  # steps before quasi-Newton iterations enter their linear phase
RENEWALS: Final = 1.5  # metrics a solve builds
# Passes with a head and a diagonal, as seen on one-hot data; and with several classes, on two sets of texts: that they
# depend on each other stands in no diagonal, and curvature pairs make up for less of it than conjugate gradients do.
WIDE_QUASI, WIDE_CG, WIDE_QUASI_CLASSES = 130.0, 150.0, 250.0
BEST_RATE: Final = 2.0  # log-reduction a pass that even the exact Hessian of a moment ago does not exceed
MULTIPLES: Final = (3, 5, 10, 20, 40)  # sketch rows tried, in units of the columns
DENSE_LIMIT: Final = 6000  # columns of the largest matrix that is formed and factored
FULL_LIMIT: Final = 4000  # parameters up to which all classes share one matrix
HEAD: Final = 2000  # columns that are taken exactly where there are too many for a matrix of all
HEAD_BYTES: Final = 512 << 20  # of their matrices
HEAD_ROWS: Final = 20  # rows a column that their matrices are made of
HEAD_READS: Final = 40  # what the matrices may cost, in passes: the conditioning of wide problems is seldom mild
LEAST_HEAD: Final = 100
SPARSE_PAIR_SECONDS: Final = 6e-9  # a pair of non-zeros in a sparse Gram, one core


@dataclass(frozen=True)
class Costs:
    """Seconds on one machine for one problem."""

    problem: Problem
    profile: Profile

    @property
    def what(self) -> str:
        """Form of the Hessian model: "full", one matrix per "class", or "diagonal" but for the heaviest columns."""
        if self.problem.n_parameters <= FULL_LIMIT or self.problem.n_outputs == 1:
            return "full" if self.problem.n_parameters <= DENSE_LIMIT else "diagonal"
        return "class" if self.problem.n_rows_of_w <= DENSE_LIMIT // 2 else "diagonal"

    @property
    def columns(self) -> int:
        """Columns of one matrix of the model."""
        if self.what == "diagonal":
            return self.head[0]
        return self.problem.n_parameters if self.what == "full" else self.problem.n_rows_of_w

    @cached_property
    def head(self) -> tuple[int, int]:
        """Of a model "diagonal": columns taken exactly, from each so many-th row; as many as are cheap in passes."""
        room = int((HEAD_BYTES / 8 / self.problem.n_outputs) ** 0.5)
        columns, n = min(HEAD, room, self.problem.data.n_features), self.problem.data.n_rows
        while True:
            every = max(1, n // (HEAD_ROWS * columns))
            if columns <= LEAST_HEAD or self._gram(columns, every) + self._factor(columns) <= HEAD_READS * self.read():
                return columns, every
            columns //= 2

    @property
    def matrices(self) -> int:
        return 1 if self.what == "full" else self.problem.n_outputs

    def overhead(self) -> float:
        return self.profile.phase + self.profile.task * len(self.problem.data.keys) / self.profile.workers

    def read(self) -> float:
        """A gradient or a Hessian-vector product."""
        data, K = self.problem.data, self.problem.n_outputs
        # several outputs share a read of the rows: BLAS-3 on dense rows, half the cost each on sparse ones
        if data.layout == "dense":
            work = max(data.nbytes / self.profile.stream, 4.0 * data.nnz * K / self.profile.gemm32 if K > 1 else 0.0)
        else:
            work = data.nnz * (1 + 0.5 * (K - 1)) / self.profile.nonzeros
        return work + self.overhead()

    def gram(self) -> float:
        """The exact Hessian; of a model "diagonal" its head, and the diagonal."""
        if self.what == "diagonal":
            return self._gram(*self.head) + self.read()
        return self._gram(self.columns, 1) + self.overhead()

    def _gram(self, q: int, every: int) -> float:
        data = self.problem.data
        rate = self.profile.syrk32 / (1 if data.dtype == "float32" else 2)
        work = data.n_rows * q * q / rate
        if data.layout == "csr":
            pairs = data.nnz**2 / max(data.n_rows, 1)
            work = min(work + data.n_rows * q * 8 / self.profile.scatter, pairs * SPARSE_PAIR_SECONDS)
        return work * self._class_pairs() / every

    def sketch(self, rows: float, hashes: int) -> float:
        """A sketched Hessian of `rows` rows with `hashes` non-zeros a column."""
        data, q = self.problem.data, self.columns
        if data.layout == "dense":
            scatter = hashes * data.nbytes / self.profile.scatter
        else:
            scatter = hashes * data.nnz / self.profile.sparse_scatter
        rate = self.profile.syrk32 / (1 if data.dtype == "float32" else 2)
        scatters = self.problem.n_outputs  # by Fisher sampling or one per class
        return scatters * scatter + self.matrices * rows * q * q / rate + self.overhead()

    def factor(self) -> float:
        return self._factor(self.columns)

    def _factor(self, q: int) -> float:
        return self.matrices * q**3 / 3 / self.profile.solve64

    def spectrum(self) -> float:
        """Debiasing and the pencil test: eigenvalues and two triangular solves."""
        return self.matrices * self.columns**3 * (4 / 3 * 4.5 + 2 / 3) / self.profile.solve64

    def _class_pairs(self) -> float:
        K = self.problem.n_outputs
        if K == 1:
            return 1.0
        # "full" forms all pairs of classes, each as wide as the features
        return (K + 1) / (2 * K) if self.what == "full" else float(K)


@dataclass(frozen=True)
class Plan:
    """What a cost model chose.

    Attributes
    ----------
    strategy, what : of the solver, and the form of its Hessian model with `columns` columns.
    rows, hashes : of the sketch; 0 rows: the exact Hessian.
    every : of a model "diagonal": its columns' matrix is made of each so many-th row.
    predicted : seconds from zero to the tolerance, by strategy.
    figures : seconds of the moves, on which the predictions stand.
    """

    strategy: str
    what: str
    columns: int
    rows: int
    hashes: int
    every: int
    predicted: dict[str, float]
    figures: dict[str, float]

    def spec(self) -> dict[str, Any]:
        return dict(vars(self))


def ratio(q: float, rows: float) -> float:
    """R = q / rows, short of 1: the mean-field rate of a sketch (spec A5) with every direction counted."""
    return min(q / max(rows, 1.0), 0.95)


def make_plan(
    problem: Problem,
    profile: Profile,
    tol: float,
    strategy: str = "auto",
    rows: int = 0,
    hashes: int = 0,
    dense: bool = False,
) -> Plan:
    """Choose the strategy with the least predicted time; `strategy`, `rows` and `hashes` fix what the user fixed.

    `dense`: only strategies that make a matrix an iteration will do.
    """
    costs = Costs(problem, profile)
    n, q = problem.data.n_rows, costs.columns
    digits = log(1 / tol)
    read, gram, factor = costs.read(), costs.gram(), costs.factor()
    hashes = hashes or 2
    predicted: dict[str, float] = {}
    size: dict[str, int] = {}

    def offer(name: str, seconds: float, m: int) -> None:
        if seconds < predicted.get(name, float("inf")):
            predicted[name], size[name] = seconds, m

    if costs.what == "diagonal":
        # no law predicts a diagonal's rate; conjugate gradients need fewer passes the worse the condition
        quasi = WIDE_QUASI if problem.n_outputs == 1 else WIDE_QUASI_CLASSES
        offer("metric", quasi * read + gram + factor, 0)
        offer("pcg", WIDE_CG * read + RENEWALS * (gram + factor), 0)
    else:
        if costs.what == "full":
            offer("exact", NEWTON_STEPS * (read + gram + factor), 0)
        if not rows:  # an exact Hessian that is kept for several steps
            offer("metric", (SETTLING + digits / BEST_RATE) * read + RENEWALS * (gram + factor), 0)
            offer("pcg", (NEWTON_STEPS + 1.2 * digits / BEST_RATE) * read + RENEWALS * (gram + factor), 0)
        for m in [rows] if rows else [c * q for c in MULTIPLES if c * q <= 0.5 * n]:
            rate = min(log(1 / sqrt(ratio(q, m))), BEST_RATE)
            build = costs.sketch(m, hashes) + factor
            offer("metric", (SETTLING + digits / rate) * read + RENEWALS * build, m)
            offer("pcg", (NEWTON_STEPS + 1.2 * digits / rate) * read + RENEWALS * build, m)
            if costs.what == "full" and m > 1.5 * q:
                each = read + build + costs.spectrum()
                offer("averaged", (SETTLING + digits / (rate + 0.5)) * each, m)
                offer("sketch", (SETTLING + 2 * digits / rate) * each, m)
    allowed = {"exact", "averaged"} if dense else {"exact", "averaged", "metric", "pcg"}
    if dense and costs.what != "full":
        predicted["exact"] = NEWTON_STEPS * (read + gram)  # on a working set
    chosen = strategy if strategy != "auto" else min(allowed & predicted.keys(), key=predicted.__getitem__)
    m = size.get(chosen, rows or min(n, 5 * q))
    figures = {"read": read, "gram": gram, "factor": factor, "sketch": costs.sketch(m or 5 * q, hashes)}
    every = costs.head[1] if costs.what == "diagonal" else 1
    return Plan(chosen, costs.what, q, m, hashes, every, predicted, figures)


def laws(problem: Problem, kind: str, rows: int, hashes: int) -> list[dict[str, Any]]:
    """One sketch per block of rows, `rows` in all, shared by rows of the block (row-local layout, spec D2)."""
    out: list[dict[str, Any]] = []
    n = problem.data.n_rows
    for block in problem.data.rows:
        m = max(1, ceil(rows * block / n))
        if kind == "sjlt":
            m = ceil(m / hashes) * hashes
            out.append({"kind": "sjlt", "size": m, "hashes": hashes})
        elif kind == "less_uniform":
            out.append({"kind": "less_uniform", "size": m, "nonzeros": min(8, block)})
        else:
            out.append({"kind": kind, "size": m})
    return out


def law_rows(specs: list[dict[str, Any]]) -> int:
    """Sketch rows in all."""
    return sum(int(s["size"]) for s in specs)
