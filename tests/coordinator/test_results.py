"""Results: coefficients for the columns as they were, predictions, and storage of both."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse, special

from coordinator.data.importing import ImportOptions, import_data
from coordinator.driver import run_job
from coordinator.errors import InputError, JobError
from coordinator.results import Result, load_result, save_result
from coordinator.storage import FileStorage, MemoryStorage

X = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, -1.0]])


def result(loss="squared", coef=(2.0, -1.0), intercept=0.5, classes=None, **more):
    usual = {"n_iter_": 3, "converged": True, "reason": "converged", "objective": 0.1, "residual": 1e-9}
    usual |= {"relative": 1e-7, "passes": 4.0, "seconds": {"total": 0.1, "gradient": 0.05}}
    return Result("job-one", "newton", loss, np.array(coef), intercept, classes, **(usual | more))


def test_regression():
    z = result().decision_function(X)
    np.testing.assert_array_equal(z, [2.5, -1.5, 3.5])
    np.testing.assert_array_equal(result().predict(X), z)
    np.testing.assert_array_equal(result().predict(sparse.csr_matrix(X)), z)
    np.testing.assert_allclose(result("poisson").predict(X), np.exp(z))


def test_two_classes():
    found = result("logistic", classes=("no", "yes"))
    assert found.predict(X).tolist() == ["yes", "no", "yes"]
    p = found.predict_proba(X)
    np.testing.assert_allclose(p[:, 1], special.expit([2.5, -1.5, 3.5]))
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert result("squared-hinge", classes=(-1.0, 1.0)).predict(X).tolist() == [1.0, -1.0, 1.0]


def test_many_classes():
    coef = [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]
    found = result("softmax", coef, np.array([0.0, 0.0, 0.5]), (1.0, 2.0, 3.0))
    assert found.predict(X).tolist() == [1.0, 2.0, 1.0]
    np.testing.assert_allclose(found.predict_proba(X), special.softmax(X @ np.array(coef).T + [0, 0, 0.5], axis=1))


@pytest.mark.parametrize("loss", ["squared", "poisson", "huber", "squared-hinge"])
def test_losses_without_probabilities(loss):
    with pytest.raises(InputError, match=f"loss '{loss}' gives no probabilities: fit with logistic or softmax"):
        result(loss).predict_proba(X)


@pytest.mark.parametrize("rows", [np.ones((2, 3)), np.ones(2), sparse.csr_matrix((4, 1))])
def test_rows_of_another_shape(rows):
    with pytest.raises(InputError, match=r"X has shape .*the model was fitted on 2 columns"):
        result().predict(rows)


@pytest.mark.parametrize("kind", ["memory", "files"])
@pytest.mark.parametrize(
    "found",
    [
        result(),
        result("logistic", classes=("no", "yes"), features=("a", "b"), history=({"iteration": 0}, {"iteration": 1})),
        result("softmax", np.eye(3, 2), np.arange(3.0), (1.0, 2.0, 3.0), chosen={"strategy": "exact"}),
    ],
)
def test_stored_and_loaded_whole(tmp_path, kind, found):
    storage = FileStorage(tmp_path) if kind == "files" else MemoryStorage()
    with pytest.raises(JobError, match="job 'job-one' has no result yet"):
        load_result(storage, "job-one")
    save_result(storage, found)
    again = load_result(storage, "job-one")
    for name, value in vars(found).items():
        if isinstance(value, np.ndarray):
            assert getattr(again, name).tobytes() == value.tobytes()
        else:
            assert getattr(again, name) == value
            assert type(getattr(again, name)) is type(value)
    again.coef_[:] = 0  # its own arrays, not the store's
    assert load_result(storage, "job-one").coef_.tobytes() == found.coef_.tobytes()


def test_the_first_result_stays(tmp_path):
    storage = FileStorage(tmp_path)
    save_result(storage, result())
    save_result(storage, replace(result(), coef_=np.zeros(2), n_iter_=9))
    assert load_result(storage, "job-one").n_iter_ == 3
    assert load_result(storage, "job-one").coef_.tolist() == [2.0, -1.0]


@pytest.mark.parametrize("missing", ["result", "result.json"])
def test_half_a_result_is_none_and_is_completed(tmp_path, missing):
    storage = FileStorage(tmp_path)
    save_result(storage, result())
    storage.delete(f"jobs/job-one/{missing}")
    with pytest.raises(JobError, match="no result yet"):
        load_result(storage, "job-one")
    save_result(storage, result())
    assert load_result(storage, "job-one").coef_.tolist() == [2.0, -1.0]


@pytest.mark.parametrize("loss", ["squared", "softmax"])
def test_scaling_of_the_import_is_undone(store, ask, loss):
    rng = np.random.default_rng(2)
    A = rng.standard_normal((300, 3)) * [1.0, 100.0, 0.01] + [0.0, 5.0, 0.0]
    y = (A @ [1.0, 0.02, 50.0] + 1.5 * rng.standard_normal(300)).round(3)
    if loss == "softmax":
        y = np.digitize(y, [-0.5, 0.5]).astype(float)
    for name, scale in (("plain", "none"), ("scaled", "std")):
        import_data(store.storage, A, ImportOptions(name, scale=scale), target=y)
        problem = {"loss": loss, "l2": 1e-9 if loss == "softmax" else 0.0}
        ask(store, f"job-{name}", data=name, problem=problem, solver="newton", settings={"tol": 1e-11})
    plain, scaled = (run_job(store.storage, f"job-{name}") for name in ("plain", "scaled"))
    assert scaled.coef_.shape == ((3, 3) if loss == "softmax" else (3,))
    # a penalty means something else in other units; it is too small to be seen here
    look = Result.predict_proba if loss == "softmax" else Result.predict
    np.testing.assert_allclose(look(scaled, A), look(plain, A), rtol=1e-3, atol=1e-4)
    assert np.shape(scaled.intercept_) == ((3,) if loss == "softmax" else ())


def test_shapes_and_names_without_an_intercept(store, ask):
    A = np.random.default_rng(3).standard_normal((80, 2))
    y = A @ [1.0, -3.0]
    pandas = pytest.importorskip("pandas")
    import_data(store.storage, pandas.DataFrame(A, columns=["a", "b"]), ImportOptions("named"), target=y)
    ask(store, data="named", problem={"loss": "squared", "intercept": False}, solver="newton")
    found = run_job(store.storage, "job-one")
    assert found.intercept_ == 0
    assert found.features == ("a", "b")
    assert found.classes_ is None
    np.testing.assert_allclose(found.coef_, [1.0, -3.0], rtol=1e-6)
