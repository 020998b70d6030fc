"""The cloud client: data straight into the deployment's bucket, jobs through its function URL, from any machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

import numpy as np

from coordinator import arrays as codec
from coordinator.cloud import wire
from coordinator.cloud.signed import Signed
from coordinator.driver import check_place
from coordinator.errors import InputError, JobError, JobMissingError, OvercastError, StorageError
from coordinator.jobs import JobSpec, JobStore, Status, new_id
from coordinator.mapping import create_map
from coordinator.results import Result, load_result
from coordinator.runtime import TaskRecord
from coordinator.s3 import S3Storage
from overcast import store as stores
from overcast.asking import ask, plain, takes
from overcast.handle import JobHandle

_SOON: Final = 0.25  # seconds between looks, growing to the next
_SELDOM: Final = 3.0
_PAUSES: Final = (0.2, 1.0)  # before asking again a deployment whose answer died
_KINDS: Final[Mapping[str, type[OvercastError]]] = {
    "InputError": InputError,
    "UnknownNameError": InputError,
    "JobMissingError": JobMissingError,
    "StorageError": StorageError,
    "DamagedError": StorageError,
    "KeyMissingError": StorageError,
}


class CloudClient(stores.DataSets):
    """Solves problems on a deployment.

    Parameters
    ----------
    url : of the deployment's function, as `overcast deploy` prints it.
    bucket : of the deployment; default: the one it names itself.

    Data go into the bucket under the user's own AWS credentials, which must also be allowed to call the URL. A client
    of another version than the deployment's is told which of the two to upgrade.

    Examples
    --------
    >>> client = CloudClient("https://abc.lambda-url.us-east-1.on.aws")
    >>> client.import_data("flights.csv", name="flights", label="late")
    >>> print(client.quote("flights", loss="logistic", l2=1e-4)["dollars"])
    >>> job = client.submit("flights", loss="logistic", l2=1e-4, max_cost=0.50)
    >>> for row in job.stream():
    ...     print(row["iteration"], row["relative"])
    >>> job.result().coef_
    """

    def __init__(self, url: str, bucket: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = Signed(self.url)
        self._bucket = bucket
        self._storage: S3Storage | None = None

    def versions(self) -> dict[str, Any]:
        """Version, stage, bucket and region of the deployment."""
        found: dict[str, Any] = self.ask("GET", "/versions")
        return found

    @property
    def storage(self) -> S3Storage:
        """The deployment's bucket."""
        if self._storage is None:
            self._storage = S3Storage(self._bucket or str(self.versions()["bucket"]))
        return self._storage

    @takes(ask)
    def submit(
        self,
        data: Any,
        *,
        max_cost: float | None = None,
        deadline: float | None = None,
        profile: Mapping[str, Any] | None = None,
        wait: bool = False,
        **options: Any,
    ) -> CloudJob:
        """Check a job, store it and start its driver; arguments as for `overcast.Client.submit`, and:

        Parameters
        ----------
        workers : most calls of workers at once.
        max_cost : dollars at which it stops with its best iterate so far.
        deadline : seconds from now after which it does so.
        profile : rates that decisions stand on; default: nominal ones of Lambda.
        """
        until = None if deadline is None else time.time() + deadline
        limits = {"max_cost": max_cost, "deadline": until, "profile": None if profile is None else dict(profile)}
        spec = self._spec(data, options, limits)
        job = CloudJob(self, self.ask("POST", "/jobs", {"spec": spec})["id"])
        if wait:
            job.wait()
        return job

    def map(
        self,
        fn: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        workers: int | None = None,
        retries: int = 2,
        policy: str = "wait",
        trust_results: bool = False,
        id: str | None = None,  # noqa: A002  the word users know
    ) -> Sequence[Any]:
        """`[fn(item) for item in items]` on the deployment's workers, which must allow code.

        Arguments and errors as for `overcast.Client.map`; workers are the most calls at once.
        """
        store = JobStore(self.storage)
        spec = JobSpec(id or new_id(), "", {}, "", workers=workers, policy=policy, version=version("overcast"))
        check_place(self.storage, spec)
        create_map(store, spec, fn, items, pickled=trust_results, attempts=retries + 1)
        return self.job(spec.id).resume().outputs(trust_results=trust_results)

    @takes(ask)
    def quote(self, data: Any, *, max_cost: float | None = None, **options: Any) -> dict[str, Any]:
        """What a job would take (`coordinator.cloud.quote.Quote`, as JSON); arguments as for `submit`.

        Raises InputError for a job with a phase that fits into no worker.
        """
        spec = self._spec(data, options, {"max_cost": max_cost})
        found: dict[str, Any] = self.ask("POST", "/quote", {"spec": spec})
        return found

    def job(self, id: str) -> CloudJob:  # noqa: A002  the word users know
        """A handle on the job, from whatever machine it was submitted. JobMissingError if there is none."""
        job = CloudJob(self, id)
        job.status()
        return job

    def jobs(self) -> tuple[CloudJob, ...]:
        """The newest jobs, oldest first."""
        return tuple(CloudJob(self, item["id"]) for item in self.list())

    def list(self) -> Sequence[dict[str, Any]]:
        """Id, data, solver, time and status of the newest jobs, oldest first."""
        found: list[dict[str, Any]] = self.ask("GET", "/jobs")["jobs"]
        return found

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One request; the answer's JSON. Raises the error that the deployment names."""
        data = b"" if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "x-overcast-version": version("overcast")}
        for pause in (*(_PAUSES if method == "GET" else ()), None):
            try:
                status, answer, _ = self._http(method, path, data, headers)
            except OSError as error:
                raise StorageError(f"cannot reach {self.url}: {error}; check the URL and the network") from None
            if status not in {502, 503, 504} or pause is None:
                break
            time.sleep(pause)  # its environment died: the next call gets another, and asking changes nothing
        try:
            found = json.loads(answer)
        except ValueError:
            found = {}
        if status == 200:
            return found
        said = found.get("error") if isinstance(found, dict) else None
        if isinstance(said, dict):
            raise _KINDS.get(str(said.get("type")), JobError)(str(said.get("message")))
        if status == 403:
            raise StorageError(f"access denied to {self.url}: these AWS credentials may not call the function's URL")
        raise StorageError(f"{self.url} answered HTTP {status}: is it the URL that `overcast deploy` printed?")

    def _spec(self, data: Any, options: Mapping[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
        """The job as JSON; data that are not in the bucket are imported."""
        asked = ask(data, **options)
        if asked.pop("executor") != "local":
            raise InputError("executor is for jobs on a store: the workers of a deployment are functions")
        asked["data"] = stores.bring_data(self.storage, data, {})
        return {key: plain(value) for key, value in (asked | limits).items() if value is not None}


class CloudJob:
    """A job of a deployment. It holds nothing but the job's id."""

    def __init__(self, client: CloudClient, job: str) -> None:
        self.client = client
        self.id = job

    def __repr__(self) -> str:
        return f"<job {self.id}: {self.status().state}>"

    @property
    def storage(self) -> S3Storage:
        """The bucket that it lies in."""
        return self.client.storage

    @property
    def spec(self) -> JobSpec:
        """What was asked."""
        return JobSpec(**self._ask("GET")["spec"])

    def status(self) -> Status:
        """Where it stands. Looking also calls a driver again that has died."""
        return Status(**self._ask("GET")["status"])

    def events(self, since: int = -1) -> list[dict[str, Any]]:
        """Figures of the iterations after `since`, so far."""
        return self._events(since)[0]

    def stream(self, timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """Figures of each iteration as they come, from the first on; ends with the job.

        Raises TimeoutError after `timeout` seconds without the end.
        """
        limit = None if timeout is None else time.monotonic() + timeout
        last, pause = -1, _SOON
        while True:
            rows, status = self._events(last)
            for row in rows:
                last, pause = int(row["iteration"]), _SOON
                yield row
            if not rows and status.final:
                return
            if limit is not None and time.monotonic() > limit:
                raise TimeoutError(f"job {self.id} is still {status.state} after {timeout} s")
            if not rows:
                time.sleep(pause)
                pause = min(1.5 * pause, _SELDOM)

    def wait(self, timeout: float | None = None) -> Status:
        """Wait until it has ended. Raises TimeoutError after `timeout` seconds; the job goes on."""
        limit = None if timeout is None else time.monotonic() + timeout
        pause = _SOON
        while not (status := self.status()).final:
            if limit is not None and time.monotonic() > limit:
                raise TimeoutError(f"job {self.id} is still {status.state} after {timeout} s")
            time.sleep(pause)
            pause = min(1.5 * pause, _SELDOM)
        return status

    def result(self, timeout: float | None = None) -> Result:
        """Wait, and what it found; for a job that was stopped, its best iterate.

        Raises JobError for a job that failed or has no iterate, TimeoutError after `timeout` seconds.
        """
        status = self.wait(timeout)
        if status.state == "failed":
            raise JobError(f"job {self.id} failed: {status.message}")
        found = self._ask("GET", "/result")
        if found.get("stored"):
            return load_result(self.client.storage, self.id)
        raw = dict(found["plain"])
        raw |= {name: tuple(raw[name]) for name in ("classes_", "features", "history") if raw[name] is not None}
        arrays = codec.decode(wire.from_text(found["arrays"]), f"result of job {self.id}")
        bias = arrays["intercept"]
        return Result(coef_=np.array(arrays["coef"]), intercept_=np.array(bias) if bias.ndim else float(bias), **raw)

    def outputs(self, timeout: float | None = None, *, trust_results: bool = False) -> list[Any]:
        """Wait, and the results of a job that maps a function; as `overcast.JobHandle.outputs`."""
        self.wait(timeout)
        return JobHandle(self.client.storage, self.id).outputs(trust_results=trust_results)

    def tasks(self) -> list[TaskRecord]:
        """Records of all attempts at tasks: when, where, cold or warm, bytes, seconds by stage, dollars."""
        return JobStore(self.client.storage).tasks(self.id)

    def cancel(self) -> None:
        """Ask it to stop: no new task starts after a second, and its best iterate is kept."""
        self._ask("POST", "/cancel")

    def resume(self) -> CloudJob:
        """Go on from the newest checkpoint after a failure or cancel."""
        self._ask("POST", "/resume")
        return self

    def delete(self) -> int:
        """Delete everything of it; how many objects went. JobError while it runs."""
        return int(self._ask("DELETE")["deleted"])

    def _events(self, since: int) -> tuple[list[dict[str, Any]], Status]:
        found = self._ask("GET", f"/events?since={since}")
        return found["events"], Status(**found["status"])

    def _ask(self, method: str, what: str = "") -> Any:
        return self.client.ask(method, f"/jobs/{self.id}{what}")
