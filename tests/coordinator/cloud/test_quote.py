"""Quotes: figures from the data's shape, and refusals of what cannot fit."""

from dataclasses import replace

import numpy as np
import pytest

from coordinator.cloud.prices import prices
from coordinator.cloud.quote import make_quote
from coordinator.data.blocks import memory_blocks
from coordinator.errors import InputError
from coordinator.jobs import JobSpec
from coordinator.problem import problem_from_spec
from coordinator.solvers import SOLVERS
from coordinator.storage import MemoryStorage

SIZES = (1769, 3538, 7076)


def posed(rows=2000, columns=10, blocks=8, **changes):
    data = memory_blocks(
        MemoryStorage(), "x", np.ones((rows, columns)), np.arange(rows) % 2.0, None, (0.0, 1.0), -(-rows // blocks)
    )
    return problem_from_spec({"loss": "logistic", "l2": 0.1}, replace(data, **changes))


def test_a_quote_adds_up():
    spec = JobSpec("j", "x", {}, "newton", {})
    quote = make_quote(spec, posed(), SIZES)
    gradient, hessian = quote.phases
    assert gradient.tasks == 8 * gradient.runs
    assert gradient.bytes == 2000 * 10 * 8 * gradient.runs
    assert gradient.memory < 1769
    assert gradient.function == hessian.function == 0
    assert quote.workers == 8
    parts = gradient.dollars + hessian.dollars + quote.cold.dollars + quote.driver_dollars
    assert quote.dollars == pytest.approx(parts)
    assert gradient.dollars > gradient.tasks * prices().request
    assert quote.prices_of == prices().date
    assert quote.to_json()["phases"][0]["name"] == "gradient"


def test_large_blocks_need_larger_workers():
    # 8 blocks of 1 GB, then of 4 GB
    huge = posed(rows=2000, n_features=10)
    spec = JobSpec("j", "x", {}, "lbfgs", {})
    data = replace(huge.data, rows=(12_500_000,) * 8, nnz=10**9)
    found = make_quote(spec, replace(huge, data=data), SIZES)
    assert found.phases[0].function > 0
    with pytest.raises(InputError, match=r"phase 'gradient' needs \d+ MB a worker, and the largest worker has 7076"):
        make_quote(spec, replace(huge, data=replace(data, rows=(62_500_000,) * 8, nnz=5 * 10**9)), SIZES)


def test_cold_starts_are_those_of_the_workers_at_once():
    start = prices().start
    once = prices().gb_second * start * 1769 / 1024
    every = make_quote(JobSpec("j", "x", {}, "newton", {}), posed(), SIZES)
    assert (every.cold.starts, every.cold.seconds) == (8, start)  # both phases run on the same
    assert every.cold.dollars == pytest.approx(8 * once)
    few = make_quote(JobSpec("j", "x", {}, "newton", {}, workers=3), posed(), SIZES)
    assert few.cold.starts == 3
    assert few.cold.dollars == pytest.approx(3 * once)
    # Hessians in a larger function than gradients: both start
    data = replace(posed().data, n_features=2000, nnz=2000 * 2000)
    mixed = make_quote(JobSpec("j", "x", {}, "newton", {}), replace(posed(), data=data), (256, 3538))
    assert [phase.function for phase in mixed.phases] == [0, 1]
    assert (mixed.cold.starts, mixed.cold.seconds) == (16, 2 * start)
    assert mixed.cold.dollars == pytest.approx(8 * prices().starts(256, 1) + 8 * prices().starts(3538, 1))
    assert mixed.seconds > 3 * start  # with the driver's own


def test_matrices_that_no_driver_holds_are_refused():
    wide = posed(columns=20, rows=200)
    data = replace(wide.data, n_features=12_000, nnz=200 * 12_000)
    with pytest.raises(InputError, match=r"the driver would need .* use a solver without a Hessian, such as lbfgs"):
        make_quote(JobSpec("j", "x", {}, "newton", {}), replace(wide, data=data), (10_240,))
    assert make_quote(JobSpec("j", "x", {}, "lbfgs", {}), replace(wide, data=data), SIZES).phases[0].function == 0


def test_what_may_not_cost_enough_is_refused():
    spec = JobSpec("j", "x", {}, "gradient-descent", {}, max_cost=1e-5)
    with pytest.raises(InputError, match=r"the job will cost about \$0\.\d+, and max_cost is \$1e-05: raise it"):
        make_quote(spec, posed(), SIZES)


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "interior-point"])
def test_every_solver_is_quoted(name):
    quote = make_quote(JobSpec("j", "x", {}, name, {"max_iter": 5}), posed(), SIZES)
    assert 0 < quote.dollars < 0.1
    assert quote.phases[0].runs <= 12
