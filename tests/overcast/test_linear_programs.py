"""Linear programs as jobs: client, command line, checkpoints and report."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from scipy.optimize import linprog

from coordinator.driver import run_job
from coordinator.errors import CancelledError, InputError, UnknownNameError
from coordinator.jobs import JobSpec
from overcast.cli import main
from overcast.client import Client


@pytest.fixture(name="program")
def program_fixture():
    """A, b, c with an optimum, and zero not feasible."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((120, 4))
    b = A @ rng.standard_normal(4) + rng.random(120)
    return A, b, -A.T @ rng.random(120) / 120


@pytest.fixture(name="files")
def files_fixture(tmp_path, monkeypatch, folder, program):
    """The program as files in a folder that is the current one."""
    A, b, c = program
    monkeypatch.chdir(tmp_path)
    np.savetxt("lp.csv", np.column_stack([A, b]), delimiter=",")
    np.savetxt("cost.csv", c, delimiter=",")
    np.save("cost.npy", c)
    return tmp_path


def best(A, b, c):
    return linprog(c, A_ub=A, b_ub=b, bounds=(None, None), method="highs")


def test_solve(program, profile):
    A, b, c = program
    result = Client().solve((A, b), c=c)
    assert result.converged
    assert (result.loss, result.solver) == ("linear-program", "interior-point")
    assert np.allclose(result.coef_, best(A, b, c).x, atol=1e-6)
    assert result.objective == pytest.approx(c @ result.coef_)
    assert result.residual == pytest.approx(result.relative * (1 + abs(result.objective)))
    assert result.relative <= 1e-8
    assert result.intercept_ == 0
    assert result.classes_ is None
    assert np.all(result.decision_function(A) <= b)
    assert {row["phase"] for row in result.history[1:]} == {1, 2}
    for refused in (result.predict, result.predict_proba):
        with pytest.raises(InputError, match=r"linear program predicts nothing|gives no probabilities"):
            refused(A)


def test_columns_scaled_on_import(program, profile):
    A, b, c = program
    client = Client()
    wide = A * np.array([1e3, 1, 1e-2, 1])
    client.import_data(wide, "wide", target=b, scale="std")
    result = client.solve("wide", c=c)
    assert result.converged
    assert result.objective == pytest.approx(best(wide, b, c).fun, rel=1e-7)
    assert result.objective == pytest.approx(c @ result.coef_)
    assert np.all(wide @ result.coef_ <= b + 1e-9)
    # a start is for columns as they came, too: nothing is left to do but to centre
    again = client.solve("wide", c=c, start=result.job)
    assert again.history[1]["phase"] == 2


def test_ends_without_an_optimum_are_results(profile):
    client = Client()
    box = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    none = client.solve((box, np.array([1.0, -2, 1, 1])), c=[1, 1])
    assert not none.converged
    assert none.reason.startswith("infeasible")
    assert client.job(none.job).result().residual == np.inf
    endless = client.solve((box[:3], np.array([1.0, 1, 1])), c=[0, 1])
    assert endless.reason.startswith("unbounded")


def test_resumed_job_ends_with_the_same_bits(program, client):
    A, b, c = program
    whole = client.solve((A, b), c=c)
    job = client.prepare((A, b), c=c)

    def stop(row):
        if row["iteration"] in {4, 30}:
            raise CancelledError("cancelled")

    for last in (4, 30):
        assert run_job(client.storage, job.id, stop).n_iter_ == last
        client.storage.delete(f"jobs/{job.id}/result.json")
        client.storage.delete(f"jobs/{job.id}/result")
        job.reopen()
    rest = run_job(client.storage, job.id)
    assert np.array_equal(rest.coef_, whole.coef_)
    assert [row["residual"] for row in rest.history] == [row["residual"] for row in whole.history]


def test_submitted_job_runs_in_a_process(program, client):
    A, b, c = program
    job = client.submit((A, b), c=c)
    rows = list(job.stream(timeout=60))
    assert rows[-1]["relative"] <= 1e-8
    assert job.result(30).converged


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "say what to minimise"),
        ({"c": [1, 1, 1, 1], "loss": "squared"}, "a linear program has its cost c only"),
        ({"c": [1, 1, 1, 1], "l2": 1.0}, "a linear program has its cost c only"),
        ({"c": [1, 1, 1]}, "the cost c has 3 entries, data 'arrays-.*' 4 columns"),
        ({"c": [1, 1, 1, np.nan]}, "a vector of finite numbers"),
        ({"c": "cost"}, "a vector of finite numbers"),
        ({"c": [1, 1, 1, 1], "solver": "newton"}, "newton does not solve linear programs: use solver 'interior-point'"),
        ({"loss": "squared", "solver": "interior-point"}, "solves linear programs and the lasso"),
    ],
)
def test_what_cannot_be_posed(program, profile, options, said):
    A, b, _ = program
    client = Client()
    with pytest.raises(InputError, match=said):
        client.solve((A, b), **options)
    assert client.data() == ()
    assert client.jobs() == ()


def test_data_that_are_no_constraints(program, profile):
    A, b, c = program
    client = Client()
    with pytest.raises(InputError, match="row weights, and constraints have none"):
        client.solve((A, b, np.ones(120)), c=c)
    with pytest.raises(InputError, match="is text; a linear program needs the bounds b"):
        client.solve((A, np.where(b > 0, "high", "low")), c=c)
    client.import_data(A, "lp", target=b)
    for problem, said in (({"kind": "quadratic"}, "kind of problem"), ({"kind": "linear-program", "d": 1}, "field")):
        with pytest.raises(UnknownNameError, match=said):
            run_bare(client, problem)


def run_bare(client, problem):
    job = client._jobs.create(JobSpec("a-bare-job" + str(len(problem)), "lp", problem, "interior-point"))
    run_job(client.storage, job.id)


@pytest.mark.parametrize("cost", ["cost.csv", "cost.npy"])
def test_command_line(files, program, capsys, cost):
    assert main(["solve", "lp.csv", "--cost", cost, "--store", "store", "--id", "lp-one"]) == 0
    out, err = capsys.readouterr()
    assert "linear-program on lp" in out
    assert "relative gap" in out
    assert "relative gap" in err
    assert "relative gradient" not in out + err
    assert main(["result", "lp-one", "--store", "store", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["objective"] == pytest.approx(best(*program).fun, rel=1e-7)
    assert main(["jobs", "show", "lp-one", "--store", "store"]) == 0
    assert "4 numbers" in capsys.readouterr().out
    assert main(["predict", "lp-one", "lp.csv", "--store", "store"]) == 2
    assert "a linear program predicts nothing" in capsys.readouterr().err


def test_command_line_ends_and_errors(files, capsys):
    np.savetxt("none.csv", np.array([[1.0, 1], [-1, -2]]), delimiter=",")
    (files / "one.txt").write_text("1\n")
    assert main(["solve", "none.csv", "--cost", "one.txt", "--store", "store", "--json"]) == 4
    out, err = capsys.readouterr()
    assert json.loads(out)["residual"] is None
    assert "did not converge: infeasible" in err
    (files / "bad.txt").write_text("1 two\n")
    for cost, said in (("bad.txt", "not a vector of numbers"), ("gone.csv", "cannot read gone.csv")):
        assert main(["solve", "lp.csv", "--cost", cost, "--store", "store"]) == 2
        assert said in capsys.readouterr().err


def test_report(files, capsys):
    if find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    assert main(["solve", "lp.csv", "--cost", "cost.csv", "--store", "store", "--id", "lp-one", "--quiet"]) == 0
    assert main(["report", "lp-one", "--store", "store", "--output", "lp.html"]) == 0
    page = (files / "lp.html").read_text()
    assert "linear-program on lp by interior-point" in page
    assert "relative gap" in page
    assert "relative gradient" not in page
    assert "violation" in page
