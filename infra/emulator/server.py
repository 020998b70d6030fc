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
        listener = _listener(port)  # from now on: a port that is only chosen may be another's when imports are done
        port = listener.getsockname()[1]
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
        self._server = PooledServer(listener, Front(moto, self.plane), threads)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.plane.close()  # first, so that who waits for the server's end finds all else gone
        self._server.shutdown()


def _listener(port: int) -> socket.socket:
    """A socket that listens on the port; 0: on any. OSError where it is taken."""
    try:
        return socket.create_server(("127.0.0.1", port), backlog=512)
    except OSError as error:
        said = os.strerror(error.errno or 0)
        raise OSError(f"cannot listen on 127.0.0.1:{port}: {said}; give another --port") from None


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
