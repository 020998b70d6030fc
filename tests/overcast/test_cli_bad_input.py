"""What the command line refuses: one line that says what is wrong, where and what to do; exit code 2; nothing stored.

What a file may hold that cannot be imported is in tests/coordinator/data/test_bad_input.py; here are some of each kind
of file, and the options.
"""

from __future__ import annotations

import gzip
import io
import re

import numpy as np
import pytest


def _npy(array):
    np.save(out := io.BytesIO(), array)
    return out.getvalue()


def _npz(**arrays):
    np.savez(out := io.BytesIO(), **arrays)
    return out.getvalue()


FILES = {
    "words.csv": b"a,b,y\n1,2,3\n4,x,6\n",
    "ragged.csv": b"1,2,3\n4,5\n",
    "nan.csv": b"1,2,3\n4,NaN,6\n",
    "inf.tsv": b"1\t2\t3\n4\tinf\t6\n",
    "empty.csv": b"",
    "head.csv": b"a,b,y\n",
    "one.libsvm": b"1 1:1\n1 2:1\n1 3:1\n",
    "index.libsvm": b"1 1:1\n0 0:3\n",
    "pair.libsvm": b"1 1:1\n0 two:3\n",
    "label.libsvm": b"1 1:1\n1:2 2:3\n",
    "cut.csv.gz": gzip.compress(b"1,2,3\n" * 1000)[:-9],
    "table.parquet": b"PAR1 and no more",
    "array.npy": b"no array",
    "arrays.npz": b"no arrays",
    "notes.txt": b"1,2,3\n",
    "counts.csv": b"1,-1\n2,3\n3,0\n",
    "answers.csv": b"a,y\n1,yes\n2,no\n3,maybe\n",
    "utf16.csv": "a,b,y\n1,2,0\n".encode("utf-16"),
    "latin.csv": "a,b,y\n1,2,café\n2,1,x\n".encode("latin-1"),
    "complex.npy": _npy(np.ones(2) * 1j),
    "y5.npy": _npy(np.arange(5.0)),
    "beyond.npz": _npz(format=b"csr", shape=[5, 4], data=np.ones(5), indices=[0, 1, 14, 2, 3], indptr=range(6)),
    "cut.npz": _npz(format=b"csr", shape=[5, 4], data=np.ones(5), indices=[0, 1, 2, 2, 3], indptr=range(6))[:-300],
    "good.csv": b"a,b,y\n1,2,0\n2,1,1\n3,5,0\n4,4,1\n",
}
LOSS = ("--loss", "logistic")
COMMANDS = [
    # what a file holds
    ("import words.csv", r"words\.csv, line 3, column 2 \('b'\): the value 'x' is not a number; .* --one-hot b"),
    ("import ragged.csv", r"ragged\.csv, line 2: 2 fields where 3 are expected"),
    ("import nan.csv", r"nan\.csv, line 2, column 2: the value is 'NaN': fill it in .*\(--skip-bad-rows\)"),
    ("import inf.tsv", r"inf\.tsv, line 2, column 2: the value is 'inf'"),
    ("import empty.csv", r"empty\.csv is empty"),
    ("import head.csv", r"head\.csv.*no rows are left"),
    ("import index.libsvm", r"index\.libsvm, line 2, column 3: index 0, but .*: say --index-base 0 if"),
    ("import pair.libsvm", r"pair\.libsvm, line 2, column 3: the index 'two' is not a whole number"),
    ("import label.libsvm", r"label\.libsvm, line 2: no label before '1:2'"),
    ("import cut.csv.gz", r"cut\.csv\.gz: damaged or cut-short"),
    ("import utf16.csv", r"utf16\.csv, line 1: byte 0x00 is no UTF-8 text: convert the file to UTF-8"),
    ("import latin.csv", r"latin\.csv, line 2: byte 0xe9 is no UTF-8 text"),
    ("import beyond.npz --label y5.npy", r"beyond\.npz: a broken sparse matrix \(.*indices must be < 4\)"),
    ("import cut.npz --label y5.npy", r"cut\.npz: not an \.npz file of numbers"),
    ("import table.parquet", r"table\.parquet: not a readable Parquet file"),
    ("import array.npy", r"array\.npy: not a \.npy file"),
    ("import arrays.npz", r"arrays\.npz: not an \.npz file"),
    ("import notes.txt", r"notes\.txt: cannot tell the format from the name; say --format one of libsvm, csv"),
    ("solve one.libsvm --loss logistic", r"target of data 'one' has one class only \(1\.0\): nothing to separate"),
    ("solve counts.csv --loss poisson", r"the target of data 'counts' must be >= 0 for loss 'poisson'; it holds -1"),
    ("solve answers.csv --loss logistic", r"has 3 classes, loss 'logistic' takes two: use softmax"),
    ("solve answers.csv --loss squared", r"holds text classes, but loss 'squared' needs numbers: use logistic or soft"),
    ("solve words.csv --loss squared", r"words\.csv, line 3, column 2 \('b'\): the value 'x'"),
    # files and names that are none
    ("import absent.csv", r"no file 'absent\.csv'"),
    ("import", r"no file to import; see `overcast import --help`"),
    ("import .", r"is a directory: give a file|cannot tell the format"),
    ("import good.csv words.csv ragged.csv", r"files before have 3|other column names|not a number"),
    ("solve absent.csv --loss logistic", r"no data set or file 'absent\.csv'; nothing has been imported yet"),
    ("solve absent --loss logistic", r"no data set 'absent' in this store; nothing has been imported yet"),
    ("import --delete absent", r"no data set 'absent' in this store"),
    ("import good.csv --name a/b", r"bad data set name 'a/b'"),
    # options of an import
    ("import good.csv --label z", r"no column 'z' for the label; there are 3: a, b, y"),
    ("import good.csv --label 7", r"no column 7 for the label: there are 3"),
    ("import good.csv --weight w", r"no column 'w' for weights"),
    ("import good.csv --one-hot q", r"no column 'q' for --one-hot"),
    ("import good.csv --dtype int8", r"unknown dtype 'int8': choose one of float32, float64"),
    ("import good.csv --scale sdt", r"unknown scale 'sdt': did you mean 'std'\?"),
    ("import good.csv --layout rows", r"unknown layout 'rows': choose one of csr, dense"),
    ("import good.csv --format cvs", r"unknown format 'cvs': did you mean 'csv'\?"),
    ("import good.csv --shuffle-seed x", r"--shuffle-seed must be a whole number >= 0 or none, not 'x'"),
    ("import good.csv --block-mb 0", r"--block-mb: a number of megabytes above 0, up to 2048, not '0'"),
    ("import good.csv --index-base 0", r"--n-features and --index-base are for libsvm text, not for csv"),
    ("import one.libsvm --n-features 0", r"--n-features is a number from 1 to 2147483647, not 0"),
    ("import one.libsvm --index-base 7", r"--index-base is 0 or 1, not 7"),
    ("import good.csv --shuffle-seed " + "9" * 40, r"--shuffle-seed is a number from 0 up to 2\^128, or none to keep"),
    ("import good.csv --blocks 3", r"unrecognized arguments: --blocks 3 \(see `overcast"),
    # problem and solver
    ("solve good.csv", r"no --loss: say what to minimise, such as --loss logistic"),
    ("solve --loss logistic", r"no data: name a data set or a file, or say --resume"),
    ("solve good.csv --loss logstic", r"unknown loss 'logstic': did you mean 'logistic'\?"),
    ("solve good.csv --loss huber --loss-option dlta=2", r"option of loss 'huber' 'dlta': did you mean 'delta'"),
    ("solve good.csv --loss huber --loss-option delta=x", r"option 'delta' of loss 'huber' must be .*number, not 'x'"),
    ("solve good.csv --loss huber --loss-option delta=0", r"huber: delta must be > 0, not 0"),
    ("solve good.csv --loss logistic --l2 -1", r"l2 must be a number >= 0, not -1\.0"),
    ("solve good.csv --loss logistic --l2 nan", r"l2 must be a number >= 0, not nan"),
    ("solve good.csv --loss logistic --l2 x", r"argument --l2: invalid float value: 'x' \(see `overcast solve --h"),
    ("solve good.csv --loss logistic --l1 inf", r"l1 must be a number >= 0, not inf"),
    ("solve good.csv --loss logistic --solver newtn", r"unknown solver 'newtn': did you mean 'newton'\?"),
    ("solve good.csv --loss logistic --set memory", r"--set takes key=value, not 'memory'"),
    ("solve good.csv --loss logistic --set memory=3", r"unknown setting of solver 'oversketched-newton' 'memory'"),
    ("solve good.csv --loss logistic --set strategy=best", r"strategy must be one of auto, metric, .* not 'best'"),
    ("solve good.csv --loss logistic --tol 0", r"tol must lie between 0 and 1, not 0\.0"),
    ("solve good.csv --loss logistic --tol 2", r"tol must lie between 0 and 1, not 2\.0"),
    ("solve good.csv --loss logistic --max-iter 0", r"max_iter must be a whole number >= 1, not 0"),
    ("solve good.csv --loss logistic --max-iter 1.5", r"argument --max-iter: invalid int value: '1\.5'"),
    ("solve good.csv --loss logistic --seed -1", r"seed must be a whole number >= 0, not -1"),
    ("solve good.csv --loss logistic --seed 9999999999999999999999999999999999999999", r"seed must be .* below 2\^128"),
    ("solve good.csv --loss logistic --set l2=3", r"unknown setting of solver 'oversketched-newton' 'l2': choose one"),
    ("solve good.csv --loss huber --loss-option name=squared", r"name is no option of a loss: say --loss NAME"),
    ("solve good.csv --loss log-barrier", r"unknown loss 'log-barrier': choose one of huber, logistic, poisson, softm"),
    ("solve good.csv --cost complex.npy", r"needs its cost c: a vector of finite numbers"),
    ("solve '' --loss logistic", r"no data set \"''\" in this store"),
    ("solve good.csv --loss logistic --workers 0", r"workers must be >= 1 and at most 10000, not 0"),
    ("solve good.csv --loss logistic --workers 100000000000", r"workers must be .* not 100000000000"),
    ("solve good.csv --loss logistic --policy hope", r"policy must be one of wait, speculate, not 'hope'"),
    ("solve good.csv --loss logistic --l1 1e-3 --solver lbfgs", r"lbfgs takes no l1 penalty: use proximal-newton"),
    ("solve good.csv --loss logistic --class-weight 7=2", r"unknown class in class_weight '7'"),
    ("solve good.csv --loss logistic --class-weight 0=-1", r"class weights must be finite and >= 0"),
    ("solve good.csv --loss logistic --class-weight heavy", r"--class-weight takes key=value, not 'heavy'"),
    ("solve good.csv --loss squared --class-weight balanced", r"class_weight needs classes, and loss 'squared' has n"),
    ("solve good.csv --loss logistic --id A", r"bad job id 'A': use 4 to 60 small letters, digits and '-'"),
    ("solve good.csv --loss logistic --start nothing", r"no job 'nothing' in this store; there are none yet"),
    # jobs, results and the rest
    ("solve --resume", r"no interrupted or queued job in this store"),
    ("solve --resume some", r"no job 'some' in this store"),
    ("solve good.csv --resume", r"--resume takes a job, and DATA starts a new one: give one of them"),
    ("solve --tol 1e-3 --set memory=2 --resume", r"as it was asked for: leave out --set, --tol"),
    ("jobs show some", r"no job 'some' in this store; there are none yet"),
    ("jobs cancel some", r"no job 'some'"),
    ("jobs wait some", r"no job 'some'"),
    ("jobs resume some", r"no job 'some'"),
    ("jobs clean", r"name jobs to delete, or say --ended"),
    ("jobs clean some --ended", r"name jobs to delete, or say --ended"),
    ("jobs stop", r"invalid choice: 'stop' \(choose from .*\(see `overcast jobs --help`\)"),
    ("result some", r"no job 'some'"),
    ("predict some good.csv", r"no job 'some'"),
    ("predict", r"the following arguments are required: JOB, FILE"),
    ("report some", r"no job 'some'"),
    ("solvers magic", r"unknown solver 'magic': choose one of .*newton"),
    ("demo --rows 10", r"--rows must be at least 1000, not 10"),
    ("", r"the following arguments are required: COMMAND \(see `overcast --help`\)"),
    ("sovle good.csv", r"invalid choice: 'sovle'"),
]  # fmt: skip


@pytest.fixture
def bad(cli, folder, tmp_path, monkeypatch):
    """Run a command that is refused, among the files above; its line on stderr."""
    monkeypatch.chdir(tmp_path)
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)

    def run(*words):
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        ran = cli(*words)
        assert ran.code == 2, ran
        assert ran.out == ""
        assert ran.err.startswith("overcast: ")
        assert ran.err.count("\n") == 1
        after = {path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
        assert after <= before, "something was left"
        return ran.err

    return run


def test_there_are_enough():
    assert len({command for command, _ in COMMANDS}) == len(COMMANDS) >= 25


@pytest.mark.parametrize(("command", "says"), COMMANDS, ids=[command or "nothing" for command, _ in COMMANDS])
def test_refused(bad, command, says):
    line = bad(*command.split())
    assert re.search(says, line), line


def test_what_is_in_the_store_is_not_replaced(bad, cli, tmp_path):
    assert cli("import", "good.csv").code == 0
    (tmp_path / "good.csv").write_bytes(FILES["good.csv"] + b"9,9,1\n")
    assert "say --replace" in bad("solve", "good.csv", *LOSS)
    assert "there is a data set 'good' already: choose another name or say --replace" in bad("import", "good.csv")
    assert "import options go with a file" in bad("solve", "good", "--label", "a", *LOSS)
    assert cli("solve", "good", *LOSS, "--l2", "1", "--id", "job-one", "--quiet").code == 0
    assert "job 'job-one' exists already" in bad("solve", "good", *LOSS, "--id", "job-one")


def test_results_that_cannot_be_used(bad, cli, tmp_path):
    np.save(tmp_path / "wide.npy", np.ones((3, 9)))
    (tmp_path / "other.csv").write_text("a,c,y\n1,2,3\n")
    assert cli("solve", "good.csv", "--loss", "squared", "--l2", "1", "--id", "job-one", "--quiet").code == 0
    assert "loss 'squared' gives no probabilities: leave --proba out" in bad("predict", "latest", "good.csv", "--proba")
    assert "wide.npy: 9 columns, but the model was fitted on 2" in bad("predict", "latest", "wide.npy", "--unlabelled")
    assert re.search(r"other\.csv: column 'c' is not one of the model's", bad("predict", "latest", "other.csv"))
    assert "absent.csv" in bad("predict", "latest", "absent.csv")
    assert "words.csv, line 3, column 2" in bad("predict", "latest", "words.csv")
    for command in (("result", "--save"), ("predict", "latest", "good.csv", "--output"), ("report", "--output")):
        assert re.search(r"cannot write no/such/folder: No such file", bad(*command, "no/such/folder"))
        assert "cannot write good.csv/x: Not a directory" in bad(*command, "good.csv/x")


def test_a_store_that_is_none(bad, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot use file as a store: it is no folder" in bad("import", "good.csv", "--store", "file")
    assert "no store at elsewhere" in bad("jobs", "--store", "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("text", ["", '{"state": "d', "[]", '{"state": "odd"}', '{"odd": 1, "format": 1}'])
@pytest.mark.parametrize("name", ["spec.json", "status.json", "result.json"])
def test_a_damaged_job_is_named_and_can_be_cleaned(cli, folder, tmp_path, monkeypatch, name, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.csv").write_bytes(FILES["good.csv"])
    assert cli("solve", "good.csv", "--loss", "squared", "--l2", "1", "--id", "job-one", "--quiet").code == 0
    path = folder / "jobs" / "job-one" / name
    path.write_text(text)
    ran = cli("result", "job-one")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert f"jobs/job-one/{name} is damaged: restore it, or delete" in ran.err or "was made by version" in ran.err
    listed = cli("jobs")
    assert (listed.code, listed.err) == (0, "")
    assert "job-one" in listed.out
    if "made by" not in ran.err:
        assert cli("jobs", "clean", "job-one").code == 0
        assert not path.exists()


def test_a_damaged_data_set_is_named_and_can_be_deleted(cli, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.csv").write_bytes(FILES["good.csv"])
    assert cli("import", "good.csv").code == 0
    [block] = (folder / "data" / "good").glob("*/block-00000")
    block.write_bytes(block.read_bytes()[:40])
    ran = cli("solve", "good", *LOSS, "--quiet")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "block-00000: no array header found; the file is cut short" in ran.err
    manifest = folder / "data" / "good" / "manifest.json"
    manifest.write_text(manifest.read_text()[:30])
    assert "good: not a data manifest" in cli("import", "--list").err
    assert cli("import", "--delete", "good").code == 0
    assert not manifest.exists()
