"""`overcast import`."""

from __future__ import annotations

import argparse

from coordinator.errors import InputError
from overcast.commands.common import (
    Commands,
    add_import_options,
    add_json,
    again,
    at,
    command,
    import_options,
    print_facts,
    print_json,
    print_table,
    say,
)


def add_commands(commands: Commands) -> None:
    """Add the command."""
    parser = command(
        commands,
        "import",
        "bring data into the store: libsvm, CSV, TSV, NumPy or Parquet, plain or compressed",
        """overcast import a9a.libsvm.xz --scale std
        overcast import flights.csv --label late --one-hot carrier,origin --name flights
        overcast import a9a.libsvm.xz --stage prod
        overcast import --list""",
        _import,
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="files of one format; together they are one data set")
    parser.add_argument("--list", action="store_true", help="list the data sets instead")
    parser.add_argument("--delete", metavar="NAME", help="delete a data set instead")
    add_import_options(parser, "how to read and store the data")
    add_json(parser)


def _import(args: argparse.Namespace) -> int:
    from overcast import store as stores

    if args.list or args.delete:
        return _delete(args) if args.delete else _list(args)
    if not args.files:
        raise InputError("no file to import; see `overcast import --help`")
    from pathlib import Path

    from overcast.progress import import_progress

    options = stores.import_options(stores.data_name(args.files[0]), **import_options(args))
    missing = [name for name in args.files if not Path(name).exists()]
    if missing:
        raise InputError(f"no file {missing[0]!r}")
    storage = at(args, make=True).storage
    source = args.files[0] if len(args.files) == 1 else args.files
    try:
        with import_progress() as progress:
            report = stores.bring_in(storage, source, options, progress=progress)
    except KeyboardInterrupt:
        say("interrupted; nothing was stored")
        return 130
    data = report.data
    if args.json:
        print_json(_facts(data) | {"skipped": report.skipped, "reasons": report.reasons, "seconds": report.seconds})
        return 0
    print_facts(
        {
            "data": data.name,
            "rows": f"{data.n_rows:,}",
            "columns": f"{data.n_features:,}",
            "values": f"{data.layout} {data.dtype}, {data.nnz:,} stored, {data.nbytes / 1e6:,.1f} MB",
            "target": _target(data.classes),
            "blocks": len(data.keys),
            "seconds": f"{report.seconds:.2f}",
        }
    )
    if report.skipped:
        say(f"{report.skipped} rows were left out, the first because of {report.reasons[0]}")
    loss = "squared" if data.classes is None else "logistic" if len(data.classes) == 2 else "softmax"
    say(f"next: {again(args, 'solve', data.name, '--loss', loss, '--l2', '1e-4')}")
    return 0


def _facts(data: object) -> dict[str, object]:
    names = ("name", "n_rows", "n_features", "nnz", "layout", "dtype", "classes", "weighted", "nbytes", "source")
    return {name: getattr(data, name) for name in names}


def _target(classes: tuple[object, ...] | None) -> str:
    if classes is None:
        return "numbers (over 1000 distinct)"
    shown = ", ".join(f"{c:g}" if isinstance(c, float) else str(c) for c in classes[:6])
    return f"{len(classes)} distinct: {shown}{', ...' if len(classes) > 6 else ''}"


def _list(args: argparse.Namespace) -> int:
    from coordinator.data.blocks import list_data, open_data

    storage = at(args).storage
    found = [open_data(storage, name) for name in list_data(storage)]
    if args.json:
        print_json([_facts(data) for data in found])
        return 0
    rows = [
        (d.name, f"{d.n_rows:,}", f"{d.n_features:,}", f"{d.layout} {d.dtype}", f"{d.nbytes / 1e6:,.1f}", d.source)
        for d in found
    ]
    print_table(("name", "rows", "columns", "values", "MB", "source"), rows, right=("rows", "columns", "MB"))
    return 0


def _delete(args: argparse.Namespace) -> int:
    at(args).delete_data(args.delete)
    say(f"deleted data set {args.delete!r}")
    return 0
