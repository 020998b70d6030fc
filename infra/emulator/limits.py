"""Lambda's published limits that the emulator keeps."""

from __future__ import annotations

from typing import Final

ACCOUNT: Final = "123456789012"  # moto's
REGION: Final = "us-east-1"
ACCESS_KEY: Final = "AKIAOVERCASTLOCAL"  # of the user that deploys: everything is allowed to it
SECRET_KEY: Final = "overcast-local"  # noqa: S105 - a dummy for a server on 127.0.0.1

MIB: Final = 1024 * 1024
SYNC_REQUEST: Final = 6 * MIB  # bytes
SYNC_RESPONSE: Final = 6 * MIB + 100
ASYNC_REQUEST: Final = MIB
UNZIPPED: Final = 250 * MIB
LOG_TAIL: Final = 4096
HOPS: Final = 16  # invocations of one function in one chain before Lambda stops it
RETRIES: Final = 2  # of an asynchronous invocation that failed, where nothing else is set
EVENT_AGE: Final = 21600.0  # seconds that one may wait for a free environment, where nothing else is set
