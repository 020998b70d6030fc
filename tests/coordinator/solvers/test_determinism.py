"""The same bits for any number of workers and any order of arrival; the same solution for any blocks."""

import numpy as np
import pytest
from scipy import sparse

OSN = "oversketched-newton"
CASES = [
    (OSN, {}),
    (OSN, {"strategy": "metric", "sketch_rows": 60}),
    (OSN, {"strategy": "averaged", "sketch_rows": 60}),
    (OSN, {"strategy": "sketch", "sketch_rows": 60}),
    (OSN, {"strategy": "pcg", "sketch_rows": 60}),
    (OSN, {"strategy": "sketch", "sketch_rows": 60, "layout": "tiles", "blocks": 4}),
    (OSN, {"strategy": "exact", "gradient": "coded"}),
    (OSN, {"strategy": "exact", "gradient": "replicated"}),
    (OSN, {"convexity": "weak"}),
    ("newton", {}),
    ("giant", {"groups": 3}),
    ("lbfgs", {}),
    ("proximal-newton", {}),
    ("nesterov", {}),
    ("gradient-descent", {}),
    ("sgd", {}),
]
cases = pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join([c[0], *map(str, c[1].values())]))


def rows(dtype=np.float32, n=400, d=9):
    rng = np.random.default_rng(7)
    X = rng.standard_normal((n, d)).astype(dtype)
    y = np.sign(X @ rng.standard_normal(d) + rng.standard_normal(n)).astype(float)
    return X, y, rng.uniform(0.5, 2, n)


def run(solve, case, X, y, weight, **how):
    solver, settings = case
    spec = {"loss": "logistic", "l2": 1e-2}
    given = {"classes": (-1.0, 1.0), "weight": weight, "rows_per_block": 30, "max_iter": 8} | how | settings
    return solve(X, y, spec, solver, **given)


@cases
def test_same_bits_whatever_the_workers_and_the_order(solve, case):
    X, y, weight = rows()
    first = run(solve, case, X, y, weight, workers=1)
    assert first.state.iteration >= 2
    # results of codes that drop some depend on chance: what was used is recorded, and a replay uses the same
    dropped = "coded" in case[1].values()
    for how in ({"workers": 2}, {"workers": 4}, {"order": 1}, {"order": 2}):
        again = run(solve, case, X, y, weight, **how)
        if dropped:
            np.testing.assert_allclose(again.w, first.w, rtol=1e-9)
            assert again.state.iteration == first.state.iteration
            continue
        assert np.array_equal(again.w, first.w)
        assert again.objective == first.objective
        assert [row.get("step") for row in again.history] == [row.get("step") for row in first.history]


def test_a_seed_names_the_sketches(solve):
    X, y, weight = rows()
    case = (OSN, {"strategy": "sketch", "sketch_rows": 60, "max_iter": 3})
    first, same = (run(solve, case, X, y, weight) for _ in range(2))
    other = run(solve, (OSN, case[1] | {"seed": 1}), X, y, weight)
    assert np.array_equal(first.w, same.w)
    assert not np.array_equal(first.w, other.w)


@pytest.mark.parametrize(
    ("case", "layout"),
    [
        (case, layout)
        for case in CASES
        for layout in ("dense", "csr")
        # parities are of dense rows; the other two are functions of the blocks
        if (layout == "dense" or case[1].get("gradient") != "coded") and case[0] not in {"sgd", "giant"}
    ],
    ids=str,
)
def test_one_block_or_many(solve, case, layout):
    X, y, weight = rows(np.float64)
    if layout == "csr":
        X = sparse.csr_matrix(np.where(np.random.default_rng(1).random(X.shape) < 0.5, X, 0))
        X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    found = [
        run(solve, (case[0], case[1] | {"max_iter": 2000, "tol": 1e-7}), X, y, weight, rows_per_block=size)
        for size in (400, 57, 13)
    ]
    for one in found:
        assert one.converged
        assert one.objective == pytest.approx(found[0].objective, rel=1e-10)
        np.testing.assert_allclose(one.w, found[0].w, atol=1e-4)
