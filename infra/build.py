"""python -m infra.build [--arch arm64|x86_64] [--python P] [--local]: make dist/lambda-*.zip, of all functions.

It holds coordinator, sketches, overcast, lambda and what they need at run time, without tests and stubs. For a real
stage the packages are wheels for Amazon Linux 2023; every shared library's glibc symbols are checked against it,
because a package that is too new builds and deploys without complaint and fails at its first call. Where a Python of
the runtime's version is at hand, what a cold start imports is compiled ahead. With --local the packages are this
environment's. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from infra.elf import ElfError, glibc_needed, is_elf, machine
from infra.precompile import compiled, find_interpreter, imported

ROOT: Final = Path(__file__).resolve().parents[1]
OURS: Final = ("coordinator", "sketches", "overcast", "lambda")
NEEDED: Final = ("numpy", "scipy", "threadpoolctl", "cloudpickle")
PYTHON: Final = "3.13"  # of the real stages' runtime, on Amazon Linux 2023
GLIBC: Final = (2, 34)  # Amazon Linux 2023's
ZIPPED: Final = 50 * 1024 * 1024  # Lambda's limit of a direct upload
UNZIPPED: Final = 250 * 1024 * 1024
_WHEEL_ARCH: Final = {"x86_64": "x86_64", "arm64": "aarch64"}
_DROP = re.compile(
    r"^bin/|(^|/)(tests?|_?testing_data|__pycache__|include|\.libs-doc|doc|examples|benchmarks)/"
    r"|\.(pyi|pyx|pxd|c|h|f90|pc|a|typed|ini|md|rst|build)$"
    r"|(^|/)(conftest\.py|setup\.py)$"
    r"|\.dist-info/(?!METADATA$|licenses/|LICENSE)"
)


class BuildError(Exception):
    """A package that cannot be made, or that Lambda would not take or run; one line says why and what to do."""


@dataclass(frozen=True)
class Entry:
    """A file of the package: its name there and its content."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Built:
    """A package that was made; sizes in bytes."""

    path: Path
    zipped: int
    unzipped: int
    files: int
    digest: str


def build(
    arch: str = "arm64", *, local: bool = False, interpreter: str | None = None, out: Path | None = None
) -> Built:
    """Make the package for a real stage on `arch`, or for the local one, in `out` (default dist/).

    `interpreter`, of the runtime's version, compiles ahead; the local stage does so at its first call.
    """
    name = "lambda-local" if local else f"lambda-{arch}"
    with tempfile.TemporaryDirectory() as folder:
        if local:
            packages = list(_installed(NEEDED))
        else:
            _download(arch, Path(folder))
            packages = list(_files(Path(folder), Path(folder)))
        entries = [*packages, *_own()]
        if not local:
            check_libraries(entries, arch)
        if interpreter is not None:
            wanted = imported(ROOT)
            sources = [(entry.name, entry.data) for entry in entries if entry.name in wanted]
            entries += [Entry(*found) for found in compiled(interpreter, PYTHON, sources)]
        return write(entries, (out or ROOT / "dist") / f"{name}.zip", level=1 if local else 9)


def write(entries: Iterable[Entry], path: Path, level: int = 9) -> Built:
    """Write a zip whose bytes depend on the entries alone, and beside it what is known of it, as JSON."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    unzipped = sum(len(entry.data) for entry in ordered)
    if unzipped > UNZIPPED:
        raise BuildError(
            f"the package is {_mb(unzipped)} unpacked, Lambda takes {_mb(UNZIPPED)}: "
            "leave packages out, or use the container image (infra/image/Dockerfile)"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}.new")  # another process may be building too
    with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as package:
        for entry in ordered:
            item = zipfile.ZipInfo(entry.name, (1980, 1, 1, 0, 0, 0))
            item.external_attr = (0o755 if is_elf(entry.data) else 0o644) << 16
            item.compress_type = zipfile.ZIP_DEFLATED
            package.writestr(item, entry.data)
    zipped = fresh.stat().st_size
    if zipped > ZIPPED and level > 1:
        fresh.unlink()
        raise BuildError(
            f"the package is {_mb(zipped)} zipped, Lambda takes {_mb(ZIPPED)}: "
            "leave packages out, or use the container image (infra/image/Dockerfile)"
        )
    digest = hashlib.sha256(fresh.read_bytes()).hexdigest()
    fresh.replace(path)
    about = {"version": version(), "sha256": digest, "zipped": zipped, "unzipped": unzipped}
    path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
    return Built(path, zipped, unzipped, len(ordered), digest)


def check_libraries(entries: Iterable[Entry], arch: str) -> None:
    """BuildError names the first library that is for another machine or needs a newer glibc than the runtime's."""
    for entry in entries:
        if not is_elf(entry.data):
            continue
        try:
            built_for, needed = machine(entry.data), glibc_needed(entry.data)
        except ElfError as error:
            raise BuildError(f"{entry.name}: {error}") from None
        if built_for != arch:
            raise BuildError(f"{entry.name} is for {built_for}, not {arch}: its wheel is of the wrong platform")
        if needed > GLIBC:
            raise BuildError(
                f"{entry.name} needs glibc {needed[0]}.{needed[1]}, Amazon Linux 2023 has {GLIBC[0]}.{GLIBC[1]}: "
                "pin an older release of its package"
            )


def version() -> str:
    """Version of Overcast, by pyproject.toml."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


# ------------------------------------------------------------------------------------------------------------ sources


def _own() -> Iterator[Entry]:
    for top in OURS:
        yield from _files(ROOT / top, ROOT)


def _files(folder: Path, root: Path) -> Iterator[Entry]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not _DROP.search(name):
            yield Entry(name, path.read_bytes())


def _installed(names: Iterable[str]) -> Iterator[Entry]:
    for name in names:
        for file in metadata.distribution(name).files or []:
            path = Path(str(file.locate()))
            if ".." not in file.parts and not _DROP.search(file.as_posix()) and path.is_file():
                yield Entry(file.as_posix(), path.read_bytes())


def _download(arch: str, folder: Path) -> None:
    """Install wheels for Amazon Linux 2023 into `folder`."""
    platforms = [f"manylinux_2_{minor}_{_WHEEL_ARCH[arch]}" for minor in range(GLIBC[1], 16, -1)]
    platforms.append(f"manylinux2014_{_WHEEL_ARCH[arch]}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", "--target", str(folder)]
    command += [f"--platform={platform}" for platform in platforms]
    done = subprocess.run([*command, *NEEDED], capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise BuildError(f"pip found no wheels for Python {PYTHON} on {arch}: {lines[-1] if lines else 'no output'}")


def _mb(size: int) -> str:
    return f"{size / 1024 / 1024:.0f} MB"


def main(arguments: list[str] | None = None) -> int:
    """Build, and say what was built; the exit code is 1 where it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m infra.build", description="Make the package of all functions.")
    parser.add_argument("--arch", choices=sorted(_WHEEL_ARCH), default="arm64")
    parser.add_argument("--local", action="store_true", help="for the local stage: this environment's packages")
    parser.add_argument("--python", help=f"a Python {PYTHON} to compile with (default: python{PYTHON}, where it runs)")
    given = parser.parse_args(arguments)
    interpreter = None if given.local else find_interpreter(PYTHON, given.python)
    if given.python and not given.local and interpreter != given.python:
        print(f"build: {given.python} is no Python {PYTHON}, which the runtime is", file=sys.stderr)
        return 1
    try:
        built = build(given.arch, local=given.local, interpreter=interpreter)
    except BuildError as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    where = built.path.relative_to(ROOT)
    print(f"{where}: {_mb(built.zipped)} ({_mb(built.unzipped)} unpacked, {built.files} files)")
    if not given.local and interpreter is None:
        print(f"build: no Python {PYTHON} here (--python), so nothing is compiled ahead: cold starts take 1.5 s longer")
    return 0


if __name__ == "__main__":
    sys.exit(main())
