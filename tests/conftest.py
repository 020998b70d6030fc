"""Fixtures of all tests."""

from __future__ import annotations

import fcntl
import lzma
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

# how long an example takes says more of the machine's other work than of the code
settings.register_profile("overcast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("overcast")

if TYPE_CHECKING:
    from infra.emulator.client import Emulator
    from infra.stack import Stack


@dataclass(frozen=True)
class Deployment:
    """A stage on the emulator; `variables` lead AWS's tools and Overcast's client to it."""

    emulator: Emulator
    stack: Stack

    @property
    def variables(self) -> dict[str, str]:
        return {**self.emulator.variables, **self.stack.variables()}


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Path of a real data set; skips where it is not to be had."""

    def find(name: str) -> Path:
        beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
        root = Path(os.environ.get("OVERCAST_TEST_DATA", beside))
        if not (root / name).exists():
            pytest.skip(f"{name} is not in {root}: set OVERCAST_TEST_DATA to a folder that holds it")
        return root / name

    return find


@cache
def _read_adult(path: Path) -> tuple[Any, Any]:
    from sklearn.datasets import load_svmlight_file

    with lzma.open(path) as file:
        X, y = load_svmlight_file(file, n_features=123)
    X.indices, X.indptr = X.indices.astype("int32"), X.indptr.astype("int32")
    return X, y


@pytest.fixture
def adult(real: Callable[[str], Path]) -> tuple[Any, Any]:
    """a9a: 32,561 rows of 123 binary columns, sparse, and targets -1 and 1; read once."""
    return _read_adult(real("libsvm/a9a.xz"))


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """URL of an S3 (and nothing else) on this machine."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_settings(moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An environment whose AWS is on this machine; the URL."""
    for name, value in {
        "AWS_ENDPOINT_URL": moto,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    return moto


@pytest.fixture
def s3(s3_settings: str) -> Iterator[Any]:
    """Storage in a bucket of its own."""
    from coordinator.s3 import S3Storage

    storage = S3Storage(f"test-{secrets.token_hex(6)}")
    storage.client.create_bucket(Bucket=storage.bucket)
    yield storage
    storage.client.close()


@contextmanager
def _alone_in_checkout() -> Iterator[None]:
    folder = Path(__file__).resolve().parents[1] / ".overcast-local"
    folder.mkdir(exist_ok=True)
    with (folder / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def checkout() -> Callable[[], AbstractContextManager[None]]:
    """Lock of dist/, node_modules/, .serverless/ and .overcast-local/, which all test processes share."""
    return _alone_in_checkout


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """AWS on 127.0.0.1, one for all tests of this process; needs the extra "emulator"."""
    for needed in ("boto3", "moto", "awslambdaric"):
        pytest.importorskip(needed, reason=f'{needed} is not installed: pip install -e ".[emulator]"')
    from infra.emulator.client import EmulatorProcess

    with EmulatorProcess() as running:
        yield running


@pytest.fixture(scope="session")
def deployment(emulator: Emulator, checkout: Callable[[], AbstractContextManager[None]]) -> Deployment:
    """The stack of serverless.yml on the emulator, with the package of this checkout; needs Node.js."""
    from infra import stack
    from infra.osls import DeployError, install

    with checkout():
        try:
            install()
        except DeployError as error:
            pytest.skip(f"cannot deploy: {error}")
        stack.build_local()
        return Deployment(emulator, stack.create(emulator.variables, stack.Options(lease=5)))
