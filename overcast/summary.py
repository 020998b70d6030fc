"""A result in figures and words, for the command line, the demo and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coordinator.jobs import JobSpec
from coordinator.results import Result
from coordinator.solvers import SOLVERS


def measure(solver: str) -> str:
    """What `relative` says of a solver's iterates, which `tol` is compared with."""
    return str(getattr(SOLVERS.get(solver), "measure", "relative gradient"))


def asked(problem: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a job's problem, long vectors by their length."""
    return {k: f"{len(v):,} numbers" if k == "c" else v for k, v in problem.items() if v is not None}


def facts(result: Result, spec: JobSpec | None = None) -> dict[str, Any]:
    """Plain figures of a result, without coefficients and history."""
    return {
        "job": result.job,
        "data": None if spec is None else spec.data,
        "loss": result.loss,
        "solver": result.solver,
        "l2": None if spec is None else spec.problem.get("l2"),
        "l1": None if spec is None else spec.problem.get("l1"),
        "converged": result.converged,
        "reason": result.reason,
        "iterations": result.n_iter_,
        "objective": result.objective,
        "residual": result.residual,
        "relative": result.relative,
        "passes": result.passes,
        "coefficients": int(result.coef_.size),
        "nonzero": int(np.count_nonzero(result.coef_)),
        "seconds": dict(result.seconds),
        "chosen": dict(result.chosen),
    }


def words(result: Result, spec: JobSpec | None = None) -> dict[str, str]:
    """The same for people, one line each."""
    total = result.seconds.get("total", 0.0)
    parts = sorted(((v, k) for k, v in result.seconds.items() if k != "total"), reverse=True)
    split = ", ".join(f"{name} {seconds:.2f}" for seconds, name in parts[:4] if seconds >= 0.005)
    out = {"job": result.job}
    if spec is not None:
        penalties = "".join(f", {k} {spec.problem[k]:g}" for k in ("l2", "l1") if spec.problem.get(k))
        out["problem"] = f"{result.loss} on {spec.data}{penalties}"
    else:
        out["problem"] = result.loss
    out["ended"] = result.reason
    out["iterations"] = f"{result.n_iter_}, with {result.passes:g} passes over the data"
    out["objective"] = f"{result.objective:.10g}"
    out[measure(result.solver)] = f"{result.relative:.2e}"
    out["coefficients"] = f"{result.coef_.size:,}, {np.count_nonzero(result.coef_):,} not zero"
    out["seconds"] = f"{total:.2f}" + (f" ({split})" if split else "")
    out["solver"] = result.solver
    if chosen := choice(result.chosen):
        out["chosen"] = chosen
    return out


def choice(chosen: Mapping[str, Any]) -> str:
    """What a solver that chooses has chosen, in one line; "" when it says nothing."""
    strategy = chosen.get("strategy")
    if not strategy:
        return ""
    plan = chosen.get("plan") or {}
    said = [str(strategy)]
    predicted = plan.get("predicted") or {}
    if predicted:
        ranked = sorted((seconds, name) for name, seconds in predicted.items())
        said.append("predicted seconds: " + ", ".join(f"{name} {seconds:.3g}" for seconds, name in ranked))
    sketches = chosen.get("sketches") or []
    if sketches:
        said.append("1 sketch" if len(sketches) == 1 else f"{len(sketches)} sketches")
    return "; ".join(said)
