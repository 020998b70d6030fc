"""The demo: predict late flights, from data to report. The data are described in `overcast.flights`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.driver import run_job
from coordinator.errors import InputError
from coordinator.jobs import new_id
from coordinator.solvers import make_solver
from overcast import store as stores
from overcast.asking import SOLVER
from overcast.client import Client
from overcast.commands.common import again, print_facts, print_json, say, stage
from overcast.commands.solving import end_code
from overcast.commands.submitting import show_quote
from overcast.flights import flights, hold_out
from overcast.place import Job
from overcast.prediction import auc
from overcast.progress import SolveProgress
from overcast.report import write_report
from overcast.summary import facts, paid, spending, words

L2 = 1e-4


def run_demo(args: argparse.Namespace) -> int:
    """Run it as the command line says; the exit code."""
    began = time.perf_counter()
    if args.rows is not None and args.rows < 1000:
        raise InputError(f"--rows must be at least 1000, not {args.rows}")
    make_solver(args.solver or SOLVER, {"tol": args.tol})  # before there is anything to wait for

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
    place = stage(args)
    tell(f"importing {len(train):,} of {len(y):,} flights, {X.shape[1]:,} columns; the others are held out ...")
    fields: dict[str, Any] = {
        "loss": "logistic",
        "l2": L2 if args.l2 is None else args.l2,
        "solver": args.solver,
        "tol": args.tol,
    }
    handle: Job
    if place is None:
        client = Client(args.store or stores.default_store())
        client.import_data(X[train], name, target=y[train], replace=True)
        handle = client.prepare(name, **fields, id=f"demo-{new_id()}")
    else:
        name = f"{name}-{len(train)}"  # nobody may delete data there
        if name not in place.cloud.data():
            place.cloud.import_data(X[train], name, target=y[train], block_bytes=_block(X.nnz))
        quote = place.cloud.quote(name, **fields)
        if not (args.quiet or args.json):
            show_quote(quote)
        handle = place.cloud.submit(name, **fields, id=f"demo-{new_id()}")
    try:
        title = f"job {handle.id}: was the flight over 15 minutes late?"
        with SolveProgress(title, args.tol, quiet=args.quiet) as progress:
            if place is None:
                result = run_job(handle.storage, handle.id, progress)
            else:
                for row in handle.stream():
                    progress(row)
                result = handle.result()
    except KeyboardInterrupt:
        words_on = ("solve", "--resume") if place is None else ("jobs", "wait")
        say(f"interrupted; go on with: {again(args, *words_on, handle.id)}")
        return 130
    accuracy = float(np.mean(result.predict(X[test]) == y[test]))
    area = auc(result.predict_proba(X[test])[:, 1], y[test] == 1)
    base = float(max(y[test].mean(), 1 - y[test].mean()))
    path = write_report(handle.storage, handle.id, args.output or Path("overcast-demo.html"))
    bill = spending(handle.storage, handle.id)
    seconds = time.perf_counter() - began
    if args.json:
        figures = {"accuracy": accuracy, "auc": area, "base_rate": base, "demo_seconds": seconds}
        print_json(facts(result, handle.spec) | bill | figures | {"held_out": len(test), "report": str(path)})
        return end_code(handle, result)
    shown = {
        "held-out flights": f"{len(test):,}, drawn by chance",
        "accuracy": f"{accuracy:.2%}  (always saying 'on time': {base:.2%})",
        "AUC": f"{area:.4f}",
    }
    shown |= words(result, handle.spec) | paid(bill)
    print_facts(shown | {"all in all": f"{seconds:.1f} s", "report": str(path)})
    return end_code(handle, result)


def _block(nonzeros: int) -> int:
    """Bytes of a block in the cloud: of 12 a non-zero, some 16 blocks, for workers at once."""
    return max(12 * nonzeros // 16, 1 << 16)
