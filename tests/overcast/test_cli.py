"""The command line: what each command prints, stores and exits with."""

from __future__ import annotations

import argparse
import csv
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import overcast
from coordinator.jobs import JobStore
from coordinator.losses import public_losses
from coordinator.solvers import SOLVERS
from coordinator.storage import FileStorage
from overcast.cli import main, make_parser

FOREVER = ("--loss", "logistic", "--solver", "gradient-descent", "--tol", "1e-15", "--max-iter", "10000000")


def parsers(parser=None, path=()):
    """Every command with its parser."""
    for action in (parser or make_parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield (*path, name), below
                yield from parsers(below, (*path, name))


COMMANDS = dict(parsers())


def until(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def one_line(text):
    assert text.startswith("overcast: ")
    assert text.count("\n") == 1
    return text


@pytest.fixture
def two(cli, libsvm):
    """A store that holds the data set "two"."""
    assert cli("import", libsvm).code == 0
    return libsvm


@pytest.fixture
def solved(cli, two):
    """And a job "job-one" that is done."""
    assert cli("solve", "two", "--loss", "logistic", "--l2", "1e-3", "--id", "job-one", "--quiet").code == 0


@pytest.fixture
def endless(cli, client, slow_arrays):
    """A job that runs in the background for as long as it is let."""
    client.import_data(slow_arrays[0], "slow", target=slow_arrays[1])
    ran = cli("solve", "slow", *FOREVER, "--detach", "--id", "job-slow")
    assert (ran.code, ran.out) == (0, "job-slow\n")
    job = client.job("job-slow")
    until(lambda: job.status().iteration >= 2)
    yield job
    job.cancel()
    job.wait(20)


# -- all commands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example_that_parses(cli, path):
    ran = cli(*path, "--help")
    assert ran.code == 0
    assert ran.err == ""
    assert f"usage: overcast {' '.join(path)}" in ran.out
    examples = ran.out.split("example:\n")[1].strip().splitlines()
    assert any(line.strip().startswith(f"overcast {' '.join(path)}") for line in examples)
    for line in examples:
        for part in line.strip().split(" && "):
            make_parser().parse_args(part.split()[1:])


def test_every_option_is_explained():
    for path, parser in COMMANDS.items():
        for action in parser._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), (path, action.dest)


def test_help_of_all(cli):
    ran = cli("--help")
    assert ran.code == 0
    for (name, *below), _ in COMMANDS.items():
        assert below or name in ran.out
    assert "exit codes: 0 done; 1 failure; 2 unusable input; 3 cancelled; 4 not converged; 130 interrupted" in ran.out


def test_version(cli):
    ran = cli("--version")
    assert (ran.code, ran.out) == (0, f"overcast {overcast.__version__}\n")


def test_module_and_script_are_the_same(folder, libsvm):
    for start in ([sys.executable, "-m", "overcast.cli"], [str(Path(sys.executable).with_name("overcast"))]):
        done = subprocess.run([*start, "solvers", "--json"], capture_output=True, text=True, check=True)
        assert [s["name"] for s in json.loads(done.stdout)] == list(SOLVERS)


# -- import and solve -------------------------------------------------------------------------------------------------


def test_import_and_list(cli, libsvm, table):
    ran = cli("import", libsvm, "--scale", "std")
    assert ran.code == 0
    assert "rows     600" in ran.out
    assert "target   2 distinct: 0, 1" in ran.out
    assert one_line(ran.err).startswith("overcast: next: overcast solve two --loss logistic")
    ran = cli("import", table, "--one-hot", "colour", "--weight", "weight", "--json", "--name", "things2")
    found = json.loads(ran.out)
    assert (found["name"], found["n_rows"], found["classes"]) == ("things2", 600, ["no", "yes"])
    listed = json.loads(cli("import", "--list", "--json").out)
    assert [data["name"] for data in listed] == ["things2", "two"]
    assert "things2" in cli("import", "--list").out
    ran = cli("import", "--delete", "two")
    assert ran.code == 0
    assert [data["name"] for data in json.loads(cli("import", "--list", "--json").out)] == ["things2"]


def test_import_that_leaves_rows_out(cli, tmp_path):
    path = tmp_path / "some.csv"
    path.write_text("a,y\n1,2\nx,3\n4,5\n")
    ran = cli("import", path, "--skip-bad-rows")
    assert ran.code == 0
    assert "overcast: 1 rows were left out, the first because of" in ran.err
    assert "line 3" in ran.err


def test_solve_prints_progress_and_facts(cli, two):
    ran = cli("solve", "two", "--loss", "logistic", "--l2", "1e-3")
    assert ran.code == 0
    for word in (
        "job ",
        "problem ",
        "logistic on two, l2 0.001",
        "ended ",
        "converged",
        "relative gradient",
        "chosen ",
    ):
        assert word in ran.out
    assert "iteration 0, objective 0.693" in ran.err
    assert "relative gradient" in ran.err
    quiet = cli("solve", "two", "--loss", "logistic", "--l2", "1e-3", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")


def test_solve_a_file(cli, table):
    words = ("--loss", "logistic", "--one-hot", "colour", "--weight", "weight", "--l2", "1e-2", "--json", "--quiet")
    ran = cli("solve", table, *words)
    assert ran.code == 0
    found = json.loads(ran.out)
    assert found["data"] == "things"
    assert found["converged"] is True
    assert found["iterations"] >= 1
    assert found["seconds"]["total"] > 0
    assert found["chosen"]["strategy"]
    assert cli("solve", table, *words).code == 0, "the same file is not imported twice"


def test_settings_reach_the_solver(cli, client, two):
    words = ("--solver", "lbfgs", "--set", "memory=3", "--tol", "1e-4", "--max-iter", "50", "--workers", "1")
    ran = cli("solve", "two", "--loss", "huber", "--loss-option", "delta=2", "--id", "job-set", "--quiet", *words)
    assert ran.code == 0
    spec = client.job("job-set").spec
    assert spec.settings == {"memory": 3, "tol": 1e-4, "max_iter": 50}
    assert spec.problem["loss"] == {"name": "huber", "delta": 2}
    assert (spec.solver, spec.workers) == ("lbfgs", 1)
    ran = cli(
        "solve", "two", "--loss", "logistic", "--class-weight", "0=1,1=2.5", "--no-intercept", "--start", "job-set",
        "--seed", "7", "--policy", "speculate", "--id", "job-two", "--quiet", "--l1", "1e-3",
    )  # fmt: skip
    assert ran.code == 0
    spec = client.job("job-two").spec
    assert spec.problem["class_weight"] == {"0": 1, "1": 2.5}
    assert spec.problem["intercept"] is False
    assert (spec.start, spec.policy, spec.settings["seed"]) == ("job-set", "speculate", 7)


def test_exit_code_of_an_end_without_convergence(cli, two):
    ran = cli("solve", "two", "--loss", "logistic", "--solver", "gradient-descent", "--max-iter", "2", "--quiet")
    assert ran.code == 4
    assert "did not converge: stopped after 2 iterations: raise max_iter" in one_line(ran.err)
    assert "ended " in ran.out
    assert cli("result", "latest").code == 0, "the result is kept"


def test_exit_code_of_a_cancelled_job(cli, endless):
    ran = cli("jobs", "cancel", "job-slow")
    assert ran.code == 0
    assert one_line(ran.err) == "overcast: job job-slow will stop\n"
    ran = cli("jobs", "wait", "job-slow", "--quiet")
    assert ran.code == 3
    assert "was cancelled; its best iterate so far is kept" in one_line(ran.err)
    assert "job-slow had ended: cancelled" in cli("jobs", "cancel", "job-slow").err


def test_exit_code_of_a_failure(cli, two, folder):
    block = next(path for path in (folder / "data/two").rglob("*block*") if path.is_file())
    block.write_bytes(b"\0" * 100)
    ran = cli("solve", "two", "--loss", "logistic", "--id", "job-bad", "--quiet")
    assert ran.code == 1
    one_line(ran.err)
    assert json.loads(cli("jobs", "show", "job-bad", "--json").out)["status"]["state"] == "failed"


def test_exit_code_of_what_nobody_foresaw(cli, monkeypatch):
    monkeypatch.setattr("overcast.commands.listing._solvers", lambda args: 1 / 0)
    ran = cli("solvers")
    assert ran.code == 1
    assert "internal error: ZeroDivisionError: division by zero (OVERCAST_DEBUG=1 shows where)" in one_line(ran.err)
    monkeypatch.setenv("OVERCAST_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["solvers"])


def test_interrupt_from_the_keyboard_and_resume(folder, cli, client, slow_arrays):
    X, y = slow_arrays
    client.import_data(X, "slow", target=y)
    words = ("--loss", "logistic", "--solver", "gradient-descent", "--tol", "1e-12", "--max-iter", "150", "--quiet")
    assert cli("solve", "slow", *words, "--id", "job-whole").code == 4
    command = [sys.executable, "-m", "overcast.cli", "solve", "slow", *words, "--id", "job-cut"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until(lambda: len(list((folder / "jobs/job-cut/events").glob("*.json"))) > 5 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert one_line(said) == "overcast: interrupted; go on with: overcast solve --resume job-cut\n"
    shown = cli("jobs", "show", "job-cut")
    assert "interrupted" in shown.out
    assert "overcast solve --resume job-cut" in one_line(shown.err)
    assert cli("solve", "--resume", "--quiet").code == 4
    whole, cut = (client.job(name).result() for name in ("job-whole", "job-cut"))
    assert cut.coef_.tobytes() == whole.coef_.tobytes()
    ran = cli("solve", "--resume", "--quiet")
    assert ran.code == 2
    assert "no interrupted or queued job in this store" in one_line(ran.err)


def test_the_reader_of_a_pipe_may_go(folder, solved):
    command = f"{sys.executable} -m overcast.cli result job-one --json --store {folder} | head -c 1 >/dev/null"
    done = subprocess.run(["/bin/bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode in {0, 141}
    assert done.stderr == ""


# -- jobs -------------------------------------------------------------------------------------------------------------


def test_jobs_of_an_empty_store(cli):
    assert cli("jobs").code == 0
    assert json.loads(cli("jobs", "--json").out) == []
    assert json.loads(cli("jobs", "list", "--json").out) == []
    ran = cli("jobs", "show")
    assert ran.code == 2
    assert one_line(ran.err) == "overcast: no job in this store\n"


@pytest.mark.usefixtures("solved")
def test_jobs_list_and_show(cli):
    assert cli("solve", "two", "--loss", "squared", "--id", "job-two", "--quiet").code == 0
    found = json.loads(cli("jobs", "list", "--json").out)
    assert [(job["id"], job["state"]) for job in found] == [("job-one", "done"), ("job-two", "done")]
    lines = cli("jobs").out
    assert lines.index("job-one") < lines.index("job-two")
    shown = cli("jobs", "show", "job-o")
    assert shown.code == 0
    for word in ("job-one", "done", "logistic", "oversketched-newton", "relative gradient"):
        assert word in shown.out
    found = json.loads(cli("jobs", "show", "--json").out)
    assert found["spec"]["id"] == "job-two"
    assert found["status"]["state"] == "done"
    ran = cli("jobs", "show", "job")
    assert ran.code == 2
    assert "2 jobs begin with 'job': job-one, job-two; write more of the id" in one_line(ran.err)


def test_cancel_within_a_second(cli, endless):
    began = time.monotonic()
    assert cli("jobs", "cancel", "latest").code == 0
    until(lambda: endless.status().final)
    assert time.monotonic() - began < 1
    assert endless.result().n_iter_ >= 2


def test_wait(cli, endless):
    ran = cli("jobs", "wait", "job-slow", "--timeout", "0.2", "--quiet")
    assert ran.code == 1
    assert "still running after 0.2 s; it goes on" in one_line(ran.err)
    assert endless.status().state == "running"
    ran = cli("jobs", "clean", "job-slow")
    assert ran.code == 1
    assert "'job-slow' is running: cancel it first" in one_line(ran.err)
    ran = cli("jobs", "resume", "job-slow")
    assert ran.code == 1
    assert "runs already" in one_line(ran.err)


@pytest.mark.usefixtures("solved")
def test_wait_for_an_ended_job_shows_it_all(cli):
    ran = cli("jobs", "wait", "job-one")
    assert ran.code == 0
    assert "iteration 0" in ran.err
    assert "converged" in ran.out
    assert json.loads(cli("jobs", "wait", "job-one", "--quiet", "--json").out)["job"] == "job-one"


def test_resume_in_the_background_and_clean(cli, client, endless):
    cli("jobs", "cancel", "job-slow")
    cli("jobs", "wait", "job-slow", "--quiet")
    seen = endless.status().iteration
    ran = cli("jobs", "resume", "job-slow")
    assert (ran.code, ran.out) == (0, "job-slow\n")
    until(lambda: endless.status().iteration > seen)
    cli("jobs", "cancel", "job-slow")
    until(lambda: endless.status().final)
    assert endless.result().n_iter_ > seen
    ran = cli("jobs", "clean", "job-slow")
    assert (ran.code, ran.err) == (0, "overcast: deleted 1 job\n")
    assert client.jobs() == ()
    assert client.storage.list("jobs") == []
    client.solve("slow", loss="squared", id="job-slow")  # for the fixture's end
    assert cli("jobs", "clean", "--ended").err == "overcast: deleted 1 job\n"
    client.solve("slow", loss="squared", id="job-slow")


# -- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("solved")
def test_result(cli, client, tmp_path):
    kept = client.job("job-one").result()
    path = tmp_path / "model.npz"
    ran = cli("result", "--save", path, "--top", "3")
    assert ran.code == 0
    assert one_line(ran.err) == f"overcast: wrote {path}\n"
    assert ran.out.count(" x") >= 3
    assert "(intercept)" in ran.out
    with np.load(path) as saved:
        np.testing.assert_array_equal(saved["coef"], kept.coef_)
        assert saved["intercept"] == kept.intercept_
        assert saved["classes"].tolist() == [0, 1]
    found = json.loads(cli("result", "job-one", "--json").out)
    assert found["coef"] == kept.coef_.tolist()
    assert found["classes"] == [0, 1]
    assert len(found["history"]) == kept.n_iter_ + 1
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_predict(cli, table, tmp_path):
    words = ("--one-hot", "colour", "--weight", "weight", "--l2", "1e-2", "--quiet")
    assert cli("solve", table, "--loss", "logistic", *words).code == 0
    ran = cli("predict", "latest", table)
    rows = list(csv.reader(io.StringIO(ran.out)))
    assert rows[0] == ["prediction"]
    assert {row[0] for row in rows[1:]} == {"yes", "no"}
    assert len(rows) == 601
    assert one_line(ran.err).startswith("overcast: 600 rows: accuracy 0.")
    path = tmp_path / "out.csv"
    ran = cli("predict", "latest", table, "--proba", "--output", path, "--json")
    found = json.loads(ran.out)
    assert (found["rows"], found["output"]) == (600, str(path))
    assert 0.5 < found["auc"] <= 1
    rows = list(csv.reader(path.read_text().splitlines()))
    assert rows[0] == ["no", "yes"]
    assert all(abs(float(a) + float(b) - 1) < 1e-6 for a, b in rows[1:])
    bare = tmp_path / "bare.csv"
    bare.write_text("size,colour\n0.5,red\n-0.5,purple\n")
    ran = cli("predict", "latest", bare)
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 3
    assert ran.err == "", "nothing to compare with"


# -- solvers ----------------------------------------------------------------------------------------------------------


def test_solvers(cli):
    found = json.loads(cli("solvers", "--json").out)
    assert [solver["name"] for solver in found] == list(SOLVERS)
    for solver in found:
        assert solver["summary"]
        for setting in solver["settings"]:
            assert {"name", "type", "default", "help"} <= setting.keys()
            assert setting["help"], (solver["name"], setting["name"])
    ran = cli("solvers")
    for name in (*SOLVERS, *public_losses()):
        assert name in ran.out
    ran = cli("solvers", "lbfgs")
    assert "memory" in ran.out
    assert "nesterov" not in ran.out
    ran = cli("solvers", "lbgfs")
    assert ran.code == 2
    assert "unknown solver 'lbgfs': did you mean 'lbfgs'?" in one_line(ran.err)


@pytest.mark.usefixtures("solved")
def test_the_store_of_the_option_comes_before_that_of_the_environment(cli, tmp_path, folder):
    other = tmp_path / "elsewhere"
    ran = cli("jobs", "--store", other)
    assert ran.code == 2
    assert f"no store at {other}: import data first, or name another one with --store" in one_line(ran.err)
    assert not other.exists()
    assert "job-one" in cli("jobs", "list", "--store", folder).out
    assert "job-one" in cli("jobs", "--store", folder, "list").out
    assert JobStore(FileStorage(folder)).ids() == ["job-one"]
