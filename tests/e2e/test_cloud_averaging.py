"""Averaging solvers on real data on the emulated cloud, where a tenth of the workers die without a word."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import sparse, special

from overcast import CloudClient
from overcast.flights import flights

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("calm")]

SOLVERS = {
    "determinantal-averaging": "estimates",
    "surrogate-averaging": "estimates",
    "uniform-averaging": "estimates",
    "averaged-newton": "estimates",
    "giant": "groups",
    "local-newton": "groups",
    "dingo": "groups",
}
DEATHS = {"seed": 9, "rules": [{"function": "*-worker*", "rate": 0.1, "fault": {"kind": "die"}}]}
COUNT, SPARE = 10, 1  # of estimates or groups
TOL = 1e-8
ROWS = 40_000  # of the flights
Rows = tuple[sparse.csr_matrix, np.ndarray]


@cache
def late() -> Rows:
    X, y, _ = flights()
    some = np.random.default_rng(0).permutation(len(y))[:ROWS]
    return X[some], y[some]


def relative(X: sparse.csr_matrix, y: np.ndarray, l2: float, w: np.ndarray, b: float) -> float:
    """Norm of the logistic gradient over that at zero."""

    def gradient(w: np.ndarray, b: float) -> np.ndarray:
        r = (special.expit(X @ w + b) - y) / len(y)
        return np.append(X.T @ r + l2 * w, r.sum())

    return float(np.linalg.norm(gradient(w, b)) / np.linalg.norm(gradient(np.zeros_like(w), 0.0)))


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("source", ["a9a", "flights"])
def test_every_solver_gets_there_with_a_tenth_of_the_workers_dead(
    hasty: CloudClient, deployment: Any, request: pytest.FixtureRequest, source: str, name: str
) -> None:
    """To 1e-8. An average goes without one of ten; sums, and averages short of two, get second copies."""
    X, y = late() if source == "flights" else request.getfixturevalue("adult")
    y = (y > 0).astype(float)
    if source not in hasty.data():
        hasty.import_data(X, source, target=y, block_bytes=2 << 20)
    worker = deployment.stack.workers[0]
    deployment.emulator.faults(DEATHS)
    settings = {"tol": TOL, SOLVERS[name]: COUNT, "spare": SPARE}
    l2 = 1 / len(y)
    job = hasty.submit(source, loss="logistic", l2=l2, solver=name, workers=12, policy="speculate", **settings)
    result = job.result(120)
    applied = deployment.emulator.applied()
    assert result.reason == "converged"
    assert relative(X, y, l2, result.coef_.ravel(), float(result.intercept_)) < 1.01 * TOL
    assert applied["faults"]["die"] > 0.02 * applied["invocations"][worker]
    averaged = [row[key] for row in job.events() for key in ("groups", "estimates") if key in row]
    assert set(averaged) <= {COUNT - SPARE, COUNT}
    assert COUNT - SPARE in averaged
