"""Lithops itself: its configuration, calls through it, and what it has to say of them."""

from __future__ import annotations

import ast
import importlib.util
import pickletools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from coordinator.cloud import batch
from coordinator.errors import InputError, one_line
from coordinator.executors.local import default_workers

WORKERS: Final = 32  # calls of one phase, unless the user says otherwise, where Lithops runs elsewhere


class LithopsPool:
    """Calls through a `lithops.FunctionExecutor`.

    Parameters
    ----------
    config : Lithops' configuration; default: the one that Lithops finds by itself (LITHOPS_CONFIG_FILE,
        .lithops_config, ~/.lithops/config), and without one its localhost, version 1.
    allow_code : lets users' functions run on workers on this machine; elsewhere the deployment says so itself.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, *, allow_code: bool = False) -> None:
        check_installed()
        from lithops.config import load_config

        try:
            self.config = completed(config or load_config(log=False))
        except Exception as error:  # whatever a file that is no configuration leads to
            raise InputError(f"Lithops' configuration cannot be read: {one_line(error)}") from error
        self._allow_code = allow_code
        self._executor: Any = None

    @property
    def workers(self) -> int:
        """Calls worth making at once."""
        return default_workers() if is_local(self.config) else WORKERS

    def start(self, requests: Sequence[str]) -> list[Any]:
        if self._executor is None:
            self._executor = self._open()
        here = self._allow_code and is_local(self.config)
        return list(
            self._executor.map(
                batch.call,
                [(request,) for request in requests],
                extra_env={"OVERCAST_ALLOW_CODE": "1"} if here else None,
                include_modules=None,  # workers have Overcast installed
            )
        )

    def ended(self, handle: Any) -> str | None:
        if not (handle.ready or handle.success or handle.done):
            return None
        return f"a Lithops worker ended without a result: {last_words(getattr(handle, '_call_status', None))}"

    def drop(self, handles: Sequence[Any]) -> None:
        running = [handle for handle in handles if not (handle.ready or handle.success or handle.done)]
        if running:
            self._executor.job_monitor.remove(running)
            keys = {handle.job_key for handle in running}
            self._executor.compute_handler.clear(keys, exception=InterruptedError("cancelled"))

    def close(self) -> None:
        if self._executor is not None:
            self._executor.__exit__(None, None, None)
            if self._executor.data_cleaner:
                self._executor.clean(clean_cloudobjects=False, clean_fn=True, force=True)

    def _open(self) -> Any:
        import lithops

        try:
            return lithops.FunctionExecutor(config=self.config, log_level=None)
        except Exception as error:
            said = one_line(f"{type(error).__name__}: {error}")
            raise InputError(f"Lithops cannot start with its configuration: {said}; try `lithops hello`") from error


def check_installed() -> None:
    """InputError where Lithops is not."""
    if importlib.util.find_spec("lithops") is None:
        raise InputError('executor "lithops" needs Lithops: pip install "overcast[lithops]"')


def is_local(config: Mapping[str, Any]) -> bool:
    """Whether a configuration of Lithops means this machine."""
    general = config.get("lithops") or {}
    return (general.get("backend") or general.get("mode") or "localhost") == "localhost"


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with what localhost lacks: this interpreter, and version 1 unless another is named."""
    out = {key: dict(value) if isinstance(value, Mapping) else value for key, value in config.items()}
    if is_local(out):
        out["localhost"] = {"version": 1, "runtime": sys.executable} | (out.get("localhost") or {})
        out["lithops"] = {"monitoring_interval": 0.5} | (out.get("lithops") or {})
    return out


def last_words(status: Any) -> str:
    """Kind and text of the exception in a call's status, read off its pickle without unpickling it."""
    try:
        pickled = ast.literal_eval(status["exc_info"])
        words = [str(arg) for op, arg, _ in pickletools.genops(pickled) if "UNICODE" in op.name]
        _, kind, *rest = words
    except (KeyError, TypeError, ValueError, SyntaxError, MemoryError, RecursionError):
        return "it gave no reason"
    plumbing = ("tblib", "unpickle_exception", "HANDLER", "__dict__", "args", "exc_value")
    text = next((word for word in rest if not word.startswith(plumbing)), "")
    return one_line(f"{kind}: {text}")


__all__ = ["WORKERS", "LithopsPool", "check_installed", "completed", "is_local", "last_words"]
