"""`overcast jobs`."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.errors import InputError
from overcast.commands.common import (
    Commands,
    add_json,
    again,
    command,
    print_facts,
    print_json,
    print_table,
    say,
    written,
)

if TYPE_CHECKING:
    from coordinator.jobs import JobStore
    from overcast.handle import JobHandle


def add_commands(commands: Commands) -> None:
    """Add the command and those below it."""
    parser = command(
        commands,
        "jobs",
        "list, show, cancel, wait for, resume and clean jobs",
        """overcast jobs
        overcast jobs show latest
        overcast jobs cancel 261124""",
        _list,
        about=" JOB is an id, its unambiguous beginning, or latest.",
    )
    add_json(parser)
    below = parser.add_subparsers(dest="action", metavar="ACTION")
    listing = command(below, "list", "list the jobs, oldest first", "overcast jobs list --json", _list, below=True)
    add_json(listing, below=True)
    show = command(
        below,
        "show",
        "show what was asked and where it stands",
        """overcast jobs show latest
        overcast jobs show latest --tasks tasks.csv""",
        _show,
        below=True,
    )
    _add_job(show)
    show.add_argument("--tasks", metavar="FILE.csv", help="write its task attempts there, or to stdout for -, instead")
    add_json(show, below=True)
    cancel = command(
        below,
        "cancel",
        "stop jobs; their best iterates are kept",
        "overcast jobs cancel latest",
        _cancel,
        below=True,
    )
    cancel.add_argument("jobs", nargs="+", metavar="JOB", help="jobs to cancel")
    wait = command(
        below,
        "wait",
        "follow a job to its end",
        "overcast jobs wait latest --timeout 60",
        _wait,
        below=True,
    )
    _add_job(wait)
    wait.add_argument("--timeout", type=float, metavar="S", help="give up after S seconds (exit code 1)")
    wait.add_argument("--quiet", action="store_true", help="show no progress")
    add_json(wait, below=True)
    clean = command(
        below,
        "clean",
        "delete jobs with everything they left; data sets stay",
        """overcast jobs clean 261124-101500-a1b2c3
        overcast jobs clean --ended""",
        _clean,
        below=True,
    )
    clean.add_argument("jobs", nargs="*", metavar="JOB", help="jobs to delete")
    clean.add_argument("--ended", action="store_true", help="all that are done, cancelled or failed")
    resume = command(
        below,
        "resume",
        "go on with an interrupted, failed or cancelled job, in the background",
        "overcast jobs resume latest && overcast jobs wait latest",
        _resume,
        below=True,
        about=" To run in the foreground: overcast solve --resume JOB.",
    )
    _add_job(resume)


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", nargs="?", default="latest", metavar="JOB", help="default: latest")


def open_job(args: argparse.Namespace, text: str) -> JobHandle:
    """The job that `text` means."""
    from coordinator.jobs import JobStore
    from overcast import store as stores
    from overcast.handle import JobHandle

    storage = stores.existing_store(args.store)
    return JobHandle(storage, stores.find_job(JobStore(storage), None if text == "latest" else text))


def _handles(args: argparse.Namespace) -> list[JobHandle]:
    from coordinator.jobs import JobStore
    from overcast import store as stores
    from overcast.handle import JobHandle

    storage = stores.existing_store(args.store)
    store: JobStore = JobStore(storage)
    made = {job: store.spec(job).created for job in store.ids()}
    return [JobHandle(storage, job) for job in sorted(made, key=lambda job: made[job])]


def _list(args: argparse.Namespace) -> int:
    handles = _handles(args)
    found = [(handle.spec, handle.status()) for handle in handles]
    if args.json:
        print_json([{"id": spec.id, "data": spec.data, "solver": spec.solver, **asdict(st)} for spec, st in found])
        return 0
    rows = [
        (
            spec.id,
            st.state,
            spec.data,
            spec.solver,
            st.iteration,
            "" if st.relative is None else f"{st.relative:.1e}",
            _seconds(st),
            st.message,
        )
        for spec, st in found
    ]
    columns = ("job", "state", "data", "solver", "iteration", "rel. gradient", "seconds", "message")
    print_table(columns, rows, right=("iteration", "rel. gradient", "seconds"))
    return 0


def _seconds(status: Any) -> str:
    if status.started is None:
        return ""
    end = status.ended or (time.time() if status.state == "running" else status.updated)
    return f"{end - status.started:.1f}"


def _show(args: argparse.Namespace) -> int:
    handle = open_job(args, args.job)
    spec, status = handle.spec, handle.status()
    if args.tasks:
        return _tasks(handle, args.tasks)
    if args.json:
        print_json({"spec": asdict(spec), "status": asdict(status)})
        return 0
    from overcast.summary import asked, measure

    facts = {"job": spec.id, "state": status.state, "message": status.message, "data": spec.data}
    facts |= {key: str(value) for key, value in asked(spec.problem).items()}
    facts |= {"solver": spec.solver, **{f"  {key}": str(value) for key, value in spec.settings.items()}}
    facts |= {"workers": str(spec.workers or "all cores"), "iteration": str(status.iteration)}
    if status.objective is not None:
        facts["objective"] = f"{status.objective:.10g}"
    if status.relative is not None:
        facts[measure(spec.solver)] = f"{status.relative:.2e}"
    facts["seconds"] = _seconds(status)
    facts["created"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(spec.created))
    print_facts({key: value for key, value in facts.items() if value != ""})
    if status.state == "interrupted":
        say(f"go on with: {again(args, 'solve', '--resume', spec.id)}")
    return 0


def _tasks(handle: JobHandle, path: str) -> int:
    from overcast.records import write_csv

    records = handle.tasks()
    if path == "-":
        write_csv(sys.stdout, records)
        return 0
    with written(Path(path), "w") as file:
        write_csv(file, records)
    say(f"wrote {len(records):,} task attempts to {path}")
    return 0


def _cancel(args: argparse.Namespace) -> int:
    for handle in [open_job(args, text) for text in args.jobs]:
        status = handle.status()
        handle.cancel()
        say(f"job {handle.id} " + (f"had ended: {status.state}" if status.final else "will stop"))
    return 0


def _wait(args: argparse.Namespace) -> int:
    from coordinator.solvers import make_solver
    from overcast.commands.solving import show_end
    from overcast.progress import SolveProgress
    from overcast.summary import measure

    handle = open_job(args, args.job)
    spec = handle.spec
    title = f"job {handle.id}: {spec.solver} on {spec.data}"
    tol = getattr(make_solver(spec.solver, spec.settings), "tol", None)
    try:
        with SolveProgress(title, tol, quiet=args.quiet, measure=measure(spec.solver)) as progress:
            for row in handle.stream(args.timeout):
                progress(row)
    except TimeoutError as error:
        say(f"{error}; it goes on")
        return 1
    except KeyboardInterrupt:
        say(f"job {handle.id} goes on; to stop it: {again(args, 'jobs', 'cancel', handle.id)}")
        return 130
    return show_end(handle, handle.result(), args)


def _clean(args: argparse.Namespace) -> int:
    if bool(args.jobs) == args.ended:
        raise InputError("name jobs to delete, or say --ended")
    chosen = [h for h in _handles(args) if h.status().final] if args.ended else [open_job(args, t) for t in args.jobs]
    for handle in chosen:
        handle.delete()
    say(f"deleted {len(chosen)} job{'' if len(chosen) == 1 else 's'}")
    return 0


def _resume(args: argparse.Namespace) -> int:
    handle = open_job(args, args.job)
    handle.resume()
    print(handle.id)
    return 0
