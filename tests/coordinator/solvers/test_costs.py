"""The cost model: what it chooses on extreme machines and problems, and what the result says of it."""

from dataclasses import replace

import numpy as np
import pytest

from coordinator.data.blocks import RowBlocks
from coordinator.embedded import NOMINAL
from coordinator.problem import problem_from_spec
from coordinator.solvers.costs import BEST_RATE, Costs, law_rows, laws, make_plan, ratio


def posed(n=400_000, d=2000, layout="dense", nnz=None, loss="logistic", K=2, dtype="float32", l1=0.0):
    rows = tuple([n // 16] * 16)
    data = RowBlocks(
        name="big",
        keys=tuple(f"data/big/block-{i:05d}" for i in range(16)),
        rows=rows,
        n_features=d,
        nnz=nnz or n * d,
        layout=layout,
        dtype=dtype,
        classes=tuple(float(k) for k in range(K)),
    )
    return problem_from_spec({"loss": loss, "l1": l1, "l2": 1e-6}, data)


def test_the_figures_are_what_the_rates_say():
    costs = Costs(posed(), NOMINAL)
    overhead = costs.overhead()
    assert costs.what == "full"
    assert costs.columns == 2001
    assert costs.read() == pytest.approx(400_000 * 2000 * 4 / NOMINAL.stream + overhead)
    assert costs.gram() == pytest.approx(400_000 * 2001**2 / NOMINAL.syrk32 + overhead)
    assert costs.factor() == pytest.approx(2001**3 / 3 / NOMINAL.solve64)
    assert costs.sketch(10_000, 2) == pytest.approx(
        2 * 400_000 * 2000 * 4 / NOMINAL.scatter + 10_000 * 2001**2 / NOMINAL.syrk32 + overhead
    )
    double = Costs(posed(dtype="float64"), NOMINAL)
    assert double.gram() - overhead == pytest.approx(2 * (costs.gram() - overhead))
    thin = Costs(posed(layout="csr", nnz=400_000 * 10), NOMINAL)
    assert thin.read() == pytest.approx(400_000 * 10 / NOMINAL.nonzeros + thin.overhead())
    assert thin.gram() < costs.gram() / 40


@pytest.mark.parametrize(
    ("loss", "K", "d", "what", "matrices"),
    [
        ("logistic", 2, 5999, "full", 1),
        ("logistic", 2, 6000, "diagonal", 1),
        ("softmax", 4, 999, "full", 1),
        ("softmax", 4, 1000, "class", 4),
        ("softmax", 20, 2999, "class", 20),
        ("softmax", 20, 3000, "diagonal", 20),
    ],
)
def test_the_form_of_the_model(loss, K, d, what, matrices):
    costs = Costs(posed(d=d, loss=loss, K=K), NOMINAL)
    assert (costs.what, costs.matrices) == (what, matrices)
    plan = make_plan(costs.problem, NOMINAL, 1e-6)
    assert plan.what == what
    if what == "diagonal":
        assert plan.rows == 0
        assert plan.predicted.keys() == {"metric", "pcg"}
        assert plan.strategy == ("metric" if matrices == 1 else "pcg")
    assert ("exact" in plan.predicted) == (what == "full")


def test_few_columns_ask_for_the_exact_hessian():
    plan = make_plan(posed(d=20), NOMINAL, 1e-6)
    assert plan.rows == 0
    assert plan.strategy in {"exact", "metric"}


def test_slow_products_ask_for_sketches_and_slow_memory_for_exact_hessians():
    slow_products = replace(NOMINAL, syrk32=1e9, gemm32=1e9, gemm64=1e9, solve64=1e9)
    plan = make_plan(posed(), slow_products, 1e-6)
    assert plan.rows
    assert plan.rows < posed().data.n_rows / 2
    assert plan.predicted[plan.strategy] < plan.predicted["exact"] / 3
    slow_memory = replace(NOMINAL, stream=1e7, scatter=1e7, syrk32=1e14, solve64=1e14)
    assert make_plan(posed(), slow_memory, 1e-6).strategy == "exact"
    slow_scatter = replace(NOMINAL, scatter=1e6)
    assert make_plan(posed(), slow_scatter, 1e-6).rows == 0


def test_the_choice_is_the_least_prediction_of_those_allowed():
    for tol in (1e-2, 1e-6, 1e-12):
        for d in (10, 300, 3000):
            plan = make_plan(posed(d=d), NOMINAL, tol)
            allowed = {k: v for k, v in plan.predicted.items() if k != "sketch"}
            assert plan.predicted[plan.strategy] == min(allowed.values())
            assert all(np.isfinite(v) and v > 0 for v in [*plan.predicted.values(), *plan.figures.values()])


def test_what_the_user_fixes_is_kept():
    for strategy in ("metric", "averaged", "pcg", "sketch"):
        plan = make_plan(posed(), NOMINAL, 1e-6, strategy, rows=9000, hashes=4)
        assert (plan.strategy, plan.rows, plan.hashes) == (strategy, 9000, 4)
    assert make_plan(posed(), NOMINAL, 1e-6, "exact").strategy == "exact"
    # l1 and weak convexity need a matrix in every step
    assert make_plan(posed(l1=0.1), NOMINAL, 1e-6, dense=True).strategy in {"exact", "averaged"}


def test_more_digits_cost_more():
    seconds = [min(make_plan(posed(), NOMINAL, tol).predicted.values()) for tol in (1e-2, 1e-5, 1e-8)]
    assert seconds == sorted(seconds)
    assert seconds[0] < seconds[-1]


def test_the_rate_of_a_sketch():
    assert ratio(100, 400) == 0.25
    assert ratio(100, 50) == ratio(100, 0) == 0.95
    assert np.log(1 / np.sqrt(ratio(1, 1e9))) > BEST_RATE  # capped where it is used


@pytest.mark.parametrize("kind", ["sjlt", "countsketch", "gaussian", "less_uniform", "row_sampling"])
def test_a_sketch_is_shared_by_rows_of_the_blocks(kind):
    problem = replace(posed(), data=replace(posed().data, rows=(100, 300, 7), keys=("a", "b", "c")))
    found = laws(problem, kind, 200, 4)
    assert len(found) == 3
    assert all(law["kind"] == kind for law in found)
    assert 200 <= law_rows(found) <= 200 + 3 * 4
    assert found[1]["size"] > 2 * found[0]["size"]
    if kind == "sjlt":
        assert all(law["size"] % 4 == 0 and law["hashes"] == 4 for law in found)


# -- the default solver -----------------------------------------------------------------------------------------------

SLOW_PRODUCTS = replace(NOMINAL, syrk32=1e9, solve64=1e11)  # so that a metric is worth a thought


def columns(kappa, n=3000, d=60):
    """Columns whose Gram at a unit diagonal has condition number about `kappa`."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    X = X + np.sqrt((kappa - 1) / d) * rng.standard_normal((n, 1)) if kappa > 1 else X
    X = X * 10.0 ** rng.uniform(-2, 2, d)
    y = np.sign(X @ (rng.standard_normal(d) / np.abs(X).max(axis=0)) + 0.3 * rng.standard_normal(n))
    return X, y


@pytest.mark.parametrize("rows", [0, 600])
def test_well_conditioned_columns_end_up_as_plain_lbfgs(solve, rows):
    """The diagonal takes the place of the metric, and the solve takes no more passes than L-BFGS by itself."""
    X, y = columns(1)
    spec = {"loss": "logistic", "l2": 1e-4}
    given = {"classes": (-1.0, 1.0), "rows_per_block": 500, "profile": SLOW_PRODUCTS}
    found = solve(X, y, spec, strategy="metric", sketch_rows=rows, **given)
    assert found.converged
    if rows:
        assert found.state.chosen["strategy"] == "lbfgs"
        assert {row["strategy"] for row in found.history[1:]} == {"lbfgs"}
        assert np.array_equal(found.ctx.cache["metric"].values, found.state.diagonal)
        plain = solve(X, y, spec, "lbfgs", **given)
        assert found.state.passes <= plain.state.passes + 3
    else:  # against the exact Hessian nothing is faster, once it is there
        assert found.state.chosen["strategy"] in {"lbfgs", "metric"}


def test_the_default_finds_out_that_lbfgs_is_best(solve):
    X, y = columns(1)
    given = {"classes": (-1.0, 1.0), "rows_per_block": 500, "profile": replace(NOMINAL, syrk32=3e8, solve64=1e11)}
    found = solve(X, y, {"loss": "logistic", "l2": 1e-4}, **given)
    assert found.converged
    assert found.state.chosen["plan"]["strategy"] == "metric"
    assert found.state.chosen["plan"]["rows"] > 0
    assert found.state.chosen["strategy"] == "lbfgs"


def test_related_columns_keep_the_metric(solve):
    X, y = columns(1e4)
    given = {"classes": (-1.0, 1.0), "rows_per_block": 500, "profile": SLOW_PRODUCTS}
    found = solve(X, y, {"loss": "logistic", "l2": 1e-6}, strategy="metric", sketch_rows=1200, **given)
    assert found.converged
    assert found.state.chosen["strategy"] == "metric"
    plain = solve(X, y, {"loss": "logistic", "l2": 1e-6}, "lbfgs", **given)
    assert found.state.passes < plain.state.passes


def test_the_result_says_what_was_chosen_and_on_which_figures(solve):
    X, y = columns(30)
    found = solve(
        X, y, {"loss": "logistic"}, strategy="sketch", sketch_rows=600, classes=(-1.0, 1.0), rows_per_block=500
    )
    chosen = found.state.chosen
    assert chosen["strategy"] == "sketch"
    assert set(chosen["plan"]) == {"strategy", "what", "columns", "rows", "hashes", "every", "predicted", "figures"}
    assert chosen["plan"]["figures"].keys() == {"read", "gram", "factor", "sketch"}
    assert chosen["plan"]["predicted"]["sketch"] > 0
    assert [s["iteration"] for s in chosen["sketches"]] == list(range(found.state.iteration))
    assert all(s["law"] == "sjlt" and s["hashes"] == 2 and s["rows"] >= 600 for s in chosen["sketches"])
