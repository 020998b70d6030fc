"""Where a command works: a store in a folder, or a stage in the cloud, found by one word.

A stage's URL and bucket come from $OVERCAST_API and $OVERCAST_BUCKET where they are set for it, for the stage `local`
from what `overcast emulator` has left in the repository, and else from the outputs of its CloudFormation stack.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from coordinator.errors import InputError, JobMissingError, StorageError
from coordinator.jobs import JobStore, Status
from coordinator.listing import Seen, list_jobs
from overcast import store as stores
from overcast.handle import JobHandle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.storage import Storage
    from overcast.cloud import CloudClient, CloudJob

LOCAL: Final = "local"
ROOT: Final = Path(__file__).resolve().parents[1]


class FolderPlace(stores.DataSets):
    """A store in a folder. InputError when there is none, unless it may be made."""

    def __init__(self, path: str | os.PathLike[str] | None, *, make: bool = False) -> None:
        self.storage: Storage = (
            stores.open_store(path or stores.default_store()) if make else stores.existing_store(path)
        )

    def job(self, text: str) -> JobHandle:
        """The job that an id, its unambiguous beginning or "latest" means."""
        return JobHandle(self.storage, stores.find_job(JobStore(self.storage), None if text == "latest" else text))

    def jobs(self) -> tuple[Seen, ...]:
        """All jobs, oldest first."""
        return list_jobs(JobStore(self.storage), look=lambda job: JobHandle(self.storage, job).status())


class CloudPlace(stores.DataSets):
    """A stage in the cloud."""

    def __init__(self, cloud: CloudClient, stage: str) -> None:
        self.cloud, self.stage = cloud, stage

    @classmethod
    def at(cls, stage: str) -> CloudPlace:
        """The stage of this name; see `connect`."""
        return cls(connect(stage), stage)

    @property
    def storage(self) -> Storage:
        return self.cloud.storage

    def job(self, text: str) -> CloudJob:
        """The job that an id, its unambiguous beginning or "latest" means, whoever submitted it."""
        from overcast.cloud import CloudJob

        ids = [item["id"] for item in self.cloud.list()]
        if text == "latest":
            if not ids:
                raise JobMissingError(f"no job on stage {self.stage!r}")
            return CloudJob(self.cloud, ids[-1])
        found = [job for job in ids if job.startswith(text)]
        if text in ids or len(found) == 1:
            return CloudJob(self.cloud, text if text in ids else found[0])
        if found:
            raise InputError(f"{len(found)} jobs begin with {text!r}: {', '.join(found[:4])}; write more of the id")
        return self.cloud.job(text)  # an old one, or none

    def jobs(self) -> tuple[Seen, ...]:
        """The newest jobs, oldest first."""
        return tuple(Seen(**item | {"status": Status(**item["status"])}) for item in self.cloud.list())


Place: TypeAlias = FolderPlace | CloudPlace
Job: TypeAlias = "JobHandle | CloudJob"


def named(store: str | None, stage: str | None) -> str | None:
    """The stage that the options name, else $OVERCAST_STAGE; None where a store is meant. InputError for both."""
    if store and stage:
        raise InputError("--store and --stage are two places: give one of them")
    return None if store else stage or os.environ.get("OVERCAST_STAGE") or None


def open_place(store: str | None, stage: str | None, *, make: bool = False) -> Place:
    """The place that the options name; else $OVERCAST_STAGE, else the store in $OVERCAST_STORE or ./overcast-store.

    Raises InputError for both options, and where there is no such place.
    """
    name = named(store, stage)
    return FolderPlace(store, make=make) if name is None else CloudPlace.at(name)


def connect(stage: str) -> CloudClient:
    """A client of the stage. InputError where it is not deployed, StorageError where AWS cannot be asked."""
    from overcast.cloud import CloudClient

    if os.environ.get("OVERCAST_STAGE", stage) == stage and (url := os.environ.get("OVERCAST_API")):
        return CloudClient(url, os.environ.get("OVERCAST_BUCKET"))
    if stage == LOCAL:
        variables = emulated()
        if variables is None:
            raise InputError("the stage 'local' is not running: start it with `overcast emulator up`")
        os.environ.update(variables)  # boto3 and all that it starts go to the emulator
        return CloudClient(variables["OVERCAST_API"], variables["OVERCAST_BUCKET"])
    outputs = _outputs(stage)
    try:
        return CloudClient(outputs["ApiLambdaFunctionUrl"], outputs["Bucket"])
    except KeyError as error:
        raise InputError(f"the stack overcast-{stage} has no output {error}: deploy it again") from None


def emulated() -> Mapping[str, str] | None:
    """Variables of the emulator of this repository; None where none runs."""
    if not in_repository():
        return None
    from infra.local import load

    state = load()
    return None if state is None else {str(k): str(v) for k, v in state["variables"].items()}


def in_repository() -> bool:
    """Whether this package lies in its repository, whose infra/ and serverless.yml deploy it; they can be imported."""
    if not (ROOT / "infra" / "local.py").is_file() or not (ROOT / "serverless.yml").is_file():
        return False
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return True


def need_repository(what: str) -> None:
    """InputError where infra/ is not there."""
    if not in_repository():
        raise InputError(f"`overcast {what}` needs the repository's infra/, which is not in the package: run it there")


def aws(service: str, region: str | None = None) -> Any:
    """A boto3 client of a service, in the environment's region, or else in `region`.

    Raises InputError where boto3 is not installed, StorageError without a region.
    """
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise InputError("AWS needs boto3: pip install 'overcast[aws]'") from None
    from coordinator.cloud.failures import explain

    try:
        return boto3.client(service, region_name=boto3.session.Session().region_name or region)
    except BotoCoreError as error:
        raise StorageError(explain(error, service)) from None


def _outputs(stage: str) -> dict[str, str]:
    client = aws("cloudformation")
    from botocore.exceptions import BotoCoreError, ClientError

    from coordinator.cloud.failures import explain

    name = f"overcast-{stage}"
    try:
        found = client.describe_stacks(StackName=name)["Stacks"][0]
    except (BotoCoreError, ClientError) as error:
        if "does not exist" in str(error):
            raise InputError(f"there is no stage {stage!r} here: deploy it with `overcast deploy {stage}`") from None
        raise StorageError(explain(error, f"the stack {name}")) from None
    return {item["OutputKey"]: item["OutputValue"] for item in found.get("Outputs", ())}
