"""The folder that stands for what AWS's Python runtime ships: the runtime client and boto3, and nothing else."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

_SHIPPED = ("awslambdaric", "boto3")


def make_runtime_dir(folder: Path) -> Path:
    """Fill `folder` with links to the installed packages that the runtime ships, with all they require."""
    folder.mkdir(parents=True, exist_ok=True)
    names, seen = list(_SHIPPED), set()
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        package = metadata.distribution(name)
        for top in {file.parts[0] for file in package.files or []}:
            source = Path(str(package.locate_file(top)))
            if top in {"..", "__pycache__"} or not source.exists():
                continue
            (folder / top).symlink_to(source)
        names += [_bare(need) for need in package.requires or [] if "extra ==" not in need and _installed(_bare(need))]
    return folder


def _bare(requirement: str) -> str:
    for stop in " ;<>=!~([":
        requirement = requirement.split(stop, 1)[0]
    return requirement


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def interpreter() -> str:
    """The interpreter that runs functions: this one."""
    return sys.executable
