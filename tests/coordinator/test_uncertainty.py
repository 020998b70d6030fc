"""Standard errors against statsmodels and plain linear algebra; averaged estimates against exact ones."""

import json
import lzma

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from coordinator.errors import InputError
from coordinator.uncertainty import Options
from overcast import Client
from overcast.cli import main


def rows(loss, n=400, d=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * [1.0, 3.0, 0.2, 1.0][:d] + 0.3
    z = X @ [0.5, -0.3, 1.0, 0.0][:d] - 0.2
    if loss == "softmax":
        return X, np.digitize(z + rng.logistic(size=n), [-0.7, 0.7]).astype(float)
    if loss == "poisson":
        return X, rng.poisson(np.exp(np.clip(z, -3, 2))).astype(float)
    if loss in {"logistic", "squared-hinge"}:
        return X, np.where(z + rng.logistic(size=n) > 0, 1.0, -1.0)
    return X, z + rng.standard_t(3, size=n)


def solved(loss, X, y, weight=None, **options):
    data = (X, y) if weight is None else (X, y, weight)
    job = Client().submit(data, loss=loss, solver="newton", tol=1e-12, wait=True, **options)
    assert job.result().converged, job.result().reason
    return job


def check(found, theirs, const_first=True):
    """Coefficients, errors, statistics, p-values and intervals of ours and of statsmodels'."""
    order = np.r_[1 : len(found.coef), 0] if const_first else np.arange(len(found.coef))
    assert np.allclose(found.coef, np.asarray(theirs.params)[order], rtol=1e-6, atol=1e-9)
    assert np.allclose(found.se, np.asarray(theirs.bse)[order], rtol=1e-6)
    assert np.allclose(found.values, np.asarray(theirs.tvalues)[order], rtol=1e-5, atol=1e-7)
    assert np.allclose(found.p, np.asarray(theirs.pvalues)[order], rtol=1e-4, atol=1e-9)
    assert np.allclose(np.stack([found.low, found.high], 1), np.asarray(theirs.conf_int())[order], rtol=1e-5, atol=1e-8)


def test_squared_is_ordinary_least_squares():
    X, y = rows("squared")
    found = solved("squared", X, y).uncertainty()
    theirs = sm.OLS(y, sm.add_constant(X)).fit()
    check(found, theirs)
    assert (found.statistic, found.freedom) == ("t", pytest.approx(395))
    assert found.dispersion == pytest.approx(theirs.scale)
    assert found.effective_dimension == pytest.approx(5)


def test_squared_with_row_weights():
    X, y = rows("squared")
    s = np.random.default_rng(1).uniform(0.5, 2, len(y))
    check(solved("squared", X, y, s).uncertainty(), sm.WLS(y, sm.add_constant(X), weights=s).fit())


def test_squared_sandwich_is_white():
    X, y = rows("squared")
    found = solved("squared", X, y).uncertainty(covariance="sandwich")
    theirs = sm.OLS(y, sm.add_constant(X)).fit(cov_type="HC0")
    check(found, theirs)
    assert found.statistic == "z"


def test_logistic_is_the_inverse_information():
    X, y = rows("logistic")
    check(solved("logistic", X, y).uncertainty(), sm.Logit(y > 0, sm.add_constant(X)).fit(disp=0, tol=1e-12))


def test_poisson():
    X, y = rows("poisson")
    theirs = sm.GLM(y, sm.add_constant(X), family=sm.families.Poisson()).fit(tol=1e-13)
    check(solved("poisson", X, y).uncertainty(), theirs)


def test_softmax_is_against_the_first_class():
    X, y = rows("softmax")
    found = solved("softmax", X, y).uncertainty()
    theirs = sm.MNLogit(y, sm.add_constant(X)).fit(disp=0, tol=1e-12, maxiter=100)
    order = np.r_[1:5, 0]
    assert np.allclose(found.coef, theirs.params[order].T.ravel(), rtol=1e-5, atol=1e-8)
    assert np.allclose(found.se, theirs.bse[order].T.ravel(), rtol=1e-5)
    assert found.names[0] == "x0 [1]"
    assert found.names[-1] == "(intercept) [2]"


@pytest.mark.parametrize("loss", ["huber", "squared-hinge"])
def test_losses_without_a_likelihood_have_the_sandwich(loss):
    """Against the bootstrap: 300 fits of rows drawn anew."""
    X, y = rows(loss, n=600, d=2)
    job = solved(loss, X, y)
    found = job.uncertainty()
    assert found.covariance == "sandwich"
    from coordinator import embedded

    rng = np.random.default_rng(2)
    drawn = []
    for _ in range(300):
        index = rng.integers(0, len(y), len(y))
        fit = embedded.solve(
            X[index], y[index], {"loss": loss}, classes=(-1.0, 1.0) if "hinge" in loss else None, workers=1
        )
        drawn.append([*fit.coef_, fit.intercept_])
    assert np.allclose(found.se, np.std(drawn, axis=0), rtol=0.15)


def test_scaled_columns_come_back_as_they_were():
    X, y = rows("logistic")
    X = X * [1e-3, 1.0, 1e4, 1.0]
    client = Client()
    client.import_data(X, "scaled", target=y, scale="std")
    c = np.array([1e3, 1.0, 0.0, -1.0])
    job = client.submit("scaled", loss="logistic", solver="newton", tol=1e-12, wait=True)
    found = job.uncertainty(contrasts=[c])
    theirs = sm.Logit(y > 0, sm.add_constant(X)).fit(disp=0, tol=1e-12, maxiter=200)
    check(found, theirs)
    test = theirs.t_test(np.r_[0, c])
    assert np.allclose(found.contrasts[0], [test.effect[0], test.sd[0, 0]], rtol=1e-6)


def test_functionals_of_a_penalised_fit():
    X, y = rows("logistic")
    found = solved("logistic", X, y, l2=0.05).uncertainty(leverage=True)
    A = np.column_stack([X, np.ones(len(y))])
    eta = A @ found.coef
    h = 1 / (2 + 2 * np.cosh(eta))
    G = (A * h[:, None]).T @ A / len(y)
    inverse = np.linalg.inv(G + np.diag([0.05] * 4 + [0.0]))
    assert np.allclose(found.se, np.sqrt(np.diag(inverse) / len(y)), rtol=1e-8)
    assert found.trace == pytest.approx(np.trace(inverse))
    assert found.effective_dimension == pytest.approx(np.trace(G @ inverse))
    hat = h * np.einsum("ij,jk,ik->i", A, inverse, A) / len(y)
    assert np.allclose(np.sort(found.leverages), np.sort(hat), rtol=1e-8)
    assert found.leverages.sum() == pytest.approx(found.effective_dimension)
    assert "l2" in found.notes[0]


@pytest.mark.parametrize("draw", ["sjlt", "fixed"])
def test_estimates_agree_with_the_exact_inverse(draw):
    X, y = rows("logistic", n=6000)
    job = solved("logistic", X, y, l2=1e-3)
    exact = job.uncertainty(contrasts=[[1, 1, 0, 0, 1]])
    found = job.uncertainty(method="estimate", accuracy=0.02, draw=draw, rows=400, contrasts=[[1, 1, 0, 0, 1]], seed=1)
    assert found.needed / 2 <= found.estimates <= 2 * found.needed + 4
    assert np.abs(found.se / exact.se - 1).max() < 0.02
    assert found.contrasts[0, 1] == pytest.approx(exact.contrasts[0, 1], rel=0.03)
    assert found.contrasts[0, 0] == exact.contrasts[0, 0]
    assert abs(found.trace - exact.trace) < 4 * found.trace_error < 0.1 * exact.trace
    assert found.effective_dimension == pytest.approx(exact.effective_dimension, rel=0.01)
    assert np.all(exact.error == 0)


def test_more_accuracy_takes_more_estimates():
    X, y = rows("logistic", n=4000)
    job = solved("logistic", X, y)
    coarse = job.uncertainty(method="estimate", rows=300, accuracy=0.1)
    fine = job.uncertainty(method="estimate", rows=300, accuracy=0.01)
    assert coarse.estimates == 4
    assert fine.estimates > 20
    noise = np.sqrt(np.mean(fine.error**2))
    assert 3 * noise == pytest.approx(0.01, rel=0.5)
    short = job.uncertainty(method="estimate", rows=300, accuracy=0.01, estimates=5)
    assert "5 estimates are fewer" in short.notes[0]


def test_the_table_in_text():
    X, y = rows("squared")
    text = solved("squared", X, y).uncertainty(level=0.9).summary()
    assert "P>|t|" in text
    assert "[0.05" in text
    assert "(intercept)" in text
    assert str(solved("squared", X, y).uncertainty()).count("\n") == 15


def test_collinear_columns_are_named():
    X, y = rows("squared")
    X = np.column_stack([X, X[:, 0] - X[:, 1]])
    job = Client().submit((X, y), loss="squared", solver="newton", wait=True)
    with pytest.raises(InputError, match=r"singular: .* column|singular: column|singular: the intercept"):
        job.uncertainty()


@pytest.mark.parametrize(
    ("loss", "fit", "options", "message"),
    [
        ("squared", {"l1": 0.1}, {}, "l1 have no standard errors"),
        ("softmax", {}, {"method": "estimate"}, "for softmax"),
        ("softmax", {}, {"contrasts": [[1, 0, 0, 0]]}, "not of softmax"),
        ("squared", {}, {"contrasts": [[1, 0]]}, "4 of them each, or 5"),
        ("squared", {}, {"covariance": "sandwich", "method": "estimate"}, "need the exact inverse"),
        ("squared", {}, {"method": "guess"}, "unknown method"),
        ("squared", {}, {"level": 1.5}, "between 0 and 1"),
        ("squared", {}, {"rows": -1}, "rows must be >= 0"),
        ("squared", {}, {"estimates": 10**20}, r"estimates must be >= 0 and below 2\^31"),
        ("squared", {}, {"digits": 3}, "unknown option"),
    ],
)
def test_refuses(loss, fit, options, message):
    X, y = rows(loss)
    solver = "proximal-newton" if fit else "newton"
    job = Client().submit((X, y), loss=loss, solver=solver, wait=True, **fit)
    with pytest.raises(InputError, match=message):
        job.uncertainty(**options)


def test_too_few_rows():
    X, y = rows("squared", n=5)
    job = Client().submit((X, y), loss="squared", solver="newton", wait=True)
    with pytest.raises(InputError, match="5 rows do not tell"):
        job.uncertainty()


def test_an_unfinished_fit_says_so():
    X, y = rows("logistic")
    job = Client().submit((X, y), loss="logistic", solver="newton", max_iter=1, wait=True)
    assert "had not converged" in job.uncertainty().notes[0]


def test_the_command(tmp_path, capsys):
    X, y = rows("squared")
    client = Client(tmp_path)
    job = client.submit((X, y), loss="squared", solver="newton", tol=1e-12, id="fit-1")
    job.wait(60)
    assert np.array_equal(client.uncertainty("fit-1").se, client.uncertainty(job).se)
    assert main(["uncertainty", "fit-1", "--store", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert np.allclose(found["se"], job.uncertainty().se)
    assert main(["uncertainty", "--store", str(tmp_path), "--leverage", str(tmp_path / "h.npy")]) == 0
    said = capsys.readouterr()
    assert "std err" in said.out
    assert "residual variance" in said.out
    assert np.load(tmp_path / "h.npy").sum() == pytest.approx(5)
    assert main(["uncertainty", "--store", str(tmp_path), "--method", "guess"]) == 2


def test_options_are_checked_by_themselves():
    assert Options().level == 0.95


@pytest.mark.parametrize("scale", ["none", "std"])
def test_abalone_to_statsmodels_printed_digits(real, scale):
    """The table that statsmodels prints, digit for digit."""
    with lzma.open(real("libsvm_regression/abalone.csv.xz"), "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    X, y = table[:, 1:], table[:, 0]
    client = Client()
    client.import_data(X, "abalone", target=y, scale=scale)
    found = client.submit("abalone", loss="squared", solver="newton", tol=1e-13, wait=True).uncertainty()
    theirs = sm.OLS(y, sm.add_constant(X)).fit().summary().tables[1].data[1:]
    for mine, other in zip(found.rows(), [*theirs[1:], theirs[0]], strict=True):
        assert [cell.strip() for cell in mine[1:]] == [cell.strip() for cell in other[1:]]


def test_p_values_are_of_the_normal_law():
    X, y = rows("logistic")
    found = solved("logistic", X, y).uncertainty()
    assert np.allclose(found.p, 2 * stats.norm.sf(np.abs(found.values)))
