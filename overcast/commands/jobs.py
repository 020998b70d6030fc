"""`overcast jobs`."""

from __future__ import annotations

import argparse
import json
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
    at,
    command,
    plain,
    print_facts,
    print_json,
    print_table,
    say,
)
from overcast.commands.results import add_result
from overcast.files import written

if TYPE_CHECKING:
    from overcast.place import Job


def add_commands(commands: Commands) -> None:
    """Add the command and those below it."""
    parser = command(
        commands,
        "jobs",
        "list, show, follow, cancel, wait for, resume and clean jobs",
        """overcast jobs
        overcast jobs show latest
        overcast jobs cancel 261124
        overcast jobs list --stage prod""",
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
    events = command(
        below,
        "events",
        "print the figures of each iteration, so far or as they come",
        """overcast jobs events latest --follow
        overcast jobs events latest --since 12 --json""",
        _events,
        below=True,
    )
    _add_job(events)
    events.add_argument("--since", type=int, default=-1, metavar="N", help="only iterations after N")
    events.add_argument("--follow", action="store_true", help="go on until the job ends")
    events.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object a line")
    logs = command(
        below,
        "logs",
        "print what the job's processes wrote: on a stage, its functions in that time",
        """overcast jobs logs latest
        overcast jobs logs latest --workers --stage prod""",
        _logs,
        below=True,
    )
    _add_job(logs)
    logs.add_argument("--workers", action="store_true", help="on a stage: the workers, not the driver")
    add_result(below, "jobs result", below=True)
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


def _list(args: argparse.Namespace) -> int:
    found = [(seen, seen.status) for seen in at(args).jobs()]
    if args.json:
        print_json([{"id": seen.id, "data": seen.data, "solver": seen.solver, **asdict(st)} for seen, st in found])
        return 0
    rows = [
        (
            seen.id,
            st.state,
            seen.data,
            seen.solver,
            st.iteration,
            "" if st.relative is None else f"{st.relative:.1e}",
            _seconds(st),
            st.message,
        )
        for seen, st in found
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
    handle = at(args).job(args.job)
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
    facts |= {"workers": str(spec.workers or "as many as there are"), "iteration": str(status.iteration)}
    if status.objective is not None:
        facts["objective"] = f"{status.objective:.10g}"
    if status.relative is not None:
        facts[measure(spec.solver)] = f"{status.relative:.2e}"
    facts["seconds"] = _seconds(status)
    facts["created"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(spec.created))
    if status.spent:
        facts["spent"] = f"${status.spent:.6f}"
        facts["hand-overs"] = str(status.hops)
    print_facts({key: value for key, value in facts.items() if value != ""})
    if status.state == "interrupted":
        say(f"go on with: {again(args, 'solve', '--resume', spec.id)}")
    return 0


def _tasks(handle: Job, path: str) -> int:
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
    place = at(args)
    for handle in [place.job(text) for text in args.jobs]:
        status = handle.status()
        handle.cancel()
        say(f"job {handle.id} " + (f"had ended: {status.state}" if status.final else "will stop"))
    return 0


def _wait(args: argparse.Namespace) -> int:
    from overcast.commands.solving import follow

    return follow(at(args).job(args.job), args, args.timeout)


def _events(args: argparse.Namespace) -> int:
    from overcast.progress import cells

    handle = at(args).job(args.job)
    try:
        for row in handle.stream() if args.follow else handle.events(args.since):
            if row["iteration"] <= args.since:
                continue
            if args.json:
                print(json.dumps(plain(row), separators=(",", ":")), flush=True)
            else:
                said = {name: text for name, text in cells(row).items() if text}
                print(", ".join(f"{name} {text}" for name, text in said.items()), flush=True)
    except KeyboardInterrupt:
        return 130
    return 0


def _logs(args: argparse.Namespace) -> int:
    from overcast.logs import lines

    place = at(args)
    try:
        for line in lines(place, place.job(args.job).id, workers=args.workers):
            print(line)
    except KeyboardInterrupt:
        return 130
    return 0


def _clean(args: argparse.Namespace) -> int:
    if bool(args.jobs) == args.ended:
        raise InputError("name jobs to delete, or say --ended")
    place = at(args)
    names = [seen.id for seen in place.jobs() if seen.status.final] if args.ended else args.jobs
    chosen = [place.job(name) for name in names]
    for handle in chosen:
        handle.delete()
    say(f"deleted {len(chosen)} job{'' if len(chosen) == 1 else 's'}")
    return 0


def _resume(args: argparse.Namespace) -> int:
    handle = at(args).job(args.job)
    handle.resume()
    print(handle.id)
    return 0
