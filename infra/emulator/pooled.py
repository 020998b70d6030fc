"""werkzeug's server on a pool of threads: one thread for each request at a time, none started for each."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import BaseWSGIServer


class PooledServer(BaseWSGIServer):  # type: ignore[misc]
    """Serves `app` on a socket that listens on 127.0.0.1, with at most `threads` requests at once."""

    multithread = True

    def __init__(self, listener: socket.socket, app: Callable[..., Any], threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "request")
        host, port = listener.getsockname()
        with listener:  # the server goes on with a copy
            super().__init__(host, port, app, MotoRequestHandler, fd=listener.fileno())

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        self._pool.submit(self._serve, request, client_address)

    def _serve(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:  # noqa: BLE001 - a request that fails must not take the server along
            self.handle_error(request, client_address)
        finally:
            self.shutdown_request(request)
