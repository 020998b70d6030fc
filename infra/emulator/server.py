"""The server: moto, the data plane and the front on one port of 127.0.0.1."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
from pathlib import Path

from infra.emulator import access, limits
from infra.emulator.front import Front
from infra.emulator.plane import Plane, PlaneSettings


class Server:
    """Listens from construction on until `close`. One in a process: moto's state is the process's."""

    def __init__(self, port: int = 0, settings: PlaneSettings | None = None) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        port = port or _free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        os.environ["MOTO_PORT"] = str(port)
        # moto reads these when it is imported
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        from infra.emulator import formation
        from infra.emulator.pooled import PooledServer

        formation.install(self.endpoint)
        access.install()
        self.plane = Plane(
            self.endpoint, Path(tempfile.mkdtemp(prefix="overcast-emulator-")), settings or PlaneSettings()
        )
        _route_triggers(self.plane)
        moto = DomainDispatcherApplication(create_backend_app)
        # Calls that wait hold a thread each, and what their functions ask of S3 needs threads beside them.
        threads = 2 * self.plane.settings.concurrency + 64
        self._server = PooledServer(port, Front(moto, self.plane), threads)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.plane.close()  # first, so that who waits for the server's end finds all else gone
        self._server.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _route_triggers(plane: Plane) -> None:
    """Send what moto itself invokes (S3, SQS, EventBridge, custom resources) to the same environments."""
    import json

    from moto.awslambda.models import LambdaFunction

    from infra.emulator.functions import InvokeError

    def invoke(self: LambdaFunction, event: object = None) -> tuple[str, bool, str]:
        try:
            outcome = plane.invoke(self, json.dumps({} if event is None else event).encode())
        except InvokeError as error:
            return json.dumps({"errorMessage": str(error)}), True, ""
        return outcome.payload.decode(), outcome.error is not None, outcome.log

    LambdaFunction._invoke_lambda = invoke  # noqa: SLF001


def client_variables(endpoint: str) -> dict[str, str]:
    """Environment variables with which AWS's tools find the emulator."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": limits.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": limits.SECRET_KEY,
        "AWS_DEFAULT_REGION": limits.REGION,
        "AWS_REGION": limits.REGION,
    }
