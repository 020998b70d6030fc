"""Overcast and scikit-learn's solvers side by side on one machine, to the same relative gradient norm.

    python benchmarks/single_node.py --small          # every case, smaller, each in about a minute
    python benchmarks/single_node.py --case b,c       # at full size
    python benchmarks/single_node.py --case a --solvers overcast,sklearn/newton-cholesky --limit 600
    python benchmarks/single_node.py --case a,c --solvers overcast/auto,averaging,sklearn    # averaged local steps too

Cases: a  logistic, 400,000 x 2,000 dense float32, condition number 4e4, which scaling columns does not improve
       b  logistic, flights late by 15 minutes, one-hot: 327,346 x 192 (b-narrow) and x 28,465 (b-wide)
       c  logistic, a9a, 32,561 x 123 (a file to be had elsewhere: --data or OVERCAST_TEST_DATA)
       d  softmax, 1.77 million words -> 12 languages, hashed n-grams in 131,072 columns

What is compared: seconds of the fit alone, in a process of the contestant's own, without loading the data, which are
in memory (case a, Overcast: memory-mapped blocks on disk, in the page cache). Overcast's rates of the machine are
measured once, beforehand, as they are kept for later jobs. Fits of less than 5 seconds are repeated: the median of
three; cpu, the processors' seconds in all threads, suffers less from other programs.
The gradient reached is computed here, in float64, for all alike. scikit-learn's stopping rules are not relative to the
first gradient, so it is run with ever tighter tolerances (in steps of sqrt 10; sag, saga: 10), and only the fit that
first reached the target counts. Its liblinear penalises intercepts: it solves the problem without one.

Memory in MB: peak, the most that was resident, with libraries and data, and for memory-mapped blocks those of their
pages that were; anon, the most that was not pages of files; fit, what the fit added to that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import single_cases as cases
import single_contestants as contestants

HERE = Path(__file__).resolve().parent
LOADING = 900.0  # seconds that a contestant may take outside its fits
SMALL_LIMIT = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    work = args.work.resolve()
    if args.run:
        case, name = args.run
        contestants.run(name, work / case, args.tol, args.limit, args.repeats)
        return 0
    if args.prepare:
        _prepare_here(args, work)
        return 0
    if args.rates:
        import single_rates

        print(json.dumps(single_rates.measure(work / "a")))
        return 0
    if args.profile:
        from coordinator.profile import measure

        (work / "profile.json").write_text(measure().to_json(), encoding="utf-8")
        return 0
    # a folder of this run's own in there, so that nothing else is deleted with it
    work /= f"single_node{'-small' if args.small else ''}" + ("" if args.keep else f"-{os.getpid()}")
    work.mkdir(parents=True, exist_ok=True)
    try:
        return _all(args, work)
    finally:
        if not args.keep:
            shutil.rmtree(work, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    parser.add_argument("--case", default="a,b,c,d", help="a, b (or b-narrow, b-wide), c, d; separated by commas")
    parser.add_argument(
        "--solvers",
        default="overcast,sklearn",
        help=f"libraries, averaging ({', '.join(contestants.AVERAGING)}) or: {', '.join(contestants.CONTESTANTS)}",
    )
    parser.add_argument("--tol", type=float, default=1e-6, help="gradient norm to reach, over the first one")
    parser.add_argument(
        "--limit", type=float, help=f"seconds of all fits of one (default 900; --small: {SMALL_LIMIT:.0f})"
    )
    parser.add_argument("--small", action="store_true", help="smaller shapes")
    parser.add_argument(
        "--repeats", type=int, default=3, help=f"fits, when they take less than {contestants.BRIEF:.0f} s"
    )
    parser.add_argument("--data", type=Path, help="folder of a9a.xz or libsvm/a9a.xz")
    parser.add_argument(
        "--work", type=Path, default=HERE / "results" / "work", help="folder for the data that are made"
    )
    parser.add_argument("--keep", action="store_true", help="keep that folder, for the next run")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the report and the plot")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of tables")
    parser.add_argument("--run", nargs=2, metavar=("CASE", "CONTESTANT"), help="one contestant, here, on prepared data")
    for name in ("--prepare", "--rates", "--profile"):
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    return parser


def _choose(text: str, known: Sequence[str], what: str) -> list[str]:
    """Names, or beginnings of names up to a `-` or `/`; "averaging"; what else Overcast has, as overcast/NAME."""
    out: list[str] = []
    for part in text.split(","):
        found = [name for name in known if name == part or name.startswith((part + "-", part + "/"))]
        if what == "solver" and part == "averaging":
            found = list(contestants.AVERAGING)
        if not found and what == "solver" and part.startswith("overcast/"):
            found = [part]
        if not found:
            sys.exit(f"single_node: no {what} {part!r}: there are {', '.join(known)}")
        out += [name for name in found if name not in out]
    return out


def _prepare_here(args: argparse.Namespace, work: Path) -> None:
    [case] = args.case.split(",")
    try:
        cases.prepare(case, work / case, args.small, args.data)
    except cases.Skip as why:
        print(json.dumps({"skip": str(why)}))


def _all(args: argparse.Namespace, work: Path) -> int:
    limit = args.limit or (SMALL_LIMIT if args.small else 900.0)
    chosen = _choose(args.case, cases.CASES, "case")
    names = _choose(args.solvers, contestants.CONTESTANTS, "solver")
    report: dict[str, Any] = {"tol": args.tol, "limit": limit, "small": args.small, "machine": _machine(), "cases": {}}
    say = (lambda *_: None) if args.json else print
    say("Machine: " + ", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    began = time.perf_counter()
    _call(work, "--profile")
    report["profile"] = json.loads((work / "profile.json").read_text(encoding="utf-8"))
    say(f"Rates for Overcast's cost model measured in {time.perf_counter() - began:.1f} s (with the start of Python)\n")
    for case in chosen:
        options = (
            ["--prepare", "--case", case] + ["--small"] * args.small + (["--data", str(args.data)] if args.data else [])
        )
        out = _call(work, *options)
        if out:
            report["cases"][case] = json.loads(out)
            say(f"({case}) left out: {report['cases'][case]['skip']}\n")
            continue
        meta = cases.load_meta(work / case)
        entry: dict[str, Any] = {"meta": asdict(meta), "contestants": {}}
        report["cases"][case] = entry
        say(_heading(meta, args.tol))
        if case == "a":
            import single_rates

            entry["rates"] = json.loads(_call(work, "--rates"))
            say("\n".join(single_rates.lines(entry["rates"])) + "\n")
        say(_HEADER)
        for name in names:
            found = _contest(args, work, case, name, limit)
            entry["contestants"][name] = found
            say(_row(name, found, entry["contestants"].get(contestants.DEFAULT), limit))
        say("")
        for line in _verdict(entry["contestants"]):
            say(line)
        say("")
        if not args.keep:
            shutil.rmtree(work / case, ignore_errors=True)
    paths = _write(report, args.out)
    if args.json:
        print(json.dumps(report))
    else:
        say("Written: " + ", ".join(str(p) for p in paths))
    return 0


def _machine() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    out = {
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 1e9:.0f} GB",
        "Python": platform.python_version(),
    }
    return out | {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "overcast")}


def _call(work: Path, *options: str) -> str:
    """Run this command again, in a process of its own; its output."""
    command = [sys.executable, __file__, "--work", str(work), *options]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


def _contest(args: argparse.Namespace, work: Path, case: str, name: str, limit: float) -> dict[str, Any]:
    """Run one contestant; killed when its fits take longer than `limit`, keeping what it had reached by then."""
    command = [sys.executable, __file__, "--work", str(work), "--tol", str(args.tol), "--limit", str(limit)]
    command += ["--repeats", str(args.repeats), "--run", case, name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines: queue.Queue[str | None] = queue.Queue()
    errors: list[str] = []
    readers = [
        threading.Thread(target=lambda: [*map(lines.put, process.stdout or []), lines.put(None)], daemon=True),
        threading.Thread(target=lambda: errors.extend(process.stderr or []), daemon=True),
    ]
    for reader in readers:
        reader.start()
    outcome: dict[str, Any] = {}
    allowed, left = LOADING, limit
    try:
        while (line := lines.get(timeout=allowed)) is not None:
            event = json.loads(line)
            left -= event.get("fitted", 0.0)
            allowed = max(left, 0.1) if "attempt" in event else LOADING
            if "seconds" in event or "skip" in event:
                outcome = event
    except queue.Empty:
        if not outcome.get("reached"):  # else it was only being repeated
            outcome["killed"] = True
            if "seconds" in outcome:
                outcome["at_last"] = outcome.pop("seconds")
    finally:
        process.kill()
        process.wait()
    if not outcome:
        readers[1].join(5)
        outcome["failed"] = errors[-1].strip() if errors else f"exit code {process.returncode}"
    return outcome


# -- what is printed --------------------------------------------------------------------------------------------------

_HEADER = (
    f"{'contestant':32} {'seconds':>9} {'ratio':>7} {'cpu':>7} {'passes':>7} {'iters':>6} "
    f"{'peak MB':>8} {'anon MB':>8} {'fit MB':>8} {'reached':>8}  remarks"
)


def _heading(meta: cases.Meta, tol: float) -> str:
    density = "" if meta.layout == "dense" else f", {meta.nnz / meta.rows:.1f} non-zeros a row"
    first = (
        f"({meta.case}) {meta.title}: {meta.rows:,} x {meta.columns:,} {meta.dtype}{density}, "
        f"{meta.nbytes / 1e6:,.0f} MB; {meta.loss}, {meta.classes} classes, l2 {meta.l2:.3g}, "
        f"{'an' if meta.intercept else 'no'} intercept; to {tol:g}"
    )
    return "\n".join([first, *(f"    {key}: {value:.3g}" for key, value in meta.notes.items())])


def _row(name: str, found: Mapping[str, Any], default: Mapping[str, Any] | None, limit: float) -> str:
    if "skip" in found or "failed" in found:
        return (
            f"{name:32} {'-':>9}  {'left out: ' + found['skip'] if 'skip' in found else 'FAILED: ' + found['failed']}"
        )
    seconds = found.get("seconds")
    base = (default or {}).get("seconds")
    ratio = f"{seconds / base:7.2f}" if seconds and base else " " * 7
    shown = f"{seconds:9.2f}" if seconds else f"{'> ' + format(limit, '.0f'):>9}"
    remarks = [found["remark"]] if "remark" in found else []
    if found.get("killed"):
        partly = (
            f", {found['relative']:.1e} in {found['at_last']:.1f} s at a looser tolerance" if "at_last" in found else ""
        )
        remarks.append(f"stopped at the limit{partly}")
        found = {key: value for key, value in found.items() if key not in {"relative", "passes", "iterations", "cpu"}}
    elif not found.get("reached"):
        remarks.append(f"NOT REACHED: {found['reason']}" if found.get("reason") else "NOT REACHED")
    if name in contestants.CHOOSERS and found.get("chosen"):
        remarks.append("chose " + _chosen(found))
    if "before" in found:
        found = {**found, "fit": found["anonymous"] - found["before"]}
    cells = [
        f"{found['cpu']:7.2f}" if "cpu" in found else " " * 7,
        f"{found['passes']:7.0f}" if "passes" in found else " " * 7,
        f"{found['iterations']:6d}" if "iterations" in found else " " * 6,
        *(f"{found[key] / 1e6:8.0f}" if key in found else " " * 8 for key in ("peak", "anonymous", "fit")),
        f"{found['relative']:8.1e}" if "relative" in found else " " * 8,
    ]
    return f"{name:32} {shown} {ratio} {' '.join(cells)}  {'; '.join(remarks)}".rstrip()


def _chosen(found: Mapping[str, Any]) -> str:
    """The strategies of the iterations in order, and what was predicted of them."""
    used = [row[3] for row in found["history"] if row[3]]
    runs = [name for i, name in enumerate(used) if i == 0 or used[i - 1] != name]
    plan = found["chosen"].get("plan", {})
    predicted = ", ".join(f"{name} {seconds:.2g}" for name, seconds in plan.get("predicted", {}).items())
    return " then ".join(f"{name} x {used.count(name)}" for name in dict.fromkeys(runs)) + (
        f" (seconds predicted: {predicted})" if predicted else ""
    )


def _verdict(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The default against the fixed strategies and the best of scikit-learn."""
    out = []
    default, exact = found.get(contestants.DEFAULT, {}), found.get("overcast/exact", {})
    done = {name: c for name, c in found.items() if c.get("reached") and c.get("seconds")}
    if not default.get("reached"):
        return ["    the default did not reach the target"] if default else []
    if exact.get("reached") and "seconds" in exact:
        holds = default["passes"] <= 2 * exact["passes"] or default["seconds"] <= exact["seconds"]
        out.append(
            f"    default against exact Newton: {default['passes']:.0f} to {exact['passes']:.0f} passes, "
            f"{default['seconds']:.2f} to {exact['seconds']:.2f} s; at most twice the passes, or less time: "
            f"{'holds' if holds else 'DOES NOT HOLD'}"
        )
    for library, words in (("overcast", "fastest other of Overcast"), ("sklearn", "fastest of scikit-learn")):
        mine = {
            name: c["seconds"] for name, c in done.items() if name.startswith(library) and name != contestants.DEFAULT
        }
        if mine:
            best = min(mine, key=mine.__getitem__)
            out.append(
                f"    {words}: {best}, {mine[best]:.2f} s; "
                f"the default takes {default['seconds'] / mine[best]:.2f} times that"
            )
    return out


def _write(report: Mapping[str, Any], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    names = "-".join(report["cases"])
    stem = folder / f"single_node{'-small' if report['small'] else ''}-{names}-{report['tol']:g}"
    path = stem.with_name(stem.name + ".json")
    path.write_text(json.dumps(report, indent=1), encoding="utf-8")
    try:
        import single_plot

        return [path, *single_plot.draw(report, stem)]
    except ImportError:
        print("no plot: pip install 'overcast[report]'", file=sys.stderr)
        return [path]


if __name__ == "__main__":
    sys.exit(main())
