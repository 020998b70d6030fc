"""A result in figures and words, for the command line, the demo and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coordinator.driver import COLD_STARTS, cost_by_phase
from coordinator.jobs import JobSpec, JobStore
from coordinator.results import Result
from coordinator.solvers import SOLVERS
from coordinator.storage import Storage


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


def spending(storage: Storage, job: str) -> dict[str, Any]:
    """Dollars: what the job has spent, in all and by phase, and what was quoted; empty for one that cost nothing."""
    store = JobStore(storage)
    status, quote = store.status(job), store.quote(job)
    if not status.spent:
        return {}
    return {
        "spent": status.spent,
        "spent_by_phase": cost_by_phase(store.tasks(job)),
        "quoted": None if quote is None else quote["dollars"],
        "quoted_by_phase": {} if quote is None else quoted_by_phase(quote),
        "prices_of": None if quote is None else quote["prices_of"],
    }


def quoted_by_phase(quote: Mapping[str, Any]) -> dict[str, float]:
    """Dollars by kind of phase, and of cold starts."""
    return {phase["name"]: phase["dollars"] for phase in quote["phases"]} | {COLD_STARTS: quote["cold"]["dollars"]}


def paid(bill: Mapping[str, Any]) -> dict[str, str]:
    """The same for people."""
    if not bill:
        return {}
    spent, quoted = bill["spent_by_phase"], bill["quoted_by_phase"]
    said = [
        f"{name} ${spent.get(name, 0.0):.6f}" + (f" (quoted ${quoted[name]:.6f})" if name in quoted else "")
        for name in sorted({*spent, *quoted}, key=lambda name: (-spent.get(name, 0.0), name))
    ]
    rest = bill["spent"] - sum(spent.values())
    said.append(f"driver ${max(rest, 0.0):.6f}")
    whole = "" if bill["quoted"] is None else f", quoted ${bill['quoted']:.6f} at prices of {bill['prices_of']}"
    return {"spent": f"${bill['spent']:.6f}{whole}", "by phase": ", ".join(said)}


def choice(chosen: Mapping[str, Any]) -> str:
    """What a solver that chooses has chosen, in one line; "" when it says nothing."""
    strategy = chosen.get("strategy")
    if not strategy:
        return ""
    plan = chosen.get("plan") or {}
    said = [f"{strategy} ({chosen['why']})" if chosen.get("why") else str(strategy)]
    said += [f"warning: {warning}" for warning in chosen.get("warnings") or []]
    predicted = plan.get("predicted") or {}
    if predicted:
        ranked = sorted((seconds, name) for name, seconds in predicted.items())
        said.append("predicted seconds: " + ", ".join(f"{name} {seconds:.3g}" for seconds, name in ranked))
    sketches = chosen.get("sketches") or []
    if sketches:
        said.append("1 sketch" if len(sketches) == 1 else f"{len(sketches)} sketches")
    return "; ".join(said)
