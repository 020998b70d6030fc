"""`overcast result`, `uncertainty`, `predict` and `report`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import IO, Any

from coordinator.errors import InputError
from overcast.commands.common import (
    Commands,
    add_json,
    add_reading_options,
    at,
    command,
    print_facts,
    print_json,
    print_table,
    reading_options,
    say,
)
from overcast.files import written

_JOB = " JOB is an id, its unambiguous beginning, or latest."


def add_commands(commands: Commands) -> None:
    """Add the commands."""
    add_result(commands)
    predict = command(
        commands,
        "predict",
        "predict the rows of a file with the result of a job, as CSV",
        """overcast predict latest test.libsvm
        overcast predict latest new.csv --proba --output predictions.csv""",
        _predict,
        about=" The file is read as the training data were;\nits target may be missing." + _JOB,
    )
    predict.add_argument("job", metavar="JOB", help="whose result to use")
    predict.add_argument("file", metavar="FILE", help="rows, in any format that `overcast import` reads")
    predict.add_argument("--proba", action="store_true", help="class probabilities instead of labels")
    predict.add_argument("--output", metavar="FILE.csv", help="write here instead of to stdout")
    add_json(predict)
    add_reading_options(predict.add_argument_group("how to read the file (default: as the training data)"))
    doubt = command(
        commands,
        "uncertainty",
        "standard errors, tests and confidence intervals of a job's coefficients",
        """overcast uncertainty latest
        overcast uncertainty latest --level 0.9 --covariance sandwich
        overcast uncertainty latest --method estimate --accuracy 0.02 --json""",
        _uncertainty,
        about=_JOB,
    )
    doubt.add_argument("job", nargs="?", default="latest", metavar="JOB", help="default: latest")
    doubt.add_argument("--method", default="auto", help="exact, estimate, or auto: exact unless that is long (default)")
    doubt.add_argument(
        "--accuracy", type=float, default=0.02, metavar="A", help="of estimates, relative (default: 0.02)"
    )
    doubt.add_argument("--covariance", default="auto", help="model, sandwich, or auto: by the loss (default)")
    doubt.add_argument("--level", type=float, default=0.95, metavar="L", help="of the intervals (default: 0.95)")
    doubt.add_argument("--draw", default="sjlt", help="sjlt, fixed, poisson or bernoulli (default: sjlt)")
    doubt.add_argument("--estimates", type=int, default=0, metavar="Q", help="how many (default: by the accuracy)")
    doubt.add_argument("--leverage", metavar="FILE.npy", help="write the rows' leverage scores, in stored order")
    add_json(doubt)
    report = command(
        commands,
        "report",
        "write a report on a job: one HTML page with its plots",
        """overcast report latest
        overcast report latest --output report.html""",
        _report,
        about=_JOB + ' Needs the extra "report".',
    )
    report.add_argument("job", nargs="?", default="latest", metavar="JOB", help="default: latest")
    report.add_argument("--output", metavar="FILE.html", help="where to (default: report-JOB.html)")


def add_result(commands: Commands, words: str = "result", *, below: bool = False) -> None:
    """`overcast result`, and the same below `overcast jobs`."""
    result = command(
        commands,
        "result",
        "show what a job found and took; save its coefficients",
        f"""overcast {words} latest
        overcast {words} latest --save model.npz
        overcast {words} latest --json""",
        _result,
        about=_JOB,
        below=below,
    )
    result.add_argument("job", nargs="?", default="latest", metavar="JOB", help="default: latest")
    result.add_argument("--save", metavar="FILE.npz", help="write coef, intercept, classes and features")
    result.add_argument("--top", type=int, default=10, metavar="N", help="list the N largest coefficients")
    add_json(result, below=below)


def _result(args: argparse.Namespace) -> int:
    from coordinator.results import load_result
    from overcast.summary import facts, paid, spending, words

    place = at(args)
    handle = place.job(args.job)
    result, spec = load_result(place.storage, handle.id), handle.spec
    bill = spending(place.storage, handle.id)
    if args.save:
        _save(result, Path(args.save))
        say(f"wrote {args.save}")
    if args.json:
        more = {"coef": result.coef_, "intercept": result.intercept_, "classes": result.classes_}
        print_json(facts(result, spec) | bill | more | {"features": result.features, "history": result.history})
        return 0
    print_facts(words(result, spec) | paid(bill))
    if args.top > 0:
        _coefficients(result, args.top)
    return 0


def _uncertainty(args: argparse.Namespace) -> int:
    import numpy as np

    from overcast.handle import JobHandle

    names = ("method", "accuracy", "covariance", "level", "draw", "estimates")
    options = {name: getattr(args, name) for name in names}
    place = at(args)
    found = JobHandle(place.storage, place.job(args.job).id).uncertainty(**options, leverage=bool(args.leverage))
    if found.leverages is not None:
        with written(Path(args.leverage), "wb") as file:
            np.save(file, found.leverages)
        say(f"wrote {args.leverage}")
    if args.json:
        plain = {key: value for key, value in vars(found).items() if key not in {"contrasts", "leverages"}}
        print_json(plain | {"values": found.values, "p": found.p, "low": found.low, "high": found.high})
        return 0
    print_facts(found.facts())
    header = found.header()
    print_table(("coefficient", *header[1:]), found.rows(), right=header[1:])
    return 0


def _coefficients(result: Any, top: int) -> None:
    import numpy as np

    coef = np.atleast_2d(result.coef_)
    largest = np.argsort(-np.abs(coef).max(axis=0), kind="stable")[:top]
    names = result.features or [f"x{j}" for j in range(coef.shape[1])]
    labels = ["coefficient"] if coef.shape[0] == 1 else [str(c) for c in result.classes_ or range(coef.shape[0])]
    rows = [(names[j], *(f"{value:.6g}" for value in coef[:, j])) for j in largest.tolist()]
    bias = np.atleast_1d(result.intercept_)
    rows.append(("(intercept)", *(f"{float(value):.6g}" for value in np.broadcast_to(bias, coef.shape[0]))))
    print_table(("largest", *labels), rows, right=labels)


def _save(result: Any, path: Path) -> None:
    import numpy as np

    arrays = {"coef": result.coef_, "intercept": np.asarray(result.intercept_)}
    if result.classes_ is not None:
        arrays["classes"] = np.asarray(result.classes_)
    if result.features is not None:
        arrays["features"] = np.asarray(result.features)
    with written(path, "wb") as file:
        np.savez(file, **arrays)


def _predict(args: argparse.Namespace) -> int:
    from coordinator.results import load_result
    from overcast import store as stores
    from overcast.prediction import predict_file, quality

    place = at(args)
    handle = place.job(args.job)
    result = load_result(place.storage, handle.id)
    if args.proba and result.loss not in {"logistic", "softmax"}:
        raise InputError(f"loss {result.loss!r} gives no probabilities: leave --proba out, or fit logistic or softmax")
    origin = stores.origin_of(place.storage, handle.spec.data)
    found = predict_file(result, Path(args.file), origin, reading_options(args))
    if args.output:
        with written(Path(args.output), "w") as file:
            _csv(file, result, found, proba=args.proba)
    elif not args.json:
        _csv(sys.stdout, result, found, proba=args.proba)
    good = quality(result, found)
    if args.json:
        print_json({"job": handle.id, "rows": int(found.values.size), "output": args.output, **good})
    elif good:
        figures = ", ".join(f"{name.replace('_', ' ')} {value:.6g}" for name, value in good.items())
        say(f"{found.values.size:,} rows: {figures}")
    return 0


def _csv(file: IO[str], result: Any, found: Any, *, proba: bool) -> None:
    import csv

    out = csv.writer(file, lineterminator="\n")
    if proba:
        out.writerow([_label(c) for c in result.classes_])
        out.writerows([f"{p:.9g}" for p in row] for row in found.scores.tolist())
        return
    out.writerow(["prediction"])
    out.writerows([_label(value)] for value in found.values.tolist())


def _label(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _report(args: argparse.Namespace) -> int:
    from overcast.report import write_report

    place = at(args)
    print(write_report(place.storage, place.job(args.job).id, args.output))
    return 0
