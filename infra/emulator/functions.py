"""Functions as the data plane needs them, read from moto's models; their code, unpacked once for each hash."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import threading
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infra.emulator import limits


class InvokeError(Exception):
    """An invocation that Lambda refuses: `status`, `code` as AWS names it, and the message."""

    def __init__(self, status: int, code: str, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.reason = status, code, reason


@dataclass(frozen=True)
class Function:
    """One version of a function: memory in MB, timeout in seconds.

    `reserved` is its reserved concurrency; `loops` whether it may invoke itself without end. Of asynchronous
    invocations: `retries` after errors, `age` in seconds at which one that was throttled is given up, `on_failure` the
    ARN of the function that is told of those that failed. `source` are the folders of its code and its layers, first
    come first.
    """

    name: str
    arn: str
    version: str
    handler: str
    runtime: str
    role: str
    region: str
    memory: int
    timeout: float
    variables: tuple[tuple[str, str], ...]
    source: tuple[str, ...]
    reserved: int | None = None
    retries: int = limits.RETRIES
    age: float = limits.EVENT_AGE
    on_failure: str = ""
    loops: bool = False

    @property
    def environment_key(self) -> Function:
        """What an execution environment depends on: functions with equal keys may share it."""
        return replace(self, timeout=0.0, reserved=None, retries=0, age=0.0, on_failure="", loops=False)


class CodeStore:
    """Unpacked packages under `root`, one folder for each hash."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        root.mkdir(parents=True, exist_ok=True)

    def folder(self, digest: str, code: bytes) -> str:
        """Folder of a package; InvokeError where it is no zip or too large."""
        path = self._root / digest.replace("/", "_").replace("+", "-").rstrip("=")
        with self._lock:
            if not path.is_dir():
                self._unpack(code, path)
        return str(path)

    def _unpack(self, code: bytes, path: Path) -> None:
        fresh = Path(tempfile.mkdtemp(dir=self._root))
        try:
            with zipfile.ZipFile(io.BytesIO(code)) as package:
                _check_size(package)
                for item in package.infolist():
                    target = Path(package.extract(item, fresh))
                    mode = (item.external_attr >> 16) & 0o777
                    if mode:
                        target.chmod(mode | 0o600)
        except (zipfile.BadZipFile, InvokeError) as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if isinstance(error, InvokeError):
                raise
            raise InvokeError(502, "InvalidZipFileException", "Lambda could not unzip the deployment package") from None
        fresh.rename(path)


def _check_size(package: zipfile.ZipFile) -> None:
    if sum(item.file_size for item in package.infolist()) > limits.UNZIPPED:
        message = f"Unzipped size must be smaller than {limits.UNZIPPED} bytes"
        raise InvokeError(400, "InvalidParameterValueException", message)


def read(model: Any, code: CodeStore) -> Function:
    """The function of a moto LambdaFunction."""
    source = [code.folder(model.code_sha_256, model.code_bytes)] if model.code_size else []
    if not source:
        raise InvokeError(502, "InvalidRuntimeException", f"{model.function_name}: only Zip packages can run here")
    for layer in model.layers:
        source += _layer(model, layer["Arn"], code)
    given = {key: value for item in model.event_invoke_config for key, value in item.config.items()}
    return Function(
        name=model.function_name,
        arn=model.function_arn,
        version="$LATEST" if model.version in {None, "None"} else str(model.version),
        handler=model.handler,
        runtime=model.run_time,
        role=model.role,
        region=model.region,
        memory=int(model.memory_size),
        timeout=float(model.timeout),
        variables=tuple(sorted((key, str(value)) for key, value in model.environment_vars.items())),
        source=tuple(source),
        reserved=None if model.reserved_concurrency is None else int(model.reserved_concurrency),
        retries=int(given.get("MaximumRetryAttempts", limits.RETRIES)),
        age=float(given.get("MaximumEventAgeInSeconds", limits.EVENT_AGE)),
        on_failure=given.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination", ""),
        loops=getattr(model, "recursive_loop", "Terminate") == "Allow",
    )


def _layer(model: Any, arn: str, code: CodeStore) -> list[str]:
    from moto.awslambda.utils import get_backend

    layer = get_backend(model.account_id, model.region).layers_versions_by_arn(arn)
    if layer is None:
        raise InvokeError(400, "InvalidParameterValueException", f"Layer version {arn} does not exist")
    root = Path(code.folder(layer.code_sha_256, layer.code_bytes))
    version = str(model.run_time).removeprefix("python")
    return [str(root / "python"), str(root / "python" / "lib" / f"python{version}" / "site-packages")]


def host_runtime() -> str:
    """Lambda's name of this interpreter's version: the one runtime that the emulator runs."""
    return f"python{sys.version_info[0]}.{sys.version_info[1]}"
