"""What the commands share: options, output, and ways to say things."""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from coordinator.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from overcast.place import CloudPlace, Place

Commands = Any  # argparse has no public name for it
Run = Callable[[argparse.Namespace], int]

_AS_OPTIONS: Final = (
    (r"pass target=, ", ""),
    (r"\bon_bad_row='skip'", "--skip-bad-rows"),
    (r"\bscale='none'", "--scale none"),
    (r"\bone_hot=\(['\"](.*?)['\"],\)", r"--one-hot \1"),
    (r"\bone_hot\b", "--one-hot"),
    (r"\blabelled=False", "--unlabelled"),
    (r"\b(replace|header)=True", r"--\1"),
    (r"\bstart='([^']*)'", r"--start \1"),
    (r"\bindex_base=(\d)", r"--index-base \1"),
    (r"\bn_features=(\d+)", r"--n-features \1"),
    (r"\bn_features\b", "--n-features"),
    (r"\bindex_base\b", "--index-base"),
    (r"^seed is (.*) None ", r"--shuffle-seed is \1 none "),
    (r"\b(format|label|name|start)=(?![^\s,;:])", r"--\1"),
    (r"\bpass (?=--)", "say "),
)


def say(message: str) -> None:
    """One line on stderr."""
    try:
        sys.stderr.write(f"overcast: {' '.join(message.split())}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        pass


def as_options(message: str) -> str:
    """A message that names arguments of the client, with the command line's options in their place."""
    for pattern, option in _AS_OPTIONS:
        message = re.sub(pattern, option, message)
    return message


def command(commands: Commands, name: str, text: str, example: str, run: Run, **more: Any) -> Any:
    """Add a command with a help text and examples, one a line.

    `below` marks one below another command, `place=False` one that works neither on a store nor on a stage.
    """
    below, place = more.pop("below", False), more.pop("place", True)
    examples = "".join(f"\n  {line.strip()}" for line in example.strip().splitlines())
    parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + "." + more.pop("about", ""),
        epilog=f"example:{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **more,
    )
    if place:
        parser.add_argument(
            "--store",
            metavar="DIR",
            help="folder of the store (default: $OVERCAST_STORE, or ./overcast-store)",
            default=argparse.SUPPRESS if below else None,  # what was given before the lower command stays
        )
        parser.add_argument(
            "--stage",
            metavar="NAME",
            help="work in the cloud: a stage by name, or local (default: $OVERCAST_STAGE, or the store)",
            default=argparse.SUPPRESS if below else None,
        )
    parser.set_defaults(run=run)
    return parser


def at(args: argparse.Namespace, *, make: bool = False) -> Place:
    """The store or the stage that the options name; `make`: a store in a folder is made if need be."""
    from overcast.place import open_place

    return open_place(args.store, args.stage, make=make)


def stage(args: argparse.Namespace) -> CloudPlace | None:
    """The stage that is meant; None where a store is."""
    from overcast.place import CloudPlace, named

    name = named(args.store, args.stage)
    return None if name is None else CloudPlace.at(name)


def add_json(parser: argparse.ArgumentParser, *, below: bool = False) -> None:
    """`--json`."""
    default: Any = argparse.SUPPRESS if below else False
    parser.add_argument("--json", action="store_true", default=default, help="print JSON on stdout")


def add_import_options(parser: argparse.ArgumentParser, title: str) -> None:
    """The options that say how to read a file."""
    group = parser.add_argument_group(title)
    group.add_argument("--name", help="name of the data set (default: the file's, without suffixes)")
    add_reading_options(group)
    group.add_argument("--dtype", metavar="TYPE", help="float32 or float64 (default: float64, or as arrays are)")
    group.add_argument("--layout", metavar="LAYOUT", help="dense or csr (default: what suits the data)")
    group.add_argument("--shuffle-seed", metavar="N", help="seed of the random order of rows, or none (default: 0)")
    group.add_argument("--scale", metavar="HOW", help="divide columns: none, std or maxabs (default: none)")
    group.add_argument("--block-mb", type=_megabytes, metavar="MB", help="largest size of a block (default: 64)")
    group.add_argument("--skip-bad-rows", action="store_true", help="leave out rows that cannot be used")
    group.add_argument("--replace", action="store_true", help="replace a data set of this name")


def add_reading_options(group: Any) -> None:
    """The options that say what a file's columns are."""
    group.add_argument("--format", metavar="FMT", help="libsvm, csv, tsv, npy, npz or parquet (default: by suffix)")
    group.add_argument("--label", metavar="COL", help="target: name, number from 0, or .npy file (default: last)")
    group.add_argument("--unlabelled", action="store_true", help="there is no target column")
    group.add_argument("--weight", metavar="COL", help="column of row weights: name, or number from 0")
    group.add_argument("--one-hot", metavar="COLS", help="columns to one-hot encode, separated by commas")
    group.add_argument("--header", action=argparse.BooleanOptionalAction, help="the first line holds names")
    group.add_argument("--n-features", type=int, metavar="N", help="libsvm: number of columns")
    group.add_argument("--index-base", type=int, metavar="0|1", help="libsvm: index of the first column")


def import_options(args: argparse.Namespace) -> dict[str, Any]:
    """Those import options that were given."""
    given = {
        "name": args.name,
        "dtype": args.dtype,
        "layout": args.layout,
        "scale": args.scale,
        "block_bytes": args.block_mb,
        "on_bad_row": "skip" if args.skip_bad_rows else None,
        "replace": True if args.replace else None,
        **reading_options(args),
    }
    out = {key: value for key, value in given.items() if value is not None}
    if args.shuffle_seed is not None:
        out["seed"] = None if args.shuffle_seed == "none" else whole(args.shuffle_seed, "--shuffle-seed")
    return out


def reading_options(args: argparse.Namespace) -> dict[str, Any]:
    """Those options of `add_reading_options` that were given."""
    given = {
        "format": args.format,
        "label": _column(args.label),
        "labelled": False if args.unlabelled else None,
        "weight": _column(args.weight),
        "one_hot": tuple(_column(part) for part in args.one_hot.split(",")) if args.one_hot else None,
        "header": args.header,
        "n_features": args.n_features,
        "index_base": args.index_base,
    }
    return {key: value for key, value in given.items() if value is not None}


def _megabytes(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 2048:
        raise argparse.ArgumentTypeError(f"a number of megabytes above 0, up to 2048, not {text!r}")
    return int(value * (1 << 20))


def _column(text: str | None) -> str | int | None:
    if text is not None and text.lstrip("-").isdigit():
        return int(text)
    return text


def whole(text: str, what: str) -> int:
    """A whole number from 0 up; InputError otherwise."""
    if not text.isdigit():
        raise InputError(f"{what} must be a whole number >= 0 or none, not {text!r}")
    return int(text)


def value_of(text: str) -> Any:
    """A setting's value: number, true, false, none, or the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def pairs(items: Sequence[str], what: str) -> dict[str, Any]:
    """key=value arguments; InputError for one without '='."""
    out: dict[str, Any] = {}
    for item in items:
        key, mark, value = item.partition("=")
        if not mark or not key:
            raise InputError(f"{what} takes key=value, not {item!r}")
        out[key.replace("-", "_") if what == "--set" else key] = value_of(value)
    return out


def print_json(value: Any) -> None:
    """Strict JSON on stdout: numbers that are not finite become null."""
    sys.stdout.write(json.dumps(plain(value), indent=2, default=str) + "\n")


def plain(value: Any) -> Any:
    """A value as strict JSON has it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def console(*, stderr: bool = False) -> Console:
    """Where tables go; wide enough for them where nobody looks."""
    from rich.console import Console

    out = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return out if out.is_terminal else Console(stderr=stderr, highlight=False, width=160)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> None:
    """A table on stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console().print(table)


def print_facts(facts: Mapping[str, object]) -> None:
    """Names and values on stdout, one a line."""
    width = max(map(len, facts), default=0)
    bold, plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("", "")
    for name, value in facts.items():
        sys.stdout.write(f"{bold}{name:<{width}}{plain}  {value}\n")


def again(args: argparse.Namespace, *words: str) -> str:
    """A command to go on with, at the same place."""
    where = ["--store", args.store] if args.store else ["--stage", args.stage] if args.stage else []
    return shlex.join(["overcast", *words, *where])
