"""Jobs through Lithops itself, on its localhost back end (version 1, which starts calls quickly)."""

import json
import os

import numpy as np
import pytest

from coordinator.errors import CodeRefusedError
from overcast.client import Client

pytest.importorskip("lithops", reason='Lithops is not installed: pip install -e ".[lithops]"')
pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def localhost(monkeypatch):
    config = {"lithops": {"backend": "localhost", "storage": "localhost", "monitoring_interval": 0.2}}
    monkeypatch.setenv("LITHOPS_CONFIG", json.dumps(config))
    monkeypatch.delenv("OVERCAST_ALLOW_CODE", raising=False)


def test_a_solve_gives_the_bits_that_threads_give(tmp_path):
    rng = np.random.default_rng(5)
    X = rng.standard_normal((600, 8))
    y = (X @ rng.standard_normal(8) + rng.standard_normal(600) > 0).astype(float)
    client = Client(tmp_path / "store")
    client.import_data(X, "two", target=y, block_bytes=16000)
    assert len(client.storage.list("data/two")) > 3
    options = {"loss": "logistic", "l2": 1e-3, "solver": "newton", "max_iter": 1}
    far = client.solve("two", executor="lithops", workers=2, id="far-job", **options)
    near = client.solve("two", **options)
    assert far.n_iter_ == 1
    assert np.array_equal(far.coef_, near.coef_)
    assert far.intercept_ == near.intercept_
    assert far.objective == near.objective
    assert {r.worker for r in client.job("far-job").tasks()} == {"lithops"}
    assert client.storage.list("jobs/far-job/scratch") == []


def test_functions_are_mapped_and_one_that_dies_is_called_again(tmp_path):
    marker = str(tmp_path / "died")

    def call(x):
        if x == 3 and not os.path.exists(marker):  # noqa: PTH110  what it imports it must have
            os.mkdir(marker)  # noqa: PTH102
            os._exit(7)
        return {"x": x, "half": np.array([x / 2])}

    client = Client(tmp_path / "store", allow_code=True)
    found = client.map(call, range(6), executor="lithops", workers=2, id="some-map")
    assert [f["x"] for f in found] == list(range(6))
    assert [f["half"][0] for f in found] == [x / 2 for x in range(6)]
    [lost] = [r.fate for r in client.job("some-map").tasks() if (r.index, r.attempt) == (3, 1)]
    assert lost == (
        "a Lithops worker ended without a result: RuntimeError: "
        "The function process exited with code 7 before reporting its result"
    )


def test_functions_are_refused_unless_they_are_allowed(tmp_path):
    with pytest.raises(CodeRefusedError, match="OVERCAST_ALLOW_CODE=1"):
        Client(tmp_path / "store").map(lambda x: x, [1, 2], executor="lithops")
