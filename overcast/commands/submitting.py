"""`overcast submit` and `quote`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from overcast.commands.common import (
    Commands,
    add_import_options,
    add_json,
    at,
    command,
    print_json,
    print_table,
    say,
    stage,
)
from overcast.commands.solving import add_problem_options, asked, created, data_there, name_of, submitted

if TYPE_CHECKING:
    from collections.abc import Mapping

SIZES: Final = (1769, 3538, 7076)  # MB of workers that serverless.yml deploys, where no stage is asked


def add_commands(commands: Commands) -> None:
    """Add the commands."""
    submit = command(
        commands,
        "submit",
        "check a job, store it, run it in the background; print its id",
        """overcast submit a9a --loss logistic --l2 1e-4
        overcast submit flights.csv --label late --loss logistic --stage prod --max-cost 0.50
        overcast jobs wait latest --stage prod""",
        _submit,
        about=" The same as\nsolve --detach. On a stage it needs this machine no more: any may look, wait or cancel.",
    )
    add_problem_options(submit)
    submit.add_argument("--quiet", action="store_true", help="show no progress of an import")
    add_json(submit)
    add_import_options(submit, "when DATA is a file")
    quote = command(
        commands,
        "quote",
        "say what a job would take on AWS Lambda: tasks, bytes, memory, seconds and dollars",
        """overcast quote a9a --loss logistic --l2 1e-4
        overcast quote flights --loss logistic --stage prod --json""",
        _quote,
        about=" Nothing is spent.\nFigures are right within a factor of about three; what cannot fit is refused.",
    )
    add_problem_options(quote)
    quote.add_argument("--quiet", action="store_true", help="show no progress of an import")
    add_json(quote)
    add_import_options(quote, "when DATA is a file, which is imported first")


def _submit(args: argparse.Namespace) -> int:
    if (place := stage(args)) is not None:
        return name_of(submitted(place, args), args)
    handle = created(args)
    handle.launch()
    return name_of(handle, args)


def _quote(args: argparse.Namespace) -> int:
    wanted = asked(args)
    if (place := stage(args)) is not None:
        found: Mapping[str, Any] = place.cloud.quote(data_there(place, args), max_cost=args.max_cost, **wanted)
    else:
        found = _here(args, wanted)
    if args.json:
        print_json(found)
    else:
        show_quote(found)
    return 0


def _here(args: argparse.Namespace, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """The quote of a job on data of a folder, as if they were in the cloud."""
    from coordinator.cloud.quote import make_quote
    from coordinator.driver import check_spec
    from coordinator.jobs import JobSpec
    from overcast.asking import ask

    place = at(args, make=True)
    spec = JobSpec(**ask(data_there(place, args), **wanted) | {"id": "quote", "max_cost": args.max_cost})
    return make_quote(spec, check_spec(place.storage, spec), SIZES).to_json()


def show_quote(quote: Mapping[str, Any]) -> None:
    """A quote as a table, and in all."""
    from coordinator.driver import COLD_STARTS

    rows = [
        (
            phase["name"],
            f"{phase['runs']:g}",
            f"{phase['tasks']:,}",
            f"{phase['bytes'] / 1e6:,.1f}",
            f"{phase['memory']:,}",
            f"{phase['seconds']:,.1f}",
            f"{phase['dollars']:.6f}",
        )
        for phase in quote["phases"]
    ]
    cold = quote["cold"]
    starts, seconds, dollars = f"{cold['starts']:,}", f"{cold['seconds']:,.1f}", f"{cold['dollars']:.6f}"
    rows.append((COLD_STARTS, starts, "", "", "", seconds, dollars))
    rows.append(("driver", "", "", "", "", "", f"{quote['driver_dollars']:.6f}"))
    tasks = sum(phase["tasks"] for phase in quote["phases"])
    nbytes = sum(phase["bytes"] for phase in quote["phases"]) / 1e6
    rows.append(
        ("in all", "", f"{tasks:,}", f"{nbytes:,.1f}", "", f"{quote['seconds']:,.1f}", f"{quote['dollars']:.6f}")
    )
    names = ("phase", "runs", "tasks", "MB read", "MB a worker", "seconds", "dollars")
    print_table(names, rows, right=names[1:])
    say(f"up to {quote['workers']} workers at once; prices of {quote['prices_of']}; right within a factor of about 3")
