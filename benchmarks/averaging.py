"""Error of averaged Newton steps, and of the trace of the inverse Hessian, against the number of workers.

    python benchmarks/averaging.py --small                   # a quarter of the runs and of the workers
    python benchmarks/averaging.py                           # all sets that are to be had
    python benchmarks/averaging.py --sets abalone,synthetic --rows 10

The figure of "Distributed estimation of the inverse Hessian by determinantal averaging" (arXiv 1905.11546), with what
came after it. Each worker draws k rows and takes its Newton step; the error is |p^ - p| / |p|, the mean over runs with
its standard error. Curves:

    uniform        plain mean; k rows with replacement
    determinantal  weights det H^; k rows with replacement, with the exact correction
    bernoulli      weights det H^; each row with probability k / n, as published
    leverage       as determinantal, but half of the chance to be drawn is by leverage scores, which keeps the identity.
                   They are taken from the exact Hessian: this tells what leverage does, it is no method
    scaling        plain mean of steps debiased by scaled regularization; k rows with replacement
    surrogate      the same of SJLT sketches of k rows

The slope is that of log error on log workers, from 10 workers on, with its standard error over runs: -1/2 where
averaging removes all of the error.

Sets: abalone, cal_housing, mg (least squares, columns standardized, no penalty), a9a (logistic after two Newton steps,
l2 = 1 / n) from a data folder (--data or OVERCAST_TEST_DATA), and a synthetic of 200 columns, on which the weights of
Bernoulli rows collapse: ess is the effective sample size over the number of workers.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import single_plot
from numpy.typing import NDArray
from scipy import special
from threadpoolctl import threadpool_limits

from coordinator.solvers.estimates import invertible, log_determinant
from sketches import SJLT, combine, correction, draw_rows, scaling, stream

HERE = Path(__file__).resolve().parent
SETS = ("abalone", "cal_housing", "mg", "a9a", "synthetic")
CURVES = {
    "uniform": ("fixed", "none", False),
    "determinantal": ("fixed", "determinant", True),
    "bernoulli": ("bernoulli", "determinant", True),
    "leverage": ("leverage", "determinant", True),
    "scaling": ("fixed", "scale", False),
    "surrogate": ("sjlt", "scale", False),
}
LAWS = {"fixed": 1, "bernoulli": 0, "leverage": 2, "sjlt": 3}  # number of its stream
COLOURS = {
    "uniform": "#9aa5b1", "determinantal": "#0b3954", "bernoulli": "#d1495b",
    "leverage": "#edae49", "scaling": "#7d5ba6", "surrogate": "#2a9d8f",
}  # fmt: skip
HASHES = 4
WORKERS = (1, 3, 10, 30, 100, 300, 1000)
WIDE = 100  # columns from which 100 workers are the most


@dataclass(frozen=True)
class Case:
    """Rows A (n, p) of the Hessian's square root times sqrt(n), so that H = A'A / n + diag(ridge); gradient g (p,)."""

    name: str
    A: NDArray[np.float64]
    ridge: NDArray[np.float64]
    g: NDArray[np.float64]


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    chosen = args.sets.split(",")
    for name in chosen:
        if name not in SETS:
            sys.exit(f"averaging: no set {name!r}: there are {', '.join(SETS)}")
    runs = args.runs or (25 if args.small else 100)
    report: dict[str, Any] = {"runs": runs, "rows_per_column": args.rows, "small": args.small, "sets": {}}
    say = (lambda *_: None) if args.json else print
    for name in chosen:
        try:
            case = load(name, args.data)
        except FileNotFoundError as why:
            report["sets"][name] = {"skip": str(why)}
            say(f"{name}: left out: {why}\n")
            continue
        with threadpool_limits(1):
            found = run(case, runs, args.rows, most=250 if args.small else 1000)
        report["sets"][name] = found
        say("\n".join(table(name, found)) + "\n")
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"averaging{'-small' if args.small else ''}"
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    paths = [stem.with_suffix(".json"), *draw(report, stem)]
    if args.json:
        print(json.dumps(report))
    say("Written: " + ", ".join(str(path) for path in paths))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS), help="separated by commas (default: all)")
    parser.add_argument("--runs", type=int, help="runs of each (default 100; --small: 25)")
    parser.add_argument("--rows", type=int, default=10, help="rows that a worker draws, for each column (default 10)")
    parser.add_argument("--small", action="store_true", help="25 runs, at most 250 workers")
    parser.add_argument("--data", type=Path, help="folder of libsvm/, libsvm_regression/ and regression/")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the report and the plot")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of tables")
    return parser


# -- the sets ----------------------------------------------------------------------------------------------


def load(name: str, data: Path | None) -> Case:
    """FileNotFoundError when its file is not there."""
    if name == "synthetic":
        rng = np.random.default_rng(0)
        X = rng.standard_normal((20_000, 200)) * np.geomspace(1, 0.05, 200)
        y = X @ rng.standard_normal(200) + rng.standard_normal(20_000)
        return Case(name, X, np.zeros(200), -X.T @ y / len(y))
    if name == "a9a":
        return _a9a(_find(data, "libsvm/a9a.xz"))
    file = {"abalone": "libsvm_regression/abalone.csv.xz", "mg": "libsvm_regression/mg_scale.csv.xz"}
    path = _find(data, file.get(name, "regression/cal_housing.data.xz"))
    with lzma.open(path, "rt") as lines:
        rows = np.loadtxt(lines, delimiter=",")
    X, y = (rows[:, :-1], rows[:, -1]) if name == "cal_housing" else (rows[:, 1:], rows[:, 0])
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    y = (y - y.mean()) / y.std()
    return Case(name, X, np.zeros(X.shape[1]), -X.T @ y / len(y))


def _find(data: Path | None, name: str) -> Path:
    beside = HERE.parents[1] / "shared" / "data"
    root = data or Path(os.environ.get("OVERCAST_TEST_DATA", beside))
    if not (root / name).exists():
        raise FileNotFoundError(f"{name} is not in {root}: name the folder by --data or OVERCAST_TEST_DATA")
    return root / name


def _a9a(path: Path) -> Case:
    from sklearn.datasets import load_svmlight_file

    with lzma.open(path) as file:
        X, y = load_svmlight_file(file, n_features=123)
    n = len(y)
    X = np.column_stack([X.toarray(), np.ones(n)])
    ridge = np.full(124, 1 / n)
    ridge[-1] = 0.0
    w = np.zeros(124)
    for step in range(3):
        z = X @ w
        g = X.T @ (special.expit(z) - (y > 0)) / n + ridge * w
        A = X * np.sqrt(special.expit(z) * special.expit(-z))[:, None]
        if step < 2:
            w = w - invertible(A.T @ A / n + np.diag(ridge), "float64", n).solve(g)
    return Case("a9a", A, ridge, g)


# -- the runs ----------------------------------------------------------------------------------------------


def run(case: Case, runs: int, per_column: int, most: int) -> dict[str, Any]:
    """Mean errors with standard errors by curve and number of workers."""
    began = time.perf_counter()
    n, p = case.A.shape
    k = min(per_column * p, n // 2)
    counts = [q for q in WORKERS if q <= (min(most, 100) if p > WIDE else most)]
    exact = invertible(case.A.T @ case.A / n + np.diag(case.ridge), "float64", n)
    newton, trace = exact.solve(case.g), float(np.trace(exact.solve(np.eye(p))))
    leverage = np.einsum("ij,ji->i", case.A, exact.solve(case.A.T)) / n
    chance = 0.5 / n + 0.5 * leverage / leverage.sum()
    errors = {curve: np.zeros((runs, len(counts), 3)) for curve in CURVES}
    for r in range(runs):
        for law, number in LAWS.items():
            drawn = [estimate(case, law, k, chance, (r, number, t)) for t in range(counts[-1])]
            for curve, (of, correct, determinants) in CURVES.items():
                if of != law:
                    continue
                steps = np.array([found[correct][0] for found in drawn])
                traces = np.array([found[correct][1] for found in drawn])
                logs = np.array([found[correct][2] for found in drawn]) if determinants else None
                for i, q in enumerate(counts):
                    some = None if logs is None else logs[:q]
                    step, tr = combine(steps[:q], some), combine(traces[:q], some)
                    off = float(np.linalg.norm(step.value - newton) / np.linalg.norm(newton))
                    errors[curve][r, i] = off, abs(float(tr.value) / trace - 1), step.ess / q
    coherence = float(leverage.max() * n / p)
    out: dict[str, Any] = {"rows": n, "columns": p, "drawn": k, "coherence": coherence, "workers": counts, "curves": {}}
    for curve, found in errors.items():
        mean, spread = found.mean(axis=0), found.std(axis=0, ddof=1) / np.sqrt(runs)
        out["curves"][curve] = {
            "step": mean[:, 0].tolist(),
            "step_se": spread[:, 0].tolist(),
            "trace": mean[:, 1].tolist(),
            "trace_se": spread[:, 1].tolist(),
            "ess": mean[:, 2].tolist(),
            "slope": slope(counts, found[:, :, 0]),
        }
    return out | {"seconds": time.perf_counter() - began}


def slope(counts: Sequence[int], errors: NDArray[np.float64]) -> tuple[float, float]:
    """Of the log of mean errors (runs, counts) from 10 workers on, and its standard error, jackknifed over runs."""
    far = np.array(counts) >= 10
    x = np.log(np.array(counts)[far])
    total = errors[:, far].sum(axis=0)
    rest = (total - errors[:, far]) / (len(errors) - 1)
    whole, *others = np.polyfit(x, np.log(np.vstack([total / len(errors), rest])).T, 1)[0]
    return float(whole), float(np.sqrt(len(errors) - 1) * np.std(others))


def estimate(
    case: Case, law: str, k: int, chance: NDArray[np.float64], name: tuple[int, ...]
) -> dict[str, tuple[NDArray[np.float64], float, float]]:
    """One worker's step H^^-1 g, trace and log-determinant under each correction of its law."""
    n = len(case.A)
    rng = stream(0, *name)
    if law == "sjlt":
        k = HASHES * -(-k // HASHES)
        A = SJLT(k, HASHES).matrix(n, rng) @ case.A * np.sqrt(k / n)
    elif law == "leverage":
        index = rng.choice(n, size=k, p=chance)
        A = case.A[index] / np.sqrt(n * chance[index])[:, None]
    else:
        index, copies = draw_rows(law, n, k, rng)
        A = case.A[index] * np.sqrt(copies)[:, None]
    G = A.T @ A / k
    nus = {"scale": scaling(G, case.ridge, k)} if law in {"fixed", "sjlt"} else {}
    if law != "sjlt":
        nus["determinant"] = correction("bernoulli" if law == "bernoulli" else "fixed", G, case.ridge, k)
    if law == "fixed":
        nus["none"] = 1.0
    out = {}
    for correct, nu in nus.items():
        solver = invertible(G / nu + np.diag(case.ridge), "float64", k)
        inverse = solver.solve(np.eye(len(G)))
        out[correct] = (inverse @ case.g, float(np.trace(inverse)), log_determinant(solver))
    return out


# -- what is printed and drawn -----------------------------------------------------------------------------


def table(name: str, found: Mapping[str, Any]) -> list[str]:
    shape = f"{found['rows']:,} x {found['columns']}, {found['drawn']} rows drawn by each worker"
    coherence = f"largest leverage {found['coherence']:.0f} times the mean"
    lines = [f"{name}: {shape}; {coherence} ({found['seconds']:.0f} s)"]
    for what, title in (("step", "error of the Newton step"), ("trace", "error of the trace of the inverse")):
        lines.append(f"  {title:36}" + "".join(f"{q:>18}" for q in found["workers"]))
        for curve, figures in found["curves"].items():
            pairs = zip(figures[what], figures[f"{what}_se"], strict=True)
            lines.append(f"  {curve:36}" + "".join(f"{f'{mean:.4f} +- {se:.4f}':>18}" for mean, se in pairs))
    lines.append("  slope of the step's error from 10 workers on")
    lines += [f"  {curve:36}{'{:.3f} +- {:.3f}'.format(*of['slope']):>18}" for curve, of in found["curves"].items()]
    lines.append(f"  {'effective sample / workers':36}" + "".join(f"{q:>18}" for q in found["workers"]))
    for curve in ("determinantal", "bernoulli", "leverage"):
        lines.append(f"  {curve:36}" + "".join(f"{ess:>18.3f}" for ess in found["curves"][curve]["ess"]))
    return lines


def draw(report: Mapping[str, Any], stem: Path) -> list[Path]:
    """Write STEM.png and STEM.svg: a column for a set; steps above, traces below."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = {name: found for name, found in report["sets"].items() if "curves" in found}
    if not shown:
        return []
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(2, len(shown), figsize=(3.2 * len(shown), 5.4), squeeze=False, layout="constrained")
    for column, (name, found) in enumerate(shown.items()):
        for row, what in enumerate(("step", "trace")):
            ax = axes[row, column]
            for curve, figures in found["curves"].items():
                ax.errorbar(
                    found["workers"], figures[what], figures[f"{what}_se"],
                    color=COLOURS[curve], label=curve, marker="o", ms=3, lw=1.4, capsize=2,
                )  # fmt: skip
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_xlabel("workers")
            if column == 0:
                ax.set_ylabel("error of the Newton step" if row == 0 else "error of the trace of the inverse")
        title = f"{name}: {found['rows']:,} x {found['columns']}, {found['drawn']} rows each"
        axes[0, column].set_title(title, loc="left", fontsize=8)
    axes[0, 0].legend(frameon=False, fontsize=7)
    return single_plot.save(figure, stem)


if __name__ == "__main__":
    sys.exit(main())
