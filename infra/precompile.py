"""Byte code for the package: what a cold start imports, compiled ahead by an interpreter of the runtime's version.

/var/task cannot be written to, so that without this every cold start compiles NumPy and SciPy anew: 2.4 s of processor
time rather than 0.9 s to import the worker. Only what is imported gets byte code, which keeps the package small.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_LIST: Final = """
import importlib, json, pkgutil, sys
for top in ("coordinator", "sketches"):
    package = importlib.import_module(top)
    for found in pkgutil.walk_packages(package.__path__, top + "."):
        try:
            importlib.import_module(found.name)
        except Exception:  # what needs an extra that is not installed
            pass
print(json.dumps([name.replace(".", "/") + ("/__init__.py" if hasattr(module, "__path__") else ".py")
                  for name, module in list(sys.modules.items())]))
"""
_COMPILE: Final = """
import json, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
for source, target, name in json.load(sys.stdin):
    py_compile.compile(source, target, name, doraise=True, invalidation_mode=mode)
"""


def find_interpreter(version: str, named: str | None = None) -> str | None:
    """A Python of this version ("3.13") that runs: the one named, this one, or pythonX.Y of the path."""
    for program in (named, sys.executable, shutil.which(f"python{version}")):
        if program is None:
            continue
        said = subprocess.run(  # noqa: S603 - an interpreter that the caller named, or this one
            [program, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if said.stdout.strip() == version:
            return program
    return None


def imported(root: Path) -> set[str]:
    """Names of source files that our modules import when all of them are imported, as in the package."""
    said = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", _LIST],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(said.stdout.splitlines()[-1]))


def compiled(interpreter: str, version: str, sources: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Byte code of named sources, under the names at which Python looks for it."""
    tag = f"cpython-{version.replace('.', '')}"
    with tempfile.TemporaryDirectory() as folder:
        jobs, names = [], []
        for i, (name, data) in enumerate(sources):
            source, target = Path(folder) / f"{i}.py", Path(folder) / f"{i}.pyc"
            source.write_bytes(data)
            jobs.append((str(source), str(target), name))
            path = Path(name)
            names.append((str(path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc"), target))
        subprocess.run(  # noqa: S603 - as above
            [interpreter, "-c", _COMPILE], input=json.dumps(jobs), text=True, check=True, capture_output=True
        )
        return [(name, target.read_bytes()) for name, target in names]
