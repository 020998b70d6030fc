"""Standard errors, tests and confidence intervals of a job's coefficients, and what else the inverse Hessian tells.

The covariance of the coefficients, by loss:

* logistic, softmax, poisson: the inverse information of the summed log-likelihood, (n H)^-1;
* squared: sigma^2 (X'S X)^-1, sigma^2 = sum s r^2 / (n - p), and Student's t with n - p degrees of freedom;
* huber, squared-hinge, a loss of one's own, or rows weighed by class: the sandwich H^-1 J H^-1 / n, J the second
  moments of the rows' gradients (Huber 1967, White 1980), which needs no model of the target; also for the others, on
  request.

With an l2 penalty H contains it: errors are those of the penalised estimate around its own expectation in a Bayesian
reading (the prior N(0, 1 / (n l2))), and p counts effective parameters. With l1 there are none.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from coordinator import inverse
from coordinator.data.blocks import load_scale
from coordinator.driver import open_problem
from coordinator.errors import InputError, UnknownNameError
from coordinator.executors.local import LocalExecutor
from coordinator.jobs import JobStore
from coordinator.kernels import join, memo_bytes
from coordinator.problem import Problem
from coordinator.results import Result, load_result
from coordinator.runtime import Runtime
from coordinator.solvers.estimates import LAWS, Draw
from coordinator.solvers.objective import Objective
from coordinator.storage import MemoryStorage, Storage
from coordinator.tasks import Worker

Array = NDArray[Any]

METHODS: Final = ("auto", "exact", "estimate")
COVARIANCES: Final = ("auto", "model", "sandwich")
LIKELIHOODS: Final = ("logistic", "softmax", "poisson", "squared")
CHEAP: Final = 1e12  # multiplications of an exact Hessian and its inverse: below it nothing is estimated unasked


@dataclass(frozen=True)
class Options:
    """What is asked.

    Attributes
    ----------
    method : "exact", "estimate", or "auto": exact unless that takes over 10^12 multiplications.
    accuracy : of estimated standard errors, relative; at three standard deviations, rms over coefficients.
    covariance : "model", "sandwich", or "auto", as the module says.
    level : of the confidence intervals.
    contrasts : (r, d) rows c, or (r, d + 1) with the intercept's entry last: variances of c'w are wanted.
    leverage : leverage scores of the rows too; exact only.
    draw : law of an estimate: "sjlt", a sketch of all rows, or draws of rows, "fixed", "poisson", "bernoulli", which
        are weighed by determinants and miss what few rows have.
    rows, estimates, spare : of estimates; 0 rows: 10 a parameter; 0 estimates: as many as the accuracy takes.
    """

    method: str = "auto"
    accuracy: float = 0.02
    covariance: str = "auto"
    level: float = 0.95
    contrasts: Sequence[Sequence[float]] | Array | None = None
    leverage: bool = False
    draw: str = "sjlt"
    rows: int = 0
    estimates: int = 0
    spare: int = 0
    seed: int = 0
    workers: int | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("method", self.method, METHODS),
            ("covariance", self.covariance, COVARIANCES),
            ("draw", self.draw, LAWS),
        ):
            if value not in known:
                raise UnknownNameError(name, value, known)
        if not 0 < self.accuracy < 1 or not 0 < self.level < 1:
            raise InputError(f"accuracy and level must lie between 0 and 1, not {self.accuracy} and {self.level}")
        for name, bits in (("rows", 31), ("estimates", 31), ("spare", 31), ("seed", 128)):
            if not 0 <= (value := getattr(self, name)) < 1 << bits:
                raise InputError(f"{name} must be >= 0 and below 2^{bits}, not {value}")


@dataclass(frozen=True)
class Uncertainty:
    """The table, and functionals of the inverse Hessian. Arrays are for columns as they came.

    Attributes
    ----------
    names, coef, se : (m,) coefficients, the intercept last; for softmax class by class against the first class.
    statistic : "z" or "t"; `freedom` is t's degrees of freedom.
    values, p, low, high : (m,) coef / se, its two-sided p-value, and the confidence interval.
    dispersion : sigma^2 of a squared loss, else 1.
    covariance : "model" or "sandwich".
    error : (m,) relative standard error of `se` itself; 0 if exact.
    contrasts : (r, 2) c'w and its standard error.
    trace, effective_dimension : of H^-1 (see `coordinator.inverse`), for columns as the solver saw them.
    leverages : (n,) in stored row order, or None.
    estimates, needed : averaged; and what the accuracy takes. 0 if exact.
    notes : what to know before believing it.
    """

    job: str
    loss: str
    level: float
    names: tuple[str, ...]
    coef: Array
    se: Array
    statistic: str
    freedom: float
    dispersion: float
    covariance: str
    error: Array
    contrasts: Array
    trace: float
    trace_error: float
    effective_dimension: float
    effective_dimension_error: float
    leverages: Array | None
    estimates: int
    needed: int
    passes: float
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.coef / self.se)

    @property
    def p(self) -> Array:
        tail = -np.abs(self.values)
        return np.asarray(2 * (special.stdtr(self.freedom, tail) if self.statistic == "t" else special.ndtr(tail)))

    @property
    def _width(self) -> Array:
        q = 0.5 + self.level / 2
        return self.se * float(special.stdtrit(self.freedom, q) if self.statistic == "t" else special.ndtri(q))

    @property
    def low(self) -> Array:
        return np.asarray(self.coef - self._width)

    @property
    def high(self) -> Array:
        return np.asarray(self.coef + self._width)

    def rows(self) -> list[tuple[str, ...]]:
        """The table as text, as statistical programs print it: name, coef, std err, z or t, P, low, high."""
        columns = zip(self.names, self.coef, self.se, self.values, self.p, self.low, self.high, strict=True)
        return [
            (name, _digits(c, 4), _digits(s, 3), _digits(v, 3), f"{p:.3f}", _digits(lo, 3), _digits(hi, 3))
            for name, c, s, v, p, lo, hi in columns
        ]

    def header(self) -> tuple[str, ...]:
        tail = (1 - self.level) / 2
        return ("", "coef", "std err", self.statistic, f"P>|{self.statistic}|", f"[{tail:.3g}", f"{1 - tail:.3g}]")

    def facts(self) -> dict[str, str]:
        """What stands around the table, for people."""
        how = "exact" if not self.estimates else f"average of {self.estimates} estimates of the inverse Hessian"
        out = {"job": self.job, "loss": self.loss, "covariance": self.covariance, "computed": how}
        if self.estimates:
            noise = 100 * float(np.sqrt(np.mean(self.error**2)))
            out["error of std err"] = f"{noise:.2g} %, one standard deviation"
            out["estimates needed"] = f"{self.needed} for the accuracy asked for"
        if self.statistic == "t":
            out["residual variance"] = f"{self.dispersion:.6g} on {self.freedom:.6g} degrees of freedom"
        out["effective dimension"] = f"{self.effective_dimension:.6g}"
        out["trace of the inverse"] = f"{self.trace:.6g}"
        return out | {f"note {i}": note for i, note in enumerate(self.notes, 1)}

    def summary(self) -> str:
        """Facts and table as plain text."""
        cells = [self.header(), *self.rows()]
        widths = [max(len(row[i]) for row in cells) for i in range(7)]
        lines = [
            row[0].ljust(widths[0]) + "".join("  " + cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))
            for row in cells
        ]
        rule = "-" * len(lines[0])
        said = self.facts()
        wide = max(map(len, said))
        return "\n".join([*(f"{k:<{wide}}  {v}" for k, v in said.items()), rule, lines[0], rule, *lines[1:], rule])

    __str__ = summary


def uncertainty(storage: Storage, job: str, options: Options) -> Uncertainty:
    """Of an ended job's coefficients, computed here. InputError when there is none."""
    began = time.perf_counter()
    spec, result = JobStore(storage).spec(job), load_result(storage, job)
    problem = open_problem(storage, spec)
    if not isinstance(problem, Problem):
        raise InputError(f"job {job!r} solved a linear program: its solution has no standard errors")
    scratch = MemoryStorage()
    memo = memo_bytes(problem.data.n_rows, problem.n_outputs)
    with LocalExecutor(Worker(storage, scratch, memo), options.workers) as executor:
        ctx = Runtime(executor, scratch)
        with ctx.session():
            found = of_result(problem, result, ctx, load_scale(storage, problem.data), options)
    return replace(found, seconds=time.perf_counter() - began)


def of_result(problem: Problem, result: Result, ctx: Runtime, scale: Array | None, options: Options) -> Uncertainty:
    """Of a result, on a runtime; `scale` is what columns were divided by when they were imported, or None."""
    _check(problem, options)
    p, K = problem.n_rows_of_w, problem.n_outputs
    factors = np.ones(p) if scale is None else np.append(scale, 1.0)[:p]
    W = _parameters(problem, result) * factors[:, None]
    objective = Objective(problem, ctx)
    at = objective.at(W.ravel(), double=True)
    kind = _covariance(problem, options)
    V = _contrasts(options, problem, factors)
    found = _functionals(objective, at, V, kind, options)
    notes = [] if result.converged else [f"the job had not converged: {result.reason}"]
    if problem.penalty.l2:
        notes.append("with l2 the errors are those of the penalised estimate (see the documentation)")
    if found.estimates and found.needed > found.estimates:
        notes.append(f"{found.estimates} estimates are fewer than the {found.needed} that the accuracy takes")
    n, weight = problem.data.n_rows, objective.weight
    freedom = float(n - found.effective_dimension)
    dispersion = 1.0
    if kind == "model" and problem.loss.name == "squared":
        if freedom <= 0:
            raise InputError(f"{n} rows do not tell the variance of {p} coefficients' residuals: more rows are needed")
        loss = at.value - 0.5 * float(at.w @ (objective.ridge * at.w))
        dispersion = 2 * loss * weight / freedom
    student = problem.loss.name == "squared" and kind == "model"
    if kind == "sandwich":
        assert found.inverse is not None
        moments = found.inverse @ inverse.scores(objective, at) @ found.inverse
        variances, forms = np.diag(moments), np.einsum("pr,pq,qr->r", V, moments, V)
    else:
        variances, forms = found.diagonal, found.forms
    leverages = None
    if options.leverage:
        assert found.inverse is not None
        leverages = inverse.leverages(objective, at, found.inverse)
    coef, names = W / factors[:, None], _names(problem, result)
    if K > 1:
        assert found.inverse is not None
        coef, variances, names = _against_first(coef, found.inverse, names, problem)
        factors = np.tile(factors, K - 1)
    se = np.sqrt(variances * dispersion / weight) / factors
    with np.errstate(divide="ignore", invalid="ignore"):
        error = 0.5 * np.nan_to_num(found.diagonal_error / found.diagonal)
    pairs = np.stack([V.T @ at.w if K == 1 else np.zeros(0), np.sqrt(forms * dispersion / weight)], axis=1)
    return Uncertainty(
        job=result.job,
        loss=problem.loss.name,
        level=options.level,
        names=names,
        coef=coef.T.ravel() if K == 1 else coef,
        se=se,
        statistic="t" if student else "z",
        freedom=freedom,
        dispersion=dispersion,
        covariance=kind,
        error=error if K == 1 else np.zeros_like(se),
        contrasts=pairs,
        trace=found.trace,
        trace_error=found.trace_error,
        effective_dimension=found.effective_dimension,
        effective_dimension_error=found.effective_dimension_error,
        leverages=leverages,
        estimates=found.estimates,
        needed=found.needed,
        passes=objective.passes,
        seconds=0.0,
        notes=tuple(notes),
    )


def _check(problem: Problem, options: Options) -> None:
    if problem.penalty.l1:
        raise InputError("coefficients under l1 have no standard errors: fit the columns it selected again, without it")
    if 8.0 * problem.n_parameters**2 > 4e9:
        raise InputError(f"the inverse of a Hessian of {problem.n_parameters} parameters is too large to be formed")
    several = problem.loss.multi
    if several and (options.method == "estimate" or options.covariance == "sandwich" or options.leverage):
        raise InputError("for softmax, uncertainty is exact and by its model: no estimates, no sandwich, no leverage")
    if several and options.contrasts is not None:
        raise InputError("contrasts are of losses with one output: not of softmax")


def _covariance(problem: Problem, options: Options) -> str:
    """Which covariance "auto" is."""
    if options.covariance != "auto":
        return options.covariance
    weighed = problem.class_weight is not None and len(set(problem.class_weight)) > 1
    modelled = problem.loss.multi or (problem.loss.name in LIKELIHOODS and not weighed)
    return "model" if modelled else "sandwich"


def _functionals(objective: Objective, at: Any, V: Array, kind: str, options: Options) -> inverse.Functionals:
    problem = objective.problem
    p, n = problem.n_parameters, problem.data.n_rows
    must = kind == "sandwich" or options.leverage or problem.loss.multi
    if must and options.method == "estimate":
        raise InputError("sandwich covariances and leverage scores need the exact inverse: use method exact")
    rows = options.rows or inverse.ROWS * p
    cheap = float(n) * p * p + float(p) ** 3 < CHEAP or 2 * rows > n
    if must or options.method == "exact" or (options.method == "auto" and cheap):
        return inverse.exact(objective, at, V)
    law = Draw(options.draw, min(rows, n), "scale" if options.draw == "sjlt" else "determinant")
    return inverse.estimated(
        objective,
        at,
        V,
        accuracy=options.accuracy,
        draw=law,
        estimates=options.estimates,
        spare=options.spare,
        seed=options.seed,
    )


def _parameters(problem: Problem, result: Result) -> Array:
    """(p, K), for columns as they came."""
    bias = result.intercept_ if problem.intercept else None
    return join(result.coef_.T, bias).reshape(problem.n_rows_of_w, problem.n_outputs)


def _contrasts(options: Options, problem: Problem, factors: Array) -> Array:
    """Columns (p, r), for columns as the solver sees them."""
    p, d = problem.n_rows_of_w, problem.data.n_features
    if options.contrasts is None:
        return np.zeros((problem.n_parameters, 0))
    C = np.atleast_2d(np.asarray(options.contrasts, dtype=np.float64))
    if C.shape[1] == d and p == d + 1:
        C = np.column_stack([C, np.zeros(len(C))])
    if C.ndim != 2 or C.shape[1] != p or not np.all(np.isfinite(C)):
        raise InputError(f"contrasts must be finite numbers, {d} of them each, or {p} with the intercept's")
    return C.T / factors[:, None]


def _names(problem: Problem, result: Result) -> tuple[str, ...]:
    names = result.features or tuple(f"x{j}" for j in range(problem.data.n_features))
    return (*names, "(intercept)") if problem.intercept else tuple(names)


def _against_first(
    W: Array, M: Array, names: tuple[str, ...], problem: Problem
) -> tuple[Array, Array, tuple[str, ...]]:
    """Differences to the first class, their variances and names, class by class: what several classes' data tell."""
    p, K = W.shape
    blocks = M.reshape(p, K, p, K)
    own = np.einsum("jajb->jab", blocks)
    coef = np.concatenate([W[:, k] - W[:, 0] for k in range(1, K)])
    variances = np.concatenate([own[:, k, k] + own[:, 0, 0] - 2 * own[:, k, 0] for k in range(1, K)])
    classes = problem.data.classes or ()
    labels = tuple(f"{name} [{_class(classes[k])}]" for k in range(1, K) for name in names)
    return coef, variances, labels


def _class(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _digits(value: float, digits: int) -> str:
    """Fixed digits where they say something, else as many significant ones."""
    size = abs(value)
    return f"{value:.{digits}g}" if size >= 1e4 or size < 1e-4 else f"{value:.{digits}f}"
