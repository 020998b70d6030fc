"""The demo: predict late flights, from data to report. The data are described in `overcast.flights`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from coordinator.driver import run_job
from coordinator.errors import InputError
from coordinator.jobs import new_id
from overcast import store as stores
from overcast.client import SOLVER, Client
from overcast.commands.common import again, print_facts, print_json, say
from overcast.commands.solving import end_code
from overcast.flights import flights, hold_out
from overcast.prediction import auc
from overcast.progress import SolveProgress
from overcast.summary import facts, words

L2 = 1e-4


def run_demo(args: argparse.Namespace) -> int:
    """Run it as the command line says; the exit code."""
    began = time.perf_counter()
    if args.rows is not None and args.rows < 1000:
        raise InputError(f"--rows must be at least 1000, not {args.rows}")

    def tell(text: str) -> None:
        if not args.quiet:
            sys.stderr.write(text + "\n")

    tell("reading the flights that left New York in 2013 ...")
    X, y, _ = flights(wide=args.wide)
    if args.rows is not None and args.rows < len(y):
        some = np.sort(np.random.default_rng(1).choice(len(y), args.rows, replace=False))
        X, y = X[some], y[some]
    train, test = hold_out(len(y))
    name = "flights-wide" if args.wide else "flights"
    client = Client(args.store or stores.default_store())
    tell(f"importing {len(train):,} of {len(y):,} flights, {X.shape[1]:,} columns; the others are held out ...")
    client.import_data(X[train], name, target=y[train], replace=True)
    settings = {"tol": args.tol}
    handle = client.prepare(
        name,
        "logistic",
        l2=L2 if args.l2 is None else args.l2,
        solver=args.solver or SOLVER,
        settings=settings,
        id=f"demo-{new_id()}",
    )
    try:
        title = f"job {handle.id}: was the flight over 15 minutes late?"
        with SolveProgress(title, args.tol, quiet=args.quiet) as progress:
            result = run_job(handle.storage, handle.id, progress)
    except KeyboardInterrupt:
        say(f"interrupted; go on with: {again(args, 'solve', '--resume', handle.id)}")
        return 130
    accuracy = float(np.mean(result.predict(X[test]) == y[test]))
    area = auc(result.predict_proba(X[test])[:, 1], y[test] == 1)
    base = float(max(y[test].mean(), 1 - y[test].mean()))
    path = handle.report(args.output or Path("overcast-demo.html"))
    seconds = time.perf_counter() - began
    if args.json:
        figures = {"accuracy": accuracy, "auc": area, "base_rate": base, "demo_seconds": seconds}
        print_json(facts(result, handle.spec) | figures | {"held_out": len(test), "report": str(path)})
        return end_code(handle, result)
    shown = {
        "held-out flights": f"{len(test):,}, drawn by chance",
        "accuracy": f"{accuracy:.2%}  (always saying 'on time': {base:.2%})",
        "AUC": f"{area:.4f}",
    }
    print_facts(shown | words(result, handle.spec) | {"all in all": f"{seconds:.1f} s", "report": str(path)})
    return end_code(handle, result)
